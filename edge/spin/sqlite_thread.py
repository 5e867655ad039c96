"""One SQLite file and the thread that alone touches it.

Jobs come from the loop's thread and their outcomes go back there, a batch at a time. All the
writes that wait are one transaction: one fsync for all of them, before any of them is answered.
Reads that came with them are answered first, from what is committed.

Knows no table and no statement of a guest.
"""

from __future__ import annotations

import asyncio
import math
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from queue import Empty, SimpleQueue
from typing import Any, Protocol

__all__ = ["Handle", "Job", "Kind", "Worker"]

_BLOCKED = "another transaction kept the database for too long"
_LATE = "others kept the database for too long"

# What may follow from a file that was moved, a disk that failed: the next batch opens it anew.
_REOPEN = {
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOTADB,
}


class Kind(Enum):
    """How a job may share a transaction."""

    READ = auto()  # needs none
    WRITE = auto()  # with others, or alone
    OWN = auto()  # begins, ends or is part of a transaction of its session
    END = auto()  # rolls back what its session has open; there is nothing else to do


class Handle(Protocol):
    """An open file, on its thread."""

    connection: sqlite3.Connection

    def began(self) -> None:
        """A transaction of several jobs has begun."""

    def undone(self) -> None:
        """Something was rolled back."""

    def running(self, job: Job | None) -> None:
        """The job that runs from now on."""


@dataclass(slots=True, eq=False)
class Job:
    """Something to do with the file. `deadline`: of its beginning and its end, monotonic seconds.

    `session` owns the transaction that a job of kind OWN leaves open.
    """

    work: Callable[[Any], Any] | None  # gets the handle; None: nothing, or not wanted any more
    kind: Kind
    deadline: float
    outcome: asyncio.Future[Any]
    session: object = None
    size: int = 0  # bytes it holds while it waits
    alarm: asyncio.TimerHandle | None = None  # at its deadline

    @property
    def abandoned(self) -> bool:
        return self.outcome.cancelled()

    @property
    def late(self) -> bool:
        return time.monotonic() > self.deadline


_Done = list[tuple[Job, Any, BaseException | None]]


