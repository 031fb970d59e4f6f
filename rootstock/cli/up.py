"""`rootstock up`: which parts the settings ask for, on which ports, and when all of them answer.

Knows the other processes by their module names only.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from rootstock.cli import embedded
from rootstock.cli.database import prepare
from rootstock.cli.supervisor import Part, Supervisor
from rootstock.cli.terminal import Terminal
from rootstock.errors import ConfigurationError
from rootstock.settings import Settings

WORKER_GRACE_SECONDS = 60.0  # time to write a checkpoint and hand the job back
_PROBE_SECONDS = 1.0
_LOCK_WAIT_SECONDS = 8.0  # the parts of a stack that was killed are ended within this time


def up(settings: Settings, *, workers: int, replicas: int, terminal: Terminal) -> int:
    """Run the whole stack until Ctrl-C and return the exit code.

    Raises `ConfigurationError`, before anything is started, for whatever is missing.
    """
    data_dir = settings.data_dir.absolute()
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"The data folder {data_dir} cannot be made: {error.strerror}.") from error
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(only_one(data_dir))
        settings = settings.with_values(data_dir=data_dir)
        settings, parts = plan(settings, workers=workers, replicas=replicas, resources=stack)
        for sentence in prepare(settings):
            terminal.say(sentence)
        supervisor = Supervisor(parts, show=terminal.line, say=terminal.say, keep_open=[lock])
        _stop_on_signals(supervisor)
        ended = threading.Event()
        watcher = threading.Thread(target=_announce, args=(settings, supervisor, terminal, ended), daemon=True)
        watcher.start()
        try:
            return supervisor.run()
        finally:
            ended.set()
            watcher.join()
            terminal.say("everything is stopped")


def plan(
    settings: Settings, *, workers: int, replicas: int, resources: contextlib.ExitStack
) -> tuple[Settings, list[Part]]:
    """The parts to run, and the settings with the addresses at which they will find one another.

    `replicas` are vLLM servers; with 0 there is no inference.
    """
    settings, redis = _with_redis(settings, resources)
    settings, vllm = _with_vllm(settings, replicas)
    settings = settings.with_values(port=settings.port or free_port(settings.host))
    _require_free(settings.host, settings.port)
    return settings, [*redis, *vllm, *_own_parts(settings, workers)]


def _own_parts(settings: Settings, workers: int) -> list[Part]:
    # Threads that wait by spinning take the cores that vLLM and the API need.
    env = {"OMP_WAIT_POLICY": "passive"} | _environment(settings)
    trainers = [
        Part(
            _part("worker", settings, base, number if workers > 1 else None),
            _module("trainer"),
            {"OMP_WAIT_POLICY": "passive"} | _environment(settings.for_base(base)),
            stage=1,
            grace_seconds=WORKER_GRACE_SECONDS,
        )
        for base in settings.bases
        for number in range(1, workers + 1)
    ]
    # Without serving there is nothing that batches could be put to.
    asks = [Part("batches", [*_module("service"), "batch-worker"], env, stage=1)] if settings.vllm_url else []
    return [
        Part("api", [*_module("service"), "serve"], env, stage=0, grace_seconds=15),
        *asks,
        *trainers,
    ]


def _with_vllm(settings: Settings, replicas: int) -> tuple[Settings, list[Part]]:
    if not replicas:
        return settings.with_values(vllm_url=None, more_vllm_urls={}), []
    if settings.vllm_url is not None:
        return settings, []
    if shutil.which(settings.vllm_python) is None:
        raise ConfigurationError(
            f"vLLM's environment is missing ({settings.vllm_python}). Run `make install`, "
            "or start without inference: rootstock up --no-serving."
        )
    host = _reachable(settings.vllm_host)
    ports = {name: [free_port(settings.vllm_host) for _ in range(replicas)] for name in settings.bases}
    urls = {name: ",".join(f"http://{host}:{port}" for port in found) for name, found in ports.items()}
    first = urls.pop(settings.base_name)
    settings = settings.with_values(vllm_port=ports[settings.base_name][0], vllm_url=first, more_vllm_urls=urls)
    parts = []
    for base, found in ports.items():
        for number, port in enumerate(found, start=1):
            env = _environment(settings.for_base(base).with_values(vllm_port=port))
            for name in ("ROOTSTOCK_DATABASE_URL", "ROOTSTOCK_REDIS_URL"):
                env.pop(name, None)  # serving needs the store only
            name = _part("vllm", settings, base, number if replicas > 1 else None)
            parts.append(Part(name, _module("serving", settings.vllm_python), env, stage=2, grace_seconds=20))
    return settings, parts


def _part(name: str, settings: Settings, base: str, number: int | None) -> str:
    """What a part is called: of the first base plainly, of another with the base's name."""
    of_base = "" if base == settings.base_name else f"-{base}"
    return f"{name}{of_base}" + ("" if number is None else f"-{number}")


