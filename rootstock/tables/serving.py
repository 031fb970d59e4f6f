"""What is asked of the models and what is told about it: batches, aliases, permissions, answers, webhooks, usage."""

import sqlalchemy as sa

from rootstock.tables.common import metadata, project, seq

batches = sa.Table(
    "batches",
    metadata,
    seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    project(),
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

aliases = sa.Table(
    "aliases",
    metadata,
    seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    project(),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("model", sa.Text(), nullable=False),
    sa.Column("canary_model", sa.Text()),
    sa.Column("canary_percent", sa.Integer(), nullable=False),
    sa.Column("pinned", sa.Boolean(), nullable=False),  # what it points to is to be in memory at all times
    sa.Column("revision", sa.Integer(), nullable=False),  # compared and set by every move
    sa.Column("created_at", sa.Float(53), nullable=False),
    sa.Column("updated_at", sa.Float(53), nullable=False),
    sa.Column("deleted_at", sa.Float(53)),  # the row stays for the history, and for an alias of the same name
    sa.UniqueConstraint("project_id", "name"),
    sa.Index(None, "project_id", "seq"),
)

alias_moves = sa.Table(
    "alias_moves",
    metadata,
    seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("alias_id", sa.String(64), sa.ForeignKey("aliases.id"), nullable=False),
    sa.Column("revision", sa.Integer(), nullable=False),
    sa.Column("before", sa.JSON(none_as_null=True)),
    sa.Column("after", sa.JSON(none_as_null=True)),
    sa.Column("key_id", sa.String(64), nullable=False),  # who
    sa.Column("note", sa.Text()),
    sa.Column("moved_at", sa.Float(53), nullable=False),
    sa.UniqueConstraint("alias_id", "revision"),
    sa.Index(None, "alias_id", "seq"),
)

checkpoint_permissions = sa.Table(
    "checkpoint_permissions",
    metadata,
    seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("model_name", sa.Text(), nullable=False),
    project(),  # the project that is let in
    sa.Column("created_at", sa.Float(53), nullable=False),
    sa.UniqueConstraint("model_name", "project_id"),
)

stored_completions = sa.Table(
    "stored_completions",
    metadata,
    seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    project(),
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
    seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    project(),
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
    seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("endpoint_id", sa.String(64), sa.ForeignKey("webhook_endpoints.id"), nullable=False),
    project(),
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
