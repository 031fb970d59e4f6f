"""What the training loop tells, put where others find it: events, checkpoints, resume states, the results file.

Objects go to the store first, rows follow in one fenced transaction: half a checkpoint does not exist.
"""

import contextvars
import csv
import hashlib
import io
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rootstock import adapters, checkpoints, ids, jobs, publish
from rootstock.adapters.proof import Proof
from rootstock.errors import AdapterInvalid, JobFailure, LeaseLost, Unavailable
from rootstock.records import JobRecord
from rootstock.storage import Store
from rootstock.telemetry import TRAIN_FLOPS_PER_TOKEN, TRAIN_MEMORY, TRAIN_PEAK_FLOPS, TRAIN_STEPS, TRAIN_TOKENS
from trainer import proof as proofs
from trainer.base import Base
from trainer.checkpoint import STATE, STATE_TENSORS
from trainer.loop import Checkpoint, Progress, Result, Verdict
from trainer.meter import flops_per_token, memory_bytes, peak_flops
from trainer.methods import METHODS
from trainer.recipe import Recipe
from trainer.watch import Metrics
from trainer.worker.integrations import Followers
from trainer.worker.lease import Lease

log = logging.getLogger(__name__)

HANDED_BACK = "handed-back-"


class JobReporter:
    """The `Reporter` of a claimed job. Use as a context manager around its training.

    Checkpoints are stored by a thread, so that neither the job nor those that train beside it wait for the store; what
    goes wrong there is raised at the job's next step.
    """

    def __init__(
        self,
        job: JobRecord,
        recipe: Recipe,
        base: Base,
        store: Store,
        lease: Lease,
        leaving: Callable[[], bool],
        followers: Followers,
    ) -> None:
        self._job = job
        self._recipe = recipe
        self._base = base
        self._store = store
        self._lease = lease
        self._leaving = leaving
        self._followers = followers
        self._began: float | None = None
        self._steps = 0
        self._warned: set[str] = set()
        self._peak, self._flops = peak_flops(base.device), flops_per_token(base, recipe.type)
        TRAIN_FLOPS_PER_TOKEN.set(self._flops)
        TRAIN_PEAK_FLOPS.set(self._peak or 0)
        self._storing = ThreadPoolExecutor(1, thread_name_prefix=f"store-{job.id}")
        self._pending: Future[None] | None = None

    def __enter__(self) -> "JobReporter":
        return self

    def __exit__(self, *_: object) -> None:
        # The folders that are being stored go when the job is let go of.
        self._storing.shutdown(wait=True)

    def settle(self) -> None:
        """Wait until the last checkpoint is stored. Raises what went wrong with it."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def alive(self) -> None:
        """Keep the watchdog quiet. Raises `LeaseLost` when the job is no longer wanted here."""
        self._lease.alive()
        if self._lease.lost:
            raise LeaseLost(f"Job {self._job.id} was lost before its first step.")

    def step(self, progress: Progress) -> Verdict:
        """Note the step for the lease's thread; hear whether the job is still wanted here."""
        if self._pending is not None and self._pending.done():
            self.settle()
        now = time.monotonic()
        if self._began is None:
            self._began = now - progress.seconds
        self._steps += 1
        TRAIN_STEPS.inc()
        TRAIN_TOKENS.inc(progress.tokens)
        # The mean over everything so far, evaluations and checkpoints included: it converges.
        remaining = (now - self._began) / self._steps * (progress.total_steps - progress.step)
        self._lease.note(progress, time.time() + remaining)
        self._followers.step(progress.metrics, self._telemetry(progress))
        if self._lease.lost:
            return Verdict.STOP
        if self._lease.to_pause:
            return Verdict.PAUSE
        return Verdict.HAND_BACK if self._leaving() else Verdict.GO

    def _telemetry(self, progress: Progress) -> dict[str, float]:
        rate = progress.tokens / max(progress.seconds, 1e-9)
        told = {"tokens_per_second": rate, "memory_bytes": float(memory_bytes(self._base.device))}
        if self._peak is not None:
            told["mfu"] = rate * self._flops / self._peak
        TRAIN_MEMORY.set(told["memory_bytes"])
        log.debug("step %d: %s", progress.step, told)
        return told

    def checkpoint(self, saved: Checkpoint) -> None:
        """Store adapter and state, of an epoch or a pause, as a callable model; the final one waits for `finish`.

        Of a job that trains a whole model only the state is stored, to resume from.
        """
        self.settle()
        if not saved.final:
            self._pending = self._storing.submit(contextvars.copy_context().run, self._keep, saved)

    def _keep(self, saved: Checkpoint) -> None:
        if self._job.model_kind == "full":
            self._put_handed_back(saved.state, saved.step)
            self._forget_older_states()
            return
        adapter_id = self._put_adapter(saved)
        prefix = f"states/{self._job.id}/{adapter_id}/"

        def publish_it() -> bool:
            with self._lease.transaction() as tx:
                made = publish.checkpoint(
                    tx,
                    self._job,
                    self._job.fence,
                    adapter_id=adapter_id,
                    state_prefix=prefix,
                    step=saved.step,
                    epoch=saved.epoch,
                    metrics=saved.metrics,
                )
            return made is not None

        try:
            self._put_state(saved.state, prefix)
            kept = self._lease.persist(publish_it)
        except LeaseLost:
            self._discard_unrecorded(adapter_id, prefix)
            raise
        if not kept:  # an earlier attempt got as far as this, and its checkpoint stands
            self._discard_unrecorded(adapter_id, prefix)

    def warn(self, key: str, text: str) -> None:
        """Put a warning into the job's log."""
        if key in self._warned:
            return
        self._warned.add(key)
        log.warning("%s", text)

        def say() -> None:
            with self._lease.transaction() as tx:
                jobs.say(tx, self._job, text, level="warn", dedupe=key)

        self._lease.persist(say)

    def handed_back(self, state: Path, step: int) -> None:
        """Store the state of a run that leaves between two checkpoints, where `resume_state` finds it."""
        self.settle()
        self._put_handed_back(state, step)

    def _put_handed_back(self, state: Path, step: int) -> None:
        self._put_state(state, f"states/{self._job.id}/{HANDED_BACK}{step}-{ids.short()}/")

    def finish(self, result: Result) -> None:
        """Training is done: final adapter and results file, then one transaction that lets go of the job."""
        assert result.final is not None
        self.settle()
        saved = result.final
        # What is served is the base as it is, not in four bits: there is nothing that its numbers would have to equal.
        passages = [] if self._recipe.type == "qlora" else result.passages
        adapter_id = self._put_adapter(saved, proofs.complete(passages, self._base))
        table = results_csv(result.history, METHODS[self._recipe.method].columns).encode()
        results = publish.ResultFile(ids.new("file-"), len(table), hashlib.sha256(table).hexdigest())
        self._lease.persist(lambda: self._store.put_bytes(results.object_key, table))

        def finalize() -> None:
            with self._lease.transaction() as tx:
                publish.finalize(
                    tx,
                    self._job,
                    self._job.fence,
                    adapter_id=adapter_id,
                    # Nothing lies there; it tells the sweep that this job's states can go.
                    state_prefix=f"states/{self._job.id}/{adapter_id}/",
                    step=saved.step,
                    epoch=saved.epoch,
                    metrics=saved.metrics,
                    trained_tokens=result.trained_tokens,
                    result_csv=results,
                    outcome={
                        "stopped_early": result.stopped_early,
                        "best_step": result.best_step,
                        "tokens_saved": result.saved_tokens,
                        "peak_memory_bytes": memory_bytes(self._base.device),
                    },
                )

        try:
            self._lease.persist(finalize)
        except LeaseLost:
            if self._discard_unrecorded(adapter_id):
                raise

    def _put_adapter(self, saved: Checkpoint, proof: Proof | None = None) -> str:
        full, base_folder = self._job.model_kind == "full", Path(self._base.model.name_or_path)
        if full:
            adapters.write_config(base_folder, saved.adapter, self._base.dtype)

        def put() -> str:
            adapter_id = ids.new("lora-")  # also for a second try: ids are never used twice
            manifest = adapters.put_tree(
                self._store,
                adapter_id,
                saved.adapter,
                kind=self._job.model_kind,
                base=self._base.name,
                base_sha256=self._base.fingerprint,
                template_sha256=self._base.template_sha256,
                rank=None if full else self._recipe.rank,
                alpha=None if full else self._recipe.alpha,
                target_modules=None if full else saved.target_modules,
                recipe=self._recipe.to_json(),
                proof=proof,
            )
            try:
                if full:
                    adapters.verify_full(saved.adapter, manifest, base_folder)
                else:
                    adapters.verify_tree(saved.adapter, manifest, self._base.model.config.to_dict())
            except AdapterInvalid as error:
                log.warning("the adapter of step %d cannot be served: %s", saved.step, error)
                raise JobFailure(
                    "training_diverged",
                    f"Training diverged: the adapter of step {saved.step} has weights that cannot be served. "
                    "Try a smaller learning_rate_multiplier.",
                    "hyperparameters",
                ) from error
            return adapter_id

        self._lease.alive()
        stored: str = self._lease.persist(put)
        return stored

    def _put_state(self, folder: Path, prefix: str) -> None:
        def put() -> None:
            for name in (STATE_TENSORS, STATE):  # the one that makes it exist comes last
                self._store.put_file(prefix + name, folder / name)

        self._lease.alive()
        self._lease.persist(put)

    def _forget_older_states(self) -> None:
        """Remove the states that no row names but the newest two: whoever resumes now may be reading the last but one.

        A whole model's state is several times its size.
        """
        prefix = f"states/{self._job.id}/"

        def forget() -> None:
            found = {key.split("/")[2] for key in self._store.list(prefix)}
            left = sorted((name for name in found if name.startswith(HANDED_BACK)), key=_step_of)
            for name in left[:-2]:
                self._store.delete_prefix(f"{prefix}{name}/")

        self._lease.persist(forget)

    def _discard_unrecorded(self, adapter_id: str, *others: str) -> bool:
        """Remove the objects of a checkpoint that no row names; false when a row does.

        It may do so although the write seemed to fail: a connection can break while the answer to a commit is on
        its way. When that cannot be told now, the objects stay.
        """
        try:
            with self._lease.read() as tx:
                if checkpoints.of_adapter(tx, self._job.id, adapter_id) is not None:
                    return False
            for prefix in (f"adapters/{adapter_id}/", *others):
                self._store.delete_prefix(prefix)
        except Unavailable as error:
            log.warning("adapter %s is left behind in the store: %s", adapter_id, error)
        return True


