"""TLS to registries, on machines that may not know the date.

A board without a battery boots in 1970, where every certificate is not valid yet. While its clock
is not set, the dates of the registry's own certificate are compared with trusted time instead, and
those of the authorities above it are not looked at. Everything else is checked as always.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Protocol

from edge.errors import ConfigError

__all__ = ["Clock", "client_context", "is_about_dates"]

# OpenSSL's X509_V_FLAG_NO_CHECK_TIME, for which Python has no name.
_NO_CHECK_TIME = 0x200000
# X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED.
_NOT_YET_VALID, _EXPIRED = 9, 10


class Clock(Protocol):
    """Trusted time, and whether it is the machine's."""

    def __call__(self) -> float: ...

    @property
    def is_set(self) -> bool: ...


def client_context(ca_file: Path | None, clock: Clock | None = None) -> ssl.SSLContext:
    """A context that trusts the system's authorities and that of `ca_file`. With a `clock` the
    peer's certificate must be valid by it. Raises ConfigError. Blocks.
    """
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"{ca_file}: {error.strerror or 'is not a PEM file'}") from error
    if clock is not None:
        context.verify_flags |= _NO_CHECK_TIME
        context.sslobject_class = _dated(clock)
    return context


def is_about_dates(error: Exception) -> bool:
    """Whether a certificate was refused for its dates alone."""
    return getattr(error, "verify_code", 0) in (_NOT_YET_VALID, _EXPIRED)


def _dated(clock: Clock) -> type[ssl.SSLObject]:
    class Dated(ssl.SSLObject):
        """Fails its handshake, before anything was sent, outside the certificate's dates."""

        def do_handshake(self) -> None:
            super().do_handshake()
            found = self.getpeercert() or {}
            first, last = (
                ssl.cert_time_to_seconds(str(found[k])) for k in ("notBefore", "notAfter")
            )
            now = clock()
            if now < first:
                raise _refused(_NOT_YET_VALID, "it is not valid yet")
            if now > last:
                raise _refused(_EXPIRED, "it has expired")

    return Dated


def _refused(code: int, reason: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, f"{reason}, by the last time that this machine knew")
    error.verify_code, error.verify_message = code, reason
    return error
