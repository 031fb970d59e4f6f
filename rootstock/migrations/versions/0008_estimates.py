"""What jobs were thought to take when they were created, and what they took."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "estimates",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("base", sa.Text(), nullable=False),
        sa.Column("method", sa.String(length=32), nullable=False),
        sa.Column("type", sa.String(length=16), nullable=False),
        sa.Column("file_bytes", sa.BigInteger(), nullable=False),
        sa.Column("estimate", sa.JSON(), nullable=False),
        sa.Column("ended_at", sa.Float(precision=53)),
        sa.Column("passes", sa.Float(precision=53)),
        sa.Column("steps", sa.Integer()),
        sa.Column("tokens", sa.BigInteger()),
        sa.Column("seconds", sa.Float(precision=53)),
        sa.Column("memory_bytes", sa.BigInteger()),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_estimates_job_id")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_estimates")),
    )
    op.create_index(op.f("ix_estimates_base_ended_at"), "estimates", ["base", "ended_at"])


def downgrade() -> None:
    op.drop_table("estimates")
