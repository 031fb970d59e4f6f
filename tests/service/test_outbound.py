"""Where we may be sent: what an address is, and that the connection goes to the very address that was judged."""

import asyncio
import contextlib
import datetime
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from service import outbound
from service.outbound import Address, Outbound, Undeliverable

LOOPBACK = [ip_network("127.0.0.0/8")]


@pytest.mark.parametrize(
    "address",
    "127.0.0.1 127.8.8.8 0.0.0.0 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 169.254.0.1 100.64.0.1 "
    "100.100.100.200 168.63.129.16 192.0.0.192 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255 198.18.0.1 203.0.113.9 "
    ":: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 fe80::1 fe80::1%eth0 fc00::1 "
    "fd00:ec2::254 ff02::1 2002:7f00:1:: 2002:a9fe:a9fe:: 64:ff9b::7f00:1 64:ff9b::10.0.0.1 64:ff9b:1::1 "
    "2001:db8::1 2001::1 100::1 fec0::1".split(),
)
def test_these_are_nobodys_on_the_internet(address: str):
    assert not outbound.is_public(ip_address(address))


@pytest.mark.parametrize(
    "address", "8.8.8.8 1.1.1.1 2606:4700::1111 2a00:1450::1 ::ffff:8.8.8.8 64:ff9b::8.8.8.8 2002:808:808::".split()
)
def test_these_are_public(address: str):
    assert outbound.is_public(ip_address(address))


@pytest.mark.parametrize(
    "url",
    "http://hooks.test/ ftp://hooks.test/ https:///x https://127.0.0.1/ https://[::1]/ https://[::ffff:10.0.0.1]/x "
    "https://169.254.169.254/latest https://user:pw@hooks.test/ https://hooks.test/#x hooks.test nonsense file:///x "
    "https://hooks.test:99999/ https://hooks.test:0/ http://8.8.8.8/ https://[x]/ https://xn--/ https://xn--a/".split(),
)
def test_a_url_that_can_never_be_right_is_refused_without_asking_anybody(url: str):
    assert outbound.refusal(url)
    with pytest.raises(Undeliverable):
        asyncio.run(Outbound(resolve=unreachable).post(url, {}, b""))


def test_long_urls_are_refused():
    assert outbound.refusal("https://hooks.test/" + "x" * 3000)


@pytest.mark.parametrize("url", ["https://hooks.test/x?y=1", "https://8.8.8.8:8443/", "https://münchen.test/"])
def test_a_public_https_url_is_fine(url: str):
    assert outbound.refusal(url) is None


def test_what_the_operator_allows_may_be_private_and_plain():
    allowed = outbound.networks("127.0.0.0/8, 10.0.0.0/24")
    assert outbound.refusal("http://127.0.0.1:9/", allowed) is None
    assert outbound.refusal("http://[::ffff:127.0.0.1]:9/", allowed) is None
    assert outbound.refusal("http://10.0.1.1/", allowed)
    assert outbound.refusal("http://8.8.8.8/", allowed), "plain http stays inside the allowed networks"
    with pytest.raises(ValueError, match="nonsense"):
        outbound.networks("nonsense")


async def unreachable(host: str, port: int) -> Sequence[Address]:
    raise AssertionError("a name was looked up")


class Turncoat:
    """A name server that gives a public address first and our own loopback from then on."""

    def __init__(self, *answers: str) -> None:
        self.answers = [ip_address(answer) for answer in answers]
        self.asked = 0

    async def __call__(self, host: str, port: int) -> Sequence[Address]:
        self.asked += 1
        return [self.answers[min(self.asked, len(self.answers)) - 1]]


@dataclass
class Listener:
    """A server that keeps what it is sent and answers with fixed bytes."""

    answer: bytes = b"HTTP/1.1 204 No Content\r\n\r\n"
    tls: ssl.SSLContext | None = None
    received: list[bytes] = field(default_factory=list)
    port: int = 0

    @contextlib.contextmanager
    def running(self) -> Iterator["Listener"]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.port = server.getsockname()[1]
            thread = threading.Thread(target=self._serve, args=(server,), daemon=True)
            thread.start()
            try:
                yield self
            finally:
                server.shutdown(socket.SHUT_RDWR)
                thread.join(10)

    def _serve(self, server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), connection:
                stream = self.tls.wrap_socket(connection, server_side=True) if self.tls else connection
                with stream:
                    request = b""
                    # To its end: closing a socket that holds unread bytes resets it, and the answer with it.
                    while (chunk := stream.recv(65536)) and not (request := request + chunk).endswith(b"{}"):
                        pass
                    self.received.append(request)
                    stream.sendall(self.answer)


