"""Private keys under a password, in the format of cosign and skopeo.

PEM around JSON: a PKCS #8 key in NaCl's secretbox, whose key comes from the password by scrypt.
Only who signs needs it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re

from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from edge.application.fields import Reader, Table, Where, choice, integer, parsed
from edge.errors import ConfigError
from edge.registry.signatures.claims import base64_bytes

__all__ = ["is_sealed", "open_sealed", "seal"]

_PEM = re.compile(
    rb"-----BEGIN ENCRYPTED (SIGSTORE|COSIGN) PRIVATE KEY-----\s+([A-Za-z0-9+/=\s]+?)\s+"
    rb"-----END ENCRYPTED \1 PRIVATE KEY-----"
)
# Other tools take these costs and no others; ours is their default.
_COSTS = (1 << 15, 1 << 16, 1 << 17)
_COST = 1 << 16
_BLOCK = 8

_GIVE = "--key-password-file FILE, or COSIGN_PASSWORD in the environment"


def is_sealed(data: bytes) -> bool:
    return _PEM.search(data) is not None


def open_sealed(data: bytes, password: bytes, name: str) -> bytes:
    """The PKCS #8 key in DER. Raises ConfigError about the file `name`."""
    match = _PEM.search(data)
    assert match is not None, "asked before"
    try:
        value = json.loads(base64.b64decode(match[2]))
    except (ValueError, RecursionError):
        raise ConfigError(f"{name}: is not a private key of cosign: no JSON in it") from None
    salt, nonce, cost, ciphertext = _read(value, Where(name))
    try:
        return SecretBox(_derive(password, salt, cost)).decrypt(ciphertext, nonce)
    except (CryptoError, ValueError):
        if not password:
            raise ConfigError(f"{name}: has a password, and none was given", hint=_GIVE) from None
        raise ConfigError(f"{name}: the password does not open it") from None


def seal(key: bytes, password: bytes) -> bytes:
    """A PKCS #8 key in DER as PEM under the password."""
    salt, nonce = os.urandom(32), os.urandom(SecretBox.NONCE_SIZE)
    box = SecretBox(_derive(password, salt, _COST)).encrypt(key, nonce)
    document = {
        "kdf": {
            "name": "scrypt",
            "params": {"N": _COST, "r": _BLOCK, "p": 1},
            "salt": base64.b64encode(salt).decode(),
        },
        "cipher": {"name": "nacl/secretbox", "nonce": base64.b64encode(nonce).decode()},
        "ciphertext": base64.b64encode(box.ciphertext).decode(),
    }
    text = base64.b64encode(json.dumps(document, separators=(",", ":")).encode())
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    label = b"ENCRYPTED SIGSTORE PRIVATE KEY-----"
    return b"\n".join([b"-----BEGIN " + label, *lines, b"-----END " + label, b""])


def _derive(password: bytes, salt: bytes, cost: int) -> bytes:
    memory = 128 * cost * _BLOCK
    return hashlib.scrypt(password, salt=salt, n=cost, r=_BLOCK, p=1, maxmem=memory * 2, dklen=32)


def _read(value: object, where: Where) -> tuple[bytes, bytes, int, bytes]:
    with Table(value, where) as table:
        salt, cost = table.need("kdf", _kdf)
        return salt, table.need("cipher", _cipher), cost, table.need("ciphertext", _bytes)


def _kdf(value: object, where: Where) -> tuple[bytes, int]:
    with Table(value, where) as table:
        table.need("name", choice("scrypt"))
        return table.need("salt", _bytes), table.need("params", _params)


def _params(value: object, where: Where) -> int:
    with Table(value, where) as table:
        cost = table.need("N", integer(1, 1 << 62))
        table.need("r", integer(_BLOCK, _BLOCK))
        table.need("p", integer(1, 1))
    if cost not in _COSTS:
        raise where.error(f"N is {cost}, not one of {', '.join(map(str, _COSTS))}")
    return cost


def _cipher(value: object, where: Where) -> bytes:
    with Table(value, where) as table:
        table.need("name", choice("nacl/secretbox"))
        return table.need("nonce", _bytes)


_bytes: Reader[bytes] = parsed(base64_bytes)
