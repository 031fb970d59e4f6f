"""The data report of a job, before anything is trained: told in its events, kept with it, and what may end it.

Knows no tokens: lengths in it are estimates, and the worker's own warnings are exact.
"""

import logging

from rootstock import events, examination, jobs, policies
from rootstock.db import Database
from rootstock.errors import ObjectNotFound
from rootstock.storage import Store
from trainer.worker.lease import Lease

log = logging.getLogger(__name__)


def examine(database: Database, store: Store, lease: Lease, *, context: int, max_line_bytes: int) -> None:
    """Report on the job's files, unless that was done before; `context` is the base's, in tokens.

    Raises `JobFailure` where the policy blocks the data.
    """
    job = lease.job
    if job.data_report is not None:
        return
    validation = (job.validation_file, job.validation_object) if job.validation_file and job.validation_object else None
    training = (job.training_file, job.training_object)
    try:
        made = lease.persist(
            lambda: examination.of_files(
                database, store, training, validation, context=context, max_line_bytes=max_line_bytes
            )
        )
    except ObjectNotFound:
        return  # whoever fetches it next names the file that is gone
    with database.read() as tx:
        blocking = policies.of(tx, job.project_id).data.blocking
    made = examination.weighed(made, blocking)
    text, counts = examination.told(made)
    failure = examination.block(made, blocking)

    def keep() -> None:
        with lease.transaction() as tx:
            level: events.Level = "warn" if counts["warning"] or counts["blocking"] else "info"
            events.add(tx, job.id, job.project_id, text, level=level, dedupe="data-report")
            jobs.examined(tx, job.id, job.fence, {name: made[name] for name in ("findings", "summary")})

    lease.persist(keep)
    if failure is not None:
        raise failure
