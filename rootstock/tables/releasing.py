"""What decides whether data may be trained on and whether a tune may go out: the policies of projects."""

import sqlalchemy as sa

from rootstock.tables.common import metadata

policies = sa.Table(
    "policies",
    metadata,
    sa.Column("project_id", sa.String(64), sa.ForeignKey("projects.id"), primary_key=True),
    sa.Column("policy", sa.JSON(), nullable=False),  # the sections of rootstock.policies.Policy
    sa.Column("key_id", sa.String(64), nullable=False),  # who said so last
    sa.Column("updated_at", sa.Float(53), nullable=False),
)
