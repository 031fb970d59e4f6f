"""Every table, as SQLAlchemy Core describes it; migrations make the same. Knows no connection and no rule."""

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _seq() -> sa.Column[int]:
    # Insertion order. Lists are paged by it, so equal timestamps never lose or repeat an element.
    return sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=True)


def _project() -> sa.Column[str]:
    return sa.Column("project_id", sa.String(64), sa.ForeignKey("projects.id"), nullable=False)


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
    _project(),
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
    _seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    _project(),
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
    _seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    _project(),
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
    _seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.id"), nullable=False),
    _project(),
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
    _seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.id"), nullable=False),
    _project(),
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
    _seq(),
    sa.Column("id", sa.Text(), nullable=False, unique=True),
    _project(),
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

uploads = sa.Table(
    "uploads",
    metadata,
    _seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    _project(),
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
    _seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("upload_id", sa.String(64), sa.ForeignKey("uploads.id"), nullable=False),
    sa.Column("bytes", sa.BigInteger(), nullable=False),
    sa.Column("object_key", sa.Text(), nullable=False),
    sa.Column("created_at", sa.Float(53), nullable=False),
    sa.Index(None, "upload_id", "seq"),
)

batches = sa.Table(
    "batches",
    metadata,
    _seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    _project(),
    sa.Column("endpoint", sa.String(64), nullable=False),
    sa.Column("model", sa.Text()),  # known once the input was validated
    sa.Column("input_file", sa.String(64), nullable=False),
    sa.Column("input_object", sa.Text(), nullable=False),  # snapshot: deleting the file never touches a running batch
    sa.Column("completion_window", sa.String(16), nullable=False),
    sa.Column("output_expires_after", sa.Integer()),
    sa.Column("metadata", sa.JSON(none_as_null=True)),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("fence", sa.BigInteger(), nullable=False),
    sa.Column("lease_owner", sa.String(255)),
    sa.Column("lease_expires_at", sa.Float(53)),
    sa.Column("attempts", sa.Integer(), nullable=False),
    sa.Column("not_before", sa.Float(53), nullable=False),
    sa.Column("rung_at", sa.Float(53)),
    sa.Column("rings", sa.Integer(), nullable=False),
    sa.Column("total", sa.Integer(), nullable=False),
    sa.Column("completed", sa.Integer(), nullable=False),
    sa.Column("failed", sa.Integer(), nullable=False),
    sa.Column("usage", sa.JSON(none_as_null=True)),
    sa.Column("errors", sa.JSON(none_as_null=True)),
    sa.Column("output_file", sa.String(64)),
    sa.Column("error_file", sa.String(64)),
    sa.Column("created_at", sa.Float(53), nullable=False),
    sa.Column("expires_at", sa.Float(53), nullable=False),
    sa.Column("in_progress_at", sa.Float(53)),
    sa.Column("finalizing_at", sa.Float(53)),
    sa.Column("completed_at", sa.Float(53)),
    sa.Column("failed_at", sa.Float(53)),
    sa.Column("expired_at", sa.Float(53)),
    sa.Column("cancelling_at", sa.Float(53)),
    sa.Column("cancelled_at", sa.Float(53)),
    sa.Index(None, "project_id", "seq"),
    sa.Index(None, "status", "seq"),
)

batch_results = sa.Table(
    "batch_results",
    metadata,
    sa.Column("batch_id", sa.String(64), sa.ForeignKey("batches.id"), primary_key=True),
    sa.Column("line", sa.Integer(), primary_key=True),  # 1-based line of the input file
    sa.Column("ok", sa.Boolean(), nullable=False),
    sa.Column("body", sa.Text(), nullable=False),  # the finished line of the output or error file
)

checkpoint_permissions = sa.Table(
    "checkpoint_permissions",
    metadata,
    _seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("model_name", sa.Text(), nullable=False),
    _project(),  # the project that is let in
    sa.Column("created_at", sa.Float(53), nullable=False),
    sa.UniqueConstraint("model_name", "project_id"),
)

stored_completions = sa.Table(
    "stored_completions",
    metadata,
    _seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    _project(),
    sa.Column("model", sa.Text(), nullable=False),
    sa.Column("request_id", sa.String(64), nullable=False),
    sa.Column("request", sa.JSON(), nullable=False),
    sa.Column("response", sa.JSON(), nullable=False),
    sa.Column("metadata", sa.JSON(none_as_null=True)),
    sa.Column("created_at", sa.Float(53), nullable=False),
    sa.Column("expires_at", sa.Float(53), nullable=False),
    sa.Index(None, "project_id", "seq"),
    sa.Index(None, "expires_at"),
)

webhook_endpoints = sa.Table(
    "webhook_endpoints",
    metadata,
    _seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    _project(),
    sa.Column("url", sa.Text(), nullable=False),
    sa.Column("name", sa.String(255), nullable=False),
    sa.Column("event_types", sa.JSON(), nullable=False),
    sa.Column("secret", sa.Text(), nullable=False),
    sa.Column("created_at", sa.Float(53), nullable=False),
    sa.Column("deleted_at", sa.Float(53)),
    sa.Index(None, "project_id", "seq"),
)

webhook_deliveries = sa.Table(
    "webhook_deliveries",
    metadata,
    _seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("endpoint_id", sa.String(64), sa.ForeignKey("webhook_endpoints.id"), nullable=False),
    _project(),
    sa.Column("event_id", sa.String(64), nullable=False),
    sa.Column("event_type", sa.String(64), nullable=False),
    sa.Column("resource_id", sa.String(64), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),  # pending | delivered | failed
    sa.Column("attempts", sa.Integer(), nullable=False),
    sa.Column("next_attempt_at", sa.Float(53), nullable=False),
    sa.Column("last_status_code", sa.Integer()),
    sa.Column("last_error", sa.Text()),
    sa.Column("created_at", sa.Float(53), nullable=False),
    sa.Column("delivered_at", sa.Float(53)),
    sa.UniqueConstraint("endpoint_id", "event_type", "resource_id"),
    sa.Index(None, "project_id", "seq"),
    sa.Index(None, "status", "next_attempt_at"),
)

usage = sa.Table(
    "usage",
    metadata,
    sa.Column("project_id", sa.String(64), sa.ForeignKey("projects.id"), primary_key=True),
    sa.Column("day", sa.String(10), primary_key=True),  # UTC, as 2026-01-31
    sa.Column("model", sa.Text(), primary_key=True),  # the public name that was asked for
    sa.Column("requests", sa.BigInteger(), nullable=False),  # those that failed are among them
    sa.Column("failed_requests", sa.BigInteger(), nullable=False),
    sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
    sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
)

usage_writers = sa.Table(
    "usage_writers",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),  # one process that adds to `usage`
    sa.Column("number", sa.BigInteger(), nullable=False),  # of the last write that it made
    sa.Column("written_at", sa.Float(53), nullable=False),
)
