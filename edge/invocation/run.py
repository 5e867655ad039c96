"""One admitted event: a sandbox, a call of one of its exports, a deadline, an outcome.

Knows no trigger. Every failure of a guest comes out as an EdgeError; cancellation goes through.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from edge.engine._core import Call
from edge.engine.drive import drive
from edge.engine.values import Err, Trap
from edge.errors import EdgeError, GuestError, GuestTimeout, Overloaded
from edge.invocation.meter import Meter
from edge.invocation.sandbox import Sandbox, Sandboxes

# Gets the invocation's id, and what ended it where it did not end by itself; what is counted as
# wrong with it, None where it went well.
Ended = Callable[[str, BaseException | None], BaseException | None]


# What counts an invocation, when it was admitted, and for how long it had waited.
_Counting = tuple[Meter, float, float]


def _as_it_is(_id: str, error: BaseException | None) -> BaseException | None:
    return error


def start(
    sandboxes: Sandboxes,
    export: int,
    arguments: Callable[[Sandbox], Sequence[Any]],
    ended: Ended = _as_it_is,
    meter: Meter | None = None,
    waited: float = 0.0,
) -> Any | Run:
    """Runs a guest for its first time slice, for an event that the gate has admitted.

    Returns the export's result, or a Run when the guest has not ended: it must be finished or
    closed. Raises EdgeError. The place at the gate is given back when the invocation is over.
    `ended` is called before what the guest held is dropped: what it left unfinished would else
    be taken for the cause. `meter`: counts it, by default the component's; `waited`:
    seconds at the gate.
    """
    began = monotonic()
    meter = meter or sandboxes.meter
    sandbox = call = None
    try:
        sandbox = sandboxes.take()
        sandbox.outbound = outbound = sandboxes.outbound()
        call = sandbox.instance.call(export, arguments(sandbox))
        if not call.poll() or (outbound is not None and outbound.busy):
            return Run(sandboxes, sandbox, call, ended, (meter, began, waited))
        fault = ended(sandbox.id, None)
        sandboxes.give(sandbox)
    except BaseException as exc:
        error = explain(exc, sandboxes, sandbox)
        fault = ended("" if sandbox is None else sandbox.id, error)
        _count((meter, began, waited), fault)
        _abandon(sandboxes, sandbox, call)
        raise error from exc
    sandboxes.gate.leave()
    result = call.result
    if fault is None and not isinstance(result, Err):
        meter.succeeded(began, waited)
    else:
        meter.failed(began, waited, fault)
    return result


def _count(counting: _Counting, fault: BaseException | None, result: Any = None) -> None:
    meter, began, waited = counting
    if fault is None and not isinstance(result, Err):
        meter.succeeded(began, waited)
    else:
        meter.failed(began, waited, fault)


class Run:
    """A guest that waits, or that used up its first time slice."""

    __slots__ = (
        "_call", "_counting", "_deadline", "_ended", "_sandbox", "_sandboxes", "id",
    )  # fmt: skip

    def __init__(
        self,
        sandboxes: Sandboxes,
        sandbox: Sandbox,
        call: Call,
        ended: Ended,
        counting: _Counting,
    ) -> None:
        self._sandboxes: Sandboxes | None = sandboxes
        self._sandbox = sandbox
        self._call = call
        self._ended = ended
        self._counting: _Counting | None = counting
        self.id = sandbox.id
        loop = asyncio.get_running_loop()
        self._deadline = loop.time() + sandboxes.profile.options.timeout

    async def finish(self, written: Callable[[], int | None] = lambda: None) -> Any:
        """The rest of the guest, to its result. Raises EdgeError.

        `written`: bytes that the guest's client has taken, None before the answer began; while
        they grow the deadline moves.
        """
        assert self._sandboxes is not None
        sandboxes, outbound = self._sandboxes, self._sandbox.outbound
        timeout = sandboxes.profile.options.timeout
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
                    await drive(self._call, sandboxes.node.lane, polled)
                if outbound is not None and outbound.busy:
                    await outbound.close()
        except BaseException as exc:
            error = explain(exc, sandboxes, self._sandbox)
            self._count(self._ended(self.id, error))
            self.close()
            raise error from exc
        self._count(self._ended(self.id, None), self._call.result)
        self.close()
        return self._call.result

    def close(self) -> None:
        """Ends the guest where it is and frees what it held. Idempotent."""
        sandboxes, self._sandboxes = self._sandboxes, None
        if sandboxes is not None:
            self._count(asyncio.CancelledError())
            _abandon(sandboxes, self._sandbox, self._call)

    def _count(self, fault: BaseException | None, result: Any = None) -> None:
        """Once: what ended it first is what it ended by."""
        counting, self._counting = self._counting, None
        if counting is not None:
            _count(counting, fault, result)

    # A coroutine that is cancelled before its first step never runs its `finally`.
    __del__ = close


def _abandon(sandboxes: Sandboxes, sandbox: Sandbox | None, call: Call | None) -> None:
    try:
        if call is not None:
            call.close()
        if sandbox is not None:
            if sandbox.outbound is not None:
                sandbox.outbound.cancel()
            sandboxes.give(sandbox)
    finally:
        sandboxes.gate.leave()


def explain(
    exc: BaseException, sandboxes: Sandboxes, sandbox: Sandbox | None = None
) -> BaseException:
    """What ended a guest, as an EdgeError; what was not about the guest (cancellation) as it is."""
    error = _error(exc, sandboxes.profile.component)
    if error is not exc:
        error.__cause__ = exc
    if isinstance(error, GuestError):
        error.component = sandboxes.profile.component
        error.invocation = sandbox.id if sandbox is not None else ""
    return error


def _error(exc: BaseException, component: str) -> BaseException:
    match exc:
        case EdgeError():
            return exc
        case MemoryError():  # no fiber, or no memory for one: of the node, not of the guest
            return Overloaded(f"component {component}: {exc}")
        case TimeoutError():
            return GuestTimeout("did not end within its timeout")
        case Trap():
            return GuestError(str(exc))
        case Exception():
            return GuestError(f"a host function failed: {exc!r}")
    return exc
