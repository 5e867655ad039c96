# cython: annotation_typing=False, binding=False
"""What one client sends, and how much of it may wait here.

Knows neither handlers nor replies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edge.triggers.http.deadlines import NEVER
from edge.triggers.http.line import Line
from edge.triggers.http.parser import BODY, RequestParser
from edge.wasi.pipe import CAPACITY, Pipe

if TYPE_CHECKING:
    from edge.triggers.http.server import HttpServer

# Bytes read from a socket at once, but of a body that is read on. What a pipelining client keeps
# here while its first request is served is bounded by it, too.
READ: Final = 2 * CAPACITY

# Bytes of one body that wait for its guest, once that has read a few times as many. Smaller: more
# turns of the loop for each MiB; larger: more memory for each slow guest.
MOST: Final = 8 * CAPACITY


class Intake(Line):
    """A line with a parser, and reading that pauses while what came is not taken."""

    def __init__(self, server: HttpServer) -> None:
        super().__init__(server)
        self._server = server
        self._parser = RequestParser(server.settings)
        self._input = b""  # what was received; parsed up to _at
        self._at = 0
        # Of one request:
        self._expecting: bool  # the client waits for "100 Continue"
        self._skipping: bool  # the reply is complete, the request is not
        self._allowance: int | None  # how much may come of a body that nobody reads

    def get_buffer(self, sizehint: int) -> memoryview:
        body, sure = self._parser.body, self._parser.sure()
        if not sure or body is None or body.ended:
            return self._buffer
        # Less than the most, so that one read does not pause reading.
        return self._server.body_buffer[: min(sure, self._most(body) - max(body.size, READ))]

    def _flow(self) -> None:
        """Read on while there is room for what comes. Called whenever that may have changed."""
        body = self._parser.body
        if self._parser.phase is not BODY or body is None:
            self._overhear()
            return
        if body.ended:
            wanted = self._in_vain()
        elif self._reading:
            wanted = body.size <= self._most(body) - READ
        else:
            wanted = body.size < body.capacity
        if self._skipping:
            pass  # its time is fixed
        elif not wanted:
            self._wait(self._settings.half_closed_timeout)
        elif self._parser.received or not self._expecting:
            self._wait(self._settings.body_timeout)
        else:
            self.input_by = NEVER
        self._read_on(wanted=wanted)

    def _most(self, body: Pipe) -> int:
        """How many bytes of a body may wait for its reader: more, the more it has read."""
        taken: int = self._parser.received - body.size
        return min(MOST, READ + CAPACITY + taken // 2)

    def _overhear(self) -> None:
        """While a request is served reading goes on, to see the client leave."""
        wanted = len(self._input) - self._at < CAPACITY
        if self._at_eof or not wanted:
            self._wait(self._settings.half_closed_timeout)
        else:
            self.input_by = NEVER
        self._read_on(wanted=wanted)

    def _in_vain(self) -> bool:
        """Nobody reads the body. The client may send a little more."""
        if self._allowance is None:
            self._allowance = self._parser.received + self._settings.drain_bytes
        return self._parser.received <= self._allowance
