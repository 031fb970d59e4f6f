"""Requests to addresses that callers chose: never into our own network.

Names are resolved once, each address is judged, and the connection goes to that very address while Host and the TLS
name stay what the URL says; so a name that changes its mind between check and connection gains nothing. Redirects and
proxies are not followed. Knows nothing about webhooks.
"""

import asyncio
import contextlib
import functools
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

import httpcore
import httpx

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]

TOTAL_SECONDS = 15.0
"""For everything: name, connection, TLS, request, and the first line of the answer."""

MAX_URL_CHARS = 2048

_UNICAST = ip_network("2000::/3")
_NAT64 = ip_network("64:ff9b::/96")
_SPECIAL = [
    ip_network(network)
    for network in (
        "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 "
        "192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4 "
        "168.63.129.16/32 "  # public by number, but inside one large cloud the host's own management service
        "2001::/23 2001:db8::/32 3fff::/20"
    ).split()
]
"""Nobody's on the internet. Spelt out, because what the standard library calls global differs between its versions."""

_RESOLVERS = ThreadPoolExecutor(64, thread_name_prefix="resolve")
"""Of our own: slow name servers of somebody's domain may not keep the event loop's few threads busy."""


class Undeliverable(Exception):
    """Nothing was answered; the message says why and tells nothing about our network."""


def embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for (mapped, 6to4, NAT64), else the address itself."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.sixtofour is not None:
            return address.sixtofour
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def is_public(address: Address) -> bool:
    """Whether the address is somebody's on the internet: not private, loopback, link-local, multicast, unspecified,
    reserved, shared or a cloud's metadata service, and no other spelling of one of these."""
    address = embedded(address)
    if isinstance(address, IPv6Address) and address not in _UNICAST:
        return False
    return not any(address in network for network in _SPECIAL)


def refusal(url: str, allowed: Iterable[Network] = ()) -> str | None:
    """What is wrong with a URL as far as it can be told without asking anybody; `None` if nothing is.

    `allowed` are the networks beside the public internet; only in them plain http is fine.
    """
    allowed = list(allowed)
    try:
        parsed = httpx.URL(url)
        host, port_known = parsed.host, parsed.port is None or 0 < parsed.port < 65536
    except (httpx.InvalidURL, ValueError):
        return "it is not a URL"
    if len(url) > MAX_URL_CHARS:
        return f"it is longer than {MAX_URL_CHARS} characters"
    if parsed.scheme not in ("https", "http") or not host or not port_known:
        return "it must begin with https:// and name a host"
    if parsed.userinfo or parsed.fragment:
        return "it must hold neither a user name nor a fragment"
    if parsed.scheme == "http" and not allowed:
        return "it must begin with https://"
    with contextlib.suppress(ValueError):
        if not _permits(ip_address(host), parsed.scheme == "https", allowed):
            return "its address is not allowed"
    return None


def networks(text: str) -> list[Network]:
    """A comma-separated list of networks. Raises `ValueError` for anything else."""
    return [ip_network(part.strip()) for part in text.split(",") if part.strip()]


@dataclass(frozen=True, slots=True)
class Answered:
    """What came back: header names in small letters; `body` is `None` where it was longer than asked for."""

    status: int
    headers: dict[str, str]
    body: bytes | None


class Outbound:
    """Sends to public addresses, and to the networks that the operator allows.

    Example: `status = await Outbound(settings).post(url, {"x": "y"}, b"{}")`.
    """

    def __init__(
        self, allowed: Iterable[Network] = (), *, resolve: Resolve | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self._allowed = list(allowed)
        self._resolve = resolve or look_up
        self._tls = tls

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        """The status of the answer, whose body is not read. Raises `Undeliverable` when there is none."""
        return (await self.ask(url, headers, body, seconds=TOTAL_SECONDS, max_bytes=0)).status

    async def ask(
        self, url: str, headers: Mapping[str, str], body: bytes, *, seconds: float, max_bytes: int
    ) -> Answered:
        """The answer to a POST with at most `max_bytes` of its body, all within `seconds`. Raises `Undeliverable`."""
        reason = refusal(url, self._allowed)
        if reason is not None:
            raise Undeliverable(f"The URL is not allowed: {reason}.")
        parsed = httpx.URL(url)
        target = httpcore.URL(scheme=parsed.raw_scheme, host=parsed.raw_host, port=parsed.port, target=parsed.raw_path)
        backend = _Guard(self._resolve, self._allowed, encrypted=parsed.scheme == "https")
        try:
            async with (
                asyncio.timeout(seconds),
                httpcore.AsyncConnectionPool(self._context(parsed.scheme), network_backend=backend) as pool,
                pool.stream("POST", target, headers=_headers(headers, parsed), content=body) as response,
            ):
                found = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
                return Answered(int(response.status), found, await _read(response, max_bytes))
        except (TimeoutError, httpcore.TimeoutException):
            raise Undeliverable("No answer in time.") from None
        except (OSError, httpcore.NetworkError, httpcore.ProtocolError, UnicodeError) as error:
            raise Undeliverable(f"The connection failed ({type(error).__name__}).") from error

    def _context(self, scheme: str) -> ssl.SSLContext | None:
        if scheme == "https" and self._tls is None:
            self._tls = httpx.create_ssl_context(trust_env=False)  # takes 0.1 s, so only where it is needed
        return self._tls


async def look_up(host: str, port: int) -> Sequence[Address]:
    """The addresses of a host, as the system resolves it."""
    ask = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    found = await asyncio.get_running_loop().run_in_executor(_RESOLVERS, ask)
    return list(dict.fromkeys(ip_address(entry[4][0]) for entry in found))


class _Guard(httpcore.AsyncNetworkBackend):
    """Opens connections, to permitted addresses only."""

    def __init__(self, resolve: Resolve, allowed: Sequence[Network], *, encrypted: bool) -> None:
        self._inner = httpcore.AnyIOBackend()
        self._resolve = resolve
        self._allowed = allowed
        self._encrypted = encrypted

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore's interface)
        *_: Any,
        **more: Any,
    ) -> httpcore.AsyncNetworkStream:
        failure: Exception | None = None
        for address in await self._resolve(host, port):
            if not _permits(address, self._encrypted, self._allowed):
                continue
            try:
                return await self._inner.connect_tcp(str(address), port, timeout)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure or Undeliverable("The host has no address that is allowed.")

    async def connect_unix_socket(self, *_: Any, **more: Any) -> httpcore.AsyncNetworkStream:
        raise Undeliverable("The host has no address that is allowed.")

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


def _permits(address: Address, encrypted: bool, allowed: Sequence[Network]) -> bool:
    if any(spelling in network for spelling in (address, embedded(address)) for network in allowed):
        return True
    return encrypted and is_public(address)


async def _read(response: httpcore.Response, max_bytes: int) -> bytes | None:
    """The body; what is not wanted at all is not read."""
    data = bytearray()
    if not max_bytes:
        return b""
    async for chunk in response.aiter_stream():
        data += chunk
        if len(data) > max_bytes:
            return None
    return bytes(data)


def _headers(given: Mapping[str, str], url: httpx.URL) -> list[tuple[bytes, bytes]]:
    named = {"host": url.netloc.decode("ascii"), "connection": "close", **given}
    return [(name.encode("ascii"), value.encode("ascii")) for name, value in named.items()]
