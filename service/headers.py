"""What every answer carries and every request passes: ids, times, CORS, the last resort for unforeseen exceptions.

One plain ASGI middleware, so that streamed bodies pass untouched. Knows nothing about the routes behind it.
"""

import functools
import logging
import re
import secrets
import time
from collections.abc import Mapping
from typing import Any

from prometheus_client import Counter, Histogram
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rootstock.errors import InvalidRequest, RootstockError, ServerError, UnknownRoute, UnsupportedEncoding
from rootstock.telemetry import REQUEST_SECONDS, REQUESTS, log_context
from service import errors

log = logging.getLogger(__name__)

API_VERSION = "2020-10-01"
MAX_HEADER_BYTES = 64 * 1024
CLIENT_GONE = 499

_PROBES = {"/healthz", "/readyz", "/metrics"}  # asked every few seconds by machines; nobody wants to read that

RATE_HEADERS = [f"x-ratelimit-{what}-{of}" for of in ("requests", "tokens") for what in ("limit", "remaining", "reset")]
_EXPOSED = ["x-request-id", "openai-processing-ms", "openai-version", "openai-organization", "content-disposition"]
_EXPOSED += [*RATE_HEADERS, "retry-after", "x-should-retry"]
_CORS = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", ", ".join(_EXPOSED).encode()),
]
_PREFLIGHT = {
    "access-control-allow-methods": "GET, POST, DELETE, OPTIONS",
    "access-control-allow-headers": "*, authorization",
    "access-control-max-age": "86400",
}
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")


class Envelope:
    """Wraps the app: request id, timing, CORS, request metrics, and a generic 500 for what nobody caught."""

    def __init__(self, app: ASGIApp, direct: Mapping[tuple[str, str], Route]) -> None:
        """`direct` are the routes, by method and path, that are not looked for in `app`."""
        self.app = app
        self._direct = direct

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope = {
            **scope,
            "path": _tidy(scope["path"]),
            "query_string": _without_nulls(scope["query_string"]),
            "state": dict(scope.get("state", {})),
        }
        answer = _Answer(scope, send)
        scope["state"]["request_id"] = answer.request_id
        with log_context(request_id=answer.request_id):
            try:
                await self._server(scope)(scope, receive, answer.send)
            except ClientDisconnect:
                answer.status = answer.status or CLIENT_GONE
            except Exception:
                log.exception("unhandled exception")
                if answer.status:
                    raise  # half an answer is out: the server must cut the connection
                await errors.response(ServerError())(scope, receive, answer.send)
            finally:
                answer.record()

    def _server(self, scope: Scope) -> ASGIApp:
        """What answers this request."""
        refusal = _refusal(scope)
        if refusal is not None:
            return errors.response(refusal)
        if scope["method"] == "OPTIONS":
            return Response(headers=_PREFLIGHT)
        route = self._direct.get((scope["method"], scope["path"]))
        if route is None:
            return self.app
        scope["route"] = route
        return route.app


class _Answer:
    """The response as it goes out: adds our headers to its start and remembers how it ended."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope = scope
        self.request_id = f"req_{secrets.token_hex(16)}"
        self.status = 0
        self._send = send
        self._began = time.perf_counter()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", []), *self._headers()]}
        await self._send(message)

    def record(self) -> None:
        """Count and log the request under its route's template, never under what the client typed."""
        route = getattr(self.scope.get("route"), "path", "unmatched")
        seconds = time.perf_counter() - self._began
        method = self.scope["method"] if self.scope["method"] in ("GET", "POST", "DELETE", "OPTIONS") else "other"
        counter, histogram = _metrics(route, method, self.status)
        counter.inc()
        histogram.observe(seconds)
        level = logging.DEBUG if route in _PROBES else logging.INFO
        log.log(level, "%s %s %d %.0f ms", method, route, self.status, seconds * 1000)

    def _headers(self) -> list[tuple[bytes, bytes]]:
        milliseconds = int((time.perf_counter() - self._began) * 1000)
        state: dict[str, Any] = self.scope["state"]
        headers = [
            (b"x-request-id", self.request_id.encode()),
            (b"openai-processing-ms", str(milliseconds).encode()),
            (b"openai-version", API_VERSION.encode()),
            *_CORS,
        ]
        # A refusal says how much is left by itself; here is what the request was admitted with, whatever became of it.
        headers += [(name.encode(), value.encode()) for name, value in state.get("rate_limits", {}).items()]
        if "organization" in state:
            headers.append((b"openai-organization", state["organization"].encode()))
        if state.get("close"):
            headers.append((b"connection", b"close"))
        return headers


@functools.cache  # a template, one of a few methods, a status
def _metrics(route: str, method: str, status: int) -> tuple[Counter, Histogram]:
    return REQUESTS.labels(route, method, str(status)), REQUEST_SECONDS.labels(route)


def _tidy(path: str) -> str:
    # Base URLs are written with and without a trailing slash, so `//files` and `/files/` must mean `/files`.
    return re.sub(r"/{2,}", "/", path).rstrip("/") or "/"


def _without_nulls(query: bytes) -> bytes:
    """A parameter that is `null` in the Node SDK arrives as `after=` and means absent; `metadata=` has a meaning."""
    if b"=&" not in query + b"&":
        return query
    kept = [pair for pair in query.split(b"&") if not pair.endswith(b"=") or pair.startswith(b"metadata")]
    return b"&".join(kept)


def _refusal(scope: Scope) -> RootstockError | None:
    """What no route should have to think about."""
    if _CONTROLS.search(scope["path"]):
        return UnknownRoute(scope["method"], _CONTROLS.sub("", scope["path"])[:200])
    size, encoding = 0, b""
    for name, value in scope["headers"]:
        size += len(name) + len(value)
        if name == b"content-encoding":
            encoding = encoding or value.strip().lower()
    if size > MAX_HEADER_BYTES:
        return InvalidRequest(f"The request headers are larger than {MAX_HEADER_BYTES} bytes.")
    if scope["method"] == "POST" and encoding not in (b"", b"identity"):
        return UnsupportedEncoding(
            "Compressed request bodies are not supported; send the body without Content-Encoding."
        )
    return None
