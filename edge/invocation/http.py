# cython: annotation_typing=False, binding=False
"""HTTP requests answered by a component that exports wasi:http/incoming-handler."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from edge.errors import EdgeError, GuestError
from edge.invocation.meter import Meter
from edge.invocation.run import Run, start
from edge.invocation.sandbox import Sandbox, Sandboxes
from edge.wasi.http.errors import HttpError
from edge.wasi.http.incoming import IncomingRequest, ResponseOutparam
from edge.wasi.http.message import Reply, Request


class HttpInvoker:
    """A Handler that runs one component. `export`: the number of its `handle` function; `meter`:
    counts what it runs, by default the component's.
    """

    __slots__ = ("_export", "_meter", "sandboxes")

    def __init__(self, sandboxes: Sandboxes, export: int, meter: Meter | None = None) -> None:
        self.sandboxes = sandboxes
        self._export = export
        self._meter = meter or sandboxes.meter

    def __call__(self, request: Request, reply: Reply) -> Coroutine[Any, Any, None] | None:
        """Runs the guest's first time slice at once when there is room. Raises Overloaded when
        there is no queue.
        """
        if self.sandboxes.gate.enter():
            run = self._begin(request, reply)
            return None if run is None else self._rest(run, reply)
        return self._queued(request, reply)

    async def _queued(self, request: Request, reply: Reply) -> None:
        waited = await self.sandboxes.gate.wait()
        run = self._begin(request, reply, waited)
        if run is not None:
            await self._rest(run, reply)

    def _begin(self, request: Request, reply: Reply, waited: float = 0.0) -> Run | None:
        """The guest's first time slice, once the gate has admitted it. None: it has ended."""
        exchange = _Exchange(self, request, reply)
        try:
            run: Run | None = start(
                self.sandboxes,
                self._export,
                exchange.arguments,
                exchange.ended,
                self._meter,
                waited,
            )
        except EdgeError:
            return None  # `ended` has answered
        return run

    async def _rest(self, run: Run, reply: Reply) -> None:
        try:
            await run.finish(lambda: reply.written if reply.started else None)
        except EdgeError:
            return  # `ended` has answered

    def _over(
        self, id: str, error: BaseException | None, outparam: ResponseOutparam, reply: Reply
    ) -> BaseException | None:
        """The guest has ended; what it held is still there. Returns what is counted as wrong."""
        if error is not None or not reply.finished or reply.error is not None:
            return self._failed(id, error or self._shortcoming(outparam, reply), reply)
        return GuestError(f"answered {outparam.status}") if outparam.status >= 500 else None

    def _shortcoming(self, outparam: ResponseOutparam, reply: Reply) -> BaseException:
        """What is wrong with the answer of a guest that returned."""
        if reply.error is not None:
            return reply.error
        if outparam.answered:
            return GuestError("returned before the end of its response")
        return GuestError("returned without a response")

    def _failed(self, id: str, error: BaseException, reply: Reply) -> BaseException:
        profile = self.sandboxes.profile
        if isinstance(error, HttpError):
            # The client has been told; the operator has not.
            error = GuestError(f"answered with an error: {error}")
        if isinstance(error, GuestError):
            error.component, error.invocation = profile.component, id
        if isinstance(error, EdgeError):
            self.sandboxes.report(error)
            reply.abort(error)
        else:
            reply.abort(ConnectionAbortedError("the invocation was cancelled"))
        return error


class _Exchange:
    """One request and its reply: what a guest gets of it, and who is asked when it has ended."""

    __slots__ = ("_invoker", "_outparam", "_reply", "_request")

    def __init__(self, invoker: HttpInvoker, request: Request, reply: Reply) -> None:
        self._invoker = invoker
        self._request = request
        self._reply = reply
        self._outparam = ResponseOutparam(reply, request.method)

    def arguments(self, sandbox: Sandbox) -> tuple[IncomingRequest, ResponseOutparam]:
        """What the guest's `handle` is called with."""
        request, outbound = self._request, sandbox.outbound
        if outbound is not None:
            outbound.depth = request.depth
            outbound.authority = request.authority
            if request.span is not None:
                outbound.trace = request.span.carrier
        return IncomingRequest(request), self._outparam

    def ended(self, id: str, error: BaseException | None) -> BaseException | None:
        """The guest has ended; what it held is still there. Returns what is counted as wrong."""
        fault = self._invoker._over(id, error, self._outparam, self._reply)
        if self._request.span is not None:
            self._request.span.end(id, self._outparam.status, fault)
        return fault