def _with_redis(settings: Settings, stack: contextlib.ExitStack) -> tuple[Settings, list[Part]]:
    if settings.redis_url is not None:
        return settings, []
    folder = settings.data_dir / "redis"
    folder.mkdir(mode=0o700, exist_ok=True)
    socket_path = stack.enter_context(embedded.socket_path(folder))
    command = embedded.command(embedded.redis_server(), folder, socket_path)
    return settings.with_values(redis_url=embedded.url(socket_path)), [
        Part("redis", command, dict(os.environ), stage=3)
    ]


def _module(name: str, python: str = sys.executable) -> list[str]:
    return [python, "-m", name]


def _environment(settings: Settings) -> dict[str, str]:
    others = {name: value for name, value in os.environ.items() if not name.startswith("ROOTSTOCK_")}
    # Compiling torch, transformers or vLLM again at every start takes longer than starting.
    others.pop("PYTHONDONTWRITEBYTECODE", None)
    # A folder called `service` or `trainer` where the user happens to be must not be taken for ours.
    return others | settings.to_env() | {"PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"}


@contextlib.contextmanager
def only_one(data_dir: Path) -> Iterator[int]:
    """Hold the folder's lock and yield its file descriptor. Raises `ConfigurationError` when another stack has it."""
    lock = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + _LOCK_WAIT_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                owner = os.pread(lock, 20, 0).decode().strip()
                # If the owner is gone, its janitor still holds the lock and is ending the parts.
                if _alive(owner) or time.monotonic() > deadline:
                    raise ConfigurationError(
                        f"`rootstock up` runs on {data_dir} already (process {owner or 'unknown'}). "
                        "Stop it, or choose another folder with --data-dir."
                    ) from None
                time.sleep(0.1)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield lock
    finally:
        os.close(lock)


def _alive(process_id: str) -> bool:
    return process_id.isdigit() and Path("/proc", process_id).exists()


def free_port(host: str) -> int:
    """A TCP port that nobody listens on at this moment."""
    try:
        with socket.create_server((host, 0), family=_family(host)) as server:
            return int(server.getsockname()[1])
    except OSError as error:
        raise ConfigurationError(f"This machine cannot listen on {host}: {error.strerror}.") from error


def _require_free(host: str, port: int) -> None:
    try:
        socket.create_server((host, port), family=_family(host)).close()
    except OSError as error:
        raise ConfigurationError(
            f"Cannot listen on {host}:{port}: {error.strerror}. Choose another port with --port, or 0 for a free one."
        ) from error


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _reachable(host: str) -> str:
    """The host part of a URL that reaches a server listening on `host` from this machine."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 (compared, not listened on)
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104
    return f"[{host}]" if ":" in host else host


def _stop_on_signals(supervisor: Supervisor) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: supervisor.request_stop())


def _announce(settings: Settings, supervisor: Supervisor, terminal: Terminal, ended: threading.Event) -> None:
    """Print the Ready line once every part answers."""
    server = f"http://{_reachable(settings.host)}:{settings.port}"
    began, shown = time.monotonic(), ""
    with terminal.waiting("Starting …"):
        while waiting_for := (supervisor.missing() or _away(server)):
            if supervisor.stopping:
                return
            names = ", ".join(waiting_for)
            terminal.still(
                f"Starting: waiting for {names} ({time.monotonic() - began:.0f} s)",
                plain=f"waiting for {names}" if names != shown else None,
            )
            shown = names
            if ended.wait(_PROBE_SECONDS):
                return
    supervisor.settled = True
    terminal.headline(f"Ready  {server}/v1   API key in {settings.data_dir / 'api-key'}")


def _away(server: str) -> list[str]:
    """The parts that do not answer yet, as the API sees them."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{server}/readyz", timeout=6) as answer:
            return _parts_away(answer)
    except urllib.error.HTTPError as error:
        with error, contextlib.suppress(ValueError, LookupError, AttributeError):
            return _parts_away(error) or ["api"]
    except (OSError, ValueError, LookupError, AttributeError):
        pass
    return ["api"]


def _parts_away(answer: IO[bytes]) -> list[str]:
    return [name for name, state in json.load(answer)["parts"].items() if state == "away"]
