"""The dates of certificates, on machines that may not know the date.

A board without a battery boots in 1970, where every certificate is not valid yet.
"""

from __future__ import annotations

import ssl
from typing import Protocol

__all__ = ["Clock", "date_by", "is_about_dates"]

# OpenSSL's X509_V_FLAG_NO_CHECK_TIME, for which Python has no name.
_NO_CHECK_TIME = 0x200000
# X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED.
_NOT_YET_VALID, _EXPIRED = 9, 10


class Clock(Protocol):
    """Trusted time, and whether it is the machine's."""

    def __call__(self) -> float: ...

    @property
    def is_set(self) -> bool: ...


def is_about_dates(error: Exception) -> bool:
    """Whether a certificate was refused for its dates alone."""
    return getattr(error, "verify_code", 0) in (_NOT_YET_VALID, _EXPIRED)


def date_by(clock: Clock, context: ssl.SSLContext) -> None:
    """Compares the dates of the peer's own certificate with trusted time, in the handshake, and
    leaves those of the authorities above it alone. For clients and servers.
    """
    context.verify_flags |= _NO_CHECK_TIME
    context.sslobject_class = _dated(clock)


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
