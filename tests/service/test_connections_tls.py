"""Connections over TLS: a certificate that the system trusts, and one that it does not."""

import datetime
import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from service import connections
from service.connections import Disconnected
from tests.service.saying import WHOLE, get, loop, run, served

__all__ = ["loop"]  # a fixture

pytestmark = pytest.mark.usefixtures("loop")


@pytest.mark.parametrize("trusted", [True, False])
def test_https_asks_for_a_certificate_that_the_system_trusts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    write_certificate(certificate, key)
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(certificate, key)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    connections._certificates.cache_clear()

    async def test() -> None:
        async with served(WHOLE, tls=server_side) as (_, pool):
            if trusted:
                assert await get(pool) == b"hi"
            else:
                with pytest.raises(Disconnected, match="certificate"):
                    await get(pool)

    run(test())
    connections._certificates.cache_clear()


def write_certificate(certificate: Path, key: Path) -> None:
    """A certificate that 127.0.0.1 gives itself."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(1))
        .not_valid_after(now + datetime.timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(private, hashes.SHA256())
    )
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    no_password = serialization.NoEncryption()
    key.write_bytes(private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, no_password))
