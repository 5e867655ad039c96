"""A worker, as it sees itself: a process that accepts HTTP requests and runs their guests.

Its only argument is the descriptor of the socket over which the first process asks it. When that
hangs up it is over.
"""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import inspect
import ipaddress
import json
import logging
import pickle
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

from edge import config
from edge.errors import EdgeError
from edge.node.listening import tls_of
from edge.node.node import Node, open_node
from edge.node.tracing import open_tracer
from edge.node.workers import wire
from edge.node.workers.desk import Desk
from edge.node.workers.records import Forward
from edge.platform import threads
from edge.spin.platform import Stores
from edge.triggers.http import HttpServer
from edge.wasi.http.message import Reply, Request

__all__ = ["main"]

# Of prctl(2).
_PR_SET_PDEATHSIG = 1

_log = logging.getLogger("edge.node")


def main() -> None:
    # Where the loop hangs nobody sees that the first process is gone.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    faulthandler.register(signal.SIGQUIT, chain=True)
    asyncio.run(_run(socket.socket(fileno=int(sys.argv[1]))))


async def _run(control: socket.socket) -> None:
    threads.share()
    reader, writer = await asyncio.open_unix_connection(sock=control)
    message = await wire.receive(reader)
    if message is None:
        return
    # Pickled by the process that started this one, as all that it asks.
    opening: wire.Opening = pickle.loads(message)  # noqa: S301
    told = _Told(writer)
    logging.basicConfig(level=opening.level, handlers=[Forward(told.log)])
    try:
        await _work(opening, reader, told)
    except Exception:
        _log.exception("worker: cannot go on")
        await writer.drain()
        sys.exit(1)


async def _work(opening: wire.Opening, reader: asyncio.StreamReader, told: _Told) -> None:
    async with AsyncExitStack() as stack:
        node = await _open(stack, opening.settings)
        servers = await asyncio.to_thread(_servers, opening.settings.http, opening.sockets)
        desk = Desk(node, servers, told.outcome)
        for server in servers:
            stack.push_async_callback(server.drain, 0)
        await desk.open(opening)
        await _serve(reader, desk, told)


async def _open(stack: AsyncExitStack, settings: config.Daemon) -> Node:
    tracer = await stack.enter_async_context(open_tracer(settings.traces, settings.node.name))
    return await stack.enter_async_context(
        open_node(
            settings.node.state_dir / "code",
            settings.limits,
            stores=Stores(settings.node.state_dir, settings.stores),
            blocked=tuple(map(ipaddress.ip_network, settings.blocked)),
            tracer=tracer,
        )
    )


class _Inherited(socket.socket):
    """Listens already, for all processes: asyncio would set the length of its queue anew."""

    def listen(self, backlog: int = 0, /) -> None: ...


def _servers(http: config.Http, sockets: Sequence[tuple[int, bool]]) -> list[HttpServer]:
    """Blocks."""
    found = []
    for wanted in (False, True):
        mine = [_Inherited(fileno=fd) for fd, secure in sockets if secure is wanted]
        if mine:
            tls = tls_of(http) if wanted else None
            found.append(HttpServer(_nobody, http.settings, sockets=mine, tls=tls))
    return found


def _nobody(_request: Request, _reply: Reply) -> None:
    """Never called: what serves is placed before anything is accepted."""
    raise AssertionError


class _Told:
    """What is said unasked."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._outcomes: dict[int, list[bool]] = {}

    def say(self, message: dict[str, Any]) -> None:
        wire.send(self._writer, json.dumps(message).encode())

    def log(self, record: dict[str, Any]) -> None:
        self.say({"log": record})

    def outcome(self, version: int, good: bool) -> None:  # noqa: FBT001
        """Those of one turn of the loop go together."""
        if not self._outcomes:
            asyncio.get_running_loop().call_soon(self._say_outcomes)
        self._outcomes.setdefault(version, []).append(good)

    def _say_outcomes(self) -> None:
        outcomes, self._outcomes = self._outcomes, {}
        for one in outcomes.items():
            self.say({"outcomes": one})


async def _serve(reader: asyncio.StreamReader, desk: Desk, told: _Told) -> None:
    """Until the first process hangs up."""
    tasks: set[asyncio.Task[None]] = set()
    while (message := await wire.receive(reader)) is not None:
        ask: wire.Ask = pickle.loads(message)  # noqa: S301
        found = getattr(desk, ask.verb)(*ask.arguments)
        if inspect.iscoroutine(found):
            task = asyncio.get_running_loop().create_task(
                _answer(ask, found, told), name=f"{ask.verb} {ask.number}"
            )
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        else:
            told.say({"answer": ask.number, "value": found})
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


async def _answer(ask: wire.Ask, work: Any, told: _Told) -> None:
    try:
        told.say({"answer": ask.number, "value": await work})
    except EdgeError as exc:
        told.say({"answer": ask.number, "error": wire.of_error(exc)})
    except Exception as exc:
        _log.exception("worker: %s", ask.verb)
        told.say({"answer": ask.number, "error": wire.of_error(EdgeError(repr(exc)))})


if __name__ == "__main__":
    main()
