"""Reads the journal of this machine, by journalctl: its files have no other stable interface."""

from __future__ import annotations

import asyncio
import json
import shutil
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from edge.errors import EdgeError
from edge.platform.entries import Entry, Wanted, of_journal

__all__ = ["arguments", "journal", "own_unit", "there_is_a_journal"]

# Bytes of one entry as JSON. Ours are at most some ten KiB; what is longer is no line of ours.
_LONGEST = 4 << 20
# Seconds for journalctl to end once nobody reads it.
_END = 5.0

# What it says where this user sees less than all, or nothing.
_FORBIDDEN = ("not seeing messages from other users", "insufficient permissions")

_BOOTED = Path("/run/systemd/system")
_CGROUP = Path("/proc/self/cgroup")


def there_is_a_journal() -> bool:
    """Whether systemd runs this machine, and its journal can be asked."""
    return _BOOTED.is_dir() and shutil.which("journalctl") is not None


def own_unit(cgroup: Path = _CGROUP) -> str | None:
    """The system's service that this process belongs to."""
    try:
        lines = cgroup.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        name = path.rpartition("/")[2]
        if controllers in ("", "name=systemd") and name.endswith(".service"):
            # What belongs to a user is in that user's journal.
            return None if "/user@" in path else name
    return None


def arguments(unit: str, wanted: Wanted, *, lines: int | None, follow: bool) -> Iterable[str]:
    """What journalctl is called with. `lines`: at most the last so many; None: all."""
    yield from ("--no-pager", "--output=json", "--all", f"--unit={unit}")
    yield f"--lines={'all' if lines is None else lines}"
    if wanted.since is not None:
        yield f"--since=@{max(0.0, wanted.since):.6f}"
    if follow:
        yield "--follow"
    fields = {
        "EDGE_APP": wanted.application,
        "EDGE_COMPONENT": wanted.component,
        "EDGE_INVOCATION": wanted.invocation,
    }
    yield from (f"{name}={value}" for name, value in fields.items() if value is not None)


async def journal(
    unit: str, wanted: Wanted, *, lines: int | None, follow: bool
) -> AsyncGenerator[Entry, None]:
    """What a unit has written, and what was written about it. Raises EdgeError."""
    async with _journalctl(*arguments(unit, wanted, lines=lines, follow=follow)) as process:
        assert process.stdout is not None
        async for line in process.stdout:
            try:
                yield of_journal(json.loads(line))
            except (ValueError, KeyError, TypeError):
                continue  # "-- cursor: …", or what no journal writes
        assert process.stderr is not None
        said = (await process.stderr.read()).decode(errors="replace").strip()
        code = await process.wait()
    if any(text in said for text in _FORBIDDEN):
        raise EdgeError(
            "the journal may not be read by this user",
            hint="as root, or: sudo usermod -aG systemd-journal $USER, and log in again",
        )
    if code:
        raise EdgeError(f"journalctl: {said.splitlines()[-1] if said else f'exit code {code}'}")


@asynccontextmanager
async def _journalctl(*arguments: str) -> AsyncIterator[Process]:
    try:
        process = await asyncio.create_subprocess_exec(
            "journalctl", *arguments, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, limit=_LONGEST
        )
    except OSError as exc:
        raise EdgeError(
            f"journalctl: {(exc.strerror or str(exc)).lower()}",
            hint="the node has the last lines as well: edge logs --socket /run/edge/edge.sock",
        ) from exc
    try:
        yield process
    finally:
        await _end(process)


async def _end(process: Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(_END):
            # What it still writes is read, or it would wait for that.
            await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