def post(url: str, sender: Outbound) -> int:
    return asyncio.run(sender.post(url, {"x-test": "1"}, b"{}"))


def test_a_name_that_leads_home_is_refused_before_connecting():
    with Listener().running() as home:
        resolve = Turncoat("127.0.0.1")
        with pytest.raises(Undeliverable, match="no address that is allowed"):
            post(f"https://hooks.test:{home.port}/", Outbound(resolve=resolve))
    assert resolve.asked == 1 and home.received == []


@pytest.mark.integration
def test_a_name_that_changes_its_mind_is_connected_as_it_was_judged():
    # 127.0.0.2 stands for the public address: it is allowed, 127.0.0.1 is not.
    with Listener().running() as home:
        resolve = Turncoat("127.0.0.2", "127.0.0.1")
        sender = Outbound([ip_network("127.0.0.2/32")], resolve=resolve)
        with pytest.raises(Undeliverable, match="ConnectError"):
            post(f"http://hooks.test:{home.port}/", sender)  # nobody listens on 127.0.0.2
        assert (resolve.asked, home.received) == (1, [])
        with pytest.raises(Undeliverable, match="no address that is allowed"):
            post(f"http://hooks.test:{home.port}/", sender)  # now it says 127.0.0.1, and is judged anew
    assert (resolve.asked, home.received) == (2, [])


@pytest.mark.integration
def test_allowed_addresses_are_tried_in_turn_and_the_others_left_out():
    async def resolve(host: str, port: int) -> Sequence[Address]:
        return [ip_address(address) for address in ("10.0.0.1", "127.0.0.3", "127.0.0.1")]

    with Listener().running() as home:
        assert post(f"http://hooks.test:{home.port}/path?q=1", Outbound(LOOPBACK, resolve=resolve)) == 204
    (request,) = home.received
    assert request.startswith(b"POST /path?q=1 HTTP/1.1\r\n")
    assert f"host: hooks.test:{home.port}".encode() in request.lower() and b"x-test: 1" in request.lower()


@pytest.mark.integration
def test_redirects_are_answers_like_any_other():
    with Listener().running() as home:
        elsewhere = f"http://127.0.0.1:{home.port}/elsewhere"
        home.answer = f"HTTP/1.1 302 Found\r\nLocation: {elsewhere}\r\nContent-Length: 0\r\n\r\n".encode()
        assert post(f"http://127.0.0.1:{home.port}/", Outbound(LOOPBACK)) == 302
    assert len(home.received) == 1


@pytest.mark.integration
def test_an_endless_body_is_not_read():
    with Listener(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n" + b"x" * 100_000).running() as home:
        assert post(f"http://127.0.0.1:{home.port}/", Outbound(LOOPBACK)) == 200


@pytest.mark.integration
@pytest.mark.parametrize(
    "answer",
    [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"x-y: z\r\n" * 50_000],
    ids=str.split("silence noise flood"),
)
def test_what_is_no_http_is_no_answer(answer: bytes):
    with Listener(answer).running() as home, pytest.raises(Undeliverable):
        post(f"http://127.0.0.1:{home.port}/", Outbound(LOOPBACK))


@pytest.mark.integration
def test_a_server_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(outbound, "TOTAL_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(Undeliverable, match="in time"):
        post(f"http://127.0.0.1:{silent.getsockname()[1]}/", Outbound(LOOPBACK))


@pytest.mark.integration
def test_a_name_that_does_not_exist_is_undeliverable():
    with pytest.raises(Undeliverable):
        post("https://nobody.invalid/", Outbound())
    with pytest.raises(Undeliverable):
        post(f"https://{'x' * 80}.test/", Outbound())


def certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's TLS context for `name`, and a client's that trusts only it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    (folder / "cert.pem").write_bytes(
        pem
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "cert.pem")
    return server, ssl.create_default_context(cadata=pem.decode())


@pytest.mark.integration
def test_tls_is_checked_against_the_name_although_the_address_was_chosen(tmp_path: Path):
    server, client = certificate(tmp_path, "hooks.test")
    named: list[str | None] = []
    server.sni_callback = lambda _socket, name, _context: named.append(name)
    with Listener(tls=server).running() as home:
        sender = Outbound(LOOPBACK, resolve=Turncoat("127.0.0.1"), tls=client)
        assert post(f"https://hooks.test:{home.port}/", sender) == 204
        with pytest.raises(Undeliverable):
            post(f"https://other.test:{home.port}/", sender)
    assert named == ["hooks.test", "other.test"] and len([request for request in home.received if request]) == 1
