"""TLS to a registry whose certificate is valid at a time that is not the machine's."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from registry_lab import Authority, docker_registry

from edge.errors import Refused
from edge.registry.client import Patience, RegistryClient, RegistrySettings
from edge.registry.reference import Reference

HASTY = Patience(total=2)
DAY = datetime.timedelta(days=1)
# Years from now: to a machine that believes its clock, nothing of it is valid yet.
BEGIN = datetime.datetime(2040, 1, 1, tzinfo=datetime.UTC)
END = BEGIN + 365 * DAY


@dataclass(frozen=True)
class Clock:
    """Trusted time, on a machine whose own clock is not set, unless `is_set`."""

    at: datetime.datetime
    is_set: bool = False

    def __call__(self) -> float:
        return self.at.timestamp()


def signed(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    by: ec.EllipticCurvePrivateKey,
    *,
    authority: bool,
) -> x509.Certificate:
    subject, of = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, issuer)
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(of)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(BEGIN)
        .not_valid_after(END)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if not authority:
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    return builder.sign(by, hashes.SHA256())


@pytest.fixture(scope="module")
def future(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    folder = tmp_path_factory.mktemp("future")
    above, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    found = Authority(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    pem = serialization.Encoding.PEM
    found.ca.write_bytes(signed("ca", above, "ca", above, authority=True).public_bytes(pem))
    found.certificate.write_bytes(
        signed("localhost", key, "ca", above, authority=False).public_bytes(pem)
    )
    found.key.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return found


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, future: Authority) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry"), authority=future) as host:
        yield host


async def ask(host: str, ca_file: Path, clock: Clock | None) -> str:
    """What the registry says, or why it was not asked."""
    settings = {host: RegistrySettings(ca_file=ca_file)}
    async with RegistryClient(settings, patience=HASTY, clock=clock) as client:
        with pytest.raises(Refused) as caught:
            await client.resolve(Reference.parse(f"{host}/nothing:1"))
    return f"{caught.value.message} ({caught.value.hint})"


async def test_a_certificate_that_trusted_time_finds_valid_is_taken(
    registry: str, future: Authority
) -> None:
    said = await ask(registry, future.ca, Clock(BEGIN + 30 * DAY))
    assert "not found" in said, "it was asked, and has nothing"


@pytest.mark.parametrize(
    ("at", "why"),
    [(BEGIN - DAY, "not valid yet"), (END + DAY, "expired")],
    ids=["too early", "too late"],
)
async def test_one_that_is_not_is_refused_before_anything_is_sent(
    registry: str, future: Authority, at: datetime.datetime, why: str
) -> None:
    said = await ask(registry, future.ca, Clock(at))
    assert why in said
    assert "by the last time that this machine knew" in said
    assert "date right?" in said


async def test_where_the_clock_is_set_it_counts(registry: str, future: Authority) -> None:
    for clock in (None, Clock(BEGIN + 30 * DAY, is_set=True)):
        said = await ask(registry, future.ca, clock)
        assert "certificate is not trusted" in said
        assert "not yet valid" in said
        assert "date right?" in said


async def test_everything_else_is_checked_without_a_clock_too(
    registry: str, tmp_path: Path
) -> None:
    foreign = Authority.make(tmp_path)
    said = await ask(registry, foreign.ca, Clock(BEGIN + 30 * DAY))
    assert "certificate is not trusted" in said
    assert "--registry-ca" in said
