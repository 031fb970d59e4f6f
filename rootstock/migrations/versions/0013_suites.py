"""Suites of projects: questions of their own that their tunes are asked."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "suites",
        sa.Column("seq", kind, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("questions", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_suites_project_id")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_suites")),
        sa.UniqueConstraint("id", name=op.f("uq_suites_id")),
        sa.UniqueConstraint("project_id", "name", name=op.f("uq_suites_project_id_name")),
    )
    op.create_index(op.f("ix_suites_project_id_seq"), "suites", ["project_id", "seq"])
    op.create_table(
        "suite_questions",
        sa.Column("suite_id", sa.String(length=64), nullable=False),
        sa.Column("questions", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["suite_id"], ["suites.id"], name=op.f("fk_suite_questions_suite_id")),
        sa.PrimaryKeyConstraint("suite_id", name=op.f("pk_suite_questions")),
    )


def downgrade() -> None:
    op.drop_table("suite_questions")
    op.drop_index(op.f("ix_suites_project_id_seq"), "suites")
    op.drop_table("suites")
