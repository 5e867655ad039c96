"""The SQLite files that a node has open, and how they are opened.

Knows neither tables nor guests.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from edge.spin.sqlite_thread import Handle, Job, Kind, Worker

__all__ = ["Busy", "Pool", "explain", "file_name", "open_file"]

# Bytes that the operations waiting for one file may hold together; a larger one waits alone.
_WAITING_MAX = 32 << 20

# Seconds that threads get to end with the node; one that hangs on its disk ends with the process.
_CLOSE = 10.0

# Seconds in which another process that opens or closes the same file is done with it.
_OPEN_SECONDS = 5.0

_NAME_MAX = 120

# Seconds after which the same trouble with a file is worth another line in the log.
_REPEAT = 60.0

# A write-ahead log of about 1 MiB: each checkpoint writes a page once that was changed many times,
# and fewer checkpoints wear an SD card less; a longer log takes longer to read after a power cut.
# Debian's SQLite lets triggers recurse and overwrites what is deleted, at the price of more writes.
_SETTINGS = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA wal_autocheckpoint = 256;
PRAGMA journal_size_limit = 1048576;
PRAGMA temp_store = MEMORY;
PRAGMA cache_size = -1024;
PRAGMA foreign_keys = ON;
PRAGMA trusted_schema = OFF;
PRAGMA recursive_triggers = OFF;
PRAGMA secure_delete = FAST;
"""

# For statements of all files together; beyond: they fail. Sorting and temporary tables are memory.
_HEAP = 96 << 20

_log = logging.getLogger("edge.stores")


class Busy(Exception):
    """There is no room to wait; nothing was done."""


class Pool:
    """At most `limit` open files, each closed when nobody used it for `idle` seconds."""

    def __init__(self, limit: int, idle: float, queue: int) -> None:
        self._limit = limit
        self._patience = idle
        self._queue = queue
        self._workers: dict[str, Worker] = {}  # the least recently used first
        self._ending: set[Worker] = set()
        self._reported: dict[str, tuple[str, float]] = {}  # path -> what, when
        self._removed: set[Path] = set()  # folders that nobody may make again
        self._closed = False

    def worker(self, path: str, open: Callable[[], Handle]) -> Worker:
        """Who has the file open. `path`: what for, a space, the path. Raises Busy when too many
        are in use, or when its folder was removed.
        """
        worker = self._workers.pop(path, None)
        if worker is None:
            if self._removed and _file(path).parent in self._removed:
                raise Busy("the application's data was removed")
            self._make_room()
            worker = Worker(f"sqlite {Path(path).name}", open, self._unused, self._patience)
        self._workers[path] = worker
        return worker

    async def run(
        self,
        worker: Worker,
        work: Callable[[Any], Any],
        kind: Kind,
        timeout: float,
        *,
        session: object = None,
        size: int = 0,
    ) -> Any:
        """The outcome of a job. Raises Busy, TimeoutError and what `work` raises."""
        waiting = worker.pending
        if waiting >= self._queue or (waiting and worker.bytes + size > _WAITING_MAX):
            raise Busy("too many operations wait for it")
        outcome = asyncio.get_running_loop().create_future()
        deadline = time.monotonic() + timeout
        try:
            worker.submit(Job(work, kind, deadline, outcome, session, size))
        except RuntimeError as exc:
            raise Busy("the system has no thread for it") from exc
        return await outcome

    def failed(self, path: Path, error: BaseException) -> str:
        """What the guest is told. The operator is told where, not at each call."""
        text, now = explain(error), time.monotonic()
        if isinstance(error, (sqlite3.Error, OSError)) and not isinstance(error, TimeoutError):
            known, when = self._reported.get(str(path), ("", 0.0))
            if text != known or now - when > _REPEAT:
                self._reported[str(path)] = text, now
                _log.warning("%s: %s", path, text)
        return text

    async def close(self) -> None:
        """Ends every thread; what still runs is interrupted."""
        self._closed = True
        ending = {*self._ending, *self._workers.values()}
        self._workers.clear()
        for worker in ending:
            worker.abort()
        if ending:
            await asyncio.wait([worker.ended for worker in ending], timeout=_CLOSE)

    def admit(self, folder: Path) -> None:
        """Files may be in it, again."""
        self._removed.discard(folder)

    async def forget(self, folder: Path) -> None:
        """Closes the files in it, whatever uses them; what still runs does not make them again."""
        self._removed.add(folder)
        ending = set()
        for use in [use for use in self._workers if _file(use).is_relative_to(folder)]:
            worker = self._workers[use]
            self._end(use)
            worker.abort()
            ending.add(worker.ended)
        if ending:
            await asyncio.wait(ending, timeout=_CLOSE)

    def _make_room(self) -> None:
        if self._closed:
            raise Busy("the node is stopping")
        while len(self._workers) >= self._limit:
            unused = next((path for path, w in self._workers.items() if w.unused), None)
            if unused is None:
                raise Busy(f"all of the {self._limit} stores that may be open are in use")
            self._end(unused)

    def _unused(self, worker: Worker) -> None:
        for path, known in self._workers.items():
            if known is worker and worker.unused:
                self._end(path)
                return

    def _end(self, path: str) -> None:
        worker = self._workers.pop(path)
        self._ending.add(worker)
        worker.ended.add_done_callback(lambda _: self._ending.discard(worker))
        worker.stop()


def open_file(path: Path, max_bytes: int, *, cached_statements: int = 64) -> sqlite3.Connection:
    """Opens or makes it; its directory too. Blocks. Raises OSError and sqlite3.Error.

    A file that is no database stays as it is: every use of it is an error.
    """
    _make_directory(path.parent)
    connection = sqlite3.connect(
        path, timeout=5, isolation_level=None, check_same_thread=False,
        cached_statements=cached_statements,
    )  # fmt: skip
    try:
        for statement in filter(None, map(str.strip, _SETTINGS.split(";"))):
            _settle(connection, statement)
        connection.execute(f"PRAGMA hard_heap_limit = {_HEAP}").fetchall()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        connection.execute(f"PRAGMA max_page_count = {max(16, max_bytes // size)}").fetchall()
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def _settle(connection: sqlite3.Connection, statement: str) -> None:
    """SQLite does not wait for whoever opens or closes the file at the same moment."""
    deadline = time.monotonic() + _OPEN_SECONDS
    while True:
        try:
            connection.execute(statement).fetchall()
            return
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def explain(error: BaseException) -> str:
    """What a guest is told of it: no path."""
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return f"the file is damaged: {error}"
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno).lower()
    if isinstance(error, MemoryError):
        return "out of memory: the statement needs more than one may use"
    return str(error)


def file_name(name: str) -> str:
    """A name for a file from any name: nothing that a path could mean, different for different
    names."""
    safe = quote(name, safe="").replace("~", "%7E")  # which marks what was too long
    if safe.startswith("."):
        safe = f"%2E{safe[1:]}"
    if len(safe) > _NAME_MAX:
        digest = hashlib.sha256(name.encode()).hexdigest()[:32]
        safe = f"{safe[: _NAME_MAX - 33]}~{digest}"
    return safe or "%"


def _make_directory(path: Path) -> None:
    """Also on the disk: what is acknowledged in a new file must be found after a power cut."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for directory in reversed(missing):
        directory.mkdir(mode=0o750, exist_ok=True)
        descriptor = os.open(directory.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _file(use: str) -> Path:
    return Path(use.partition(" ")[2])
