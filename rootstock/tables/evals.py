"""What tunes and answers are measured by: evals, their runs, and what became of each item of a run."""

import sqlalchemy as sa

from rootstock.tables.common import metadata, project, seq

evals = sa.Table(
    "evals",
    metadata,
    seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    project(),
    sa.Column("name", sa.Text(), nullable=False),
    sa.Column("data_source_config", sa.JSON(), nullable=False),  # as it is answered: with the schema of a whole line
    sa.Column("testing_criteria", sa.JSON(), nullable=False),  # as they are answered: with ids, messages written out
    sa.Column("metadata", sa.JSON(none_as_null=True)),
    sa.Column("created_at", sa.Float(53), nullable=False),
    sa.Column("updated_at", sa.Float(53), nullable=False),
    sa.Column("deleted_at", sa.Float(53)),
    sa.Index(None, "project_id", "seq"),
    sa.Index(None, "project_id", "updated_at", "seq"),
)

eval_runs = sa.Table(
    "eval_runs",
    metadata,
    seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    project(),
    sa.Column("eval_id", sa.String(64), sa.ForeignKey("evals.id"), nullable=False),
    sa.Column("name", sa.Text(), nullable=False),
    sa.Column("model", sa.Text(), nullable=False),  # that is sampled; empty where answers are given
    sa.Column("data_source", sa.JSON(), nullable=False),  # as it is answered
    sa.Column("testing_criteria", sa.JSON(), nullable=False),  # those of the eval when the run was made
    sa.Column("input_object", sa.Text()),  # snapshot: deleting the file never touches a run that reads it
    sa.Column("metadata", sa.JSON(none_as_null=True)),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("fence", sa.BigInteger(), nullable=False),
    sa.Column("lease_owner", sa.String(255)),
    sa.Column("lease_expires_at", sa.Float(53)),
    sa.Column("attempts", sa.Integer(), nullable=False),
    sa.Column("not_before", sa.Float(53), nullable=False),
    sa.Column("rung_at", sa.Float(53)),
    sa.Column("rings", sa.Integer(), nullable=False),
    sa.Column("total", sa.Integer(), nullable=False),
    sa.Column("passed", sa.Integer(), nullable=False),
    sa.Column("failed", sa.Integer(), nullable=False),
    sa.Column("errored", sa.Integer(), nullable=False),
    sa.Column("tallies", sa.JSON(), nullable=False),  # by criterion and by model; `rootstock.evals.records.Tallies`
    sa.Column("error", sa.JSON(none_as_null=True)),
    sa.Column("created_at", sa.Float(53), nullable=False),
    sa.Column("started_at", sa.Float(53)),
    sa.Column("ended_at", sa.Float(53)),
    sa.Column("deleted_at", sa.Float(53)),
    sa.Index(None, "eval_id", "seq"),
    sa.Index(None, "status", "seq"),
)

eval_items = sa.Table(
    "eval_items",
    metadata,
    seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("run_id", sa.String(64), sa.ForeignKey("eval_runs.id"), nullable=False),
    sa.Column("number", sa.Integer(), nullable=False),  # 1-based place in the source
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("datasource_item", sa.JSON(), nullable=False),
    sa.Column("results", sa.JSON(), nullable=False),
    sa.Column("sample", sa.JSON(), nullable=False),
    sa.Column("created_at", sa.Float(53), nullable=False),
    sa.UniqueConstraint("run_id", "number"),
    sa.Index(None, "run_id", "seq"),
)
