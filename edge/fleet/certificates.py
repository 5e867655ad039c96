"""The certificates of a fleet: made and read. The only module here that needs cryptography.

    authority   self-signed, ECDSA on P-256; its key's id is the fleet's
    node        DNS:<node id>, URI:edge://<fleet id>/<node id>; for both ends of TLS
    door        DNS:<fleet id>; for the server that nodes join at, and for nothing else
    list        of the revoked: a CRL with a number; each entry also names the node

Loading it costs ten megabytes and a moment: what is only connected to needs none of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge.fleet.names import Refused, address_of, is_id, key_id

__all__ = [
    "Issued",
    "Revocation",
    "Signer",
    "authority_id",
    "certificate_of",
    "dates",
    "new_authority",
    "new_key",
    "new_request",
    "node_of_key",
    "node_of_request",
    "read_revocations",
]

YEAR = 365 * 86400.0
_AUTHORITY_YEARS, _NODE_YEARS = 30, 1
# 2026-10-31, before the earliest date that a node can believe in: one that has no clock joins, too.
# When a certificate begins protects nobody; when it ends does, and the list of the revoked.
_ALWAYS = datetime(2026, 10, 31, tzinfo=UTC)
_NO_END = datetime(2099, 12, 31, tzinfo=UTC)
# Of a CRL's entry, not critical: UTF8String with the node's id. An OID of X.667, from a UUID.
_NODE = x509.ObjectIdentifier("2.25.272143223987203921287190387209387209387")


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate for a node. `until`: whole seconds since 1970."""

    node: str
    serial: int
    until: int
    pem: bytes


@dataclass(frozen=True, slots=True)
class Revocation:
    """A list of the revoked. `entries`: serial number -> node id."""

    number: int
    made: datetime
    entries: Mapping[int, str]
    pem: bytes


# Keys and requests


def new_key() -> bytes:
    """A private key, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def node_of_key(key: bytes) -> str:
    """The id of who has this private key. Raises Refused."""
    return _id(_key(key).public_key())


def new_request(key: bytes) -> bytes:
    """A request for a certificate, in PEM, which proves that the key is had. Raises Refused."""
    private = _key(key)
    subject = _name(_id(private.public_key()))
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return request.sign(private, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def node_of_request(request: bytes) -> str:
    """Who asks for a certificate. Raises Refused."""
    return _id(_asked(request))


def _asked(request: bytes) -> ec.EllipticCurvePublicKey:
    """The key in a request; all else that it may ask for is passed over."""
    try:
        found = x509.load_pem_x509_csr(request)
        if not found.is_signature_valid:
            raise Refused("the request is not signed by its key")
        return _supported(found.public_key())
    except (ValueError, UnsupportedAlgorithm):
        raise Refused("is not a request for a certificate") from None


def _key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        found = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Refused("is not a private key that can be read") from None
    _supported(found.public_key())
    assert isinstance(found, ec.EllipticCurvePrivateKey)
    return found


def _supported(key: object) -> ec.EllipticCurvePublicKey:
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise Refused("its key is not one of ECDSA on P-256")


def _id(key: ec.EllipticCurvePublicKey) -> str:
    kind = serialization.PublicFormat.SubjectPublicKeyInfo
    return key_id(key.public_bytes(serialization.Encoding.DER, kind))


# Reading what an authority has signed


def authority_id(pem: bytes) -> str:
    """The fleet's id. Raises Refused for what is no authority of one."""
    return _id(_authority(pem)[1])


def _authority(pem: bytes) -> tuple[x509.Certificate, ec.EllipticCurvePublicKey]:
    found = _certificate(pem)
    try:
        key = _supported(found.public_key())
        found.verify_directly_issued_by(found)
        basic = found.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        raise Refused("is not the certificate of a fleet's authority") from None
    if not basic.ca:
        raise Refused("is not the certificate of a fleet's authority")
    return found, key


def certificate_of(pem: bytes, authority: bytes) -> Issued:
    """What a certificate says of a node, once it is one of this authority. Raises Refused."""
    found, (above, key) = _certificate(pem), _authority(authority)
    try:
        found.verify_directly_issued_by(above)
        node = _id(_supported(found.public_key()))
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        raise Refused("is not a certificate of this fleet's authority") from None
    if names != _names(_id(key), node):
        raise Refused("its names are not those of its key")
    return Issued(node, found.serial_number, _seconds(found.not_valid_after_utc), pem)


def read_revocations(pem: bytes, authority: bytes) -> Revocation:
    """A list, once it is one of this authority. Raises Refused."""
    above, key = _authority(authority)
    try:
        found = x509.load_pem_x509_crl(pem)
        if found.issuer != above.subject or not found.is_signature_valid(key):
            raise Refused("the list of the revoked is not signed by this fleet's authority")
        number = found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        entries = {entry.serial_number: _revoked_node(entry) for entry in found}
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.ExtensionNotFound):
        raise Refused("is not a list of the revoked") from None
    plain = found.public_bytes(serialization.Encoding.PEM)
    return Revocation(number, found.last_update_utc, entries, plain)


