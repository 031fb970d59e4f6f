"""The API behind real sockets: streaming as it happens, disconnects, outages, large uploads in bounded memory."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from openai import OpenAI

from rootstock import files, keys, models
from rootstock.db import Database
from rootstock.records import ModelState
from rootstock.settings import Settings
from service.app import create_app
from tests.service.conftest import chat_rows, served
from tests.service.fake_vllm import FakeVllm
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

HELLO: Any = [{"role": "user", "content": "Hi"}]
NOWHERE = "redis://127.0.0.1:1/0"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def engine(vllm: FakeVllm) -> Iterator[str]:
    with served(vllm.app()) as url:
        yield url


@pytest.fixture
def client(settings: Settings, migrated: tuple[Path, str, str], engine: str) -> Iterator[OpenAI]:
    chosen = settings.with_values(vllm_url=engine, redis_url=NOWHERE, inference_timeout_seconds=3.0)
    with served(create_app(chosen)) as url, OpenAI(base_url=f"{url}/v1", api_key=migrated[1], max_retries=0) as sdk:
        yield sdk


def ask(client: OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(model="gpt-4o-mini", messages=HELLO, **more)


def test_chunks_arrive_while_the_engine_still_works(client: OpenAI, vllm: FakeVllm):
    vllm.hang = True  # after its words, before the end
    stream = ask(client, stream=True)
    words = [next(stream).choices[0].delta.content for _ in range(4)]
    assert "".join(words) == "Hello wörld" and vllm.running == 1
    stream.close()
    eventually(lambda: vllm.running == 0)


@pytest.mark.parametrize("stream", [True, False])
def test_complete_answers_share_a_connection_to_the_engine(client: OpenAI, vllm: FakeVllm, stream: bool):
    for _ in range(8):
        answer = ask(client, stream=stream)
        assert not stream or list(answer)
    # A second one is of the looks at its health, and is shared with them.
    assert len(vllm.asked_from) == 8 and len(set(vllm.asked_from)) <= 2


@pytest.mark.parametrize("stream", [True, False])
def test_hanging_up_stops_the_engine(client: OpenAI, vllm: FakeVllm, stream: bool):
    vllm.hang = True
    with pytest.raises(openai.APITimeoutError):
        list(ask(client.with_options(timeout=0.5), stream=stream))
    eventually(lambda: vllm.running == 0)
    vllm.hang = False
    assert ask(client).choices[0].message.content == "Hello wörld"


@pytest.mark.parametrize("stream", [True, False])
def test_hanging_up_before_the_engine_has_said_anything_stops_it_too(client: OpenAI, vllm: FakeVllm, stream: bool):
    vllm.stall = True
    for patience in (0.5, 5.0, 30.0):  # on a busy machine the request may not have got to the engine by then
        with pytest.raises(openai.APITimeoutError):
            ask(client.with_options(timeout=patience), stream=stream)
        if vllm.received:
            break
    assert len(vllm.received) == 1
    eventually(lambda: vllm.running == 0)


def test_many_clients_that_hang_up_leave_nothing_behind(client: OpenAI, vllm: FakeVllm):
    vllm.hang = True
    before = psutil.Process().num_fds()

    def hang_up(_: int) -> None:
        stream = ask(client, stream=True)
        next(stream)
        stream.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(hang_up, range(100)))
    eventually(lambda: vllm.running == 0)
    eventually(lambda: psutil.Process().num_fds() < before + 80)


def test_a_stream_that_breaks_off_before_its_first_event_is_refused_with_a_status(client: OpenAI, vllm: FakeVllm):
    vllm.break_after = 0
    with pytest.raises(openai.InternalServerError) as refused:
        ask(client, stream=True)
    assert refused.value.status_code == 503 and refused.value.code == "service_unavailable"


def test_an_engine_that_dies_in_mid_stream_is_an_error_event(client: OpenAI, vllm: FakeVllm):
    vllm.break_after = 2
    with pytest.raises(openai.APIError, match=r"serving engine is away|stopped answering"):
        list(ask(client, stream=True))


def test_an_answer_may_not_take_for_ever(client: OpenAI, vllm: FakeVllm):
    vllm.hang = True
    with pytest.raises(openai.InternalServerError, match="too long") as caught:
        ask(client)
    assert caught.value.status_code == 503
    with pytest.raises(openai.APIError, match="too long"):
        list(ask(client, stream=True))
    eventually(lambda: vllm.running == 0)


def test_an_engine_that_is_away_is_a_503_and_the_rest_works(settings: Settings, migrated: tuple[Path, str, str]):
    chosen = settings.with_values(vllm_url="http://127.0.0.1:1", redis_url=NOWHERE)
    with served(create_app(chosen)) as url, OpenAI(base_url=f"{url}/v1", api_key=migrated[1], max_retries=0) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            ask(client)
        assert caught.value.status_code == 503 and caught.value.response.headers["retry-after"] == "2"
        training = client.files.create(file=("a.jsonl", chat_rows(12)), purpose="fine-tune")
        job = client.fine_tuning.jobs.create(model="gpt-4o", training_file=training.id)
        eventually(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "queued")
        parts = httpx.get(f"{url}/readyz").json()["parts"]
        assert parts == {"database": "ok", "redis": "away", "store": "ok", "vllm": "away"}


def test_a_model_deleted_in_mid_stream_lets_the_stream_end(client: OpenAI, settings: Settings, vllm: FakeVllm):
    training = client.files.create(file=("a.jsonl", chat_rows(12)), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model="gpt-4o", training_file=training.id)
    database = Database(settings.effective_database_url)
    with database.transaction() as tx:
        models.register(
            tx,
            name="ft:a:b::c",
            project_id="proj_default",
            job_id=job.id,
            base="rootstock-tiny",
            adapter_id="adapter-1234",
            state=ModelState.READY,
        )
    database.close()
    stream = client.chat.completions.create(model="ft:a:b::c", messages=HELLO, stream=True)
    next(stream)
    client.models.delete("ft:a:b::c")
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "Hello wörld"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="ft:a:b::c", messages=HELLO)


def objects(settings: Settings) -> list[Path]:
    return [path for path in (settings.data_dir / "store").rglob("*") if path.is_file()]


def test_an_upload_that_is_broken_off_leaves_nothing(client: OpenAI, settings: Settings):
    url = httpx.URL(str(client.base_url))
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {client.api_key}\r\nContent-Length: 9000000\r\n"
        "Content-Type: multipart/form-data; boundary=xyz\r\n\r\n--xyz\r\n"
        'Content-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
    )
    with socket.create_connection((url.host, url.port or 0)) as connection:
        connection.sendall(head.encode() + b"x" * 4_000_000)
        eventually(lambda: len(objects(settings)) == 1)  # something temporary has begun
    eventually(lambda: objects(settings) == [])
    assert client.files.list().data == []


def test_uploads_side_by_side_do_not_mix(client: OpenAI):
    def upload(number: int) -> tuple[str, bytes]:
        content = f"{number}\n".encode() * 200_000
        return client.files.create(file=(f"{number}.jsonl", content), purpose="user_data").id, content

    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(upload, range(12)))
    assert len({file_id for file_id, _ in made}) == 12
    assert all(client.files.content(file_id).read() == content for file_id, content in made)


class Process:
    """`python -m service` as a container starts it."""

    def __init__(self, data_dir: Path, **settings: Any) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("ROOTSTOCK_")}
        environment |= {"ROOTSTOCK_DATA_DIR": str(data_dir), "ROOTSTOCK_REDIS_URL": NOWHERE}
        self.environment = environment | {f"ROOTSTOCK_{name.upper()}": str(value) for name, value in settings.items()}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "service", *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def serve(self, port: int) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "--port", str(port)],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(lambda: _alive(port), 60)
        return process


def _alive(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_the_process_takes_large_files_in_bounded_memory_and_stops_cleanly(tmp_path: Path):
    commands = Process(tmp_path)
    assert commands.run("migrate").returncode == 0
    key = commands.run("key").stdout.strip()
    port = free_port()
    process = commands.serve(port)
    try:
        with OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0) as client:
            client.files.create(file=("warm.jsonl", chat_rows(1000)), purpose="fine-tune")
            memory = psutil.Process(process.pid)
            before = memory.memory_info().rss
            highest = [before]
            message = {"role": "assistant", "content": "word " * 2000}
            row = json.dumps({"messages": [{"role": "user", "content": "Hi"}, message]}).encode() + b"\n"
            body = multipart_stream(row, 200_000_000)

            def watched() -> Iterator[bytes]:
                for chunk in body:
                    highest[0] = max(highest[0], memory.memory_info().rss)
                    yield chunk

            answer = client._client.post(
                f"{client.base_url}files",
                content=watched(),  # chunked, no Content-Length
                headers={"content-type": "multipart/form-data; boundary=xyz", "authorization": f"Bearer {key}"},
                timeout=120,
            )
            assert answer.status_code == 200, answer.text
            assert answer.json()["bytes"] == 200_000_000 // len(row) * len(row)
            assert highest[0] - before < 64 * 1024 * 1024, f"grew by {(highest[0] - before) >> 20} MiB"
            with client.files.with_streaming_response.content(answer.json()["id"]) as content:
                taken = 0
                for chunk in content.iter_bytes(1_000_000):
                    highest[0] = max(highest[0], memory.memory_info().rss)
                    taken += len(chunk)
            assert taken == answer.json()["bytes"]
            assert highest[0] - before < 64 * 1024 * 1024, f"grew by {(highest[0] - before) >> 20} MiB"
            with Database(f"sqlite:///{tmp_path / 'rootstock.db'}").read() as tx:
                check = files.get(tx, "proj_default", answer.json()["id"]).check
            assert check is not None and check["faults"] == []
            assert check["examples"] == 200_000_000 // len(row)
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) in (0, -signal.SIGINT)


def test_too_large_is_told_before_the_whole_file_came(settings: Settings, migrated: tuple[Path, str, str]):
    chosen = settings.with_values(max_file_bytes=1_000_000, redis_url=NOWHERE)
    with served(create_app(chosen)) as url, httpx.Client(base_url=url) as client:
        headers = {"content-type": "multipart/form-data; boundary=xyz", "authorization": f"Bearer {migrated[1]}"}
        sent = [0]

        def endless() -> Iterator[bytes]:
            for chunk in multipart_stream(b"x" * 1_000_000, 10_000_000_000):
                sent[0] += len(chunk)
                yield chunk

        answer = client.post("/v1/files", content=endless(), headers=headers, timeout=60)
        assert answer.status_code == 413 and answer.headers["connection"] == "close"
        assert sent[0] < 500_000_000
        slightly = client.post("/v1/files", content=multipart_stream(b"x" * 1000, 3_000_000), headers=headers)
        assert slightly.status_code == 413 and "connection" not in slightly.headers
        assert client.get("/v1/files", headers=headers).json()["data"] == []


def multipart_stream(row: bytes, size: int) -> Iterator[bytes]:
    yield b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="big.jsonl"\r\n\r\n'
    block = row * (1_000_000 // len(row))
    left = size // len(row)
    while left:
        count = min(left, len(block) // len(row))
        yield block[: count * len(row)]
        left -= count
    yield b'\r\n--xyz\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--xyz--\r\n'


def test_the_commands_say_what_is_wrong(tmp_path: Path):
    commands = Process(tmp_path)
    text = commands.run("--help")
    assert text.returncode == 0 and "python -m service migrate" in text.stdout
    wrong = Process(tmp_path, prot=1).run("migrate")
    assert wrong.returncode == 2 and "ROOTSTOCK_PORT" in wrong.stderr
    printed = commands.run("openapi")
    assert json.loads(printed.stdout)["paths"]


def test_expired_files_are_gone_on_every_route(client: OpenAI, settings: Settings):
    database = Database(settings.effective_database_url)
    with database.transaction() as tx:
        project = keys.ensure_default_project(tx, "rootstock")
        files.create(
            tx,
            file_id="file-old",
            project_id=project,
            filename="a",
            purpose="batch",
            size=0,
            sha256="0",
            object_key="files/file-old",
            check=None,
            expires_at=1.0,
        )
    database.close()
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            call("file-old")
