from __future__ import annotations

import asyncio
import time

import pytest

from edge.engine.host import Trap
from edge.wasi.io import InputStream, OutputStream
from edge.wasi.pipe import Pipe
from edge.wasi.poll import POLL_MAX, WAITS_MAX, Pollable, always, poll


def soon(seconds: float) -> Pollable:
    return Pollable.at(time.monotonic_ns() + int(seconds * 1e9))


async def indices(pollables: list[Pollable]) -> list[int]:
    outcome = poll(None, pollables)
    return await outcome if asyncio.iscoroutine(outcome) else outcome  # type: ignore[return-value]


def test_polling_nothing_is_a_trap() -> None:
    with pytest.raises(Trap):
        poll(None, [])


def test_polling_too_much_is_a_trap() -> None:
    with pytest.raises(Trap):
        poll(None, [always()] * (POLL_MAX + 1))


def test_what_is_ready_is_told_at_once_each_time_it_is_named() -> None:
    never = soon(1000)
    assert poll(None, [never, always(), never, always()]) == [1, 3]
    twice = always()
    assert poll(None, [twice, never, twice]) == [0, 2]


async def test_the_first_stream_that_is_ready_wins() -> None:
    first, second = Pipe(), Pipe()
    pollables = [InputStream(pipe).subscribe() for pipe in (first, second)]
    asyncio.get_running_loop().call_later(0.01, second.write, b"x")
    assert await indices(pollables) == [1]
    assert not first._readable._waiters
    assert not second._readable._waiters


async def test_a_timer_ends_the_wait_for_streams() -> None:
    pipe = Pipe()
    started = time.monotonic()
    assert await indices([InputStream(pipe).subscribe(), soon(0.02)]) == [1]
    assert 0.02 <= time.monotonic() - started < 2
    assert not pipe._readable._waiters


async def test_the_earliest_of_some_timers_wins() -> None:
    assert await indices([soon(1000), soon(0.01), soon(500)]) == [1]


async def test_one_pollable_named_twice_is_told_twice() -> None:
    pipe = Pipe(capacity=1)
    pipe.write(b"x")
    pollable = OutputStream(pipe).subscribe()
    asyncio.get_running_loop().call_later(0.01, pipe.read_nowait, 1)
    assert await indices([pollable, soon(1000), pollable]) == [0, 2]


async def test_a_stream_that_ends_is_ready() -> None:
    pipe = Pipe()
    asyncio.get_running_loop().call_later(0.01, pipe.finish)
    assert await indices([InputStream(pipe).subscribe()]) == [0]


async def test_a_cancelled_poll_leaves_nothing_behind() -> None:
    pipes = [Pipe() for _ in range(20)]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await indices([InputStream(pipe).subscribe() for pipe in pipes] + [soon(1000)])
    assert not any(pipe._readable._waiters for pipe in pipes)
    assert len(asyncio.all_tasks()) == 1


async def test_a_finished_sink_is_no_endless_wait() -> None:
    pipe = Pipe()
    pipe.finish()
    assert await indices([OutputStream(pipe).subscribe()]) == [0]


async def test_a_failure_of_one_wait_ends_the_poll_and_the_other_waits() -> None:
    async def fail() -> None:
        raise RuntimeError("a bug of ours")

    pipe = Pipe()
    broken = Pollable(lambda: False, fail)
    with pytest.raises(ExceptionGroup):
        await indices([InputStream(pipe).subscribe(), broken])
    assert not pipe._readable._waiters


async def test_block_waits_only_when_it_must() -> None:
    assert always().block() is None
    later = soon(0.01).block()
    assert later is not None
    await later


async def test_many_streams_are_one_wait_but_not_any_number() -> None:
    pipes = [Pipe() for _ in range(WAITS_MAX)]
    asyncio.get_running_loop().call_later(0.05, pipes[-1].write, b"x")
    pollables = [InputStream(pipe).subscribe() for pipe in pipes]
    assert await indices([*pollables, *[soon(1000)] * 1000]) == [WAITS_MAX - 1]
    pipes[-1].read_nowait(1)
    pollables = [InputStream(pipe).subscribe() for pipe in [*pipes, Pipe()]]
    with pytest.raises(Trap):
        await indices(pollables)
