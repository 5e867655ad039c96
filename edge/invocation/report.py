"""Tells the operator what became of an invocation: one line for one failure."""

from __future__ import annotations

import logging

from edge.engine.values import Trap
from edge.errors import EdgeError, GuestError
from edge.invocation.sandbox import Profile
from edge.platform.messages import GUEST_FAILED

_log = logging.getLogger("edge.invocation")

# Characters of what a guest says that are repeated in a line of ours.
_MOST = 200


def report(profile: Profile, error: EdgeError) -> None:
    """Logs a guest's failure with the fields EDGE_APP, EDGE_COMPONENT and EDGE_INVOCATION; others
    are not logged here.

    A traceback comes with it only when one of our own host functions failed.
    """
    if not isinstance(error, GuestError):
        return
    cause = error.__cause__
    ours = cause is not None and not isinstance(cause, Trap | TimeoutError | EdgeError)
    _log.warning(
        "%s [%s] %s", profile.component, error.invocation, error.cause,
        extra={
            "MESSAGE_ID": GUEST_FAILED,
            "EDGE_APP": profile.application,
            "EDGE_COMPONENT": profile.component,
            "EDGE_INVOCATION": error.invocation,
        },
        exc_info=cause if ours else None,
    )  # fmt: skip


def words(text: str) -> str:
    """What a guest says, fit for the rest of a line: its first line, printable, not too long."""
    line = next((line for line in text.splitlines() if line.strip()), "").strip()
    shown = "".join(
        c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line[: _MOST + 1]
    )
    return shown if len(shown) <= _MOST else f"{shown[:_MOST]}…"
