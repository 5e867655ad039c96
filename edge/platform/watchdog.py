"""The service manager's watchdog: it ends a service that has not said for a while that it lives.

What is said must be true, so it is tried out first: the event loop turns in time, and what the
caller gives as a test succeeds. Elsewhere than under a watchdog nothing is done.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping

from edge.platform.messages import NOT_WELL
from edge.platform.notify import Notifier

__all__ = ["Watchdog"]

# Of the time that the service manager waits: how often it is told, and how much the loop may lag
# and the test may take together. Two tests may fail before it acts, for want of a processor.
_EVERY, _LATE = 1 / 2, 1 / 4

_log = logging.getLogger("edge.node")


class Watchdog:
    """`interval`: seconds after which the service manager gives up; None: nobody watches."""

    def __init__(self, notifier: Notifier, environ: Mapping[str, str] | None = None) -> None:
        self.interval = _interval(os.environ if environ is None else environ)
        self._notifier = notifier

    async def run(self, test: Callable[[], Awaitable[None]]) -> None:
        """Tells that we live, for as long as we do; until it is cancelled.

        `test` raises for what is wrong.
        """
        if self.interval is None:
            return
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            late = loop.time() - due
            reason = await self._tried(test, self.interval * _LATE - late)
            if reason:
                _log.error("not well: %s", reason, extra={"MESSAGE_ID": NOT_WELL})
            else:
                self._notifier.alive()
            due = loop.time() + self.interval * _EVERY
            await asyncio.sleep(due - loop.time())

    async def _tried(self, test: Callable[[], Awaitable[None]], seconds: float) -> str:
        """What is wrong; empty: nothing."""
        if seconds <= 0:
            return "the event loop lags"
        try:
            async with asyncio.timeout(seconds):
                await test()
        except TimeoutError:
            return f"the test took longer than {seconds:.1f} s"
        except Exception as exc:  # whatever it is: the service manager shall act
            return f"{type(exc).__name__}: {exc}"
        return ""


def _interval(environ: Mapping[str, str]) -> float | None:
    """From what sd_watchdog_enabled(3) reads."""
    microseconds, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not microseconds.isdigit() or int(microseconds) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(microseconds) / 1e6
