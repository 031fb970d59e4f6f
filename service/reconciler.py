"""The background threads of the API process: one runs the sweep, one asks vLLM whether finished adapters answer, and
one for each further chore that it is given.

A job is `succeeded` only when its model was seen answering, and was measured where that can be done
(`service.releasing`). Several API replicas may run this side by side: every move is a compare-and-set. Knows vLLM's
completion route; nothing about callers.
"""

import logging
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from enum import Enum

import httpx

from rootstock import adapters, db, events, jobs, publish, releases
from rootstock.db import Database
from rootstock.errors import JobFailure, ObjectNotFound, RootstockError, StoreError
from rootstock.records import JobRecord, JobStatus
from rootstock.release.verdict import Verdict, served_differs, too_few, unmeasured
from rootstock.settings import Settings
from rootstock.storage import Store
from rootstock.sweep import Sweep
from rootstock.telemetry import log_context
from service import proving

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
PROBE_SECONDS = 60.0
LOOK_SECONDS = 5.0
MAX_REFUSALS = 3
"""Definite refusals in a row after which an adapter is given up: the first may come from a replica that lags behind."""

UNHEARD_SECONDS = 150.0
"""A batch worker that is busy with a batch looks around after two minutes; one that has not come by now is none."""

_NO_SERVING = "The model was not seen answering: this deployment has no serving."
_START_ONE = "Start a server for it: python -m serving --model {0}, and add its address to ROOTSTOCK_FULL_MODEL_URLS."


class Probe(Enum):
    """What vLLM said when asked for one token of an adapter, and whether it says what the trainer said."""

    ANSWERED = "answered"
    DIFFERS = "differs"
    REFUSED = "refused"
    AWAY = "away"


