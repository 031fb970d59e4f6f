"""A network of one real server: every host of a test's settings is found there and answers as its stand-in does.

So the gateway's HTTP client is the real one, on real connections. Knows no vLLM.
"""

import socket
from typing import Protocol
from urllib.parse import urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult
from starlette.types import ASGIApp, Receive, Scope, Send


class Servers(Protocol):
    """Stands in for the servers of a test."""

    def app(self) -> ASGIApp:
        """What answers to all of their names."""


class Network:
    """The application behind the one server; `to` says who answers on it from now on."""

    def __init__(self) -> None:
        self.url = ""
        self._app: ASGIApp | None = None

    def to(self, servers: Servers) -> AbstractResolver:
        """Let these answer; what finds them."""
        self._app = servers.app()
        return _AllHere(urlsplit(self.url).port or 0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._app is not None:
            await self._app(scope, receive, send)


class _AllHere(AbstractResolver):
    """Whatever the name and the port are, it is here."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        here = {"hostname": host, "host": "127.0.0.1", "port": self._port, "family": socket.AF_INET}
        return [ResolveResult(proto=0, flags=socket.AI_NUMERICHOST, **here)]  # type: ignore[typeddict-item]

    async def close(self) -> None:
        pass
