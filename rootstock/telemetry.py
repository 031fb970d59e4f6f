"""Logs and numbers: the one logging set-up of every process, and every Prometheus metric, declared once.

Knows nothing about who counts or logs what.
"""

import contextlib
import contextvars
import json
import logging
import re
import sys
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    start_http_server,
)

from rootstock.errors import ConfigurationError
from rootstock.settings import Settings

# Metrics. The default registry, because vLLM exports that one for the resolver that runs inside it.
REQUESTS = Counter("rootstock_requests", "HTTP requests answered.", ["route", "method", "status"])
REQUEST_SECONDS = Histogram(
    "rootstock_request_seconds",
    "Time until the last byte of an answer.",
    ["route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
JOBS_ENDED = Counter("rootstock_jobs_ended", "Fine-tuning jobs that reached their end.", ["status"])
TRAIN_STEPS = Counter("rootstock_train_steps", "Optimizer steps taken.")
TRAIN_TOKENS = Counter("rootstock_train_tokens", "Tokens trained on.")
TRAIN_MEMORY = Gauge("rootstock_train_memory_bytes", "Most memory that training took: the device's or the process's.")
# Utilisation is rate(rootstock_train_tokens_total) times the first of these, divided by the second.
TRAIN_FLOPS_PER_TOKEN = Gauge("rootstock_train_flops_per_token", "Operations that training one token takes.")
TRAIN_PEAK_FLOPS = Gauge("rootstock_train_peak_flops", "Operations a second that the device can do; 0: not known.")
ADAPTERS_CACHED = Gauge("rootstock_adapters_cached", "Adapters on the local disk.")
ADAPTER_CACHE_BYTES = Gauge("rootstock_adapter_cache_bytes", "Bytes of the adapters on the local disk.")
ADAPTERS_RESIDENT = Gauge("rootstock_adapters_resident", "Adapters that vLLM has in memory, as far as is known.")
ADAPTER_EVICTIONS = Counter("rootstock_adapter_evictions", "Adapters that were removed from the disk to make room.")
ADAPTER_BYTES = Counter("rootstock_adapter_download_bytes", "Bytes of the adapters that were downloaded.")
ADAPTER_FETCHES = Counter("rootstock_adapter_fetches", "Adapters fetched for serving.", ["result"])
ADAPTER_FETCH_SECONDS = Histogram(
    "rootstock_adapter_fetch_seconds",
    "Time to download and verify an adapter.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
SWEEP_REPAIRS = Counter("rootstock_sweep_repairs", "What the sweep put right.", ["rule"])
INFERENCE_TOKENS = Counter("rootstock_inference_tokens", "Tokens of completions, as vLLM reports them.", ["kind"])
DRIFT_CALLS = Counter("rootstock_drift_calls", "Calls that watches of live traffic looked at.", ["result"])
DRIFT_ALARMS = Counter("rootstock_drift_alarms", "Alarms that live traffic is not what was trained on.", ["kind"])
WEBHOOK_ATTEMPTS = Counter("rootstock_webhook_attempts", "Attempts to deliver a webhook.", ["outcome"])


def render() -> tuple[bytes, str]:
    """All metrics in the Prometheus text format, and its content type."""
    return generate_latest(REGISTRY), CONTENT_TYPE_LATEST


def serve(host: str, port: int) -> None:
    """Answer `/metrics` on this port, from a thread of its own. Raises `ConfigurationError` when the port is taken."""
    try:
        start_http_server(port, addr=host)
    except OSError as error:
        raise ConfigurationError(f"Metrics cannot be served on {host}:{port}: {error.strerror}.") from None


_context: contextvars.ContextVar[dict[str, str]] = contextvars.ContextVar("rootstock_log_context", default={})  # noqa: B039 (never changed in place)


@contextlib.contextmanager
def log_context(**fields: str) -> Iterator[None]:
    """Add fields to every record logged in the block, in this thread or task.

    Example: `with log_context(job_id=job.id): log.info("claimed")`.
    """
    token = _context.set(_context.get() | fields)
    try:
        yield
    finally:
        _context.reset(token)


CHATTY = ("alembic", "boto3", "botocore", "filelock", "httpcore", "httpx", "rq", "s3transfer", "sqlalchemy", "urllib3")
"""Loggers of libraries that say too much at our level."""

OWN_HANDLERS = ("uvicorn", "uvicorn.access", "uvicorn.error", "rq", "rq.worker", "transformers")
"""Loggers that come with handlers, which would print each record a second time."""


def configure_logging(settings: Settings, process: str) -> None:
    """Send every record of this process, whichever library logs it, to standard error in one format.

    `process` (`api`, `worker`, `vllm`) is a field of JSON logs. May be called again; the last call counts.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(process) if settings.log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for name in OWN_HANDLERS:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    for name in CHATTY:
        # Their "info" is our "debug"; their "debug" would show signed requests.
        logging.getLogger(name).setLevel(logging.INFO if settings.log_level == "debug" else logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda args: _log_uncaught(
        args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback
    )


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    elif not issubclass(kind, SystemExit):
        logging.getLogger("rootstock").critical("stopped by an error", exc_info=(kind, error, trace))


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": _utc(record.created),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": _redacted(record.getMessage()),
        }
        fields |= {key: _redacted(str(value)) for key, value in _context.get().items() if key not in fields}
        if trace := _traceback(self, record):
            fields["exception"] = _redacted(trace)
        return json.dumps(fields)


class TextFormatter(logging.Formatter):
    """One short line per record; a traceback follows indented, so that no text in it can pass for a record."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        context = "".join(f"  {key}={value}" for key, value in _context.get().items())
        line = f"{clock} {record.levelname.lower():<7} {record.getMessage()}{context}"
        trace = _traceback(self, record).split("\n")
        lines = [line, *("    " + part for part in trace if part)]
        return "\n".join(escaped(_redacted(part)) for part in lines)


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return formatter.formatException(record.exc_info) if record.exc_info and record.exc_info[0] else ""


def _utc(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"


# A key or a password reaches a log only by accident; this makes the accident harmless.
_SECRETS = re.compile(r"(?P<key>\bsk-[A-Za-z0-9]{2,}-?)[A-Za-z0-9_-]{8,}|(?P<user>://[^:/@\s]*):[^@/\s]+@")


def _redacted(text: str) -> str:
    return _SECRETS.sub(lambda match: f"{match['key']}***" if match["key"] else f"{match['user']}:***@", text)


_CONTROL = {
    code: f"\\u{code:04x}" if code > 0xFF else f"\\x{code:02x}"
    for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)
} | {9: "\\t", 10: "\\n", 13: "\\r"}


def escaped(text: str) -> str:
    """Whatever could start a new line or move a terminal's cursor is written out."""
    return text.translate(_CONTROL)