class Reconciler:
    """Start it with the process, stop it with the process. Its own failures are logged and tried again."""

    def __init__(
        self,
        database: Database,
        sweep: Sweep,
        store: Store,
        settings: Settings,
        client: httpx.Client | None = None,
        more: Mapping[str, Callable[[], object]] | None = None,
    ) -> None:
        self._db = database
        self._sweep = sweep
        self._store = store
        self._settings = settings
        self._client = client or httpx.Client(
            timeout=httpx.Timeout(PROBE_SECONDS, connect=5.0),
            # The system's certificates, as the gateway has them; to load them takes a while.
            verify=ssl.create_default_context() if any("https:" in url for url in _addresses(settings)) else False,
            trust_env=False,
        )
        self._refusals: dict[str, int] = {}
        self._stopping = threading.Event()
        tick = min(TICK_SECONDS, settings.sweep_seconds)
        # A thread each, because a probe may wait long for a slow engine and dead workers must be found meanwhile.
        steps: list[tuple[str, Callable[[], object], float]]
        steps = [("sweep", sweep.run_once, settings.sweep_seconds), ("publish", self.run_once, tick)]
        steps += [(name, step, tick) for name, step in (more or {}).items()]
        self._threads = [
            threading.Thread(target=self._repeat, args=(step, seconds), name=name, daemon=True)
            for name, step, seconds in steps
        ]

    def start(self) -> None:
        """Begin in the background."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """Finish what is under way and end; a probe that hangs is abandoned."""
        self._stopping.set()
        deadline = time.monotonic() + timeout_seconds
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))
        self._client.close()

    def run_once(self) -> None:
        """One look at every job that waits for its model to answer."""
        with self._db.read() as tx:
            waiting = jobs.finalizing(tx)
        self._refusals = {job.id: self._refusals.get(job.id, 0) for job in waiting}
        for job in waiting:
            if self._stopping.is_set():
                return
            with log_context(job_id=job.id):
                self._verify(job)

    def _repeat(self, step: Callable[[], object], seconds: float) -> None:
        while not self._stopping.is_set():
            try:
                step()
            except RootstockError as error:
                log.warning("reconciler: %s", error.message)
            except Exception:
                log.exception("reconciler: failed, will try again")
            self._stopping.wait(seconds)

    def _verify(self, job: JobRecord) -> None:
        if self._measured(job):
            return
        full = job.model_kind == "full"
        url = self._own_server(job) if full else self._server_of(job.base)
        if url is None:
            warning = _START_ONE.format(job.adapter_id) if full else _NO_SERVING
            self._succeed(job, warning=warning, verdict=unmeasured("no_serving", warning))
            return
        found, reason = self._probe(job, url)
        if found is Probe.ANSWERED:
            found, reason = self._prove(job, url)
        if found is Probe.ANSWERED:
            self._have_measured(job)
            return
        if found is Probe.DIFFERS:
            with self._db.transaction() as tx:
                releases.settle(tx, job, served_differs(reason))
            self._fail(job, f"The fine-tuned model is not served as it was trained: {reason}.", "served_differs")
            return
        log.info("adapter %s does not answer yet: %s", job.adapter_id, reason)
        self._refusals[job.id] += found is Probe.REFUSED
        if self._refusals[job.id] >= MAX_REFUSALS:
            self._fail(job, f"The fine-tuned model could not be loaded for serving: {reason}")
        elif job.finalizing_at is not None and time.time() - job.finalizing_at > self._settings.publish_timeout_seconds:
            seconds = round(self._settings.publish_timeout_seconds)
            self._fail(job, f"The fine-tuned model did not answer within {seconds} seconds after training.")

    def _measured(self, job: JobRecord) -> bool:
        """Whether the job was proven before; then it succeeds with its verdict, or without one when it waits too long.

        A batch worker measures it. One that never was there is not waited for as long.
        """
        with self._db.read() as tx:
            release, now = releases.of_job(tx, job.id), db.clock(tx)
        if release is None or (release.proven_at is None and release.state != releases.DONE):
            return False
        if release.state == releases.DONE:
            self._succeed(job)
            return True
        waited, patience = now - (release.proven_at or now), self._settings.measure_seconds
        if waited > patience:
            text = f"It was not measured within {patience:.0f} seconds after training (ROOTSTOCK_MEASURE_SECONDS)."
            self._succeed(job, verdict=unmeasured("too_slow", text))
        elif waited > UNHEARD_SECONDS and release.fence == 0:
            text = "No batch worker took it up to measure it: start one (python -m service batch-worker)."
            self._succeed(job, verdict=unmeasured("no_worker", text))
        return True

    def _have_measured(self, job: JobRecord) -> None:
        """The model answers: let it be measured, where there is something to measure it with."""
        with self._db.transaction() as tx:
            measured = releases.of_job(tx, job.id) is not None
            if measured:
                releases.prove(tx, job.id)
        if measured:
            self._sweep.ring_measuring(job.id, 2)
        else:
            self._succeed(job, verdict=too_few(0))

    def _server_of(self, base: str) -> str | None:
        return self._settings.for_base(base).vllm_server if base in self._settings.bases else None

    def _own_server(self, job: JobRecord) -> str | None:
        """The server that lists the job's whole model already, if there is one."""
        for url in self._settings.full_model_servers:
            try:
                listed = self._client.get(f"{url}/v1/models", timeout=LOOK_SECONDS).json()["data"]
                if job.adapter_id in [card["id"] for card in listed]:
                    return url
            except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
                log.info("the server of full fine-tunes at %s cannot be asked: %s", url, type(error).__name__)
        return None

    def _probe(self, job: JobRecord, url: str) -> tuple[Probe, str]:
        url = url.rstrip("/").removesuffix("/v1") + "/v1/completions"
        try:
            response = self._client.post(url, json={"model": job.adapter_id, "prompt": "Hello", "max_tokens": 1})
        except httpx.HTTPError as error:
            return Probe.AWAY, f"vLLM is not reachable ({type(error).__name__})"
        if response.status_code == 200:
            return Probe.ANSWERED, ""
        try:
            reason = str(response.json()["error"]["message"])[:300]
        except (ValueError, LookupError, TypeError):
            reason = f"HTTP status {response.status_code}"
        return (Probe.REFUSED if response.status_code in (400, 404, 422) else Probe.AWAY), reason

    def _prove(self, job: JobRecord, url: str) -> tuple[Probe, str]:
        """Whether the model at the server is the trained one, if its trainer wrote down what it said."""
        assert job.adapter_id is not None
        try:
            proof = adapters.read_manifest(self._store, job.adapter_id).proof
        except ObjectNotFound:
            log.warning("adapter %s answers although it is not in the store", job.adapter_id)
            proof = None
        except StoreError as error:
            return Probe.AWAY, error.message
        if proof is None:
            return Probe.ANSWERED, ""
        url = url.rstrip("/").removesuffix("/v1")
        try:
            finding = proving.examine(self._client, url, job.adapter_id, job.base, proof)
        except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
            return Probe.AWAY, f"it could not be compared with its training ({type(error).__name__}: {error})"[:300]
        if finding.fault is not None:
            return Probe.DIFFERS, finding.fault
        if finding.comparison is not None:
            log.info("served as trained: %.4f nats apart", finding.comparison.distance)
        return Probe.ANSWERED, ""

    def _succeed(self, job: JobRecord, *, warning: str | None = None, verdict: Verdict | None = None) -> None:
        with self._db.transaction() as tx:
            now = jobs.find(tx, job.id)
            if warning is not None and now is not None and now.status is JobStatus.FINALIZING:
                events.add(tx, job.id, job.project_id, warning, level="warn", dedupe="unverified")
            if verdict is not None and now is not None and now.status is JobStatus.FINALIZING:
                releases.settle(tx, job, verdict)
            done = publish.succeed(tx, job.id)
        if done:
            log.info("job succeeded, adapter %s", job.adapter_id)

    def _fail(self, job: JobRecord, message: str, code: str = "server_error") -> None:
        failure = JobFailure(code, message)
        with self._db.transaction() as tx:
            jobs.fail_unclaimed(tx, job.id, failure, from_status=JobStatus.FINALIZING)
        log.warning("job failed: %s", message)


def _addresses(settings: Settings) -> list[str]:
    return [settings.vllm_url or "", *settings.more_vllm_urls.values(), *settings.full_model_servers]
