# cython: annotation_typing=False, binding=False
"""One client's requests, one after the other, each handed to the handler.

Parsing is the parser's, framing of replies the reply's, the socket the line's, how much is read
ahead the intake's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from edge.errors import EdgeError, Overloaded
from edge.triggers.http.awaited import AwaitedBody
from edge.triggers.http.deadlines import NEVER
from edge.triggers.http.failure import Refused
from edge.triggers.http.intake import Intake
from edge.triggers.http.parser import BODY, DONE, HEAD
from edge.triggers.http.reply import Reply, answer_options
from edge.wasi.http.message import Request
from edge.wasi.pipe import CAPACITY, Pipe

if TYPE_CHECKING:
    from edge.triggers.http.server import HttpServer

log = logging.getLogger(__name__)

# Seconds. A client that waits for the answer's head before it sends its body loses this much.
_GATHER = 0.005
# Seconds that the first request of a connection may take to come when the server ends.
_FIRST = 1.0


class Connection(Intake):
    """What a client sends, and the Wire of its replies."""

    def __init__(self, server: HttpServer) -> None:
        super().__init__(server)
        self.date = server.date
        self._dispatching = False  # the handler is on the stack
        self._keep = True  # the connection, after the current reply
        self._task: asyncio.Task[None] | None = None
        self._fresh = True  # has not asked for anything yet
        self._forget()

    def _forget(self) -> None:
        """What belongs to one request."""
        self._reply: Reply | None = None  # from the end of the head on
        self._begun = False  # something of the head is there
        self._queued = False  # its turn comes with that of all others that are complete
        self._expecting = self._skipping = False
        self._allowance = None
        self._gathering: asyncio.TimerHandle | None = None
        self._gathered = False  # enough of waiting for the body

    # From asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._scheme == "https":
            self._server.arrived(self)
        crowd = len(self._deadlines)
        if crowd >= 2 * self._settings.max_connections:
            self.cut()
            return
        self._deadlines.add(self)
        self._wait(self._settings.idle_timeout)
        if crowd >= self._settings.max_connections:
            self._refuse(Overloaded("too many connections"))
        elif self._server.draining:
            self.drain()

    def buffer_updated(self, nbytes: int) -> None:
        if self._closing:
            self._ignore(nbytes)
            return
        if nbytes <= self._parser.sure():
            self._read_body(self._server.body_buffer[:nbytes])
            return
        data = self._buffer[:nbytes].tobytes()
        if self._at < len(self._input):
            data = self._input[self._at :] + data
        self._input, self._at = data, 0
        self._read()

    def eof_received(self) -> bool:
        self._at_eof = True
        unanswered = self._parser.phase is DONE or self._at < len(self._input)
        if self._closing or self._scheme == "https" or not unanswered:
            self._closing = True
            self.flush()
            self._bound_output()
            self._direct = -1
            return False
        self._wait(self._settings.half_closed_timeout)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._direct = -1
        if self._gathering is not None:
            self._gathering.cancel()
        self._deadlines.discard(self)
        error = ConnectionResetError("the client is gone")
        if self._parser.body is not None:
            self._parser.body.abort(error)
        if self._reply is not None and not self._reply.finished:
            self._reply.lost(error)
            if self._task is not None:
                self._server.cancel(self._task)
        self._reply = self._task = None
        self._parser.close()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reply is not None:
            self._reply.wake()

    # A request

    def _read(self) -> None:
        """Parse what was received, up to the end of one request."""
        parser, data, at = self._parser, self._input, self._at
        try:
            while at < len(data) and parser.phase is not DONE:
                at = parser.feed(data, at)
                if parser.phase is BODY and parser.body is None:
                    self._begin_body()
        except Refused as refusal:
            self._refuse(refusal)
            return
        # An idle connection keeps nothing of its last request.
        self._input, self._at = (b"", 0) if at == len(data) else (data, at)
        self._parsed()

    def _read_body(self, data: memoryview) -> None:
        try:
            self._parser.feed_body(data)
        except Refused as refusal:
            self._refuse(refusal)
        else:
            self._parsed()

    def _parsed(self) -> None:
        phase = self._parser.phase
        if self._at_eof and phase is not DONE:
            self._close()  # the rest will never come
            return
        if self._reply is None and phase is not HEAD and not self._gather():
            self._queue()
        else:
            self._settle()

    def _queue(self) -> None:
        if not self._queued:
            self._queued = self._begun = True
            self.input_by = NEVER
            self._server.queue(self)

    def serve(self) -> None:
        """The turn of the request that was queued. Others of its turn are served around it."""
        self._queued = False
        if self._reply is None and not self._closing:
            self._dispatch()
            self._settle()

    def _gather(self) -> bool:
        """Whether to wait a moment for a small body that is on its way.

        Its guest then runs without a pause, and a client that sends slowly holds no sandbox yet.
        """
        if self._parser.phase is not BODY or self._gathered or self._expecting:
            return False
        if self._parser.expected > CAPACITY:
            return False
        if self._gathering is None:
            self._gathering = self._loop.call_later(_GATHER, self._hurry)
        return True

    def _hurry(self) -> None:
        self._gathered = True
        if self._reply is None and not self._closing:
            self._dispatch()
            self._settle()

    def _begin_body(self) -> None:
        if self._parser.expects:
            self._expecting = True
            self._parser.body = AwaitedBody(self._flow, self._invite)
        else:
            self._parser.body = Pipe(CAPACITY, self._flow)

    def _invite(self, body: Pipe) -> None:
        """The body is wanted. Unless some of it came unasked, or the final status is out."""
        if self._closing or body is not self._parser.body or self._parser.received:
            return
        self._expecting = False
        if self._reply is None or not self._reply.sent:
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._flow()

    def _dispatch(self) -> None:
        self._outbox.hasten()
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        parser = self._parser
        self._keep = parser.keep_alive
        reply = self._reply = Reply(self, parser.method, old=parser.old)
        request = Request(
            parser.method,
            self._scheme,
            parser.authority or self._local,
            parser.target,
            parser.headers,
            self._server.no_body if parser.body is None else parser.body,
            self._client,
        )
        handler = self._server.handler if parser.target != "*" else answer_options
        self._dispatching = True
        try:
            work = handler(request, reply)
            if work is not None:
                self._run(work, reply)
            elif not reply.finished:
                self._failed(reply, RuntimeError("the handler returned without a reply"))
        except Exception as error:
            self._failed(reply, error)
        finally:
            self._dispatching = False

    def _run(self, work: Coroutine[Any, Any, None], reply: Reply) -> None:
        task = self._server.spawn(work)
        task.add_done_callback(partial(self._ran, reply))
        if not reply.finished:
            self._task = task
            if reply.started:
                self._loop.call_soon(reply.turn_over)

    def _ran(self, reply: Reply, task: asyncio.Task[None]) -> None:
        error = Overloaded("cancelled") if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._failed(reply, error)
        elif not reply.finished:
            self._failed(reply, RuntimeError("the handler ended without a reply"))

    def _failed(self, reply: Reply, error: Exception) -> None:
        # A handler may fail with what it was told: that its client is gone.
        if error is not reply.error and not isinstance(error, EdgeError):
            log.error("http: the handler failed: %s", error, exc_info=error)
        reply.abort(error)

    def _refuse(self, error: Refused | Overloaded) -> None:
        """What came cannot be served, and what follows it cannot be told apart from it."""
        self._keep = False
        if self._parser.body is not None:
            self._parser.body.abort(error)
        if self._task is not None:
            self._server.cancel(self._task)
        if self._reply is None:
            self._reply = Reply(self, self._parser.method, old=self._parser.old)
        self._reply.abort(error)
        self._part()

    # What comes next

    def _settle(self) -> None:
        """More was received, or the reply is complete."""
        if self._closing:
            return
        if self._reply is None:
            if not self._begun:
                self._begun = True
                self._wait(self._settings.head_timeout)
                self._read_on(wanted=True)
        elif self._reply.finished:
            self._answered()
        else:
            self._flow()

    def _answered(self) -> None:
        self._task = None
        if not self._keep:
            self._part()
        elif self._parser.phase is DONE:
            self._next()
        else:
            self._skip_body()

    def _next(self) -> None:
        if self._parser.body is not None:
            # A guest that goes on after its reply may still read it.
            self._parser.body.on_writable = None
        self._parser.reset()
        self._forget()
        self._fresh = False
        if self._at < len(self._input):
            # Pipelined: other connections have their turn first.
            self.input_by = NEVER
            self._loop.call_soon(self._continue)
        elif self._at_eof or self._server.draining:
            self._close()
        else:
            self._wait(self._settings.idle_timeout)
            if not self._reading:
                self._read_on(wanted=True)

    def _continue(self) -> None:
        if not self._closing:
            self._read()

    def _skip_body(self) -> None:
        """The reply left before all of the request came. A bounded rest of it may still come."""
        if not self._skipping:
            self._skipping = True
            if self._parser.body is not None:
                self._parser.body.close()
            self._wait(self._settings.drain_timeout)
        if self._in_vain():
            self._read_on(wanted=True)
        else:
            self._part()

    def _part(self) -> None:
        """Close after the reply; a client that is silent by agreement needs no farewell."""
        if self._closing:
            return
        if self._parser.phase is DONE and not self._parser.keep_alive:
            self._close()
        else:
            self._linger()

    def drain(self) -> None:
        """Close when no request is under way; else after its reply. Who has connected just now is
        about to ask.
        """
        if self._reply is None and not self._begun and not self._closing:
            if self._fresh:
                self._wait(_FIRST)
            else:
                self._close()

    # Patience

    def _silent(self) -> None:
        if self._skipping:
            self._part()
        elif self._at_eof:
            self.cut()
        elif not self._reading:
            self._look_for_client()
        elif self._reply is not None:
            self._refuse(Refused(408, "request body: timeout"))
        elif self._begun:
            self._refuse(Refused(408, "request head: timeout"))
        else:
            self._close()

    # For the reply

    def soon(self, reply: Reply) -> None:
        if not self._dispatching:
            self._loop.call_soon(reply.turn_over)

    def persists(self) -> bool:
        unwanted = self._expecting and not self._parser.received
        if unwanted or self._server.draining:
            self._keep = False
        return self._keep

    def end_by_closing(self) -> None:
        self._keep = False

    def replied(self) -> None:
        if not self._dispatching:
            self._settle()
