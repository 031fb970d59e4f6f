"""What was found in the data: reports of files, and what each job was told."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "data_reports",
        sa.Column("training_file", sa.String(length=64), nullable=False),
        sa.Column("validation_file", sa.String(length=64), nullable=False),
        sa.Column("context_tokens", sa.Integer(), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("training_file", "validation_file", "context_tokens", name=op.f("pk_data_reports")),
    )
    op.add_column("jobs", sa.Column("data_report", sa.JSON(none_as_null=True)))


def downgrade() -> None:
    op.drop_column("jobs", "data_report")
    op.drop_table("data_reports")
