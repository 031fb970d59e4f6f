"""Sampling through vLLM: what is asked, what stays behind, and who samples while it is away. vLLM is a stub here."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rootstock.adapters import read_manifest
from rootstock.records import JobRecord, JobStatus
from tests.trainer.harness import Deployment
from tests.trainer.looping import GRADER
from tests.trainer.test_worker_controls import messages, prompt
from trainer.base import Base
from trainer.worker.job import run_job

pytestmark = pytest.mark.integration

ASKED = {"n_epochs": 1, "batch_size": 5, "compute_multiplier": 0.25, "eval_interval": 1, "eval_samples": 1}


class Stub(ThreadingHTTPServer):
    """Answers completions of a version that the store holds; remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.deployment: Deployment | None = None
        self.asked: list[dict[str, Any]] = []
        self.unloaded: list[str] = []
        self.status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Stub

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer: dict[str, Any] = {}
        if self.path == "/v1/unload_lora_adapter":
            self.server.unloaded.append(body["lora_name"])
        else:
            assert self.path == "/v1/completions"
            self.server.asked.append(body)
            if self.server.status == 200:
                assert self.server.deployment is not None
                manifest = read_manifest(self.server.deployment.store, body["model"])
                assert manifest.ephemeral and "policy_of" in manifest.recipe
            choices = [
                {
                    "token_ids": [40 + n, 41],
                    "text": ("yes", "no one")[n % 2],
                    "logprobs": {"token_logprobs": [-1.0, -2.0]},
                }
                for n in range(body["n"])
            ]
            answer = {"choices": choices}
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def stub() -> Iterator[Stub]:
    server = Stub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def run(tmp_path: Path, base: Base, stub: Stub, **settings: Any) -> tuple[Deployment, JobRecord]:
    settings = {"reinforcement_sampler": "vllm"} | settings
    deployment = stub.deployment = Deployment(tmp_path, vllm_url=stub.url, **settings)
    lines = [prompt(n) for n in range(10)]
    deployment.queue(lines, validation=lines[:2], method="reinforcement", branch={"grader": GRADER}, **ASKED)
    claimed = deployment.claim()
    run_job(deployment.place(base), claimed)
    job = deployment.job(claimed.id)
    assert job.status is JobStatus.FINALIZING, job.error
    return deployment, job


def test_each_version_is_asked_plainly_and_forgotten(tmp_path: Path, base: Base, stub: Stub) -> None:
    deployment, job = run(tmp_path, base, stub)
    # Two steps of five prompts, and two validations of two.
    assert len(stub.asked) == 2 * 5 + 2 * 2
    versions = list(dict.fromkeys(body["model"] for body in stub.asked))
    assert len(versions) == 4
    assert stub.unloaded == versions
    first = stub.asked[0]
    assert {k: v for k, v in first.items() if k not in ("model", "prompt", "seed")} == {
        "n": 2,
        "max_tokens": 128,
        "logprobs": 0,
        "return_token_ids": True,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }
    assert len({body["seed"] for body in stub.asked[:5]}) == 5
    left = {key.split("/")[1] for key in deployment.store.list("adapters/")}
    assert not left & set(versions)
    steps = [event.data for event in deployment.events(job.id) if event.data]
    assert all("train_sampling_gap" in data for data in steps)
    deployment.db.close()


def test_while_vllm_is_away_the_trainer_samples_and_says_so_once(tmp_path: Path, base: Base, stub: Stub) -> None:
    stub.status = 503
    deployment, job = run(tmp_path, base, stub)
    (told,) = [text for text in messages(deployment, job) if "sampled in the trainer" in text]
    assert "vLLM" in told
    steps = [event.data for event in deployment.events(job.id) if event.data]
    assert len(steps) == 2
    assert not any("train_sampling_gap" in data for data in steps)
    assert {key.split("/")[1] for key in deployment.store.list("adapters/")} & set(stub.unloaded) == set()
    deployment.db.close()


def test_who_wants_the_trainer_to_sample_asks_nobody(tmp_path: Path, base: Base, stub: Stub) -> None:
    for number, wish in enumerate(("trainer", "auto")):  # auto on a CPU, where it is no slower
        deployment, _ = run(tmp_path / str(number), base, stub, reinforcement_sampler=wish)
        assert stub.asked == []
        deployment.db.close()
