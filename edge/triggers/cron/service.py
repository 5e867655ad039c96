"""Timers: runs components by the calendar (`Cron`) or at a fixed distance (`Every`).

One alarm stands for the next tick of all, on each of the two clocks; between ticks nothing runs.

The clock on the wall is not trusted. Before it is set, calendar timers wait; `@every` runs from the
start. Put forward, or after a suspend: a tick that is up to a minute late still runs, of older ones
none, or with `missed = "once"` a single one; a stall never ends in a burst. Put back by up to an
hour: no tick runs twice; by more: the new time holds, its ticks run again.

A tick that fails is reported by whoever ran it and not retried: the next one comes. While the node
has no room it is offered again for a minute.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import secrets
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from edge.application.cron import Cron, Every
from edge.application.timers import CronTrigger
from edge.invocation.event import Event, EventHandler, Outcome, Status
from edge.triggers.cron.alarm import Alarm, Clock
from edge.triggers.cron.memory import Memory, Name

__all__ = ["Schedule", "TimerService"]

# Later than this a tick is a missed one.
LATE = 60.0
# A clock that goes back further was wrong before, and is right now.
REPEATED = 3600.0
# Clocks drift apart by less than this between two looks at them, unless one of them was set.
DRIFT = 1.0
# How long a tick is offered to a node without room.
OFFERED = 60.0
# A clock that shows less is not set: this code is younger.
BUILT = datetime(2026, 1, 1, tzinfo=UTC).timestamp()

_log = logging.getLogger("edge.triggers.cron")


@dataclass(frozen=True, slots=True)
class Schedule:
    """A timer of a live application, and what runs its component."""

    trigger: CronTrigger
    application: str
    handle: EventHandler


class _Timer:
    """A schedule under way. `due`: seconds on its clock; None: not known before the clock is set.
    `mark`: the last calendar tick that was run or left out.
    """

    __slots__ = ("count", "delayed", "due", "left_out", "mark", "running", "schedule", "waiting")

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.due: float | None = None
        self.mark: float = -math.inf
        self.count = 0
        self.running = 0
        self.left_out = 0
        self.waiting: Event | None = None
        self.delayed: asyncio.TimerHandle | None = None

    @property
    def name(self) -> Name:
        return self.schedule.application, self.schedule.trigger.id

    def stop(self) -> None:
        self.waiting = None
        if self.delayed is not None:
            self.delayed.cancel()
            self.delayed = None

    def room(self) -> bool:
        trigger = self.schedule.trigger
        return self.running < (trigger.concurrency if trigger.overlap == "allow" else 1)


class TimerService:
    """All timers of a node, as an async context manager.

    `state`: the file that remembers the last ticks of timers with `missed = "once"`, written by
    `write` as a whole or not at all. Without one they are forgotten at the end.
    """

    def __init__(
        self,
        state: Path | None = None,
        write: Callable[[Path, bytes], object] = Path.write_bytes,
        clock: Clock | None = None,
    ) -> None:
        self._memory = Memory(state, write)
        self._clock = clock
        self._timers: dict[Name, _Timer] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._boot = secrets.token_hex(4)
        self._difference = math.nan  # of the clocks, when last looked at
        self._handle: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> TimerService:
        self._loop = asyncio.get_running_loop()
        await self._memory.load()
        if self._clock is None:
            self._clock = Alarm(self._loop)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        assert self._clock is not None
        self._clock.close()
        await self._memory.close()

    async def update(self, schedules: Sequence[Schedule]) -> None:
        """Swaps what runs. A timer whose schedule is the same keeps its rhythm; a tick under way
        keeps the handler it began with.
        """
        before, self._timers = self._timers, {}
        for schedule in schedules:
            timer = _Timer(schedule)
            old = before.get(timer.name)
            if old is not None and _same(old.schedule.trigger, schedule.trigger):
                timer, old.schedule = before.pop(timer.name), schedule
            self._timers[timer.name] = timer
        for gone in before.values():
            gone.stop()
        self._memory.keep(self._timers)
        self._look()

    async def drain(self, timeout: float) -> None:
        """Starts no more ticks and waits for those under way, at most `timeout` seconds."""
        self._stop()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)

    def _stop(self) -> None:
        for timer in self._timers.values():
            timer.stop()
        self._timers = {}
        self._set_alarms()

    # --- when -----------------------------------------------------------------------------------

    def _look(self) -> None:
        """Something may be due, the clock may have been set, timers may be new."""
        assert self._clock is not None
        now, elapsed = self._clock.now(), self._clock.elapsed()
        jumped = not abs(now - elapsed - self._difference) <= DRIFT
        self._difference = now - elapsed
        for timer in tuple(self._timers.values()):
            trigger = timer.schedule.trigger
            if isinstance(trigger.schedule, Every):
                self._look_elapsed(timer, trigger.schedule.seconds, elapsed, now)
            elif now < BUILT:
                timer.due = None
            else:
                self._look_calendar(timer, trigger.schedule, now, jumped=jumped)
        self._set_alarms()

    def _look_elapsed(self, timer: _Timer, period: float, elapsed: float, now: float) -> None:
        if timer.due is None:
            timer.due = elapsed + period
        elif timer.due <= elapsed:
            timer.count += 1
            id = f"{self._boot}-{timer.count}"
            timer.due += period * (1 + (elapsed - timer.due) // period)
            self._tick(timer, _event(timer.schedule, id, now if now >= BUILT else None))

    def _look_calendar(self, timer: _Timer, cron: Cron, now: float, *, jumped: bool) -> None:
        trigger = timer.schedule.trigger
        due = timer.due
        if due is None:
            self._begin(timer, cron, now)
        elif due <= now:
            timer.mark = due
            if now - due <= LATE:
                self._tick(timer, _calendar_event(timer.schedule, due))
            else:
                self._missed(timer, cron, due - 1, now)
        elif not jumped:
            return
        repeated = timer.mark > now and timer.mark - now <= REPEATED
        timer.due = cron.next_after(timer.mark if repeated else now, trigger.zone)

    def _begin(self, timer: _Timer, cron: Cron, now: float) -> None:
        """The first look at a timer with a clock that is set."""
        if timer.schedule.trigger.missed == "skip":
            return
        last = self._memory.get(timer.name)
        if last is None or last > now + REPEATED:
            self._memory.put(timer.name, now)
        else:
            self._missed(timer, cron, last, now)

    def _missed(self, timer: _Timer, cron: Cron, since: float, now: float) -> None:
        trigger = timer.schedule.trigger
        latest = cron.last_until(now, since, trigger.zone)
        if latest is None:
            return
        timer.mark = latest
        if trigger.missed == "once":
            self._tick(timer, _calendar_event(timer.schedule, latest, missed=True))
        else:
            _log.warning("timer %s: missed its tick of %s", trigger.id, _shown(latest))

    def _set_alarms(self) -> None:
        assert self._clock is not None
        calendar: list[float] = []
        elapsed: list[float] = []
        for timer in self._timers.values():
            by_calendar = isinstance(timer.schedule.trigger.schedule, Cron)
            if timer.due is not None:
                (calendar if by_calendar else elapsed).append(timer.due)
        waits = any(isinstance(t.schedule.trigger.schedule, Cron) for t in self._timers.values())
        # Without a due tick the alarm still tells when the clock is set.
        self._clock.set(min(calendar, default=math.inf) if waits else None, self._look)
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._clock.call_at(min(elapsed), self._look) if elapsed else None

    # --- running --------------------------------------------------------------------------------

    def _tick(self, timer: _Timer, event: Event) -> None:
        jitter = timer.schedule.trigger.jitter
        if not jitter:
            self._offer(timer, event)
        elif timer.delayed is None:
            delay = random.uniform(0, jitter)  # noqa: S311 – spreads load, keeps no secret
            timer.delayed = self._loop.call_later(delay, self._delayed, timer, event)
        else:
            self._leave_out(timer, event)

    def _delayed(self, timer: _Timer, event: Event) -> None:
        timer.delayed = None
        self._offer(timer, event)

    def _offer(self, timer: _Timer, event: Event) -> None:
        if timer.room():
            self._run(timer, event)
        elif timer.schedule.trigger.overlap == "queue" and timer.waiting is None:
            timer.waiting = event
        else:
            self._leave_out(timer, event)

    def _leave_out(self, timer: _Timer, event: Event) -> None:
        timer.left_out += 1
        if timer.left_out == 1:  # one line, however long it takes
            why = "the one before has not ended"
            _log.warning("timer %s: left out the tick %s: %s", event.subject, event.id, why)

    def _run(self, timer: _Timer, event: Event) -> None:
        timer.running += 1
        timer.left_out = 0
        schedule = timer.schedule
        outcome = schedule.handle(event)
        if isinstance(outcome, Outcome) and outcome.status is not Status.BUSY:
            self._ended(timer, event, outcome)
        else:
            task = self._loop.create_task(
                self._wait(timer, event, schedule.handle, outcome), name=f"timer-{event.subject}"
            )
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _wait(
        self,
        timer: _Timer,
        event: Event,
        handle: EventHandler,
        result: Outcome | Coroutine[Any, Any, Outcome],
    ) -> None:
        until, pause = self._loop.time() + OFFERED, 0.5
        while True:
            outcome = result if isinstance(result, Outcome) else await result
            if outcome.status is not Status.BUSY or self._loop.time() >= until:
                break
            await asyncio.sleep(pause)
            pause = min(2 * pause, 8.0)
            result = handle(event)
        self._ended(timer, event, outcome)

    def _ended(self, timer: _Timer, event: Event, outcome: Outcome) -> None:
        timer.running -= 1
        if outcome.status is Status.BUSY:
            _log.warning("timer %s: %s did not run: %s", event.subject, event.id, outcome.reason)
        elif outcome.status is not Status.DONE:
            _log.debug("timer %s: %s failed: %s", event.subject, event.id, outcome.reason)
        if timer.schedule.trigger.missed == "once" and event.time is not None:
            self._memory.put(timer.name, event.time)
        if timer.waiting is not None and timer.room():
            event, timer.waiting = timer.waiting, None
            # not from within: a guest that ends at once would recurse for as long as ticks come
            self._loop.call_soon(self._offer, timer, event)


def _same(a: CronTrigger, b: CronTrigger) -> bool:
    return a.schedule == b.schedule and str(a.zone) == str(b.zone)


def _calendar_event(schedule: Schedule, moment: float, *, missed: bool = False) -> Event:
    return _event(schedule, _shown(moment), moment, (("missed", "true"),) if missed else ())


def _event(
    schedule: Schedule,
    tick: str,
    moment: float | None,
    attributes: tuple[tuple[str, str], ...] = (),
) -> Event:
    application, id = schedule.application, schedule.trigger.id
    return Event(
        kind="cron",
        id=f"{application}/{id}/{tick}",
        source=f"/{quote(application, safe='')}/{quote(id, safe='')}",
        type="dev.edge.timer.tick",
        subject=id,
        time=moment,
        attributes=attributes,
    )


def _shown(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
