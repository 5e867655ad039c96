"""HTTP requests answered by a command: Wagi, CGI for Wasm. Request on stdin, response on stdout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge.application import wagi
from edge.application.routes import Match
from edge.errors import EdgeError, GuestError
from edge.invocation.meter import Meter
from edge.invocation.run import Ended, Run, start
from edge.invocation.sandbox import Sandbox, Sandboxes
from edge.wasi.cli import Exit
from edge.wasi.http.message import Reply, Request


class WagiInvoker:
    """Runs a component's command for each request. `export`: the number of its start function;
    `meter`: counts what it runs, by default the component's.
    """

    __slots__ = ("_argv", "_base_path", "_export", "_meter", "sandboxes")

    def __init__(
        self,
        sandboxes: Sandboxes,
        export: int,
        argv: str,
        base_path: str = "/",
        meter: Meter | None = None,
    ) -> None:
        self.sandboxes = sandboxes
        self._meter = meter
        self._export = export
        self._argv = argv
        self._base_path = base_path

    async def respond(self, request: Request, reply: Reply, match: Match[Any]) -> None:
        output, span = _Output(reply), request.span
        environ = self._environment(request, match)
        path, _, query = request.target.partition("?")
        gate = self.sandboxes.gate
        waited = 0.0 if gate.enter() else await gate.wait()

        def arguments(sandbox: Sandbox) -> tuple[()]:
            sandbox.expire()  # a command runs once
            sandbox.environ = (*self.sandboxes.profile.environ, *environ.items())
            sandbox.arguments = wagi.arguments(self._argv, path, query)
            sandbox.stdin = request.body
            sandbox.stdout = output
            if span is not None and sandbox.outbound is not None:
                sandbox.outbound.trace = span.carrier
            return ()

        def ended(id: str, error: BaseException | None) -> BaseException | None:
            fault = _fault(error, output)
            if span is not None:
                span.end(id, output.status, fault)
            return fault

        try:
            await self._run(arguments, ended, reply, waited)
            output.end()
        except EdgeError as exc:
            if isinstance(exc, GuestError):
                exc.component = self.sandboxes.profile.component
            self.sandboxes.report(exc)
            reply.abort(exc)
        except BaseException:
            reply.abort(ConnectionAbortedError("the invocation was cancelled"))
            raise

    async def _run(self, arguments: Any, ended: Ended, reply: Reply, waited: float) -> None:
        """Runs the command; exit(0) is success."""
        try:
            run = start(self.sandboxes, self._export, arguments, ended, self._meter, waited)
            if isinstance(run, Run):
                await run.finish(lambda: reply.written if reply.started else None)
        except GuestError as exc:
            if not _exited_well(exc):
                raise

    def _environment(self, request: Request, match: Match[Any]) -> Mapping[str, str]:
        length = dict(request.headers).get(b"content-length")
        return wagi.environment(
            match,
            method=request.method,
            scheme=request.scheme,
            authority=request.authority,
            target=request.target,
            headers=request.headers,
            client=request.client,
            content_length=_length(length, request),
            base_path=self._base_path,
        )


def _fault(error: BaseException | None, output: _Output) -> BaseException | None:
    """What is counted as wrong with a command that has ended."""
    if error is not None and not _exited_well(error):
        return error
    try:
        output.end()
    except GuestError as exc:
        return exc
    return GuestError(f"answered {output.status}") if output.status >= 500 else None


def _exited_well(error: BaseException) -> bool:
    return isinstance(error.__cause__, Exit) and error.__cause__.status == 0


def _length(declared: bytes | None, request: Request) -> int | None:
    if declared is not None and declared.isdigit():  # a guest that calls another may write anything
        return int(declared)
    return 0 if request.body.exhausted else None


class _Output:
    """The command's stdout: the response's head, then its body, straight into the reply."""

    __slots__ = ("_head", "_reply", "status")

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self.status = 0
        self._head: wagi.HeadReader | None = wagi.HeadReader()

    @property
    def error(self) -> Exception | None:
        return self._reply.error

    def writable(self) -> int:
        return 4096 if self._head is not None else self._reply.writable()

    def write(self, data: bytes) -> None:
        if self._head is None:
            self._reply.write(data)
        elif head := self._head.feed(data):
            self._start(head)

    async def wait_writable(self) -> None:
        if self._head is None:
            await self._reply.wait_writable()

    def finish(self) -> None:
        """A guest that closes its stdout may go on: the response ends with the command."""

    def abort(self, error: Exception) -> None:
        self.finish()

    def end(self) -> None:
        if self._head is not None:
            self._start(self._head.end())
        self._reply.finish()

    def _start(self, head: wagi.Head) -> None:
        self._head, self.status = None, head.status
        self._reply.start(head.status, head.headers)
        self._reply.write(head.rest)