def resume_state(lease: Lease, store: Store, folder: Path) -> Path | None:
    """Fetch the newest state of the job into `folder`; `None` when it starts at the beginning.

    That is the last checkpoint's, or a later one that a worker left when it was asked to stop.
    """
    job_id = lease.job.id

    def find() -> tuple[int, str] | None:
        with lease.transaction() as tx:
            last = jobs.last_checkpoint(tx, job_id)
        found = [(last.step_number, last.state_prefix)] if last and last.state_prefix else []
        for key in store.list(f"states/{job_id}/"):
            name = key.split("/")[2]
            if name.startswith(HANDED_BACK) and key.endswith(f"/{STATE}"):
                found.append((_step_of(name), key.removesuffix(STATE)))
        return max(found, default=None)

    def fetch(prefix: str) -> None:
        folder.mkdir(exist_ok=True)
        for name in (STATE_TENSORS, STATE):
            with (folder / name).open("wb") as file:
                file.writelines(store.get(prefix + name))

    newest = lease.persist(find)
    if newest is None:
        return None
    lease.persist(lambda: fetch(newest[1]))
    log.info("resuming behind step %d", newest[0])
    return folder


def results_csv(history: Sequence[Metrics], columns: Mapping[str, str]) -> str:
    """The table of contract 3.7: a row per step, at most five decimals, blank where nothing was computed."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(columns)
    for metrics in history:
        writer.writerow([_cell(metrics.get(key)) for key in columns.values()])
    return table.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.5f}"


def _step_of(name: str) -> int:
    return int(name.removeprefix(HANDED_BACK).split("-")[0])
