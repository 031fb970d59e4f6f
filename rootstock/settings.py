"""Every knob, its unit, its default; read from the environment once per process and passed down from there.

The only file that reads `os.environ`. Hyperparameters never come from here, operators' limits do. Knows nothing
about what the values are used for.
"""

import difflib
import ipaddress
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from rootstock.errors import ConfigurationError
from rootstock.masking import masked, plain

PREFIX = "ROOTSTOCK_"
REPOSITORY = Path(__file__).resolve().parent.parent
BUILT_IN_BASE = REPOSITORY / "examples" / "base" / "rootstock-tiny"

DEFAULT_ALIASES = {
    name: snapshot
    for snapshot, names in {
        "gpt-4o-mini-2024-07-18": ("gpt-4o-mini",),
        "gpt-4o-2024-08-06": ("gpt-4o",),
        "gpt-4.1-2025-04-14": ("gpt-4.1",),
        "gpt-4.1-mini-2025-04-14": ("gpt-4.1-mini",),
        "gpt-4.1-nano-2025-04-14": ("gpt-4.1-nano",),
        "gpt-3.5-turbo-0125": ("gpt-3.5-turbo",),
    }.items()
    for name in (snapshot, *names)
}
"""Requested OpenAI name -> the dated snapshot that the job echoes, as the live service does."""

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values of `--max-lora-rank` that vLLM 0.32 accepts."""


class Settings(BaseModel):
    """The effective configuration of one process. Build it with `Settings.from_env()` in a `__main__`.

    Every field is set by the environment variable `ROOTSTOCK_<FIELD>` in capitals.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    # Where things are kept
    data_dir: Path = Field(Path("rootstock-data"), description="Folder for everything that is kept locally.")
    database_url: SecretStr | None = Field(
        None, description="`postgresql://…` or `sqlite:///PATH`. Default: SQLite in the data folder."
    )
    redis_url: SecretStr | None = Field(
        None, description="`redis://`, `rediss://` or `unix://`. Default: the one that `rootstock up` starts."
    )
    s3_bucket: str | None = Field(None, description="Bucket for files and adapters. Default: a local folder.")
    s3_endpoint_url: str | None = Field(None, description="Endpoint of an S3-compatible store; none for AWS.")
    s3_region: str | None = Field(None, description="Region of the bucket.")
    s3_access_key_id: SecretStr | None = Field(None, description="Access key; none: boto3's usual credential chain.")
    s3_secret_access_key: SecretStr | None = Field(None, description="Secret that belongs to the access key.")
    s3_prefix: str = Field("", description="Key prefix inside the bucket, e.g. `rootstock/`.")

    # The base model
    base_model: str = Field(
        str(BUILT_IN_BASE), description="Hub id or folder of the base model. Default: the small one that ships here."
    )
    base_model_name: str = Field("", description="Its public name. Default: the last part of `base_model`.")
    more_bases: dict[str, str] = Field(
        {},
        description="Further base models, as a JSON object or `name=source,…`: public name -> hub id or folder. Each "
        "has trainers and a vLLM of its own, which `rootstock up` starts.",
    )
    more_vllm_urls: dict[str, str] = Field(
        {}, description="Where their vLLMs are: public name -> what `vllm_url` is for the first base."
    )
    model_aliases: dict[str, str] = Field(
        DEFAULT_ALIASES,
        description="JSON object or `name=snapshot,…`: requested name -> the name that jobs and tuned models show.",
    )
    organization: str = Field("rootstock", description="Organisation field of tuned names and of the job object.")
    max_context_tokens: int = Field(
        0, ge=0, description="Longest sequence for training and serving; 0: what the base model's config says."
    )

    # The API
    host: str = Field("127.0.0.1", description="Address the API listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Port of the API; 0: a free one (`rootstock up` only).")
    max_file_bytes: int = Field(512 * 1024 * 1024, ge=1, description="Largest file upload, bytes.")
    max_upload_bytes: int = Field(8 * 1024**3, ge=1, description="Largest file that is uploaded in parts, bytes.")
    max_line_bytes: int = Field(8 * 1024 * 1024, ge=1024, description="Longest JSONL line, bytes.")
    max_body_bytes: int = Field(16 * 1024 * 1024, ge=1024, description="Largest JSON request body, bytes.")
    max_batch_file_bytes: int = Field(
        200 * 1024 * 1024, ge=1, description="Largest file with the purpose `batch`, bytes."
    )
    result_file_encoding: Literal["base64", "plain"] = Field(
        "base64", description="How a job's result file is downloaded: `base64` as on the live service, or `plain` CSV."
    )
    requests_per_minute: int = Field(
        30_000, ge=0, description="Inference requests of one project in a minute; 0: no limit."
    )
    tokens_per_minute: int = Field(
        150_000_000, ge=0, description="Tokens of one project's inference in a minute, prompts included; 0: no limit."
    )
    concurrent_requests: int = Field(
        256, ge=0, description="Inference requests of one project at a time in one API process; 0: no limit."
    )
    uploads_per_minute: int = Field(1000, ge=0, description="File uploads of one project in a minute; 0: no limit.")
    sweep_seconds: float = Field(5.0, gt=0, description="How often lost bells and dead leases are looked for, seconds.")
    publish_timeout_seconds: float = Field(
        900.0, gt=0, description="How long a stored adapter may take to answer before its job fails, seconds."
    )

    webhook_allowed_networks: str = Field(
        "", description="Networks such as `10.0.0.0/8,127.0.0.1/32` that webhooks may reach beside public https ones."
    )

    # Training
    trainer_device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Device; auto: CUDA when there is one.")
    trainer_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Base weights in training; auto: bfloat16 on CUDA, float32 on a CPU."
    )
    trainer_threads: int = Field(0, ge=0, description="CPU threads of the trainer; 0: all cores, one for small bases.")
    train_sharing: Literal["deployment", "project", "off"] = Field(
        "deployment",
        description="Which jobs may train in one pass: all of a base model, those of one project, or each alone.",
    )
    price_per_gpu_hour: float = Field(
        0.0, ge=0, description="What an hour of a trainer's device costs, in any currency, for estimates; 0: not told."
    )
    base_training_flops: float = Field(
        0.0,
        ge=0,
        description="Operations that the base model's own training took, for evidence packs; 0: unknown.",
    )
    trainer_peak_flops: float = Field(
        0.0, ge=0, description="What a trainer's device can do at most, operations a second, for estimates; 0: unknown."
    )
    max_jobs_per_step: int = Field(16, ge=1, description="Jobs that one trainer trains at a time.")
    lease_seconds: float = Field(30.0, gt=0, description="A worker that is silent for this long has lost its job.")
    heartbeat_seconds: float = Field(5.0, gt=0, description="How often a worker renews its lease, seconds.")
    poll_seconds: float = Field(15.0, gt=0, description="How often an idle worker looks for jobs by itself, seconds.")
    max_attempts: int = Field(3, ge=1, description="A job whose worker dies this often fails.")
    max_lora_rank: int = Field(16, description="Largest adapter rank that is trained and served.")
    max_training_tokens: int = Field(
        0, ge=0, description="Tokens of one forward pass; larger batches are accumulated. 0: as many as fit, measured."
    )

    trainer_memory_gib: float = Field(
        0.0,
        ge=0,
        description="Memory of a trainer's device: jobs that cannot fit are refused. 0: not checked.",
    )
    trainer_metrics_port: int = Field(
        0, ge=0, le=65535, description="Port on `host` where a trainer serves Prometheus metrics; 0: nowhere."
    )
    reinforcement_sampler: Literal["auto", "vllm", "trainer"] = Field(
        "auto", description="Who samples for reinforcement jobs; auto: vLLM on a GPU, the trainer on a CPU."
    )
    python_graders: Literal["auto", "process", "wasm"] = Field(
        "auto",
        description="Customers' Python graders run in a `process` without rights (Linux, x86-64) or in `wasm` (the "
        "extra `wasm`); auto: a process where all guards hold, else WASM.",
    )
    suites_dir: Path | None = Field(
        None,
        description="Folder of your own general suites (`*.jsonl`), asked beside the built-in ones after each tune.",
    )
    tensorboard_dir: Path | None = Field(
        None, description="Folder in which every job writes TensorBoard event files. Default: none are written."
    )

    # Weights & Biases (jobs with `integrations`)
    wandb_mode: Literal["online", "offline", "disabled"] = Field(
        "online", description="`offline`: runs stay in the data folder; `disabled`: jobs that ask for one are refused."
    )
    wandb_api_key: SecretStr | None = Field(
        None, description="Key with which the trainer reports runs; without one, `online` jobs that ask are refused."
    )
    wandb_base_url: str = Field("https://api.wandb.ai", description="Address of the W&B server.")

    # Serving
    vllm_url: str | None = Field(
        None,
        description="Base URL of a vLLM to use (no /v1), or of several replicas, comma-separated; `dns+http://…`: each "
        "address of the host is one. Default: what `rootstock up` starts; none: no inference.",
    )
    routing: Literal["residency", "round_robin", "random"] = Field(
        "residency",
        description="Which replica is asked: the one where an adapter is at home, or any (to compare with).",
    )
    full_model_urls: str = Field(
        "",
        description="Base URLs, comma-separated, of servers of full fine-tunes (`python -m serving --model ID`), each "
        "of which is asked for what it serves.",
    )
    vllm_host: str = Field("127.0.0.1", description="Address our own vLLM listens on; keep it private.")
    vllm_port: int = Field(8001, ge=0, le=65535, description="Port of our own vLLM.")
    vllm_python: str = Field(
        str(REPOSITORY / ".venv-vllm" / "bin" / "python"),
        description="Interpreter of the environment that holds vLLM (`rootstock up`).",
    )
    tool_call_parser: str = Field(
        "",
        description="vLLM's parser of tool calls that a model chooses by itself, e.g. `hermes`; none: only named ones.",
    )
    max_loras: int = Field(4, ge=1, description="Adapters that share one batch.")
    max_cpu_loras: int = Field(32, ge=1, description="Adapters kept in memory.")
    cpu_kv_cache_gib: int = Field(1, ge=1, description="KV cache of vLLM on a CPU, GiB; float32 takes two bfloat16.")
    gpu_memory_utilization: float = Field(0.85, gt=0, le=1, description="Share of GPU memory vLLM may take.")
    adapter_cache_dir: Path | None = Field(
        None, description="Folder for downloaded adapters. Default: inside the data folder."
    )
    adapter_cache_gib: float = Field(
        20.0,
        ge=0,
        description="Most that downloaded adapters take on this disk, GiB; the longest unused go. 0: no bound.",
    )
    batch_concurrency: int = Field(16, ge=1, description="Lines of a batch that one batch worker asks for at a time.")
    max_batch_lines: int = Field(50_000, ge=1, description="Most lines of a batch's input file.")
    measure_examples: int = Field(
        50,
        ge=10,
        le=1000,
        description="Most held-out examples, drawn by the job's seed, that a tune is measured on.",
    )
    measure_seconds: float = Field(
        600.0, gt=0, description="How long a trained job may wait for its verdict before it is `unmeasured`, seconds."
    )
    inference_timeout_seconds: float = Field(600.0, gt=0, description="Longest time one completion may take, seconds.")
    engine_wait_seconds: float = Field(30.0, ge=0, description="How long a request waits while all vLLMs are away.")

    # Logs
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    log_format: Literal["text", "json"] = Field("text", description="`json` for machines, `text` for people.")

    @field_validator("model_aliases", "more_bases", "more_vllm_urls", mode="before")
    @classmethod
    def _parse_aliases(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("{"):
            return json.loads(value)
        pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
        if any(not sep for _, sep, _ in pairs):
            raise ValueError("write a JSON object or name=snapshot pairs separated by commas")
        return {name.strip(): snapshot.strip() for name, _, snapshot in pairs}

    @model_validator(mode="after")
    def _check(self) -> "Settings":
        if self.max_lora_rank not in LORA_RANKS:
            raise ValueError(f"max_lora_rank must be one of {', '.join(map(str, LORA_RANKS))} (what vLLM accepts)")
        if self.max_cpu_loras < self.max_loras:
            raise ValueError("max_cpu_loras must be at least max_loras")
        if self.heartbeat_seconds * 2 > self.lease_seconds:
            raise ValueError("lease_seconds must be at least twice heartbeat_seconds, or one late beat loses a job")
        if (self.s3_access_key_id is None) != (self.s3_secret_access_key is None):
            raise ValueError("s3_access_key_id and s3_secret_access_key must be set together")
        if self.s3_bucket is None and (self.s3_endpoint_url or self.s3_access_key_id):
            raise ValueError("s3_bucket is missing although other S3 settings are given")
        if re.search(r"[:/\s]", self.organization) or not self.organization:
            raise ValueError("organization must not be empty or hold ':' '/' or spaces; tuned names are split on them")
        for network in filter(None, (part.strip() for part in self.webhook_allowed_networks.split(","))):
            ipaddress.ip_network(network)
        return self

    @model_validator(mode="after")
    def _check_names(self) -> "Settings":
        bare = [url.removeprefix("dns+") for url in self.vllm_servers]
        for name, urls in (("vllm_url", bare), ("full_model_urls", self.full_model_servers)):
            for url in urls:
                if not re.fullmatch(r"https?://[^\s/].*", url):
                    raise ValueError(f"{name}: {url!r} does not begin with http:// or https:// and a host")
        for name in self.more_bases:
            if re.search(r"[:/\s]", name) or name in (self.base_name, *self.model_aliases, ""):
                raise ValueError(
                    f"more_bases: {name!r} is taken, or holds ':', '/' or a space; tuned names are split on them"
                )
        if unknown := self.more_vllm_urls.keys() - self.more_bases.keys():
            raise ValueError(f"more_vllm_urls: {min(unknown)!r} is not among more_bases")
        for name in self.model_aliases.values():
            if ":" in name or "/" in name:
                raise ValueError(f"model_aliases: {name!r} holds ':' or '/'; tuned names are split on them")
        return self

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> "Settings":
        """Read the environment once; `overrides` (command-line flags) win over it.

        Raises `ConfigurationError` with a sentence that says what to change: for an unknown `ROOTSTOCK_*` variable
        (with the nearest known name) and for any impossible value.
        """
        source = os.environ if environ is None else environ
        given = {key[len(PREFIX) :].lower(): value for key, value in source.items() if key.startswith(PREFIX)}
        for name in given:
            if name not in cls.model_fields and not name.startswith("test_"):
                near = difflib.get_close_matches(name, list(cls.model_fields), n=1)
                hint = f"; did you mean {PREFIX}{near[0].upper()}?" if near else "; `rootstock config` lists them all"
                raise ConfigurationError(f"{PREFIX}{name.upper()} is not a setting{hint}")
        values = {k: v for k, v in given.items() if k in cls.model_fields and v != ""} | overrides
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigurationError(_explain(error)) from None

    def with_values(self, **changes: Any) -> "Settings":
        """A copy with some fields changed, checked like the original."""
        try:
            return type(self).model_validate(dict(self) | changes)
        except ValidationError as error:
            raise ConfigurationError(_explain(error)) from None

    @property
    def reports_to_wandb(self) -> bool:
        """Whether jobs may ask for their metrics to be sent to Weights & Biases."""
        return self.wandb_mode == "offline" or (self.wandb_mode == "online" and self.wandb_api_key is not None)

    @property
    def bases(self) -> dict[str, str]:
        """Every base model that is hosted here: public name -> hub id or folder, the usual one first."""
        return {self.base_name: self.base_model} | self.more_bases

    def for_base(self, name: str) -> "Settings":
        """These settings as a process has them that knows one base model only. Raises `KeyError` for none of ours."""
        alone: dict[str, Any] = {"more_bases": {}, "more_vllm_urls": {}}
        if name != self.base_name:
            url = self.more_vllm_urls.get(name)
            alone |= {
                "base_model": self.more_bases[name],
                "base_model_name": name,
                "vllm_url": url,
                "model_aliases": {},
            }
        return self.with_values(**alone)

    @property
    def vllm_servers(self) -> list[str]:
        """The base URLs of the replicas of vLLM, without `/v1`; `dns+` before those that stand for several."""
        given = (url.strip() for url in (self.vllm_url or "").split(","))
        return [url.rstrip("/").removesuffix("/v1") for url in given if url]

    @property
    def vllm_server(self) -> str | None:
        """The base URL of any one replica, for what asks seldom."""
        return next((url.removeprefix("dns+") for url in self.vllm_servers), None)

    @property
    def full_model_servers(self) -> list[str]:
        """The base URLs of the servers of full fine-tunes, without `/v1`."""
        given = (url.strip() for url in self.full_model_urls.split(","))
        return [url.rstrip("/").removesuffix("/v1") for url in given if url]

    def to_env(self) -> dict[str, str]:
        """The variables that make another process read exactly these settings."""
        return {PREFIX + name.upper(): plain(value) for name, value in self if value is not None and value != ""}

    def masked(self) -> dict[str, Any]:
        """Effective values for showing: secrets and URL passwords are starred out."""
        return {name: masked(name, value) for name, value in self._effective().items()}

    def _effective(self) -> dict[str, Any]:
        return dict(self) | {
            "database_url": self.effective_database_url,
            "redis_url": self.effective_redis_url,
            "adapter_cache_dir": self.effective_adapter_cache_dir,
            "base_model_name": self.base_name,
        }

    @property
    def effective_database_url(self) -> str:
        """The database to use, SQLite in the data folder when none is given."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{(self.data_dir / 'rootstock.db').absolute()}"

    @property
    def effective_redis_url(self) -> str:
        """The Redis to ring."""
        return self.redis_url.get_secret_value() if self.redis_url else "redis://127.0.0.1:6379/0"

    @property
    def effective_adapter_cache_dir(self) -> Path:
        """Where serving keeps downloaded adapters."""
        return (self.adapter_cache_dir or self.data_dir / "adapter-cache").absolute()

    @property
    def base_name(self) -> str:
        """Public name of the base model; what `/v1/models`, adapters and queues call it."""
        return self.base_model_name or self.base_model.rstrip("/").rsplit("/", 1)[-1]


def _explain(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    where = PREFIX + str(first["loc"][0]).upper() if first["loc"] else "The settings"
    reason = first["msg"].removeprefix("Value error, ")
    shown = f" (got {first['input']!r})" if first["loc"] and "secret" not in where.lower() else ""
    return f"{where}: {reason}{shown}" if first["loc"] else f"{where} do not fit together: {reason}"
