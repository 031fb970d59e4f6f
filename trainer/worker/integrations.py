"""Who else follows a job: a W&B run per integration, in a process of its own, and TensorBoard files for the operator.

A process, because what follows may fail, hang or stay behind at exit, and none of that may touch the training: lines
are written to it by a thread, and one that does not end is killed. Knows nothing about what W&B does with them.
"""

import contextlib
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rootstock import jobs
from rootstock.db import Database
from rootstock.errors import JobFailure, LeaseLost, Unavailable
from rootstock.records import JobRecord
from rootstock.settings import Settings
from trainer.recipe import Recipe
from trainer.worker.board import Board

log = logging.getLogger(__name__)

CHILD = Path(__file__).with_name("wandb_run.py")
POLL_SECONDS = 1.0
FINISH_SECONDS = 60.0
"""How long a run may take to be brought to its end, uploads included, after its job was let go."""


class Followers:
    """All followers of one job. Use as a context manager around its training; nothing here waits or raises."""

    def __init__(self, settings: Settings, database: Database, job: JobRecord, recipe: Recipe) -> None:
        asked = [one["wandb"] for one in job.integrations]
        if asked and not settings.reports_to_wandb:
            log.warning("job %s asks for a W&B run, but the settings here do not allow any", job.id)
            asked = []
        self._state: dict[str, Any] = {"status": "failed"}
        self._runs = [
            _Run(database, job, number, _opening(settings, job, recipe, wanted)) for number, wanted in enumerate(asked)
        ]
        folder = settings.tensorboard_dir
        self._board = Board(folder / job.id) if folder else None

    def step(self, metrics: dict[str, float], telemetry: dict[str, float]) -> None:
        """Pass a finished step on; `telemetry` is about the machine."""
        for run in self._runs:
            run.write({"metrics": metrics})
        if self._board is not None:
            values = {name: value for name, value in metrics.items() if name not in ("step", "total_steps")}
            self._board.step(int(metrics["step"]), values | telemetry)

    def ends_as(self, status: str, **facts: Any) -> None:
        """What the run's summary will say about how this ended."""
        self._state = {"status": status, **facts}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if isinstance(error, LeaseLost):
            self._state = {"status": "cancelled, or taken over by another worker"}
        elif isinstance(error, JobFailure):
            self._state = {"status": "failed", "error": error.message}
        if self._board is not None:
            self._board.close()
        for run in self._runs:
            run.end({"end": {"summary": self._state, "exit_code": int(self._state["status"] == "failed")}})


class _Run:
    """One child process, and the two threads that keep it away from us: one writes to it, one waits for its end."""

    def __init__(self, database: Database, job: JobRecord, number: int, opening: dict[str, Any]) -> None:
        self._db = database
        self._job = job
        self._number = number
        self._lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._lines.put(opening)
        self._ended = threading.Event()
        folder = Path(opening["folder"])
        threading.Thread(target=self._live, args=(folder,), name=f"integration-{number}", daemon=True).start()

    def write(self, line: dict[str, Any]) -> None:
        self._lines.put(line)

    def end(self, line: dict[str, Any]) -> None:
        self._lines.put(line)
        self._lines.put(None)
        self._ended.set()

    def _live(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile() as errors:
                process = subprocess.Popen(
                    [sys.executable, "-P", str(CHILD)],  # -P: modules beside the script are none of its business
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    start_new_session=True,  # Ctrl-C ends us; it finishes
                )
                threading.Thread(target=self._feed, args=(process,), daemon=True).start()
                code = self._wait(process)
                errors.seek(0)
                said = errors.read().decode(errors="replace")[-500:]
        except OSError as error:
            code, said = -1, str(error)
        if code != 0:
            self._warn(f"exit code {code}: {said}")

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        while not self._ended.is_set():
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(POLL_SECONDS)
        try:
            return process.wait(FINISH_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return process.wait()

    def _feed(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it is gone; whoever waits for its end says so
            while (line := self._lines.get()) is not None:
                process.stdin.write(json.dumps(line).encode() + b"\n")
                process.stdin.flush()
        with contextlib.suppress(OSError):
            process.stdin.close()

    def _warn(self, reason: str) -> None:
        log.warning("the W&B run of %s failed: %s", self._job.id, reason)
        text = "The Weights & Biases run could not be written completely; the training is not affected."
        try:
            with self._db.transaction() as tx:
                job = jobs.find(tx, self._job.id)
                if job is not None and not job.status.terminal:  # its last word is not ours
                    jobs.say(tx, job, text, level="warn", dedupe=f"integration-{self._number}-{self._job.fence}")
        except Unavailable:
            log.debug("could not say so")


def _opening(settings: Settings, job: JobRecord, recipe: Recipe, wanted: dict[str, Any]) -> dict[str, Any]:
    key = settings.wandb_api_key
    config = {
        "fine_tuning_job": job.id,
        "model": job.model,
        "start_model": job.start_model,
        "training_file": job.training_file,
        "validation_file": job.validation_file,
        "recipe": recipe.resolved(),
    }
    return {
        "mode": settings.wandb_mode,
        "base_url": settings.wandb_base_url,
        "api_key": key.get_secret_value() if key else None,
        "folder": str((settings.data_dir / "wandb").absolute()),
        "run": {
            "id": wanted["run_id"],
            "project": wanted["project"],
            "entity": wanted["entity"],
            "name": wanted["name"] or job.id,
            "tags": wanted["tags"],
            "config": config,
        },
    }
