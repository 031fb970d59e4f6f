"""Real stacks for the acceptance level: `rootstock up` as a user starts it, watched from outside."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from openai import OpenAI

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "examples" / "data"
START_SECONDS = 420
READY = re.compile(r"Ready\s+(http://\S+)")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Stack:
    """One running `rootstock up`: its URL, its key, its processes by role.

    It knows of a server of a whole model on `full_model_port`, which nobody has started.
    """

    def __init__(self, data_dir: Path, environment: dict[str, str], arguments: Sequence[str] = ()) -> None:
        self.data_dir = data_dir
        self.full_model_port = _free_port()
        environment = {"ROOTSTOCK_FULL_MODEL_URLS": f"http://127.0.0.1:{self.full_model_port}"} | environment
        self.lines: list[str] = []
        self._ready = threading.Event()
        self.url = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rootstock", "up", "--port", "0", "--data-dir", str(data_dir), *arguments],
            cwd=ROOT,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if not self.url and (found := READY.search(line)):
                self.url = found[1]
                self._ready.set()
        self._ready.set()

    def wait_ready(self) -> None:
        """Until the Ready line; fails the test with the log when it does not come."""
        assert self._ready.wait(START_SECONDS) and self.url, "no Ready line:\n" + "".join(self.lines[-40:])

    @property
    def key(self) -> str:
        return (self.data_dir / "api-key").read_text(encoding="utf-8").strip()

    @property
    def client(self) -> OpenAI:
        return OpenAI(base_url=self.url, api_key=self.key, max_retries=3)

    def part(self, module: str) -> psutil.Process:
        """The child that runs `python -m <module>` (or a command holding that word)."""
        found = [
            child
            for child in psutil.Process(self.process.pid).children(recursive=True)
            if module in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE
        ]
        assert found, f"no process {module}"
        return found[0]

    def kill(self, module: str) -> None:
        """kill -9, as the out-of-memory killer would."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self.part(module).send_signal(signal.SIGKILL)

    def stop(self) -> None:
        """Ctrl-C, then proof that nothing is left behind."""
        children = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(120) == 0, "".join(self.lines[-40:])
        _, alive = psutil.wait_procs(children, timeout=5)
        self._reader.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        assert not alive, f"orphans: {[p.cmdline() for p in alive]}"


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The embedded defaults: SQLite, own Redis, local folder, vLLM on this machine. Dead workers are missed sooner,
    and a tune is measured on fewer examples.
    """
    settings = {"ROOTSTOCK_LEASE_SECONDS": "12", "ROOTSTOCK_HEARTBEAT_SECONDS": "3", "ROOTSTOCK_MEASURE_EXAMPLES": "16"}
    settings |= {"ROOTSTOCK_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8"}
    running = Stack(tmp_path_factory.mktemp("stack"), settings)
    try:
        running.wait_ready()
        yield running
    finally:
        running.stop()


@pytest.fixture
def client(stack: Stack) -> OpenAI:
    return stack.client


def rows(name: str, count: int | None = None) -> list[dict[str, Any]]:
    """The first rows of an example file."""
    lines = (DATA / name).read_text(encoding="utf-8").splitlines()[:count]
    return [json.loads(line) for line in lines]


def jsonl(examples: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(example) + "\n" for example in examples).encode()


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Poll until `condition` is true and return its value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.3)
    pytest.fail(f"timed out after {seconds:.0f} s waiting for {what}")


def finished(client: OpenAI, job_id: str, seconds: float = 300) -> Any:
    """The job once it is terminal."""

    def look() -> Any:
        job = client.fine_tuning.jobs.retrieve(job_id)
        return job if job.status in ("succeeded", "failed", "cancelled") else None

    return wait_for(look, seconds, f"{job_id} to end")


def metrics(event: Any) -> dict[str, Any]:
    """The data of a metrics event (the SDK types it as a bare object), empty for the others."""
    return dict(event.data) if event.type == "metrics" else {}


def small_job(
    client: OpenAI, count: int = 48, epochs: int = 2, model: str = "gpt-4o-mini-2024-07-18", **more: Any
) -> Any:
    """A job of a few steps on the example tickets."""
    training = client.files.create(file=("train.jsonl", jsonl(rows("tickets-train.jsonl", count))), purpose="fine-tune")
    return client.fine_tuning.jobs.create(
        model=model,
        training_file=training.id,
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": epochs, "batch_size": 8}},
        },
        **more,
    )
