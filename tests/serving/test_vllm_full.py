"""A whole model from the store to its client: the real vLLM, the real API in front of it, the official SDK."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from openai import NotFoundError, OpenAI
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rootstock import ids, jobs, keys, publish
from rootstock.adapters import put_tree
from rootstock.db import Database
from rootstock.settings import BUILT_IN_BASE, Settings
from rootstock.storage import open_store
from service.app import create_app
from serving.base import ServedBase
from tests.logprobs import Opening, distance
from tests.rootstock import making
from tests.service.conftest import served
from tests.serving.test_vllm import APART_NATS, PYTHON, ROOT, START_SECONDS, free_port
from tests.waiting import eventually

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not PYTHON.exists(), reason="no vLLM environment here; `make install` makes it"),
]

ID = "lora-whole-model-for-tests"
ALIAS = "gpt-4o-mini-2024-07-18"
QUESTION: Any = [{"role": "user", "content": "My parcel never arrived."}]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    port = free_port()
    data = tmp_path_factory.mktemp("full")
    return Settings(
        data_dir=data, vllm_port=port, full_model_urls=f"http://127.0.0.1:{port}", redis_url="redis://127.0.0.1:1/0"
    )


@pytest.fixture(scope="module")
def model(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base that ships here with every weight moved a little, as training would, stored as a full fine-tune."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(3)
    weights = load_file(BUILT_IN_BASE / "model.safetensors")
    moved = {
        name: value + 0.3 * value.float().std().nan_to_num() * torch.randn(value.shape)
        for name, value in weights.items()
    }
    save_file({name: value.to(torch.bfloat16) for name, value in moved.items()}, folder / "model.safetensors")
    for name in ("config.json", "generation_config.json"):
        shutil.copy(BUILT_IN_BASE / name, folder / name)
    base = ServedBase.read(BUILT_IN_BASE, name=settings.base_name, max_rank=16)
    put_tree(
        open_store(settings),
        ID,
        folder,
        kind="full",
        base=base.name,
        base_sha256=base.sha256,
        template_sha256=base.template_sha256,
        recipe={},
    )
    return folder


@pytest.fixture(scope="module")
def engine(settings: Settings, model: Path) -> Iterator[str]:
    """`python -m serving --model ID`, as the event tells an operator."""
    log = settings.data_dir / "vllm.log"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ROOTSTOCK_")}
    given = settings.with_values(vllm_port=1).to_env()  # the port of the command line counts
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(PYTHON), "-m", "serving", "--model", ID, "--port", str(settings.vllm_port)],
            cwd=ROOT,
            env=clean | given,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{settings.vllm_port}"
    try:
        deadline = time.monotonic() + START_SECONDS
        while not healthy(url):
            assert process.poll() is None, f"vLLM ended:\n{log.read_text()[-4000:]}"
            assert time.monotonic() < deadline, f"vLLM did not start:\n{log.read_text()[-4000:]}"
            time.sleep(0.5)
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def healthy(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    return False


@pytest.fixture(scope="module")
def database(settings: Settings) -> Iterator[Database]:
    found = Database(settings.effective_database_url)
    found.migrate()
    yield found
    found.close()


@pytest.fixture(scope="module")
def client(settings: Settings, database: Database, engine: str) -> Iterator[OpenAI]:
    """The SDK on the API, which has no vLLM but the model's own."""
    with database.transaction() as tx:
        key = keys.create(tx, keys.ensure_default_project(tx, settings.organization), "test")
    with served(create_app(settings)) as url, OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as sdk:
        yield sdk


@pytest.fixture(scope="module")
def name(settings: Settings, database: Database, client: OpenAI) -> str:
    """The tuned model's public name: its job trained, was seen answering by the API itself, and succeeded."""
    base = settings.base_name
    making.queue(database, keys.DEFAULT_PROJECT, base=base, model=ALIAS, rootstock={"adapter": {"type": "full"}})
    job = making.claim(database, base)
    assert job is not None
    with database.transaction() as tx:
        publish.finalize(
            tx,
            job,
            job.fence,
            adapter_id=ID,
            state_prefix=None,
            step=9,
            epoch=1,
            metrics={"step": 9},
            trained_tokens=99,
            result_csv=publish.ResultFile(id=ids.new("file-"), bytes=1, sha256="0" * 64),
        )
    eventually(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "succeeded")
    with database.read() as tx:
        found = jobs.find(tx, job.id)
    assert found is not None and found.fine_tuned_model is not None
    assert [event.level for event in making.said(database, job.id) if event.level != "info"] == []
    return found.fine_tuned_model


def opening(client: OpenAI, name: str) -> Opening:
    answer = client.chat.completions.create(
        model=name, messages=QUESTION, max_tokens=4, temperature=0, logprobs=True, top_logprobs=10
    )
    assert answer.model == name and answer.choices[0].logprobs is not None
    first = answer.choices[0].logprobs.content
    assert first
    return {token.token: token.logprob for token in first[0].top_logprobs}


def computed(folder: Path) -> Opening:
    """What transformers says of the weights in `folder`, behind the base's tokenizer and template."""
    tokenizer = AutoTokenizer.from_pretrained(BUILT_IN_BASE)
    rendered = tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    asked = tokenizer(rendered, add_special_tokens=False, return_tensors="pt")
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        likely = network(**asked).logits[0, -1].log_softmax(-1).topk(10)
    return {str(tokenizer.decode([int(token)])): float(value) for value, token in zip(*likely, strict=True)}


def test_its_own_weights_answer_under_its_public_name(client: OpenAI, name: str, model: Path) -> None:
    seen = opening(client, name)
    own, base = computed(model), computed(BUILT_IN_BASE)
    assert distance(own, base) > 2 * APART_NATS, "the moved weights must answer differently"
    assert distance(seen, own) < APART_NATS
    assert distance(seen, base) > APART_NATS


def test_it_streams_and_completes(client: OpenAI, name: str) -> None:
    chunks = list(client.chat.completions.create(model=name, messages=QUESTION, max_tokens=4, stream=True))
    assert {chunk.model for chunk in chunks} == {name}
    assert client.completions.create(model=name, prompt="Hello", max_tokens=4).model == name


def test_it_answers_to_its_id_alone_and_takes_no_adapters(engine: str, client: OpenAI, settings: Settings) -> None:
    assert [card["id"] for card in httpx.get(f"{engine}/v1/models").json()["data"]] == [ID]
    for other in (settings.base_name, "adapter-unknown"):
        body = {"model": other, "prompt": "Hi", "max_tokens": 1}
        assert httpx.post(f"{engine}/v1/completions", json=body, timeout=60).status_code == 404
    loading = httpx.post(f"{engine}/v1/load_lora_adapter", json={"lora_name": "x", "lora_path": "/tmp"}, timeout=60)
    assert loading.status_code == 404
    with pytest.raises(NotFoundError):
        client.completions.create(model=ID, prompt="Hi")  # ids are nobody's names


@pytest.mark.parametrize(
    ("asked", "reason"),
    [("lora-unknown", "no such model in the store"), ("ft:a:b::c", "is not the id of a stored model")],
)
def test_a_model_that_is_not_there_ends_the_start_with_a_sentence(
    asked: str, reason: str, settings: Settings, model: Path
) -> None:
    done = subprocess.run(
        [str(PYTHON), "-m", "serving", "--model", asked],
        cwd=ROOT,
        env=os.environ | settings.to_env(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert reason in done.stderr
