"""Distillations with their examples, and plans to move tuned models to another base."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def _seq() -> sa.Column[int]:
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column("seq", kind, autoincrement=True, nullable=False)


def upgrade() -> None:
    op.create_table(
        "distillations",
        _seq(),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("lease_owner", sa.String(length=255), nullable=True),
        sa.Column("lease_expires_at", sa.Float(precision=53), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("not_before", sa.Float(precision=53), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("source_object", sa.Text(), nullable=True),
        sa.Column("teacher_key", sa.Text(), nullable=True),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("outcomes", sa.JSON(), nullable=False),
        sa.Column("usage", sa.JSON(), nullable=False),
        sa.Column("stopped_by", sa.String(length=16), nullable=True),
        sa.Column("error", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("training_file", sa.String(length=64), nullable=True),
        sa.Column("provenance_file", sa.String(length=64), nullable=True),
        sa.Column("provenance", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.Column("started_at", sa.Float(precision=53), nullable=True),
        sa.Column("finished_at", sa.Float(precision=53), nullable=True),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_distillations_project_id")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_distillations")),
        sa.UniqueConstraint("id", name=op.f("uq_distillations_id")),
    )
    op.create_index(op.f("ix_distillations_project_id_seq"), "distillations", ["project_id", "seq"], unique=False)
    op.create_index(op.f("ix_distillations_status_seq"), "distillations", ["status", "seq"], unique=False)
    op.create_table(
        "upgrades",
        _seq(),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("from_base", sa.Text(), nullable=False),
        sa.Column("to_base", sa.Text(), nullable=False),
        sa.Column("concurrency", sa.Integer(), nullable=False),
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.Column("started_at", sa.Float(precision=53), nullable=True),
        sa.Column("finished_at", sa.Float(precision=53), nullable=True),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_upgrades_project_id")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_upgrades")),
        sa.UniqueConstraint("id", name=op.f("uq_upgrades_id")),
    )
    op.create_index(op.f("ix_upgrades_project_id_seq"), "upgrades", ["project_id", "seq"], unique=False)
    op.create_index(op.f("ix_upgrades_status_seq"), "upgrades", ["status", "seq"], unique=False)
    op.create_table(
        "distillation_examples",
        sa.Column("distillation_id", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("outcome", sa.String(length=32), nullable=True),
        sa.ForeignKeyConstraint(
            ["distillation_id"], ["distillations.id"], name=op.f("fk_distillation_examples_distillation_id")
        ),
        sa.PrimaryKeyConstraint("distillation_id", "number", name=op.f("pk_distillation_examples")),
    )
    op.create_table(
        "upgrade_models",
        sa.Column("upgrade_id", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("aliases", sa.JSON(), nullable=False),
        sa.Column("estimate", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("new_job_id", sa.String(length=64), nullable=True),
        sa.Column("report", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("moves", sa.JSON(), nullable=False),
        sa.Column("updated_at", sa.Float(precision=53), nullable=False),
        sa.ForeignKeyConstraint(["upgrade_id"], ["upgrades.id"], name=op.f("fk_upgrade_models_upgrade_id")),
        sa.PrimaryKeyConstraint("upgrade_id", "number", name=op.f("pk_upgrade_models")),
    )


def downgrade() -> None:
    op.drop_table("upgrade_models")
    op.drop_table("distillation_examples")
    op.drop_index(op.f("ix_upgrades_status_seq"), table_name="upgrades")
    op.drop_index(op.f("ix_upgrades_project_id_seq"), table_name="upgrades")
    op.drop_table("upgrades")
    op.drop_index(op.f("ix_distillations_status_seq"), table_name="distillations")
    op.drop_index(op.f("ix_distillations_project_id_seq"), table_name="distillations")
    op.drop_table("distillations")
