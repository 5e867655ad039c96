"""The exception tree. A class exists only where somebody acts differently on it.

EdgeError                 exit 1, status 500; the message reads "what: why"
├── ConfigError           exit 78: a mistake in spin.toml, edge.toml or on the command line
├── BundleError           what was delivered is malformed: never retried, the old application stays
│   └── ComponentError    a Wasm binary is malformed, or uses what this engine cannot do
├── PullError             a registry, a server or a peer could not deliver: retried with back-off
│   └── Refused           it answered, and the answer is no: another attempt gets the same
├── NoRoute               status 404
├── TooLarge              status 413: a request's body is larger than its component takes
├── Overloaded            status 503, with a Retry-After
└── GuestError            status 500: the guest failed; knows its component and invocation
    ├── GuestTimeout      status 504: the deadline passed
    └── GuestLimit        a limit of memory, tables or the like was reached

Messages are lower case and have no full stop. A hint says what to do about it.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BundleError",
    "ComponentError",
    "ConfigError",
    "EdgeError",
    "GuestError",
    "GuestLimit",
    "GuestTimeout",
    "NoRoute",
    "Overloaded",
    "PullError",
    "Refused",
    "TooLarge",
]


class EdgeError(Exception):
    """Something went wrong that its reader can understand: one line, perhaps a hint."""

    exit_code: ClassVar[int] = 1
    status: ClassVar[int] = 500

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(EdgeError):
    """A mistake in a file or option that a person wrote."""

    exit_code = 78  # EX_CONFIG of sysexits.h: systemd shows it as CONFIG


class BundleError(EdgeError):
    """What was delivered is malformed; another attempt would bring the same."""


class ComponentError(BundleError):
    """A Wasm binary is malformed, or needs what this engine does not support."""


class PullError(EdgeError):
    """A registry, server or peer could not deliver; another attempt may succeed."""


class Refused(PullError):
    """A registry answered, and the answer is no; only a person can change that."""


class NoRoute(EdgeError):
    """No route of any application matches."""

    status = 404


class TooLarge(EdgeError):
    """A request's body is larger than its component takes."""

    status = 413


class Overloaded(EdgeError):
    """The node does not admit the event now. `retry_after` is in whole seconds."""

    status = 503

    def __init__(self, message: str, *, retry_after: int = 1, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class GuestError(EdgeError):
    """A guest failed. `cause` is the operator's text; clients see only the message's kind."""

    def __init__(
        self,
        cause: str,
        *,
        component: str = "",
        invocation: str = "",
        hint: str | None = None,
    ) -> None:
        super().__init__(f"component {component}: {cause}" if component else cause, hint=hint)
        self.cause = cause
        self.component = component
        self.invocation = invocation


class GuestTimeout(GuestError):
    """A guest was ended at its deadline."""

    status = 504


class GuestLimit(GuestError):
    """A guest asked for more than its limits allow."""
