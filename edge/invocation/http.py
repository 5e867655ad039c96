"""HTTP requests answered by a component that exports wasi:http/incoming-handler."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from edge.errors import EdgeError, GuestError
from edge.invocation.report import report
from edge.invocation.run import Run, start
from edge.invocation.sandbox import Sandbox, Sandboxes
from edge.wasi.http.incoming import IncomingRequest, ResponseOutparam
from edge.wasi.http.message import Reply, Request


class HttpInvoker:
    """A Handler that runs one component. `export`: the number of its `handle` function."""

    __slots__ = ("_export", "sandboxes")

    def __init__(self, sandboxes: Sandboxes, export: int) -> None:
        self.sandboxes = sandboxes
        self._export = export

    def __call__(self, request: Request, reply: Reply) -> Coroutine[Any, Any, None] | None:
        """Runs the guest's first time slice at once when there is room. Raises Overloaded when
        there is no queue.
        """
        if self.sandboxes.gate.enter():
            return self._begin(request, reply)
        return self._queued(request, reply)

    async def _queued(self, request: Request, reply: Reply) -> None:
        await self.sandboxes.gate.wait()
        rest = self._begin(request, reply)
        if rest is not None:
            await rest

    def _begin(self, request: Request, reply: Reply) -> Coroutine[Any, Any, None] | None:
        outparam = ResponseOutparam(reply, request.method)

        def arguments(sandbox: Sandbox) -> tuple[IncomingRequest, ResponseOutparam]:
            if (outbound := sandbox.outbound) is not None:
                outbound.depth = request.depth
                outbound.authority = request.authority
            return IncomingRequest(request), outparam

        try:
            run = start(self.sandboxes, self._export, arguments)
        except EdgeError as exc:
            self._failed(exc, reply)
            return None
        if run is not None:
            return self._rest(run, outparam, reply)
        if not outparam.answered:
            self._unanswered(reply)
        return None

    async def _rest(self, run: Run, outparam: ResponseOutparam, reply: Reply) -> None:
        try:
            await run.finish(lambda: reply.written if reply.started else None)
        except EdgeError as exc:
            self._failed(exc, reply)
        except BaseException:
            reply.abort(ConnectionAbortedError("the invocation was cancelled"))
            raise
        else:
            if not outparam.answered:
                self._unanswered(reply, run.id)

    def _unanswered(self, reply: Reply, id: str = "") -> None:
        name = self.sandboxes.profile.component
        self._failed(
            GuestError("returned without a response", component=name, invocation=id), reply
        )

    def _failed(self, exc: EdgeError, reply: Reply) -> None:
        report(self.sandboxes.profile, exc)
        reply.abort(exc)
