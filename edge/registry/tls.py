"""TLS to registries, on machines that may not know the date.

A board without a battery boots in 1970, where every certificate is not valid yet. While its clock
is not set, the dates of the registry's own certificate are compared with trusted time instead, and
those of the authorities above it are not looked at. Everything else is checked as always.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from edge.errors import ConfigError
from edge.platform.dates import Clock, date_by

__all__ = ["client_context"]


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
        date_by(clock, context)
    return context
