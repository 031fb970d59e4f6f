"""Rows that other tables need to exist, written directly, so that a module's tests use no other module."""

from typing import Any

from rootstock import ids, keys, tables
from rootstock.db import Tx


def add_project(tx: Tx, project_id: str) -> str:
    tx.execute(tables.projects.insert().values(id=project_id, organization_id="org", name="p", created_at=1.0))
    return project_id


def add_job(tx: Tx, **values: Any) -> str:
    """A queued job of the default project, except for what `values` says."""
    row: dict[str, Any] = {
        "id": ids.new("ftjob-"),
        "project_id": keys.DEFAULT_PROJECT,
        "status": "queued",
        "want": "run",
        "fence": 0,
        "attempts": 0,
        "not_before": 0.0,
        "rings": 0,
        "model": "base",
        "base": "base",
        "training_file": "file-x",
        "training_object": "files/file-x",
        "seed": 1,
        "method": {},
        "hyperparameters": {},
        "integrations": [],
        "created_at": 1.0,
        "progress_step": 0,
    } | values
    if row["status"] == "running":
        row |= {"lease_owner": "worker", "lease_expires_at": 1e12}
    tx.execute(tables.jobs.insert().values(**row))
    return str(row["id"])


def set_job_status(tx: Tx, job_id: str, status: str) -> None:
    owner = "worker" if status == "running" else None
    change = {"status": status, "lease_owner": owner}
    if status == "succeeded":
        change["fine_tuned_model"] = "ft:base:org::abcdefgh"
    tx.execute(tables.jobs.update().where(tables.jobs.c.id == job_id).values(**change))
