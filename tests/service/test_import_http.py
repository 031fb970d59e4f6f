"""`rootstock import openai` over real sockets and as a real process: cut connections, kills, memory, no network."""

import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from rootstock.cli.importing import Wanted, import_all
from rootstock.errors import ImportStopped
from rootstock.settings import Settings
from service.app import create_app
from tests.service.conftest import chat_rows, served
from tests.service.fake_openai import KEY, FakeOpenAI, error, job_object

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

TRAIN = chat_rows(12)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def openai() -> FakeOpenAI:
    fake = FakeOpenAI()
    fake.add_file("file-train", TRAIN)
    fake.jobs.append(job_object("ftjob-first1", "file-train"))
    return fake


@pytest.fixture
def source(openai: FakeOpenAI) -> Iterator[str]:
    with served(openai.app()) as url:
        yield url


@pytest.fixture
def target(settings: Settings) -> Iterator[str]:
    with served(create_app(settings.with_values(redis_url="redis://127.0.0.1:1/0", vllm_url=None))) as url:
        yield url


@pytest.fixture
def client(target: str, migrated: tuple[Path, str, str]) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{target}/v1", api_key=migrated[1], max_retries=0) as sdk:
        yield sdk


@pytest.fixture
def wanted(source: str, target: str, settings: Settings, migrated: tuple[Path, str, str]) -> Callable[..., Wanted]:
    def make(**changes: Any) -> Wanted:
        given: dict[str, Any] = {"api_key": KEY, "headers": {}, "from_url": source, "from_folder": None}
        given |= {"folder": settings.data_dir / "export", "to": target, "to_key": migrated[1], "settings": settings}
        given |= {"export_only": False, "apply": True, "run_jobs": False, "sleep": lambda _: None}
        return Wanted(**given | changes)

    return make


def contents(client: OpenAI) -> list[bytes]:
    return [client.files.content(file.id).read() for file in client.files.list()]


def test_a_connection_cut_in_mid_file_starts_it_again(
    openai: FakeOpenAI, wanted: Callable[..., Wanted], client: OpenAI
):
    openai.cuts["file-train"] = 2
    assert import_all(wanted()) == 0
    assert contents(client) == [TRAIN]
    assert openai.asked.count("GET /v1/files/file-train/content") == 3
    assert list(wanted().folder.rglob("*.part")) == []


def test_a_file_that_never_comes_whole_stops_the_import_and_leaves_nothing_half(
    openai: FakeOpenAI, wanted: Callable[..., Wanted], client: OpenAI
):
    openai.cuts["file-train"] = 6
    with pytest.raises(ImportStopped, match="cannot be used at"):
        import_all(wanted())
    assert list(wanted().folder.rglob("*.content")) == [] and contents(client) == []
    import_all(wanted())
    assert contents(client) == [TRAIN]


def test_a_file_that_is_shorter_than_its_listing_is_not_taken(
    openai: FakeOpenAI, wanted: Callable[..., Wanted], client: OpenAI
):
    openai.files["file-train"]["bytes"] += 1  # a proxy that closes early looks like this
    import_all(wanted())
    report = json.loads((wanted().folder / "report.json").read_text())
    assert f"only {len(TRAIN)} of {len(TRAIN) + 1} bytes came" in report["items"][0]["reason"]
    assert contents(client) == []


def test_nobody_there_is_one_sentence(wanted: Callable[..., Wanted]):
    with pytest.raises(ImportStopped, match=r"127.0.0.1 cannot be used at http://127.0.0.1:1/v1: .*refused"):
        import_all(wanted(from_url="http://127.0.0.1:1"))
    with pytest.raises(ImportStopped, match=r"Rootstock cannot be used at http://127.0.0.1:1/v1"):
        import_all(wanted(to="http://127.0.0.1:1"))


def test_rate_limits_are_really_waited_for(openai: FakeOpenAI, wanted: Callable[..., Wanted]):
    openai.answers = [error(429, "Slow down", "rate_limit_exceeded", {"retry-after": "0.3"})]
    began = time.monotonic()
    assert import_all(wanted(apply=False, sleep=time.sleep)) == 0
    assert time.monotonic() - began >= 0.3


def test_large_files_pass_in_bounded_memory(openai: FakeOpenAI, wanted: Callable[..., Wanted], client: OpenAI):
    openai.add_file("file-large", TRAIN * 50_000, filename="large.jsonl", purpose="evals")
    size = len(openai.contents["file-large"])
    assert size > 60_000_000
    tracemalloc.start()
    try:
        import_all(wanted())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40_000_000
    assert size in {file.bytes for file in client.files.list()}


class Process:
    """The command as a user starts it."""

    def __init__(self, source: str, target: str, key: str, folder: Path) -> None:
        self.folder = folder
        self.command = [sys.executable, "-m", "rootstock", "import", "openai", "--apply", "--run-jobs"]
        self.command += ["--from-url", source, "--folder", str(folder), "--to", target, "--to-key", key]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ROOTSTOCK_")}
        self.environment = environment | {"OPENAI_API_KEY": KEY}

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command, cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def kill_when(self, reached: Callable[[], bool], number: int = signal.SIGKILL) -> tuple[int, str]:
        """End it as soon as `reached`; its exit code and what it wrote."""
        with self.start() as process:
            deadline = time.monotonic() + 60
            while not reached() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.001)
            process.send_signal(number)
            out, _ = process.communicate(timeout=60)
        return process.returncode, out

    def finish(self) -> None:
        done = subprocess.run(
            self.command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr


@pytest.fixture
def process(source: str, target: str, migrated: tuple[Path, str, str], tmp_path: Path) -> Process:
    return Process(source, target, migrated[1], tmp_path / "export")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_ended_in_mid_download(openai: FakeOpenAI, process: Process, client: OpenAI, number: int):
    large = TRAIN * 2000
    openai.add_file("file-train", large)
    openai.stalls.add("file-train")
    part = process.folder / "files" / "file-train.content.part"
    code, said = process.kill_when(lambda: part.exists() and part.stat().st_size > 0, number)
    if number == signal.SIGINT:
        assert code == 130 and "The same command goes on from here." in said
    else:
        assert code == -signal.SIGKILL
    openai.stalls.clear()
    process.finish()
    assert contents(client) == [large] and len(list(client.fine_tuning.jobs.list())) == 1


def test_killed_in_mid_upload(openai: FakeOpenAI, process: Process, client: OpenAI):
    large = TRAIN * 8000
    openai.add_file("file-large", large, filename="large.jsonl", purpose="evals")
    state = process.folder / "import-state.json"
    code, _ = process.kill_when(lambda: state.exists() and '"pending"' in state.read_text())
    assert code == -signal.SIGKILL
    process.finish()
    assert sorted(contents(client)) == sorted([TRAIN, large])
    assert len(list(client.fine_tuning.jobs.list())) == 1


def test_errors_are_one_line_and_an_exit_code(process: Process):
    process.environment["OPENAI_API_KEY"] = "sk-wrong"
    with process.start() as running:
        _, said = running.communicate(timeout=60)
    assert running.returncode == 2
    assert said == "Error: 127.0.0.1 refused the key: Incorrect API key provided: sk-wr***ng.\n"
