"""What decides whether data may be trained on and whether a tune may go out: policies and suites of projects."""

import sqlalchemy as sa

from rootstock.tables.common import metadata, project, seq

policies = sa.Table(
    "policies",
    metadata,
    sa.Column("project_id", sa.String(64), sa.ForeignKey("projects.id"), primary_key=True),
    sa.Column("policy", sa.JSON(), nullable=False),  # the sections of rootstock.policies.Policy
    sa.Column("key_id", sa.String(64), nullable=False),  # who said so last
    sa.Column("updated_at", sa.Float(53), nullable=False),
)

suites = sa.Table(
    "suites",
    metadata,
    seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    project(),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("questions", sa.Integer(), nullable=False),  # how many
    sa.Column("created_at", sa.Float(53), nullable=False),
    sa.UniqueConstraint("project_id", "name"),
    sa.Index(None, "project_id", "seq"),
)

suite_questions = sa.Table(  # apart, so that lists of suites stay small
    "suite_questions",
    metadata,
    sa.Column("suite_id", sa.String(64), sa.ForeignKey("suites.id"), primary_key=True),
    sa.Column("questions", sa.JSON(), nullable=False),  # as the lines of the file: messages, answer, how
)
