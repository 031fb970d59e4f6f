"""Uploads in parts over real sockets, with the background threads running: on a folder and on an S3 server."""

import hashlib
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from openai import OpenAI

from rootstock import files
from rootstock.db import Database
from rootstock.settings import Settings
from rootstock.storage import Store, open_store
from service import uploads as routes
from service.app import create_app
from tests.rootstock.stores import bucket, s3_endpoint, s3_settings
from tests.service.conftest import chat_rows, served
from tests.service.test_real_http import NOWHERE, Process, free_port
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

__all__ = ["bucket", "s3_endpoint"]


@pytest.fixture(params=["local", "s3"])
def chosen(request: pytest.FixtureRequest, settings: Settings) -> Settings:
    changes: dict[str, Any] = {"redis_url": NOWHERE, "sweep_seconds": 0.2}
    if request.param == "s3":
        found = s3_settings(request.getfixturevalue("s3_endpoint"), request.getfixturevalue("bucket").name)
        changes |= {name: value for name, value in found if name.startswith("s3_")}
    return settings.with_values(**changes)


@pytest.fixture
def store(chosen: Settings) -> Store:
    return open_store(chosen)


@pytest.fixture
def client(chosen: Settings, migrated: tuple[Path, str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAI]:
    monkeypatch.setattr(routes, "INSPECT_AT_ONCE_BYTES", 100)
    with served(create_app(chosen)) as url, OpenAI(base_url=f"{url}/v1", api_key=migrated[1], max_retries=0) as sdk:
        yield sdk


def test_a_file_in_parts_is_inspected_judged_and_purged_without_anybodys_help(
    client: OpenAI, store: Store, tmp_path: Path
):
    content = chat_rows(5000)
    (tmp_path / "train.jsonl").write_bytes(content)
    upload = client.uploads.upload_file_chunked(
        file=tmp_path / "train.jsonl", mime_type="application/jsonl", purpose="fine-tune", part_size=100_000
    )
    assert upload.status == "completed" and upload.file is not None
    job = client.fine_tuning.jobs.create(model="gpt-4o", training_file=upload.file.id)
    assert client.files.wait_for_processing(upload.file.id, poll_interval=0.1).status == "processed"
    eventually(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "queued")
    assert client.files.content(upload.file.id).read() == content
    client.fine_tuning.jobs.cancel(job.id)
    client.files.delete(upload.file.id)
    eventually(lambda: store.list("") == [])


def test_many_parts_side_by_side_keep_their_order(client: OpenAI):
    pieces = [bytes([number]) * 50_000 for number in range(40)]
    upload = client.uploads.create(
        filename="blob", purpose="user_data", bytes=40 * 50_000, mime_type="application/octet-stream"
    )
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda piece: client.uploads.parts.create(upload.id, data=piece).id, pieces))
    done = client.uploads.complete(upload.id, part_ids=parts[::-1], md5=hashlib.md5(b"".join(pieces[::-1])).hexdigest())
    assert done.file is not None and client.files.content(done.file.id).read() == b"".join(pieces[::-1])


def test_parts_of_64_mib_pass_through_the_process_in_bounded_memory(tmp_path: Path):
    commands = Process(tmp_path)
    assert commands.run("migrate").returncode == 0
    key = commands.run("key").stdout.strip()
    port = free_port()
    process = commands.serve(port)
    try:
        with OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0) as client:
            client.files.create(file=("warm.jsonl", chat_rows(1000)), purpose="fine-tune")
            rows = chat_rows(1000)
            content = rows * (150_000_000 // len(rows))
            memory = psutil.Process(process.pid)
            before = memory.memory_info().rss
            upload = client.uploads.upload_file_chunked(
                file=content, filename="a.jsonl", bytes=len(content), mime_type="text/jsonl", purpose="fine-tune"
            )
            assert upload.file is not None and upload.file.status == "uploaded"
            assert client.files.wait_for_processing(upload.file.id, poll_interval=0.2).status == "processed"
            # The peak, as the kernel keeps it: no sample can miss it.
            peak = int(next(line for line in _status(process.pid) if line.startswith("VmHWM")).split()[1]) * 1024
            assert peak - before < 64 * 1024 * 1024, f"grew by {(peak - before) >> 20} MiB"
            with Database(f"sqlite:///{tmp_path / 'rootstock.db'}").read() as tx:
                found = files.find(tx, upload.file.id)
            assert found.sha256 == hashlib.sha256(content).hexdigest()
            assert found.check is not None
            assert (found.check["examples"], found.check["faults"]) == (1000 * (150_000_000 // len(rows)), [])
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) in (0, -signal.SIGINT)


def _status(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
