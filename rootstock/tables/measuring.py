"""What is measured of tunes before they go out, and what was decided."""

import sqlalchemy as sa

from rootstock.tables.common import metadata, project

OPEN = "state <> 'done'"
"""Releases that somebody still has to do something for; an index holds only these."""

releases = sa.Table(
    "releases",
    metadata,
    sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.id"), primary_key=True),
    project(),
    sa.Column("state", sa.String(16), nullable=False),  # baseline | tuned | done
    sa.Column("fence", sa.BigInteger(), nullable=False),  # +1 on every claim; every write of a worker carries it
    sa.Column("lease_owner", sa.String(255)),
    sa.Column("lease_expires_at", sa.Float(53)),
    sa.Column("attempts", sa.Integer(), nullable=False),  # claims since an answer was last stored
    sa.Column("not_before", sa.Float(53), nullable=False),
    sa.Column("created_at", sa.Float(53), nullable=False),
    sa.Column("proven_at", sa.Float(53)),  # the tuned model was seen answering as it was trained
    sa.Column("done_at", sa.Float(53)),
    sa.Column("held", sa.Boolean(), nullable=False),  # its models answer nobody
    sa.Column("result", sa.JSON(none_as_null=True)),  # the verdict, its reasons and numbers
    sa.Column("overrides", sa.JSON(), nullable=False),  # who let it out or held it again, when and why
    sa.Index("ix_releases_open", "created_at", postgresql_where=sa.text(OPEN), sqlite_where=sa.text(OPEN)),
)

release_answers = sa.Table(
    "release_answers",
    metadata,
    sa.Column("job_id", sa.String(64), sa.ForeignKey("releases.job_id"), primary_key=True),
    sa.Column("role", sa.String(128), primary_key=True),  # who was asked what: zero_shot, tuned, suite/NAME/before, ...
    sa.Column("number", sa.Integer(), primary_key=True),  # of the question, from 0
    sa.Column("answer", sa.Text()),  # null: it could not be asked
    sa.Column("score", sa.Float(53)),
)
