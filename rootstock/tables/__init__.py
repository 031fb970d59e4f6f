"""Every table, as SQLAlchemy Core describes it; migrations make the same. Knows no connection and no rule."""

from rootstock.tables.common import metadata
from rootstock.tables.distilling import distillation_examples, distillations, upgrade_models, upgrades
from rootstock.tables.estimating import estimates
from rootstock.tables.evals import eval_items, eval_runs, evals
from rootstock.tables.examining import data_reports
from rootstock.tables.measuring import release_answers, releases
from rootstock.tables.releasing import policies, suite_questions, suites
from rootstock.tables.serving import (
    alias_moves,
    aliases,
    batch_results,
    batches,
    checkpoint_permissions,
    stored_completions,
    usage,
    usage_writers,
    webhook_deliveries,
    webhook_endpoints,
)
from rootstock.tables.training import (
    GONE,
    api_keys,
    files,
    idempotency_keys,
    job_attempts,
    job_checkpoints,
    job_events,
    job_labels,
    jobs,
    models,
    projects,
    upload_parts,
    uploads,
)
from rootstock.tables.watching import watch_alarms, watch_counts, watches

__all__ = [
    "GONE",
    "alias_moves",
    "aliases",
    "api_keys",
    "batch_results",
    "batches",
    "checkpoint_permissions",
    "data_reports",
    "distillation_examples",
    "distillations",
    "estimates",
    "eval_items",
    "eval_runs",
    "evals",
    "files",
    "idempotency_keys",
    "job_attempts",
    "job_checkpoints",
    "job_events",
    "job_labels",
    "jobs",
    "metadata",
    "models",
    "policies",
    "projects",
    "release_answers",
    "releases",
    "stored_completions",
    "suite_questions",
    "suites",
    "upgrade_models",
    "upgrades",
    "upload_parts",
    "uploads",
    "usage",
    "usage_writers",
    "watch_alarms",
    "watch_counts",
    "watches",
    "webhook_deliveries",
    "webhook_endpoints",
]
