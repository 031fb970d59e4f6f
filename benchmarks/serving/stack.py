"""The processes of the serving benchmark: vLLMs, gateways, an S3 store, and adapters with random weights in it.

Knows how to start them, not what is measured.
"""

import contextlib
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import httpx
import numpy as np
import psutil
import torch
from safetensors.numpy import save_file

from rootstock import adapters, ids, keys, models
from rootstock.db import Database
from rootstock.records import ModelState
from rootstock.settings import Settings
from rootstock.storage import open_store
from serving.__main__ import Platform, full_arguments, vllm_environment
from serving.base import ServedBase, locate
from tests.rootstock.rows import add_job

ROOT = Path(__file__).resolve().parents[2]
RANK = 8
TARGETS = ["q_proj", "v_proj"]
START_SECONDS = 300.0
PLATFORM: Platform = "gpu" if torch.cuda.is_available() else "cpu"

CORES = sorted(os.sched_getaffinity(0))
ENGINE_CORES = set(CORES[: len(CORES) // 2] or CORES)
OTHER_CORES = set(CORES[len(CORES) // 2 :])
"""vLLM has one half of the cores and the rest the other, on both sides alike: a gateway on the engine's cores would
take from it what it needs itself, and that would be measured instead of what it costs."""


@dataclass(frozen=True)
class Made:
    """An adapter: its id for vLLM, its public name for the gateway."""

    adapter: str
    name: str


class Bench:
    """One benchmark's folder, database, store and key, on which processes are started and stopped."""

    def __init__(self, folder: Path, base: str | None, endpoint: str) -> None:
        values: dict[str, Any] = {"data_dir": folder, "s3_bucket": "bench", "s3_endpoint_url": endpoint}
        values |= {"s3_access_key_id": "test", "s3_secret_access_key": "test", "s3_region": "us-east-1"}
        values |= {"log_level": "warning", "concurrent_requests": 0, "requests_per_minute": 0, "tokens_per_minute": 0}
        self.settings = Settings(**values, **({"base_model": base} if base else {}))
        self.folder = folder
        self._log = (folder / "processes.log").open("wb")
        self._engines: list[psutil.Process] = []
        self.adapter_bytes = 0
        self._database = Database(self.settings.effective_database_url)
        self._database.migrate()
        with self._database.transaction() as tx:
            keys.ensure_default_project(tx, "bench")
            self.key = keys.create(tx, keys.DEFAULT_PROJECT, "bench")
            self._job = add_job(tx)

    @property
    def end_tokens(self) -> list[int]:
        """The ids of the tokens that end an answer of the base."""
        ends = ServedBase.read(locate(self.settings.base_model), name=self.settings.base_name, max_rank=16).config
        found = ends.get("eos_token_id", [])
        return found if isinstance(found, list) else [found]

    def make(self, count: int) -> list[Made]:
        """So many new adapters of rank 8 with random weights, in the store and in the registry."""
        base = ServedBase.read(locate(self.settings.base_model), name=self.settings.base_name, max_rank=16)
        store, random = open_store(self.settings), np.random.default_rng(count)
        made = []
        for number in range(count):
            scratch = self.folder / "scratch"
            write_random(scratch, base, random)
            self.adapter_bytes = (scratch / "adapter_model.safetensors").stat().st_size
            adapter = ids.new("lora-")
            adapters.put_tree(
                store,
                adapter,
                scratch,
                base=base.name,
                base_sha256=base.sha256,
                template_sha256=base.template_sha256,
                rank=RANK,
                alpha=float(RANK),
                target_modules=TARGETS,
                recipe={},
            )
            shutil.rmtree(scratch)
            made.append(Made(adapter, f"ft:{base.name}:bench:{number}:{ids.short()}"))
        with self._database.transaction() as tx:
            for one in made:
                models.register(
                    tx,
                    name=one.name,
                    project_id=keys.DEFAULT_PROJECT,
                    job_id=self._job,
                    base=base.name,
                    adapter_id=one.adapter,
                    state=ModelState.READY,
                )
        return made

    @contextlib.contextmanager
    def vllm(self, count: int = 1, module: str = "serving", **settings: Any) -> Iterator[list[str]]:
        """So many vLLM servers, each with a disk of its own, until the block ends; their URLs. `module` runs them."""
        running, urls = [], []
        try:
            for number in range(count):
                port = free_port()
                cache = self.folder / f"cache-{ids.short()}-{number}"
                chosen = self.settings.with_values(vllm_port=port, adapter_cache_dir=cache, **settings)
                command = [chosen.vllm_python, "-m", module]
                running.append(self._start(command, chosen, ENGINE_CORES))
                urls.append(f"http://127.0.0.1:{port}")
            for url in urls:
                wait_for(f"{url}/health")
            self._engines = [psutil.Process(process.pid) for process in running]
            yield urls
        finally:
            stop(running)

    @contextlib.contextmanager
    def plain(self, model: Path) -> Iterator[str]:
        """vLLM without adapters and without anything of ours, for the model in this folder; its URL."""
        port = free_port()
        chosen = self.settings.with_values(vllm_port=port)
        arguments = full_arguments(chosen, PLATFORM, model, chosen.base_name)
        variables = vllm_environment(chosen, PLATFORM, cores=len(ENGINE_CORES), adapters=False)
        command = [chosen.vllm_python, "-m", "vllm.entrypoints.launchers.api_server.entry", *arguments]
        running = [self._start(command, chosen, ENGINE_CORES, variables)]
        try:
            wait_for(f"http://127.0.0.1:{port}/health")
            yield f"http://127.0.0.1:{port}"
        finally:
            stop(running)

    def merged(self, made: Made) -> Path:
        """The folder of a base model with this adapter added into its weights."""
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        base, folder = locate(self.settings.base_model), self.folder / "merged"
        adapters.fetch_tree(open_store(self.settings), made.adapter, self.folder / "unmerged")
        model = AutoModelForCausalLM.from_pretrained(base)
        PeftModel.from_pretrained(model, str(self.folder / "unmerged")).merge_and_unload().save_pretrained(folder)
        AutoTokenizer.from_pretrained(base).save_pretrained(folder)
        return folder

    def resident_bytes(self) -> int:
        """The memory of every process of the running vLLMs."""
        family = [one for engine in self._engines for one in (engine, *engine.children(recursive=True))]
        return sum(one.memory_info().rss for one in family)

    @contextlib.contextmanager
    def gateway(self, vllm: Sequence[str], **settings: Any) -> Iterator[str]:
        """The API in front of these vLLMs; its URL."""
        port = free_port()
        chosen = self.settings.with_values(
            port=port, vllm_url=",".join(vllm), redis_url="redis://127.0.0.1:1", **settings
        )
        running = [self._start([sys.executable, "-m", "service", "serve"], chosen, OTHER_CORES)]
        try:
            wait_for(f"http://127.0.0.1:{port}/healthz")
            yield f"http://127.0.0.1:{port}"
        finally:
            stop(running)

    def _start(
        self, command: Sequence[str], settings: Settings, cores: set[int], more: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        environment = os.environ | settings.to_env() | {"PYTHONPATH": str(ROOT)} | dict(more or {})
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True
        )
        os.sched_setaffinity(process.pid, cores)
        return process


def write_random(folder: Path, base: ServedBase, random: np.random.Generator) -> None:
    """PEFT's folder of an adapter on the queries and values of every layer."""
    config = base.config
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    widths = {"q_proj": heads * head, "v_proj": config.get("num_key_value_heads", heads) * head}
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for name, width in widths.items():
            place = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{place}.lora_A.weight"] = random.normal(0, 0.02, (RANK, hidden)).astype(np.float32)
            tensors[f"{place}.lora_B.weight"] = random.normal(0, 0.02, (width, RANK)).astype(np.float32)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    from peft import LoraConfig

    LoraConfig(
        r=RANK, lora_alpha=RANK, target_modules=TARGETS, base_model_name_or_path=base.name, task_type="CAUSAL_LM"
    ).save_pretrained(str(folder))


@contextlib.contextmanager
def s3() -> Iterator[str]:
    """An S3 API on this machine with the bucket `bench`; its URL."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # it would log every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    facts = {"region_name": "us-east-1", "aws_access_key_id": "test", "aws_secret_access_key": "test"}
    boto3.client("s3", endpoint_url=url, **facts).create_bucket(Bucket="bench")  # type: ignore[call-overload]
    try:
        yield url
    finally:
        server.stop()


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str) -> None:
    """Until `url` answers 200."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, timeout=5).status_code == 200:
                return
        time.sleep(0.3)
    raise TimeoutError(f"{url} does not answer")


def stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End them, with force where asking does not help."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
