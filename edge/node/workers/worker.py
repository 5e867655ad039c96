"""One worker, as the first process sees it: started, asked, watched, started anew when it ends."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import pickle
import signal
import socket
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from edge.errors import EdgeError
from edge.node.workers import wire

__all__ = ["Worker"]

# Seconds from its start until it serves: a small board takes ten to load the code.
_START = 120.0
# Seconds between two looks at it, and for its answer; both may pass while this process is held up,
# so it gets the second half anew.
_EVERY, _ANSWER = 5.0, 10.0
# Seconds before it is started anew: doubled each time up to the last, from the first again after
# one that served for so long.
_PAUSE, _LONGEST_PAUSE, _SERVED = 0.1, 30.0, 60.0
# Seconds for a process to end by itself after it was told to, and after it has hung up.
_END, _LAST = 10.0, 1.0
# Bytes of what it says at once: the figures of 100,000 components.
_MOST = 64 << 20

_log = logging.getLogger("edge.node")


class Worker:
    """The worker `number`, from 2 on. `opening` gives what it begins with, `told` gets what it says
    unasked, `looked` its figures; `ended` is called when it is gone.
    """

    def __init__(
        self,
        number: int,
        opening: Callable[[], wire.Opening],
        told: Callable[[dict[str, Any]], None],
        looked: Callable[[dict[str, Any]], None],
        ended: Callable[[], None],
    ) -> None:
        self.number = number
        self.serving = False
        self.starts = 0
        self._opening, self._told, self._looked, self._ended = opening, told, looked, ended
        self._writer: asyncio.StreamWriter | None = None
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._process: Process | None = None
        self._tried = asyncio.Event()
        self._draining: bool = False
        self._running: asyncio.Task[None] | None = None

    @property
    def open(self) -> bool:
        """It knows what it began with, and hears what changes."""
        return self._writer is not None

    async def start(self) -> None:
        """Keeps one running from now on. Returns when it serves, or could not be started."""
        self._running = asyncio.get_running_loop().create_task(
            self._run(), name=f"worker {self.number}"
        )
        await self._tried.wait()

    async def close(self) -> None:
        """Ends it, with all that is under way."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait((self._running,))

    async def drain(self, seconds: float) -> None:
        """It takes no more requests, finishes those under way and ends."""
        self._draining = True
        if self._running is None or self._writer is None:
            await self.close()
            return
        with suppress(EdgeError):
            await self.answer(self.ask("drain", seconds), seconds + _END)
        if self._writer is not None:
            self._writer.close()
        await asyncio.wait((self._running,))

    async def _run(self) -> None:
        pause = _PAUSE
        while True:
            began = time.monotonic()
            reason = await self._run_once()
            if self._draining:
                return
            if time.monotonic() - began > _SERVED:
                pause = _PAUSE
            _log.error("worker %d: %s; it is started anew in %.1f s", self.number, reason, pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    # Asking

    def ask(self, verb: str, *arguments: Any) -> asyncio.Future[Any]:
        """The answer, some time; an EdgeError, which need not be looked at."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        if self._writer is None:
            answer.set_exception(EdgeError(f"worker {self.number}: is not there"))
            return answer
        number = next(self._numbers)
        self._asked[number] = answer
        wire.send(self._writer, pickle.dumps(wire.Ask(number, verb, arguments)))
        return answer

    async def answer(self, answer: asyncio.Future[Any], seconds: float) -> Any:
        """Waits for it; who does not answer in time is ended. Raises EdgeError."""
        for _ in range(2):
            await asyncio.wait((answer,), timeout=seconds / 2)
        if not answer.done():
            answer.cancel()
            error = EdgeError(f"worker {self.number}: has not answered for {seconds:.0f} s")
            self.kill(error.message)
            raise error
        return answer.result()

    def kill(self, reason: str) -> None:
        """It is started anew, unless it has ended already."""
        if self._writer is not None and self._process is not None:
            _log.error("%s: it is killed", reason)
            self._process.kill()

    # One process

    async def _run_once(self) -> str:
        """From its start to its end: why it ended."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = process = await _spawn(theirs, self._opening().sockets)
        except BaseException as exc:
            ours.close()
            if not isinstance(exc, OSError):
                raise
            self._tried.set()
            return f"cannot be started: {exc.strerror or exc}"
        try:
            reader, writer = await asyncio.open_unix_connection(sock=ours)
            await self._heard(reader, writer)
        finally:
            await self._gone(process)
        return _reason(process)

    async def _heard(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until it hangs up."""
        working = asyncio.get_running_loop().create_task(
            self._work(writer), name=f"worker {self.number} at work"
        )
        try:
            await self._listen(reader)
        finally:
            working.cancel()
            await asyncio.wait((working,))
            self._writer, self.serving = None, False
            writer.close()

    async def _work(self, writer: asyncio.StreamWriter) -> None:
        """Until it is cancelled, because the worker has ended."""
        # Nothing is awaited between the two: what changes from here on it is told.
        wire.send(writer, pickle.dumps(self._opening()))
        self._writer = writer
        self.starts += 1
        try:
            await self.answer(self.ask("listen"), _START)
            self.serving = True
            _log.info("worker %d serves, process %d", self.number, self._pid)
            self._tried.set()
            while True:
                await asyncio.sleep(_EVERY)
                self._looked(await self.answer(self.ask("look"), _ANSWER))
        except Exception as error:  # an EdgeError, or figures that are none: guests run there
            self.kill(str(error))

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while True:
            try:
                if (message := await wire.receive(reader, _MOST)) is None:
                    return
                self._take(json.loads(message))
            except Exception:  # whatever it says: guests run there
                _log.exception("worker %d: what it says cannot be understood", self.number)
                self.kill(f"worker {self.number}: is not to be trusted")
                return

    def _take(self, told: dict[str, Any]) -> None:
        if "answer" not in told:
            self._told(told)
            return
        answer = self._asked.pop(told["answer"])
        if answer.done():  # nobody waits any more
            return
        if "error" in told:
            answer.set_exception(wire.error_of(told["error"], f"worker {self.number}"))
        else:
            answer.set_result(told["value"])

    async def _gone(self, process: Process) -> None:
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(EdgeError(f"worker {self.number}: has ended"))
        self._asked.clear()
        self._ended()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_END if self._draining else _LAST):
                    await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            self._tried.set()

    @property
    def _pid(self) -> int:
        return self._process.pid if self._process is not None else 0


async def _spawn(control: socket.socket, sockets: Sequence[tuple[int, bool]]) -> Process:
    """A fresh interpreter: a fork would share a loop and threads that do not survive it."""
    # A session of its own: Ctrl-C in a terminal is for the first process, which drains it.
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "edge.node.workers.process", str(control.fileno())),
        stdin=asyncio.subprocess.DEVNULL,
        pass_fds=[control.fileno(), *(fd for fd, _ in sockets)],
        start_new_session=True,
    )


def _reason(process: Process) -> str:
    code = process.returncode or 0
    if code < 0:
        return f"process {process.pid} was ended by {signal.Signals(-code).name}"
    return f"process {process.pid} has ended with {code}"
