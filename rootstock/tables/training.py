"""Who there is, what they uploaded, what is trained from it: projects, keys, files, uploads, jobs, models."""

import sqlalchemy as sa

from rootstock.tables.common import metadata, project, seq

projects = sa.Table(
    "projects",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("organization_id", sa.String(64), nullable=False),
    sa.Column("name", sa.String(255), nullable=False),
    sa.Column("created_at", sa.Float(53), nullable=False),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    project(),
    sa.Column("prefix", sa.String(32), nullable=False, unique=True),  # looked up by this, compared by digest
    sa.Column("digest", sa.String(64), nullable=False),  # sha256 hex of the whole key; the key itself is never kept
    sa.Column("name", sa.String(255), nullable=False),
    sa.Column("role", sa.String(16), nullable=False, server_default="owner"),  # owner | member
    sa.Column("created_at", sa.Float(53), nullable=False),
    sa.Column("revoked_at", sa.Float(53)),
)

GONE = "purged_at IS NULL AND (deleted_at IS NOT NULL OR expires_at IS NOT NULL)"
"""Files whose objects have to go now or later; an index holds only these."""

files = sa.Table(
    "files",
    metadata,
    seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    project(),
    sa.Column("filename", sa.Text(), nullable=False),
    sa.Column("purpose", sa.String(32), nullable=False),
    sa.Column("bytes", sa.BigInteger(), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("object_key", sa.Text(), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("status_details", sa.Text()),
    sa.Column("check", sa.JSON(none_as_null=True)),
    sa.Column("created_at", sa.Float(53), nullable=False),
    sa.Column("expires_at", sa.Float(53)),
    sa.Column("deleted_at", sa.Float(53)),
    sa.Column("purged_at", sa.Float(53)),
    sa.Index("ix_files_gone", "seq", postgresql_where=sa.text(GONE), sqlite_where=sa.text(GONE)),
    sa.Index(None, "project_id", "seq"),
)

jobs = sa.Table(
    "jobs",
    metadata,
    seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    project(),
    sa.Column("status", sa.String(32), nullable=False),
    sa.Column("want", sa.String(16), nullable=False),
    sa.Column("fence", sa.BigInteger(), nullable=False),
    sa.Column("lease_owner", sa.String(255)),
    sa.Column("lease_expires_at", sa.Float(53)),
    sa.Column("attempts", sa.Integer(), nullable=False),
    sa.Column("not_before", sa.Float(53), nullable=False),
    sa.Column("rung_at", sa.Float(53)),
    sa.Column("rings", sa.Integer(), nullable=False),
    sa.Column("model", sa.Text(), nullable=False),
    sa.Column("base", sa.Text(), nullable=False),
    sa.Column("training_file", sa.String(64), nullable=False),
    sa.Column("validation_file", sa.String(64)),
    sa.Column("training_object", sa.Text(), nullable=False),
    sa.Column("validation_object", sa.Text()),
    sa.Column("suffix", sa.String(64)),
    sa.Column("seed", sa.BigInteger(), nullable=False),
    sa.Column("method", sa.JSON(), nullable=False),
    sa.Column("hyperparameters", sa.JSON(), nullable=False),
    sa.Column("integrations", sa.JSON(), nullable=False),
    sa.Column("metadata", sa.JSON(none_as_null=True)),
    sa.Column("created_at", sa.Float(53), nullable=False),
    sa.Column("started_at", sa.Float(53)),
    sa.Column("finished_at", sa.Float(53)),
    sa.Column("finalizing_at", sa.Float(53)),
    sa.Column("progress_step", sa.Integer(), nullable=False),
    sa.Column("total_steps", sa.Integer()),
    sa.Column("progress_at", sa.Float(53)),
    sa.Column("estimated_finish", sa.Float(53)),
    sa.Column("trained_tokens", sa.BigInteger()),
    sa.Column("adapter_id", sa.String(64)),
    sa.Column("fine_tuned_model", sa.Text()),
    sa.Column("result_file", sa.String(64)),
    sa.Column("error", sa.JSON(none_as_null=True)),
    sa.Column("start_model", sa.Text()),  # continued tuning: the tuned model or checkpoint that training starts from
    sa.Column("start_adapter", sa.String(64)),  # its adapter, as it was when the job was created
    sa.Column("rootstock", sa.JSON(none_as_null=True)),  # our own additions, as asked
    sa.Column("data_report", sa.JSON(none_as_null=True)),  # what was found in its files before it was trained
    sa.CheckConstraint("(status = 'running') = (lease_owner IS NOT NULL)", name="leased_iff_running"),
    sa.CheckConstraint("status <> 'succeeded' OR fine_tuned_model IS NOT NULL", name="succeeded_has_model"),
    sa.Index(None, "project_id", "seq"),
    sa.Index(None, "project_id", "started_at"),  # whose turn it is
    sa.Index(None, "status", "base"),
    sa.Index(None, "status", "seq"),  # what the sweep looks for, oldest first
)

job_labels = sa.Table(
    "job_labels",
    metadata,
    sa.Column("label", sa.String(64), primary_key=True),  # sha256 hex of project, key and value (rootstock.labels)
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.ForeignKey("jobs.seq"), primary_key=True),
)

job_attempts = sa.Table(
    "job_attempts",
    metadata,
    sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("fence", sa.BigInteger(), primary_key=True),
    sa.Column("worker", sa.String(255), nullable=False),
    sa.Column("started_at", sa.Float(53), nullable=False),
    sa.Column("ended_at", sa.Float(53)),
    sa.Column("outcome", sa.String(32)),  # finalizing | failed | cancelled | handed_back | paused | lost
)

job_events = sa.Table(
    "job_events",
    metadata,
    seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.id"), nullable=False),
    project(),
    sa.Column("created_at", sa.Float(53), nullable=False),
    sa.Column("level", sa.String(8), nullable=False),
    sa.Column("type", sa.String(16), nullable=False),
    sa.Column("message", sa.Text(), nullable=False),
    sa.Column("data", sa.JSON(none_as_null=True)),
    sa.Column("dedupe", sa.String(128), nullable=False),  # a resumed worker says each thing once
    sa.UniqueConstraint("job_id", "dedupe"),
    sa.Index(None, "job_id", "seq"),
)

job_checkpoints = sa.Table(
    "job_checkpoints",
    metadata,
    seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.id"), nullable=False),
    project(),
    sa.Column("created_at", sa.Float(53), nullable=False),
    sa.Column("step_number", sa.Integer(), nullable=False),
    sa.Column("epoch", sa.Integer(), nullable=False),
    sa.Column("model_name", sa.Text(), nullable=False),
    sa.Column("adapter_id", sa.String(64), nullable=False),
    sa.Column("state_prefix", sa.Text()),
    sa.Column("metrics", sa.JSON(), nullable=False),
    sa.UniqueConstraint("job_id", "step_number"),
    sa.Index(None, "job_id", "seq"),
)

models = sa.Table(
    "models",
    metadata,
    seq(),
    sa.Column("id", sa.Text(), nullable=False, unique=True),
    project(),
    sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.id"), nullable=False),
    sa.Column("base", sa.Text(), nullable=False),
    sa.Column("adapter_id", sa.String(64), nullable=False, unique=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("created_at", sa.Float(53), nullable=False),
    sa.Column("deleted_at", sa.Float(53)),
    sa.Column("purged_at", sa.Float(53)),
    sa.Column("kind", sa.String(8), nullable=False, server_default="lora"),  # lora | full: a whole model's weights
    sa.Index(None, "project_id", "seq"),
)

uploads = sa.Table(
    "uploads",
    metadata,
    seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    project(),
    sa.Column("filename", sa.Text(), nullable=False),
    sa.Column("purpose", sa.String(32), nullable=False),
    sa.Column("mime_type", sa.String(255), nullable=False),
    sa.Column("bytes", sa.BigInteger(), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),  # pending | completed | cancelled | expired
    sa.Column("file_id", sa.String(64)),
    sa.Column("file_expires_after", sa.Integer()),  # seconds after the file's creation
    sa.Column("created_at", sa.Float(53), nullable=False),
    sa.Column("expires_at", sa.Float(53), nullable=False),
    sa.Column("completed_by", sa.String(64)),  # sha256 hex of the request that completed it: its repetition is told by
    sa.Column("inspect_after", sa.Float(53)),  # the file's content is still to be read; nobody begins before that time
    sa.Column("purged_at", sa.Float(53)),
    sa.Index(None, "purged_at", "status", "expires_at"),  # in this order: the sweep looks only at what is not purged
    sa.Index(None, "inspect_after"),
)

upload_parts = sa.Table(
    "upload_parts",
    metadata,
    seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("upload_id", sa.String(64), sa.ForeignKey("uploads.id"), nullable=False),
    sa.Column("bytes", sa.BigInteger(), nullable=False),
    sa.Column("object_key", sa.Text(), nullable=False),
    sa.Column("created_at", sa.Float(53), nullable=False),
    sa.Index(None, "upload_id", "seq"),
)

idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("project_id", sa.String(64), sa.ForeignKey("projects.id"), primary_key=True),
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("kind", sa.String(32), nullable=False),  # what was created: job | batch | upload | file
    sa.Column("digest", sa.String(64), nullable=False),  # sha256 hex of the request: another one may not reuse the key
    sa.Column("resource_id", sa.String(64), nullable=False),
    sa.Column("created_at", sa.Float(53), nullable=False),
    sa.Index(None, "created_at"),
)
