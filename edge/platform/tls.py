"""A server's TLS from two files, and in words what is wrong with them."""

from __future__ import annotations

import ssl
from pathlib import Path

from edge.errors import ConfigError
from edge.platform.files import unreadable

__all__ = ["server_tls"]

_REASONS = {
    "KEY_VALUES_MISMATCH": "the key is not that of the certificate",
    "EE_KEY_TOO_SMALL": "the key is too short to be safe",
    "CA_MD_TOO_WEAK": "it is signed by a digest that is no longer safe",
}


def server_tls(certificate: Path, key: Path) -> ssl.SSLContext:
    """What a server shows its clients. Blocks. Raises ConfigError with the file and the reason."""
    for path in (certificate, key):
        _readable(path)
    asked = False

    def passphrase() -> bytes:  # without it OpenSSL asks on the terminal
        nonlocal asked
        asked = True
        return b""

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key, passphrase)
    except ssl.SSLError as error:
        usual = "the key has a passphrase" if asked else "is not a certificate with its key, in PEM"
        names = certificate if certificate == key else f"{certificate} with {key}"
        raise ConfigError(f"{names}: {_REASONS.get(error.reason or '', usual)}") from error
    return context


def _readable(path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise ConfigError(f"{path}: {unreadable(error)}") from error
