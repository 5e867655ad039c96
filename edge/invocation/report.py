"""Tells the operator what became of invocations: a line for a failure, or one for very many."""

from __future__ import annotations

import logging
from functools import partial

from edge.engine.values import Trap
from edge.errors import EdgeError, GuestError
from edge.platform.messages import GUEST_FAILED
from edge.platform.sums import Sums, cut

__all__ = ["Reporter"]

_log = logging.getLogger("edge.invocation")


class Reporter:
    """Logs the failures of one component, with the fields EDGE_APP, EDGE_COMPONENT and
    EDGE_INVOCATION; instead of the last EDGE_COUNT, where a line tells of many.
    """

    __slots__ = ("_fields", "_sums")

    def __init__(self, application: str, component: str) -> None:
        self._fields = {
            "MESSAGE_ID": GUEST_FAILED,
            "EDGE_APP": application,
            "EDGE_COMPONENT": component,
        }
        self._sums = Sums(partial(_tell, self._fields))

    def __call__(self, error: EdgeError) -> None:
        """Errors that are no guest's are not logged here. A traceback comes with one only when it
        was a host function of ours that failed.
        """
        if not isinstance(error, GuestError) or not self._sums(error.cause):
            return
        cause = error.__cause__
        ours = cause is not None and not isinstance(cause, Trap | TimeoutError | EdgeError)
        _log.warning(
            "%s [%s] %s", self._fields["EDGE_COMPONENT"], error.invocation, error.cause,
            extra={**self._fields, "EDGE_INVOCATION": error.invocation},
            exc_info=cause if ours else None,
        )  # fmt: skip

    def note(self, invocation: str, text: str) -> None:
        """Why an invocation was refused what it asked for."""
        text = cut(text)  # some of it is the guest's
        if self._sums(text):
            component = self._fields["EDGE_COMPONENT"]
            fields = {name: self._fields[name] for name in ("EDGE_APP", "EDGE_COMPONENT")}
            _log.info(
                "%s [%s] %s", component, invocation, text,
                extra={**fields, "EDGE_INVOCATION": invocation},
            )  # fmt: skip

    def close(self) -> None:
        """Tells what is still untold."""
        self._sums.close()


def _tell(fields: dict[str, str], text: str, number: int) -> None:
    _log.warning(
        "%s failed %s", fields["EDGE_COMPONENT"], text, extra={**fields, "EDGE_COUNT": number}
    )
