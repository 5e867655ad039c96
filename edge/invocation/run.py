"""One admitted event: a sandbox, a call of one of its exports, a deadline, an outcome.

Knows no trigger. Every failure of a guest comes out as an EdgeError; cancellation goes through.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from edge.engine._core import Call
from edge.engine.drive import drive
from edge.engine.values import Trap
from edge.errors import EdgeError, GuestError, GuestTimeout
from edge.invocation.sandbox import Sandbox, Sandboxes
from edge.wasi.outbound import Outbound

Arguments = Callable[[Sandbox], Sequence[Any]]


class Run:
    """Owed by whoever was admitted by the component's gate; `close` gives everything back.

    `start`, then, if that says the guest waits, `finish`. `result` is the export's.
    """

    __slots__ = ("_call", "_deadline", "_open", "_sandbox", "_sandboxes", "id", "outbound", "result")

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes
        self._sandbox: Sandbox | None = None
        self._call: Call | None = None
        self._open = True
        self._deadline = 0.0
        self.id = ""
        self.outbound: Outbound | None = None
        self.result: Any = None

    def start(self, export: int, arguments: Arguments) -> bool:
        """Runs the guest for its first time slice. True: the invocation is over. Raises EdgeError."""
        try:
            sandbox = self._sandbox = self._sandboxes.take()
            self.id = sandbox.id
            outbound = self.outbound = sandbox.context.outbound = self._sandboxes.outbound()
            call = self._call = sandbox.instance.call(export, arguments(sandbox))
            if call.poll():
                self.result = call.result
                if outbound is None or not outbound.busy:
                    self.close()
                    return True
        except BaseException as exc:
            raise self._ended_by(exc) from exc
        loop = asyncio.get_running_loop()
        self._deadline = loop.time() + self._sandboxes.profile.options.timeout
        return False

    async def finish(self, written: Callable[[], int | None] = lambda: None) -> None:
        """The rest of the guest. `written`: bytes its client has taken, None before the answer began; while they
        grow the deadline moves. Raises EdgeError."""
        assert self._call is not None
        timeout = self._sandboxes.profile.options.timeout
        loop = asyncio.get_running_loop()
        seen: int | None = None
        deadline = asyncio.timeout_at(self._deadline)

        def polled() -> None:
            nonlocal seen
            if (now := written()) != seen and not deadline.expired():
                seen = now
                deadline.reschedule(loop.time() + timeout)

        try:
            async with deadline:
                if not self._call.ended:
                    self.result = await drive(self._call, self._sandboxes.node.lane, polled)
                self._end_guest()
                if self.outbound is not None and self.outbound.busy:
                    await self.outbound.close()
        except BaseException as exc:
            raise self._ended_by(exc) from exc
        self.close()

    def close(self) -> None:
        """Frees sandbox and place. Idempotent; also what the garbage collector does with a run nobody finished."""
        if not self._open:
            return
        self._open = False
        try:
            self._end_guest()
        finally:
            if self.outbound is not None:
                self.outbound.cancel()
            self._sandboxes.gate.leave()

    __del__ = close

    def _end_guest(self) -> None:
        call, self._call = self._call, None
        sandbox, self._sandbox = self._sandbox, None
        if call is not None:
            call.close()
        if sandbox is not None:
            self._sandboxes.give(sandbox)

    def _ended_by(self, exc: BaseException) -> BaseException:
        self.close()
        error = explain(exc)
        if isinstance(error, GuestError):
            error.component = self._sandboxes.profile.component
            error.invocation = self.id
        return error


def explain(exc: BaseException) -> BaseException:
    """What ended a guest, as an EdgeError; what was not about the guest (cancellation) as it is."""
    match exc:
        case EdgeError():
            return exc
        case TimeoutError():
            return GuestTimeout("did not end within its timeout")
        case Trap():
            return GuestError(str(exc))
        case Exception():
            return GuestError(f"a host function failed: {exc!r}")
    return exc