class Worker:
    """A file in use. `submit`, `stop` and `abort` are called on the loop; all else is the thread's.

    The thread starts with the first job. It calls `idle` (on the loop) when there was none for
    `patience` seconds, and ends after `stop`. `open` makes the handle; what it raises is the
    outcome of the jobs that wait, and the next job has it tried again.
    """

    def __init__(
        self,
        name: str,
        open: Callable[[], Handle],
        idle: Callable[[Worker], None] = lambda _: None,
        patience: float | None = None,
    ) -> None:
        self._name = name
        self._open = open
        self._idle = idle
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._jobs: deque[Job] = deque()
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._awake = False
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._handle: Handle | None = None
        self._running: Job | None = None
        self._lock = threading.Lock()  # of _running: an interruption meets its job or none
        self._suspect = False  # the file is to be opened anew
        self._blocked: list[Job] = []  # until the owner's transaction ends
        self.pending = 0  # jobs without an outcome
        self.bytes = 0  # that they hold
        self.owner: object = None  # the session whose transaction is open
        self._aborted = False
        self.ended = self._loop.create_future()

    # --- on the loop ----------------------------------------------------------------------------

    @property
    def unused(self) -> bool:
        return self.pending == 0 and self.owner is None

    def submit(self, job: Job) -> None:
        """Its future tells the outcome; cancelling that takes it out. RuntimeError: no thread."""
        if self._thread is None:
            thread = threading.Thread(target=self._main, name=self._name, daemon=True)
            self._awake = True
            thread.start()
            self._thread = thread
        self.pending += 1
        self.bytes += job.size
        job.outcome.add_done_callback(lambda _: self._finished(job))
        if job.deadline < math.inf:
            job.alarm = self._loop.call_at(job.deadline, self._interrupt, job)
        self._jobs.append(job)
        self._signal()

    def stop(self) -> None:
        """Ends the thread after the jobs that wait; `ended` tells when."""
        self._stopping = True
        if self._thread is not None:
            self._signal()
        else:
            self._has_ended()

    def abort(self) -> None:
        """As `stop`, and what runs ends where it can."""
        self._aborted = True
        handle = self._handle
        if handle is not None and self.pending:
            try:
                handle.connection.interrupt()
            except sqlite3.ProgrammingError:  # closed meanwhile
                pass
        self.stop()

    def _signal(self) -> None:
        if not self._awake:
            self._awake = True
            self._wake.put(None)

    def _interrupt(self, job: Job) -> None:
        """Ends what it runs. SQLite looks for this after every step, however long one takes."""
        with self._lock:
            if self._running is job and self._handle is not None:
                self._handle.connection.interrupt()

    def _finished(self, job: Job) -> None:
        if job.alarm is not None:
            job.alarm.cancel()
        self.pending -= 1
        self.bytes -= job.size
        job.work = None
        if job.abandoned:
            self._interrupt(job)
            try:
                self._jobs.remove(job)
            except ValueError:  # the thread has it already
                pass
        else:
            job.outcome.exception()  # asked for: who waited may have been cancelled just now

    def _has_ended(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    @staticmethod
    def _deliver(done: _Done) -> None:
        for job, value, error in done:
            if job.outcome.done():
                continue
            if error is None:
                job.outcome.set_result(value)
            else:
                job.outcome.set_exception(error)

    # --- on the thread --------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            while self._wait():
                batch = list(self._taken())
                try:
                    self._serve(batch)
                except Exception as exc:  # no job is ever left without an outcome
                    self._answer([(job, None, exc) for job in batch])
                    self._suspect = True
                if self._suspect:
                    self._close()
        finally:
            self._close()
            self._answer([(job, None, TimeoutError(_LATE)) for job in self._taken()])
            self._tell(self._has_ended)

    def _wait(self) -> bool:
        """Returns when there may be something to do; False: nothing is wanted any more."""
        while not self._jobs:
            self._awake = False
            if self._jobs or (self._blocked and self.owner is None):
                break
            if self._stopping:
                return False
            try:
                self._wake.get(timeout=self._timeout())
            except Empty:
                if self._blocked:
                    break
                self._tell(lambda: self._idle(self))
        self._awake = True
        return True

    def _timeout(self) -> float | None:
        if not self._blocked:
            return self._patience
        return max(0.0, min(job.deadline for job in self._blocked) - time.monotonic()) + 0.001

    def _taken(self) -> Iterator[Job]:
        blocked, self._blocked = self._blocked, []
        yield from blocked
        while self._jobs:
            try:
                yield self._jobs.popleft()
            except IndexError:  # its last job was cancelled meanwhile
                return

    def _serve(self, batch: list[Job]) -> None:
        jobs = self._wanted(batch)
        if jobs and self._handle is None:
            try:
                self._handle = self._open()
            except Exception as exc:
                self._answer([(job, None, exc) for job in jobs])
                return
        for job in (job for job in jobs if job.kind is Kind.END):
            if job.session is self.owner:
                self.owner = None
                self._rollback()
            self._answer([(job, None, None)])
        if self.owner is None:
            self._answer([self._run(job) for job in jobs if job.kind is Kind.READ])
            if writes := [job for job in jobs if job.kind is Kind.WRITE]:
                self._answer(self._together(writes))
            jobs = [job for job in jobs if job.kind is Kind.OWN]  # those that may begin one
        for job in (job for job in jobs if job.kind is not Kind.END):
            begins = self.owner is None and job.kind is Kind.OWN
            if begins or (self.owner is not None and job.session is self.owner):
                self._own(job)
            else:
                self._blocked.append(job)

    def _wanted(self, batch: list[Job]) -> list[Job]:
        now = time.monotonic()
        why = _LATE if self.owner is None else _BLOCKED
        self._answer([(job, None, TimeoutError(why)) for job in batch if job.deadline <= now])
        return [job for job in batch if not job.abandoned and job.deadline > now]

    def _run(self, job: Job) -> tuple[Job, Any, BaseException | None]:
        assert self._handle is not None
        work = job.work
        if work is None or job.abandoned:
            return job, None, None
        if self._aborted:
            return job, None, TimeoutError(_LATE)
        self._now_running(job)
        try:
            return job, work(self._handle), None
        except Exception as exc:
            return job, None, exc
        finally:
            self._now_running(None)

    def _now_running(self, job: Job | None) -> None:
        assert self._handle is not None
        self._handle.running(job)
        with self._lock:
            self._running = job

    def _together(self, jobs: list[Job]) -> _Done:
        """Runs them in one transaction. One that fails leaves nothing and harms no other."""
        if len(jobs) == 1:
            return [self._alone(jobs[0])]
        assert self._handle is not None
        execute = self._handle.connection.execute
        done: _Done = []
        try:
            execute("BEGIN IMMEDIATE")
            self._handle.began()
            for index, job in enumerate(jobs):
                execute("SAVEPOINT job")
                outcome = self._run(job)
                done.append(outcome)
                if outcome[2] is not None:
                    self._handle.undone()
                    if not self._handle.connection.in_transaction:
                        # It took the work of the others with it, which nobody was told of yet.
                        return self._redo(done, jobs[index + 1 :])
                    execute("ROLLBACK TO job")
                execute("RELEASE job")
            execute("COMMIT")
        except sqlite3.IntegrityError:  # a constraint checked at the commit: whose, each tells
            self._rollback()
            return self._redo(done, [])
        except sqlite3.Error as exc:
            self._rollback()
            return [(job, None, exc) for job in jobs]
        return done

    def _redo(self, done: _Done, rest: Iterable[Job]) -> _Done:
        again = [job for job, _, error in done if error is None]
        failed = [outcome for outcome in done if outcome[2] is not None]
        return failed + [self._alone(job) for job in (*again, *rest)]

    def _alone(self, job: Job) -> tuple[Job, Any, BaseException | None]:
        assert self._handle is not None
        execute = self._handle.connection.execute
        try:
            execute("BEGIN IMMEDIATE")
            self._handle.began()
            outcome = self._run(job)
            if outcome[2] is None:
                execute("COMMIT")
            else:
                self._rollback()
        except sqlite3.Error as exc:
            self._rollback()
            return job, None, exc
        return outcome

    def _own(self, job: Job) -> None:
        assert self._handle is not None
        outcome = self._run(job)
        self.owner = job.session if self._handle.connection.in_transaction else None
        if outcome[2] is not None:
            self._handle.undone()
        self._answer([outcome])

    def _rollback(self) -> None:
        if self._handle is not None:
            self._handle.undone()
            if self._handle.connection.in_transaction:
                self._handle.connection.execute("ROLLBACK")

    def _answer(self, done: _Done) -> None:
        if done:
            self._tell(lambda: self._deliver(done))
        if any(_suspicious(error) for *_, error in done):
            self._suspect = True

    def _tell(self, call: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:  # the loop has ended: nobody waits any more
            pass

    def _close(self) -> None:
        handle, self._handle = self._handle, None
        self.owner = None
        self._suspect = False
        if handle is not None:
            try:
                if self._aborted:
                    # An interruption that found nothing to interrupt would end the checkpoint.
                    handle.connection.execute("SELECT 1").fetchall()
                handle.connection.close()
            except sqlite3.Error:  # what was acknowledged is in the file
                pass


def _suspicious(error: BaseException | None) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _REOPEN
