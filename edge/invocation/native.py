"""Events handled by a trigger's own handler in a component (`handle-message`,
`handle-cron-event`).
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from edge.engine.values import Err
from edge.errors import EdgeError, GuestError, Overloaded, TooLarge
from edge.invocation.event import DONE, Event, Outcome, Status
from edge.invocation.handlers import Handler
from edge.invocation.run import Run, start
from edge.invocation.sandbox import Sandbox, Sandboxes
from edge.platform.sums import cut

Rest = Coroutine[Any, Any, Outcome]


class NativeInvoker:
    """An EventHandler that calls one component's own handler. `export`: its number."""

    __slots__ = ("_authority", "_export", "_handler", "sandboxes")

    def __init__(self, sandboxes: Sandboxes, export: int, handler: Handler, authority: str) -> None:
        self.sandboxes = sandboxes
        self._export = export
        self._handler = handler
        self._authority = authority

    def __call__(self, event: Event) -> Outcome | Rest:
        """Runs the guest's first time slice at once when there is room."""
        if (reason := too_large(self.sandboxes, event)) is not None:
            return Outcome(Status.REJECTED, reason)
        try:
            admitted = self.sandboxes.gate.enter()
        except Overloaded as exc:
            return ended_by(exc, self.sandboxes)
        return self._begin(event) if admitted else self._queued(event)

    async def _queued(self, event: Event) -> Outcome:
        try:
            waited = await self.sandboxes.gate.wait()
        except Overloaded as exc:
            return ended_by(exc, self.sandboxes)
        outcome = self._begin(event, waited)
        return outcome if isinstance(outcome, Outcome) else await outcome

    def _begin(self, event: Event, waited: float = 0.0) -> Outcome | Rest:
        id = ""

        def arguments(sandbox: Sandbox) -> tuple[Any, ...]:
            nonlocal id
            id = sandbox.id
            if sandbox.outbound is not None:
                sandbox.outbound.authority = self._authority
                if event.span is not None:
                    sandbox.outbound.trace = event.span.carrier
            return self._handler.arguments(event)

        try:
            result = start(self.sandboxes, self._export, arguments, waited=waited)
        except EdgeError as exc:
            return ended_by(exc, self.sandboxes)
        return self._rest(result) if isinstance(result, Run) else self._outcome(result, id)

    async def _rest(self, run: Run) -> Outcome:
        try:
            return self._outcome(await run.finish(), run.id)
        except EdgeError as exc:
            return ended_by(exc, self.sandboxes)

    def _outcome(self, result: Any, id: str) -> Outcome:
        if not isinstance(result, Err):
            return DONE
        error = GuestError(f"its handler failed: {_text(result.payload)}", invocation=id)
        return ended_by(error, self.sandboxes)


def ended_by(error: EdgeError, sandboxes: Sandboxes) -> Outcome:
    """The outcome of an event that was not handled; tells the operator what the guest did."""
    sandboxes.report(error)
    match error:
        case Overloaded():
            return Outcome(Status.BUSY, error.message)
        case TooLarge():
            return Outcome(Status.REJECTED, error.message)
        case GuestError():
            return Outcome(Status.FAILED, error.cause)
    return Outcome(Status.FAILED, error.message)


def too_large(sandboxes: Sandboxes, event: Event) -> str | None:
    """Why an event is not given to a component that limits what it takes."""
    limit = sandboxes.profile.options.request_size
    if not limit or len(event.data) <= limit:
        return None
    reason = f"larger than {limit} bytes, the component's request_size"
    sandboxes.meter.refused(TooLarge(reason))
    return reason


def _text(payload: Any) -> str:
    """What a guest says of its failure: `other("…")` says it in so many words."""
    if isinstance(payload, tuple) and len(payload) == 2:
        payload = payload[1] or payload[0]
    return cut("an error" if payload is None else str(payload))
