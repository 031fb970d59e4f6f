"""Watches of live traffic against training sets: their reference, their counts, their alarms."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def _seq() -> sa.Column[int]:
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column("seq", kind, autoincrement=True, nullable=False)


def upgrade() -> None:
    op.create_table(
        "watches",
        _seq(),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("alias", sa.String(length=128), nullable=True),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("file_id", sa.String(length=64), nullable=False),
        sa.Column("file_chosen", sa.Boolean(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("profile_after", sa.Float(precision=53), nullable=False),
        sa.Column("examples", sa.Integer(), nullable=True),
        sa.Column("sample_rate", sa.Float(precision=53), nullable=False),
        sa.Column("store_samples", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_watches_project_id")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_watches")),
        sa.UniqueConstraint("id", name=op.f("uq_watches_id")),
    )
    with op.batch_alter_table("watches", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_watches_project_id_seq"), ["project_id", "seq"], unique=False)
        batch_op.create_index(batch_op.f("ix_watches_status_profile_after"), ["status", "profile_after"], unique=False)
    op.create_table(
        "watch_counts",
        sa.Column("watch_id", sa.String(length=64), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("profile", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.LargeBinary(), nullable=False),
        sa.Column("rows", sa.JSON(), nullable=False),
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.Column("dropped", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.Float(precision=53), nullable=False),
        sa.ForeignKeyConstraint(["watch_id"], ["watches.id"], name=op.f("fk_watch_counts_watch_id")),
        sa.PrimaryKeyConstraint("watch_id", name=op.f("pk_watch_counts")),
    )
    op.create_table(
        "watch_alarms",
        _seq(),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("watch_id", sa.String(length=64), nullable=False),
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("found", sa.JSON(), nullable=False),
        sa.Column("cluster", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_watch_alarms_project_id")),
        sa.ForeignKeyConstraint(["watch_id"], ["watches.id"], name=op.f("fk_watch_alarms_watch_id")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_watch_alarms")),
        sa.UniqueConstraint("id", name=op.f("uq_watch_alarms_id")),
    )
    with op.batch_alter_table("watch_alarms", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_watch_alarms_watch_id_seq"), ["watch_id", "seq"], unique=False)


def downgrade() -> None:
    op.drop_table("watch_alarms")
    op.drop_table("watch_counts")
    op.drop_table("watches")