def _revoked_node(entry: x509.RevokedCertificate) -> str:
    value = entry.extensions.get_extension_for_oid(_NODE).value
    assert isinstance(value, x509.UnrecognizedExtension)
    node = value.value[2:].decode("ascii", "replace")
    if value.value[:2] != b"\x0c\x34" or not is_id(node):
        raise ValueError("names no node")
    return node


def _certificate(pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise Refused("is not a certificate in PEM") from None


def dates(pem: bytes) -> list[tuple[int, int]]:
    """When each certificate of a file begins and ends, in seconds since 1970, whoever made it.
    Raises Refused.
    """
    try:
        found = x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise Refused("is not a certificate in PEM") from None
    return [(_seconds(c.not_valid_before_utc), _seconds(c.not_valid_after_utc)) for c in found]


# What an authority signs


def new_authority(name: str, now: float) -> tuple[bytes, bytes]:
    """Key and certificate of a new fleet, in PEM."""
    key = new_key()
    private = _key(key)
    until = datetime.fromtimestamp(now, UTC) + timedelta(seconds=_AUTHORITY_YEARS * YEAR)
    public = private.public_key()
    built = (
        _builder(_name(name), _name(name), public, until)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )
    signed = built.sign(private, hashes.SHA256())
    return key, signed.public_bytes(serialization.Encoding.PEM)


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signs for a fleet. `key`, `certificate`: PEM."""

    key: bytes = field(repr=False)
    certificate: bytes

    @property
    def fleet(self) -> str:
        """Its id. Raises Refused when the two do not belong together."""
        fleet = authority_id(self.certificate)
        if node_of_key(self.key) != fleet:
            raise Refused("the authority's key is not that of its certificate")
        return fleet

    def issue(self, request: bytes, now: float) -> Issued:
        """A certificate for who asks. Raises Refused."""
        key = _asked(request)
        node = _id(key)
        return self._issue(key, node, _names(self.fleet, node), now, client=True)

    def door(self, request: bytes, now: float) -> Issued:
        """One for the server that nodes join at: no node can have this name."""
        key = _asked(request)
        names = x509.SubjectAlternativeName([x509.DNSName(self.fleet)])
        return self._issue(key, self.fleet, names, now, client=False)

    def _issue(
        self,
        key: ec.EllipticCurvePublicKey,
        node: str,
        names: x509.SubjectAlternativeName,
        now: float,
        *,
        client: bool,
    ) -> Issued:
        above, own = x509.load_pem_x509_certificate(self.certificate), _key(self.key)
        until = datetime.fromtimestamp(now, UTC) + timedelta(seconds=_NODE_YEARS * YEAR)
        until = min(until, above.not_valid_after_utc).replace(microsecond=0)
        roles = [ExtendedKeyUsageOID.SERVER_AUTH, *([ExtendedKeyUsageOID.CLIENT_AUTH] * client)]
        built = (
            _builder(_name(node), above.subject, key, until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(roles), critical=False)
            .add_extension(names, critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(_above(own.public_key()), critical=False)
        )
        signed = built.sign(own, hashes.SHA256())
        pem = signed.public_bytes(serialization.Encoding.PEM)
        return Issued(node, signed.serial_number, _seconds(until), pem)

    def revoke(self, entries: Mapping[int, str], before: Revocation | None, now: float) -> bytes:
        """The list after `before`, of all that it names and of `entries`, in PEM."""
        made = datetime.fromtimestamp(now, UTC).replace(microsecond=0)
        number, known = 1, dict(entries)
        if before is not None:
            # OpenSSL takes of two lists the one that was made later, by whole seconds.
            made = max(made, before.made + timedelta(seconds=1))
            number, known = before.number + 1, {**before.entries, **entries}
        own = _key(self.key)
        built = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(x509.load_pem_x509_certificate(self.certificate).subject)
            .last_update(made)
            .next_update(_NO_END)
            .add_extension(x509.CRLNumber(number), critical=False)
            .add_extension(_above(own.public_key()), critical=False)
        )
        for serial, node in sorted(known.items()):
            built = built.add_revoked_certificate(_entry(serial, node, made))
        return built.sign(own, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _entry(serial: int, node: str, made: datetime) -> x509.RevokedCertificate:
    named = x509.UnrecognizedExtension(_NODE, b"\x0c\x34" + node.encode())
    entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(made)
    return entry.add_extension(named, critical=False).build()


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_ALWAYS)
        .not_valid_after(until)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _names(fleet: str, node: str) -> x509.SubjectAlternativeName:
    address = x509.UniformResourceIdentifier(address_of(fleet, node))
    return x509.SubjectAlternativeName([x509.DNSName(node), address])


def _above(key: ec.EllipticCurvePublicKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())
