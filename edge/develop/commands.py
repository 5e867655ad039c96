"""Runs programs of other people's for a developer: their output is kept until somebody needs it."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

__all__ = ["Done", "run"]

# Of its output, what is shown: the end says what went wrong.
SHOWN = 32 * 1024
# Seconds that a program which is to end gets for it.
PATIENCE = 2.0


@dataclass(frozen=True, slots=True)
class Done:
    """How a program ended, the end of what it wrote on stdout and stderr, and how long it took."""

    code: int
    output: str
    seconds: float

    def last(self, start: str) -> str:
        """Its last line that begins with `start`, without that; empty when there is none."""
        found = [line for line in self.output.splitlines() if line.startswith(start)]
        return found[-1].removeprefix(start).strip() if found else ""


async def run(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    environ: Mapping[str, str] | None = None,
    every: float = 1.0,
    waiting: Callable[[float], None] = lambda _seconds: None,
    shown: bool = False,
) -> Done:
    """Runs it to its end; each `every` seconds until then calls `waiting` with how long it takes.

    Cancelled, it ends the program with all that it started. `shown`: its output goes to stderr as
    it comes, and is not kept.
    """
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with tempfile.TemporaryFile() as output:
        async with _running(command, cwd, environ, None if shown else output) as process:
            done = loop.create_task(process.wait(), name="command")
            try:
                while not (await asyncio.wait((done,), timeout=every))[0]:
                    waiting(loop.time() - begun)
            finally:
                done.cancel()
        return Done(_code(process), _end(output), loop.time() - begun)


@asynccontextmanager
async def _running(
    command: Sequence[str | Path],
    cwd: Path | None,
    environ: Mapping[str, str] | None,
    output: IO[bytes] | None,
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await _started(
        asyncio.create_subprocess_exec(
            *command,
            cwd=cwd,
            env={**os.environ, **(environ or {})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=2 if output is None else output,
            stderr=2 if output is None else output,
            start_new_session=True,  # a shell's children end with it
        )
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            await _end_all(process)


async def _started(
    starting: Coroutine[None, None, asyncio.subprocess.Process],
) -> asyncio.subprocess.Process:
    """Its process. Cancelled while it starts, asyncio kills the program, and not its children."""
    task = asyncio.get_running_loop().create_task(starting, name="command")
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        if not task.cancelled() and not task.exception():
            await _end_all(task.result())
        raise


async def _end_all(process: asyncio.subprocess.Process) -> None:
    ended = asyncio.get_running_loop().create_task(process.wait(), name="command")
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        # Not asyncio.timeout: before Python 3.11.3 it fails in a task that is being cancelled.
        await asyncio.wait((ended,), timeout=PATIENCE)
    ended.cancel()


def _code(process: asyncio.subprocess.Process) -> int:
    assert process.returncode is not None
    # As a shell says it.
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def _end(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - SHOWN))
    text = file.read().decode(errors="replace")
    return text if size <= SHOWN else f"[…]\n{text.partition(chr(10))[2]}"
