"""Answers of a teacher that become training data, and the tuned models that move to another base."""

import sqlalchemy as sa

from rootstock.tables.common import metadata, project, seq

distillations = sa.Table(
    "distillations",
    metadata,
    seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    project(),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("fence", sa.BigInteger(), nullable=False),
    sa.Column("lease_owner", sa.String(255)),
    sa.Column("lease_expires_at", sa.Float(53)),
    sa.Column("attempts", sa.Integer(), nullable=False),
    sa.Column("not_before", sa.Float(53), nullable=False),
    sa.Column("spec", sa.JSON(), nullable=False),  # as asked, without the teacher's key
    sa.Column("source_object", sa.Text()),  # snapshot: deleting the file never touches a distillation under way
    sa.Column("teacher_key", sa.Text()),  # for the length of the run only; wiped by the move that ends it
    sa.Column("total", sa.Integer(), nullable=False),
    sa.Column("done", sa.Integer(), nullable=False),
    sa.Column("outcomes", sa.JSON(), nullable=False),  # how many came to what: rootstock.distil.Outcome
    sa.Column("usage", sa.JSON(), nullable=False),
    sa.Column("stopped_by", sa.String(16)),  # max_tokens | teacher
    sa.Column("error", sa.JSON(none_as_null=True)),
    sa.Column("training_file", sa.String(64)),
    sa.Column("provenance_file", sa.String(64)),
    sa.Column("provenance", sa.JSON(none_as_null=True)),
    sa.Column("created_at", sa.Float(53), nullable=False),
    sa.Column("started_at", sa.Float(53)),
    sa.Column("finished_at", sa.Float(53)),
    sa.Index(None, "project_id", "seq"),
    sa.Index(None, "status", "seq"),
)

distillation_examples = sa.Table(
    "distillation_examples",
    metadata,
    sa.Column("distillation_id", sa.String(64), sa.ForeignKey("distillations.id"), primary_key=True),
    sa.Column("number", sa.Integer(), primary_key=True),  # its place in the source, from 1
    sa.Column("prompt", sa.Text(), nullable=False),  # JSON of rootstock.distil.Prompt
    sa.Column("answer", sa.Text()),  # JSON of rootstock.distil.Answer
    sa.Column("outcome", sa.String(32)),  # null: still to be asked or looked at
)

upgrades = sa.Table(
    "upgrades",
    metadata,
    seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    project(),
    sa.Column("status", sa.String(16), nullable=False),  # planned | running | completed | cancelled
    sa.Column("from_base", sa.Text(), nullable=False),
    sa.Column("to_base", sa.Text(), nullable=False),
    sa.Column("concurrency", sa.Integer(), nullable=False),  # jobs of it that train at a time
    sa.Column("key_id", sa.String(64), nullable=False),  # who starts its jobs and moves its aliases
    sa.Column("created_at", sa.Float(53), nullable=False),
    sa.Column("started_at", sa.Float(53)),
    sa.Column("finished_at", sa.Float(53)),
    sa.Index(None, "project_id", "seq"),
    sa.Index(None, "status", "seq"),
)

upgrade_models = sa.Table(
    "upgrade_models",
    metadata,
    sa.Column("upgrade_id", sa.String(64), sa.ForeignKey("upgrades.id"), primary_key=True),
    sa.Column("number", sa.Integer(), primary_key=True),
    sa.Column("model", sa.Text(), nullable=False),  # the tuned model on the old base
    sa.Column("job_id", sa.String(64), nullable=False),  # that made it
    sa.Column("state", sa.String(16), nullable=False),  # rootstock.upgrades.State
    sa.Column("reason", sa.Text()),
    sa.Column("aliases", sa.JSON(), nullable=False),  # those that pointed to it when the plan was made
    sa.Column("estimate", sa.JSON(none_as_null=True)),
    sa.Column("new_job_id", sa.String(64)),
    sa.Column("report", sa.JSON(none_as_null=True)),  # old and new side by side
    sa.Column("moves", sa.JSON(), nullable=False),  # aliases that were moved, with their new revisions
    sa.Column("updated_at", sa.Float(53), nullable=False),
)
