"""Aliases of tuned models, and every move of theirs."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def _seq() -> sa.Column[int]:
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column("seq", kind, autoincrement=True, nullable=False)


def upgrade() -> None:
    op.create_table(
        "aliases",
        _seq(),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("canary_model", sa.Text(), nullable=True),
        sa.Column("canary_percent", sa.Integer(), nullable=False),
        sa.Column("pinned", sa.Boolean(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.Column("updated_at", sa.Float(precision=53), nullable=False),
        sa.Column("deleted_at", sa.Float(precision=53), nullable=True),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_aliases_project_id")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_aliases")),
        sa.UniqueConstraint("id", name=op.f("uq_aliases_id")),
        sa.UniqueConstraint("project_id", "name", name=op.f("uq_aliases_project_id_name")),
    )
    with op.batch_alter_table("aliases", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_aliases_project_id_seq"), ["project_id", "seq"], unique=False)
    op.create_table(
        "alias_moves",
        _seq(),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("alias_id", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("before", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("after", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("moved_at", sa.Float(precision=53), nullable=False),
        sa.ForeignKeyConstraint(["alias_id"], ["aliases.id"], name=op.f("fk_alias_moves_alias_id")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_alias_moves")),
        sa.UniqueConstraint("id", name=op.f("uq_alias_moves_id")),
        sa.UniqueConstraint("alias_id", "revision", name=op.f("uq_alias_moves_alias_id_revision")),
    )
    with op.batch_alter_table("alias_moves", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_alias_moves_alias_id_seq"), ["alias_id", "seq"], unique=False)


def downgrade() -> None:
    op.drop_table("alias_moves")
    op.drop_table("aliases")
