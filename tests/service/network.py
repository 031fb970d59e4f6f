"""A network of one real server: every host of a test's settings is found there and answers as its stand-in does.

So the gateway's HTTP client is the real one, on real connections. Knows no vLLM.
"""

from typing import Protocol
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from service.connections import Locate


class Servers(Protocol):
    """Stands in for the servers of a test."""

    def app(self) -> ASGIApp:
        """What answers to all of their names."""


class Network:
    """The application behind the one server; `to` says who answers on it from now on."""

    def __init__(self) -> None:
        self.url = ""
        self._app: ASGIApp | None = None

    def to(self, servers: Servers) -> Locate:
        """Let these answer; what finds them: whatever their name and their port are, they are here."""
        self._app = servers.app()
        return lambda host, port: ("127.0.0.1", urlsplit(self.url).port or 0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._app is not None:
            await self._app(scope, receive, send)
