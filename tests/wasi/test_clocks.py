from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.wasi.clocks import MONOTONIC_CLOCK, WALL_CLOCK
from edge.wasi.context import Context
from edge.wasi.poll import Pollable, poll

U64 = st.integers(0, 2**64 - 1)


def monotonic(name: str, *arguments: int) -> object:
    return MONOTONIC_CLOCK.functions[name].call(Context(), *arguments)


def test_the_monotonic_clock_does_not_go_back() -> None:
    readings = [monotonic("now") for _ in range(100)]
    assert readings == sorted(readings)  # type: ignore[type-var]
    assert monotonic("resolution") == 1


def test_the_wall_clock_is_the_contexts() -> None:
    context = Context(now=lambda: 1_700_000_000_123_456_789)
    assert WALL_CLOCK.functions["now"].call(context) == (1_700_000_000, 123_456_789)
    assert WALL_CLOCK.functions["resolution"].call(context) == (0, 1)


def test_a_clock_before_1970_is_1970() -> None:
    assert WALL_CLOCK.functions["now"].call(Context(now=lambda: -5)) == (0, 0)


def test_what_is_past_is_ready_at_once() -> None:
    for name, value in (("subscribe-instant", 0), ("subscribe-duration", 0)):
        pollable = monotonic(name, value)
        assert isinstance(pollable, Pollable)
        assert poll(None, [pollable]) == [0]


@given(U64)
def test_any_duration_and_any_instant_can_be_subscribed_to(value: int) -> None:
    for name in ("subscribe-instant", "subscribe-duration"):
        pollable = monotonic(name, value)
        assert isinstance(pollable, Pollable)
        assert isinstance(pollable.ready(), bool)


async def test_a_duration_of_centuries_is_a_wait_that_can_be_cancelled() -> None:
    pollable = monotonic("subscribe-duration", 2**64 - 1)
    assert isinstance(pollable, Pollable)
    later = pollable.block()
    assert asyncio.iscoroutine(later)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await later


async def test_a_timer_is_not_early() -> None:
    for nanoseconds in (1, 1000, 1_000_000, 20_000_000):
        started = time.monotonic_ns()
        pollable = monotonic("subscribe-duration", nanoseconds)
        assert isinstance(pollable, Pollable)
        later = pollable.block()
        if later is not None:
            await later
        assert time.monotonic_ns() - started >= nanoseconds
