"""The real vLLM with our plugin: nobody gets another's weights, and no bad adapter hurts a good one."""

import contextlib
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from rootstock.adapters import put_tree
from rootstock.settings import Settings
from rootstock.storage import LocalStore
from serving.base import ServedBase
from serving.identity import IDENTITY_ID
from tests.logprobs import Opening, distance
from tests.serving.adapters import put_random
from tests.serving.bases import write_tiny_base

PYTHON = Path(Settings().vllm_python)
ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 420  # 40 on an idle machine; imports of three processes, so a busy one takes long
APART_NATS = 0.5  # rounding moves these log-probabilities by a tenth of that

Asked = tuple[str, str]  # model, prompt

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not PYTHON.exists(), reason="no vLLM environment here; `make install` makes it"),
]

GOOD = ["adapter-good-a", "adapter-good-b", "adapter-good-c"]
BAD = ["adapter-flipped", "adapter-nan", "adapter-rank-32", "adapter-other-base", "adapter-half", "adapter-whole"]
PROMPTS = ["the quick brown fox", "the lazy dog jumps", "over the", "a quick dog", "fox fox fox", "12345 67890"]


@dataclass
class Server:
    url: str
    process: subprocess.Popen[bytes]
    log: Path
    store: LocalStore
    base: ServedBase

    def post(self, model: str, prompt: str = PROMPTS[0]) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": prompt}], "temperature": 0}
        body |= {"max_tokens": 12, "logprobs": True, "top_logprobs": 10, "return_tokens_as_token_ids": True}
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=120)

    def opening(self, model: str, prompt: str) -> Opening:
        response = self.post(model, prompt)
        assert response.status_code == 200, f"{model}: {response.text}"
        first = response.json()["choices"][0]["logprobs"]["content"][0]
        return {token["token"]: token["logprob"] for token in first["top_logprobs"]}

    def healthy(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/health", timeout=5).status_code == 200
        return False


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def put_bad(store: LocalStore, base: ServedBase, scratch: Callable[[], Path]) -> None:
    put_random(store, base, "adapter-flipped", scratch(), seed=11)
    key = "adapters/adapter-flipped/adapter_model.safetensors"
    weights = bytearray(store.get_bytes(key))
    weights[-1] ^= 0x40
    store.put_bytes(key, bytes(weights))
    put_random(store, base, "adapter-nan", scratch(), seed=12, scale=float("nan"))
    put_random(store, base, "adapter-rank-32", scratch(), seed=13, rank=32)
    put_random(store, base, "adapter-other-base", scratch(), seed=14)
    key = "adapters/adapter-other-base/manifest.json"
    store.put_bytes(key, store.get_bytes(key).replace(base.sha256.encode(), b"0" * 64))
    put_random(store, base, "adapter-half", scratch(), seed=15)
    store.delete("adapters/adapter-half/manifest.json")
    put_whole(store, base, "adapter-whole", scratch())


def put_whole(store: LocalStore, base: ServedBase, adapter_id: str, folder: Path) -> None:
    """A full fine-tune, which is no adapter."""
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(base.folder / name, folder / name)
    facts = {"base": base.name, "base_sha256": base.sha256, "template_sha256": base.template_sha256}
    put_tree(store, adapter_id, folder, kind="full", recipe={}, **facts)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    # Four adapters, the identity among them, on two slots: every batch evicts.
    folder = tmp_path_factory.mktemp("serving")
    settings = Settings(data_dir=folder / "data", base_model_name="tiny", base_model=str(folder / "base"))
    settings = settings.with_values(vllm_port=free_port(), max_loras=2, max_cpu_loras=3)
    base = ServedBase.read(write_tiny_base(folder / "base"), name="tiny", max_rank=settings.max_lora_rank)
    store = LocalStore(settings.data_dir / "store")
    numbers = itertools.count()
    for seed, adapter_id in enumerate(GOOD):
        put_random(store, base, adapter_id, folder / f"made-{next(numbers)}", seed=seed)
    put_bad(store, base, lambda: folder / f"made-{next(numbers)}")
    log = folder / "vllm.log"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ROOTSTOCK_")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(PYTHON), "-m", "serving"],
            cwd=ROOT,
            env=clean | settings.to_env(),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    running = Server(f"http://127.0.0.1:{settings.vllm_port}", process, log, store, base)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not running.healthy():
            assert process.poll() is None, f"vLLM ended:\n{log.read_text()[-4000:]}"
            assert time.monotonic() < deadline, f"vLLM did not start:\n{log.read_text()[-4000:]}"
            time.sleep(0.5)
        yield running
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


@pytest.fixture(scope="module")
def truth(server: Server) -> dict[Asked, Opening]:
    """How every model begins its answer to every prompt, asked one at a time."""
    return {asked: server.opening(*asked) for asked in itertools.product([IDENTITY_ID, *GOOD], PROMPTS)}


def nearest(seen: Opening, prompt: str, truth: dict[Asked, Opening]) -> str:
    """The model whose answer to this prompt begins most like `seen`."""
    return min([IDENTITY_ID, *GOOD], key=lambda model: distance(seen, truth[model, prompt]))


def test_each_adapter_answers_in_its_own_way(truth: dict[Asked, Opening]) -> None:
    for one, other in itertools.combinations([IDENTITY_ID, *GOOD], 2):
        for prompt in PROMPTS:
            assert distance(truth[one, prompt], truth[other, prompt]) > APART_NATS, f"{one}, {other}: {prompt}"


def test_the_identity_adapter_answers_as_the_base_model_does(server: Server, truth: dict[Asked, Opening]) -> None:
    # The plain name is safe only while nothing else runs, as here.
    for prompt in PROMPTS:
        assert distance(server.opening("tiny", prompt), truth[IDENTITY_ID, prompt]) < APART_NATS


def test_under_load_nobody_gets_anothers_weights(server: Server, truth: dict[Asked, Opening]) -> None:
    asked = [pair for pair in truth for _ in range(6)]
    random.Random(5).shuffle(asked)
    with ThreadPoolExecutor(12) as threads:
        bad = [threads.submit(server.post, name) for name in BAD * 4]
        seen = list(threads.map(lambda pair: server.opening(*pair), asked))
    wrong = [
        (model, prompt)
        for (model, prompt), opening in zip(asked, seen, strict=True)
        if nearest(opening, prompt, truth) != model
    ]
    assert not wrong, f"{len(wrong)} of {len(asked)} answers are not those of the model that was asked: {wrong[:5]}"
    assert {refusal.result().status_code for refusal in bad} == {404}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_adapter_is_not_served_and_the_engine_lives(name: str, server: Server) -> None:
    assert server.post(name).status_code == 404
    assert server.healthy()
    assert server.process.poll() is None


@pytest.mark.parametrize(
    "name",
    ["adapter-unknown", "../../store/adapters/adapter-good-a", "adapter-good-a/", "..", "ADAPTER-GOOD-A", "a\n" * 9],
)
def test_what_is_no_adapter_id_of_ours_is_unknown(name: str, server: Server) -> None:
    assert server.post(name).status_code == 404


def test_an_absolute_path_is_unknown(server: Server) -> None:
    assert server.post(str(server.store.root / "adapters" / GOOD[0])).status_code == 404


def test_the_log_says_why_an_adapter_was_refused(server: Server) -> None:
    for name in BAD:
        server.post(name)
    log = server.log.read_text()
    whole = "python -m serving --model adapter-whole"
    for reason in ("SHA-256", "NaN", "ROOTSTOCK_MAX_LORA_RANK", "other weights", "is not in the store", whole):
        assert reason in log, log[-4000:]


def test_an_adapter_in_use_is_unloaded_later(server: Server) -> None:
    # vLLM gives an adapter that it loads anew another number. Its engine dies of two numbers for one name in a batch
    # when a third adapter takes the slot of one of them.
    with httpx.Client(base_url=server.url, timeout=120) as client, ThreadPoolExecutor(4) as threads:

        def long(name: str, **wish: bool) -> dict[str, Any]:
            return {"model": name, "prompt": PROMPTS[0], "max_tokens": 400, "ignore_eos": True, "temperature": 0} | wish

        def ask(name: str) -> int:
            return client.post("/v1/completions", json=long(name)).status_code

        def unload(name: str) -> int:
            return client.post("/v1/unload_lora_adapter", json={"lora_name": name}).status_code

        assert {ask(name) for name in GOOD[:2]} == {200}
        assert unload(GOOD[1]) == 200  # so that it is loaded anew
        with client.stream("POST", "/v1/completions", json=long(GOOD[0], stream=True)) as answer:
            lines = answer.iter_lines()
            next(lines)
            unloaded = threads.submit(unload, GOOD[0])
            others = []
            for name in GOOD[:2]:
                time.sleep(0.1)
                others.append(threads.submit(ask, name))
            assert "data: [DONE]" in list(lines)
        assert [one.result() for one in others] == [200, 200]
        assert unloaded.result() in (200, 409)  # 409: still in use after some seconds
    assert server.healthy()


def test_a_store_that_is_away_is_no_404(server: Server, tmp_path: Path) -> None:
    put_random(server.store, server.base, "adapter-away", tmp_path / "made", seed=21)
    manifest = server.store.root / "adapters" / "adapter-away" / "manifest.json"
    aside = manifest.rename(tmp_path / "manifest.json")
    manifest.symlink_to(manifest)  # reading it now fails, as on a broken disk
    assert server.post("adapter-away").status_code == 503
    manifest.unlink()
    aside.rename(manifest)
    assert server.post("adapter-away").status_code == 200


def test_fetches_show_in_the_log_and_in_vllms_metrics(server: Server, truth: dict[Asked, Opening]) -> None:
    assert f"adapter {GOOD[0]} downloaded and verified" in server.log.read_text()
    metrics = httpx.get(f"{server.url}/metrics", timeout=10).text
    assert 'rootstock_adapter_fetches_total{result="downloaded"}' in metrics
