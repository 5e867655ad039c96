"""Keys that sign and keys that verify: ECDSA on P-256 with SHA-256, and Ed25519.

What cosign makes by default, and what it and containers/image read beside it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from edge.errors import ConfigError
from edge.registry.signatures import sealed

__all__ = ["PublicKey", "SigningKey", "load_all"]

# A key has hundreds of bytes; a wrong file may have any number.
_MAX_FILE = 64 << 10

_Public = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
_Private = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class PublicKey:
    """Whose signatures count. `name`: of its file, for people."""

    name: str
    _key: _Public

    @classmethod
    def load(cls, path: Path) -> PublicKey:
        """From a PEM file of one key. Raises ConfigError."""
        data = _read(path)
        if b"PRIVATE KEY-----" in data:
            hint = "name the public key that belongs to it"
            raise ConfigError(f"{path}: is a private key, which must not lie about", hint=hint)
        if data.count(b"-----BEGIN") > 1:
            raise ConfigError(f"{path}: holds more than one key", hint="one file for each key")
        try:
            return cls(path.name, _supported(serialization.load_pem_public_key(data), path))
        except (ValueError, UnsupportedAlgorithm):
            raise ConfigError(f"{path}: is not a public key in PEM") from None

    def verifies(self, signature: bytes, message: bytes) -> bool:
        try:
            if isinstance(self._key, ec.EllipticCurvePublicKey):
                self._key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
            else:
                self._key.verify(signature, message)
        except InvalidSignature:
            return False
        return True

    @property
    def hint(self) -> str:
        """What bundles call the key that made them."""
        kind = serialization.Encoding.DER
        return base64.b64encode(hashlib.sha256(self._encoded(kind)).digest()).decode()

    def to_pem(self) -> bytes:
        return self._encoded(serialization.Encoding.PEM)

    def _encoded(self, encoding: serialization.Encoding) -> bytes:
        return self._key.public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """Who signs."""

    public: PublicKey
    _key: _Private = field(repr=False)

    @classmethod
    def generate(cls) -> SigningKey:
        return cls._of(ec.generate_private_key(ec.SECP256R1()), "new key")

    @classmethod
    def load(cls, path: Path, password: Callable[[], bytes]) -> SigningKey:
        """From PEM: PKCS #8, or cosign's own format. `password` is asked for one that is needed.
        Raises ConfigError.
        """
        data = _read(path)
        if b"PRIVATE KEY-----" not in data:
            raise _no_private_key(path, data)
        if sealed.is_sealed(data):
            der = sealed.open_sealed(data, password(), str(path))
            return cls._loaded(lambda: serialization.load_der_private_key(der, None), path)
        encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in data or b"\nDEK-Info:" in data
        secret = password() if encrypted else None
        return cls._loaded(lambda: serialization.load_pem_private_key(data, secret), path)

    @classmethod
    def _loaded(cls, load: Callable[[], object], path: Path) -> SigningKey:
        try:
            return cls._of(_supported(load(), path), path.name)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            why = "its password is another one, or it is damaged"
            raise ConfigError(f"{path}: is not a private key that can be read: {why}") from None

    @classmethod
    def _of(cls, key: _Private, name: str) -> SigningKey:
        return cls(PublicKey(name, key.public_key()), key)

    def sign(self, message: bytes) -> bytes:
        if isinstance(self._key, ec.EllipticCurvePrivateKey):
            return self._key.sign(message, ec.ECDSA(hashes.SHA256()))
        return self._key.sign(message)

    def to_pem(self, password: bytes) -> bytes:
        """In cosign's format, which other tools sign with."""
        der = self._key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return sealed.seal(der, password)


def _no_private_key(path: Path, data: bytes) -> ConfigError:
    if b"PUBLIC KEY-----" in data:
        return ConfigError(
            f"{path}: is a public key, which cannot sign",
            hint="name the private key that belongs to it",
        )
    return ConfigError(f"{path}: is not a private key in PEM")


def load_all(paths: Iterable[Path]) -> tuple[PublicKey, ...]:
    """Every key of a policy; one that cannot be read is a ConfigError, whatever the others say."""
    return tuple(PublicKey.load(path) for path in paths)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    if len(data) > _MAX_FILE:
        raise ConfigError(f"{path}: is too large for a key")
    return data


def _supported(key: object, path: Path) -> Any:
    """A key of a kind that can be used here, or a ConfigError."""
    if isinstance(key, ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey):
        if isinstance(key.curve, ec.SECP256R1):
            return key
        kind = f"ECDSA on {key.curve.name}"
    elif isinstance(key, ed25519.Ed25519PublicKey | ed25519.Ed25519PrivateKey):
        return key
    else:
        kind = type(key).__name__.strip("_").removesuffix("Key")
    hint = "edge sign --generate-key makes one, and so does cosign generate-key-pair"
    raise ConfigError(f"{path}: {kind} is not supported: ECDSA on P-256, or Ed25519", hint=hint)
