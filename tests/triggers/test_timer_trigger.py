"""The timer trigger: on a clock in the test's hand, then on the machine's own."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import math
import os
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from conftest import Serve

from edge.application.cron import parse
from edge.application.timers import CronTrigger
from edge.invocation.event import DONE, Event, Outcome, Status
from edge.triggers.cron import Schedule, TimerService
from edge.triggers.cron.alarm import Alarm

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC).timestamp()
FAILED, BUSY = Outcome(Status.FAILED, "trap"), Outcome(Status.BUSY, "full")


class Hand:
    """A clock that goes when it is told to."""

    def __init__(self, date: float = NOON) -> None:
        self.date, self.passed = date, 1000.0
        self.alarm: tuple[float, Callable[[], None]] | None = None
        self.calls: list[tuple[float, Callable[[], None], asyncio.TimerHandle]] = []

    def now(self) -> float:
        return self.date

    def elapsed(self) -> float:
        return self.passed

    def set(self, when: float | None, ring: Callable[[], None]) -> None:
        self.alarm = None if when is None else (when, ring)

    def call_at(self, when: float, ring: Callable[[], None]) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, ring, (), asyncio.get_running_loop())
        self.calls.append((when, ring, handle))
        return handle

    def close(self) -> None:
        self.alarm = None

    @property
    def next(self) -> float:
        """The date or the time of the other clock when something is due."""
        waiting = [when for when, _, handle in self.calls if not handle.cancelled()]
        return min([*waiting, *([self.alarm[0]] if self.alarm else [])], default=math.inf)

    def go(self, seconds: float) -> None:
        """Time passes, and each alarm rings when it is due."""
        end = self.passed + seconds
        while True:
            dues = [when for when, _, handle in self.calls if not handle.cancelled()]
            if self.alarm:
                dues.append(self.passed + max(0.0, self.alarm[0] - self.date))
            due = min(dues, default=math.inf)
            if due > end:
                break
            self._to(max(due, self.passed))
        self._to(end)

    def stall(self, seconds: float) -> None:
        """Time passes, but nobody looks before its end."""
        self.date, self.passed = self.date + seconds, self.passed + seconds
        self.go(0)

    def put(self, date: float) -> None:
        """Somebody sets the clock, and the kernel tells."""
        self.date = date
        if self.alarm:
            self.alarm[1]()

    def _to(self, passed: float) -> None:
        self.date, self.passed = self.date + passed - self.passed, passed
        calls, self.calls = self.calls, []
        for when, ring, handle in calls:
            if when <= passed and not handle.cancelled():
                ring()
            elif not handle.cancelled():
                self.calls.append((when, ring, handle))
        if self.alarm and self.alarm[0] <= self.date:
            self.alarm[1]()


class Guest:
    """A component: notes what it is given and ends when it is told to."""

    def __init__(self, outcome: Outcome | None = DONE) -> None:
        self.outcome = outcome
        self.events: list[Event] = []
        self.pending: list[asyncio.Future[Outcome]] = []
        self.came = asyncio.Event()

    def __call__(self, event: Event) -> Outcome | Coroutine[Any, Any, Outcome]:
        self.events.append(event)
        self.came.set()
        return self.outcome if self.outcome is not None else self._end()

    async def _end(self) -> Outcome:
        future = asyncio.get_running_loop().create_future()
        self.pending.append(future)
        return await future

    async def finish(self, outcome: Outcome = DONE) -> None:
        await settle()
        self.pending.pop(0).set_result(outcome)
        await settle()

    @property
    def ticks(self) -> list[str]:
        return [event.id.rpartition("T")[2] for event in self.events]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def schedule(handle: Guest, expression: str = "0 * * * * *", **options: Any) -> Schedule:
    zone = ZoneInfo(options.pop("zone", "UTC"))
    trigger = CronTrigger("tick", "guest", parse(expression), zone, **options)
    return Schedule(trigger, "test", handle)


# --- ticks ----------------------------------------------------------------------------------------


async def test_a_tick_is_an_event_with_a_stable_id() -> None:
    guest, clock = Guest(), Hand()
    async with TimerService(clock=clock) as service:
        await service.update([schedule(guest)])
        clock.go(61)
    (event,) = guest.events
    assert event == Event(
        kind="cron",
        id="test/tick/2026-06-01T12:01:00Z",
        source="/test/tick",
        type="dev.edge.timer.tick",
        subject="tick",
        time=NOON + 60,
    )


async def test_one_alarm_stands_for_the_next_tick_of_all() -> None:
    guest, clock = Guest(), Hand()
    async with TimerService(clock=clock) as service:
        daily = schedule(guest, "@daily")
        await service.update([daily, Schedule(daily.trigger, "other", guest)])
        assert clock.next == NOON + 12 * 3600
        assert not clock.calls, "nothing else wakes the node"
        await service.update([])
        assert clock.next == math.inf


async def test_every_needs_no_date() -> None:
    guest, clock = Guest(), Hand(date=5.0)
    async with TimerService(clock=clock) as service:
        await service.update([schedule(guest, "@every 10s")])
        clock.go(9)
        assert not guest.events
        clock.go(22)
    assert [event.time for event in guest.events] == [None] * 3
    assert len({event.id for event in guest.events}) == 3


async def test_a_stall_ends_in_one_tick_and_the_rhythm_stays() -> None:
    for expression in ("*/10 * * * * *", "@every 10s"):
        guest, clock = Guest(), Hand()
        async with TimerService(clock=clock) as service:
            await service.update([schedule(guest, expression)])
            clock.stall(35)
            assert len(guest.events) == 1
            clock.go(4)
            assert len(guest.events) == 1
            clock.go(1)
            assert len(guest.events) == 2


async def test_jitter_puts_a_tick_off() -> None:
    guest, clock = Guest(), Hand()
    async with TimerService(clock=clock) as service:
        await service.update([schedule(guest, jitter=0.05)])
        clock.go(60)
        assert not guest.events
        async with asyncio.timeout(10):
            await guest.came.wait()
        assert guest.ticks == ["12:01:00Z"]


async def test_a_tick_that_is_put_off_ends_with_its_timer() -> None:
    guest, clock = Guest(), Hand()
    async with TimerService(clock=clock) as service:
        await service.update([schedule(guest, jitter=3600.0)])
        clock.go(60)
        await service.update([])
        await service.drain(10)
    assert not guest.events


# --- clocks ---------------------------------------------------------------------------------------


async def test_calendar_timers_wait_until_the_clock_is_set() -> None:
    guest, clock = Guest(), Hand(date=30.0)
    async with TimerService(clock=clock) as service:
        await service.update([schedule(guest)])
        clock.go(3600)
        assert not guest.events
        clock.put(NOON + 30)
        assert not guest.events, "what the clock skipped has not been missed"
        clock.go(30)
        assert guest.ticks == ["12:01:00Z"]


async def test_a_clock_put_forward_skips_its_ticks() -> None:
    guest, clock = Guest(), Hand()
    async with TimerService(clock=clock) as service:
        await service.update([schedule(guest)])
        clock.put(NOON + 3600 + 30)
        assert not guest.events
        clock.go(30)
        assert guest.ticks == ["13:01:00Z"]


async def test_a_clock_put_forward_may_be_made_up_for_by_one_tick() -> None:
    guest, clock = Guest(), Hand()
    async with TimerService(clock=clock) as service:
        await service.update([schedule(guest, missed="once")])
        clock.put(NOON + 3600 + 30)
        assert guest.ticks == ["13:00:00Z"]
        assert guest.events[0].attributes == (("missed", "true"),)
        clock.go(30)
        assert guest.ticks == ["13:00:00Z", "13:01:00Z"]
        assert guest.events[1].attributes == ()


async def test_a_clock_put_forward_a_little_makes_a_tick_late() -> None:
    guest, clock = Guest(), Hand()
    async with TimerService(clock=clock) as service:
        await service.update([schedule(guest)])
        clock.put(NOON + 70)
        assert guest.ticks == ["12:01:00Z"]


async def test_a_clock_put_back_repeats_no_tick() -> None:
    guest, clock = Guest(), Hand()
    async with TimerService(clock=clock) as service:
        await service.update([schedule(guest)])
        clock.go(150)
        clock.put(NOON + 30)
        clock.go(150)
    assert guest.ticks == ["12:01:00Z", "12:02:00Z", "12:03:00Z"]


async def test_a_clock_that_was_far_ahead_is_right_now() -> None:
    guest, clock = Guest(), Hand(NOON + 5 * 365 * 86400)
    async with TimerService(clock=clock) as service:
        await service.update([schedule(guest)])
        clock.go(61)
        clock.put(NOON)
        clock.go(61)
    assert guest.ticks[1:] == ["12:01:00Z"]
    assert guest.events[1].id.startswith("test/tick/2026-")


async def test_every_does_not_care_for_the_date() -> None:
    guest, clock = Guest(), Hand()
    async with TimerService(clock=clock) as service:
        await service.update([schedule(guest, "@every 60s"), Schedule(
            schedule(guest, "@yearly").trigger, "other", guest)])  # fmt: skip
        clock.go(30)
        clock.put(NOON + 7200)
        clock.go(29)
        clock.put(NOON - 7200)
        assert not guest.events
        clock.go(1)
        assert len(guest.events) == 1


async def test_zones_follow_their_own_clock() -> None:
    guest, clock = Guest(), Hand(datetime(2026, 10, 25, 0, 0, 1, tzinfo=UTC).timestamp())
    async with TimerService(clock=clock) as service:
        await service.update([schedule(guest, "0 30 2 * * *", zone="Europe/Berlin")])
        clock.go(86400)
    assert guest.ticks == ["00:30:00Z"]


# --- overlap --------------------------------------------------------------------------------------


async def test_skip_leaves_out_what_would_overlap(caplog: pytest.LogCaptureFixture) -> None:
    guest, clock = Guest(None), Hand()
    async with TimerService(clock=clock) as service:
        await service.update([schedule(guest)])
        clock.go(200)
        assert guest.ticks == ["12:01:00Z"]
        await guest.finish()
        clock.go(60)
        assert guest.ticks == ["12:01:00Z", "12:04:00Z"]
        await guest.finish()
    assert [r.getMessage() for r in caplog.records if "left out" in r.message] == [
        "timer tick: left out the tick test/tick/2026-06-01T12:02:00Z: the one before has not ended"
    ]


async def test_queue_lets_one_tick_wait() -> None:
    guest, clock = Guest(None), Hand()
    async with TimerService(clock=clock) as service:
        await service.update([schedule(guest, overlap="queue")])
        clock.go(200)
        assert guest.ticks == ["12:01:00Z"]
        await guest.finish()
        assert guest.ticks == ["12:01:00Z", "12:02:00Z"]
        await guest.finish()
        assert len(guest.ticks) == 2


async def test_allow_runs_them_beside_each_other_within_the_limit() -> None:
    guest, clock = Guest(None), Hand()
    async with TimerService(clock=clock) as service:
        await service.update([schedule(guest, overlap="allow", concurrency=3)])
        clock.go(301)
        assert len(guest.events) == 3
        for _ in range(3):
            await guest.finish()


async def test_a_failure_is_not_retried() -> None:
    guest, clock = Guest(FAILED), Hand()
    async with TimerService(clock=clock) as service:
        await service.update([schedule(guest)])
        clock.go(61)
        await settle()
        assert len(guest.events) == 1
        clock.go(60)
        assert len(guest.events) == 2


async def test_a_node_without_room_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    guest, clock = Guest(BUSY), Hand()
    async with TimerService(clock=clock) as service:
        await service.update([schedule(guest)])
        clock.go(61)
        guest.came.clear()
        guest.outcome = DONE
        async with asyncio.timeout(30):
            await guest.came.wait()
        await settle()
        assert [event.id for event in guest.events] == [guest.events[0].id] * 2
    assert not caplog.records


# --- swapping and ending --------------------------------------------------------------------------


async def test_a_swap_keeps_the_rhythm_and_what_is_under_way() -> None:
    old, new, clock = Guest(None), Guest(), Hand()
    async with TimerService(clock=clock) as service:
        await service.update([schedule(old, "@every 60s", overlap="allow", concurrency=2)])
        clock.go(90)
        await service.update([schedule(new, "@every 60s", overlap="allow", concurrency=2)])
        clock.go(30)
        assert (len(old.events), len(new.events)) == (1, 1)
        await old.finish()


async def test_another_schedule_starts_anew() -> None:
    old, new, clock = Guest(), Guest(), Hand()
    async with TimerService(clock=clock) as service:
        await service.update([schedule(old, "@every 60s")])
        clock.go(50)
        await service.update([schedule(new, "@every 30s")])
        clock.go(29)
        assert not old.events + new.events
        clock.go(1)
        assert (len(old.events), len(new.events)) == (0, 1)


async def test_draining_starts_nothing_and_waits_for_what_runs() -> None:
    guest, clock = Guest(None), Hand()
    async with TimerService(clock=clock) as service:
        await service.update([schedule(guest, overlap="queue")])
        clock.go(130)
        async with asyncio.TaskGroup() as group:
            drained = group.create_task(service.drain(60))
            await settle()
            assert not drained.done()
            clock.go(600)
            await guest.finish()
        assert len(guest.events) == 1


async def test_the_end_cancels_what_still_runs() -> None:
    guest, clock = Guest(None), Hand()
    async with TimerService(clock=clock) as service:
        await service.update([schedule(guest)])
        clock.go(61)
        await service.drain(0)
    assert guest.pending[0].cancelled()


# --- memory ---------------------------------------------------------------------------------------


async def test_ticks_missed_while_the_node_was_off_are_made_up_for_by_one(tmp_path: Path) -> None:
    state = tmp_path / "timers.json"
    for hours, expected in ((0, []), (5, ["17:00:00Z"]), (0.01, [])):
        guest, clock = Guest(), Hand(NOON + hours * 3600)
        if hours == 0.01:
            clock.date = NOON + 5.01 * 3600
        async with TimerService(state, clock=clock) as service:
            await service.update([schedule(guest, "0 0 * * * *", missed="once")])
        assert guest.ticks == expected
    assert json.loads(state.read_text()) == {"test": {"tick": NOON + 5 * 3600}}


async def test_what_was_missed_before_the_clock_was_set_is_made_up_for(tmp_path: Path) -> None:
    state = tmp_path / "timers.json"
    state.write_text(json.dumps({"test": {"tick": NOON}}))
    guest, clock = Guest(), Hand(date=0.0)
    async with TimerService(state, clock=clock) as service:
        await service.update([schedule(guest, "0 0 * * * *", missed="once")])
        clock.go(60)
        assert not guest.events
        clock.put(NOON + 7201)
        assert guest.ticks == ["14:00:00Z"]


async def test_a_timer_that_is_gone_is_forgotten_and_others_are_not(tmp_path: Path) -> None:
    state = tmp_path / "timers.json"
    state.write_text(json.dumps({"test": {"gone": NOON}, "elsewhere": {"tick": NOON}}))
    async with TimerService(state, clock=Hand()) as service:
        await service.update([schedule(Guest(), missed="once")])
    assert json.loads(state.read_text()) == {"elsewhere": {"tick": NOON}, "test": {"tick": NOON}}


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a": {"b": "c"}}', "\xff"])
async def test_a_damaged_file_is_forgotten(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = tmp_path / "timers.json"
    state.write_bytes(text.encode("latin-1"))
    async with TimerService(state, clock=Hand()) as service:
        await service.update([])
    assert "is forgotten" in caplog.text


async def test_a_full_disk_stops_no_timer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    guest, clock = Guest(), Hand()
    async with TimerService(tmp_path / "timers.json", full, clock) as service:
        await service.update([schedule(guest, missed="once")])
        clock.go(120)
    assert len(guest.events) == 2
    assert "No space left" in caplog.text


# --- the machine's own clock ----------------------------------------------------------------------


async def test_timers_run_on_the_clock_of_the_machine(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    by_date, elapsed = Guest(), Guest()
    async with TimerService() as service:
        other = schedule(elapsed, "@every 200ms")
        await service.update(
            [schedule(by_date, "* * * * * *"), Schedule(other.trigger, "b", elapsed)]
        )
        async with asyncio.timeout(30):
            while len(by_date.events) < 3 or len(elapsed.events) < 3:
                for guest in (by_date, elapsed):
                    guest.came.clear()
                    if len(guest.events) < 3:
                        await guest.came.wait()
    dates = [event.time for event in by_date.events]
    assert dates == sorted(set(dates))
    assert all(date == int(date) for date in dates if date is not None)


async def test_the_kernel_tells_when_the_clock_is_set() -> None:
    alarm, rung = Alarm(asyncio.get_running_loop()), asyncio.Event()
    try:
        alarm.set(math.inf, rung.set)
        try:
            # to what it shows: off by the microsecond between the two calls
            time.clock_settime(time.CLOCK_REALTIME, time.clock_gettime(time.CLOCK_REALTIME))
        except PermissionError:
            pytest.skip("needs the right to set the clock")
        async with asyncio.timeout(10):
            await rung.wait()
    finally:
        alarm.close()


async def test_an_alarm_in_the_past_rings_at_once_and_none_never() -> None:
    alarm, rung = Alarm(asyncio.get_running_loop()), asyncio.Event()
    try:
        alarm.set(alarm.now() - 5, rung.set)
        async with asyncio.timeout(10):
            await rung.wait()
        rung.clear()
        alarm.set(math.inf, rung.set)
        alarm.set(alarm.now(), rung.set)
        alarm.set(None, rung.set)
        await asyncio.sleep(0.05)
        assert not rung.is_set()
    finally:
        alarm.close()


MANIFEST = """
spin_manifest_version = 2
application.name = "test"

[[trigger.cron]]
component = "guest"
cron_expression = "@daily"

[component.guest]
source = "{wasm}"
"""


def test_a_node_that_waits_for_a_tick_is_not_woken(
    guest: Callable[[str], Path], serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "spin.toml").write_text(MANIFEST.format(wasm=guest("cloudevent")))
    with serve(tmp_path) as served:
        tasks = Path(f"/proc/{served.process.pid}/task")

        def switches() -> list[str]:
            return sorted(
                f"{task.name} {line}"
                for task in tasks.iterdir()
                for line in (task / "status").read_text().splitlines()
                if line.startswith("voluntary")
            )

        # what starting it left to do may take a moment
        for _ in range(20):
            before = switches()
            time.sleep(1.5)
            if switches() == before:
                return
        pytest.fail("something wakes it every second or more often")
