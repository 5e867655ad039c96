"""Pipes: order, bounds, wake-ups, ends."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.wasi.http.message import LocalReply
from edge.wasi.pipe import BytesSource, Pipe, Signal, Source, chunks, read_all


@given(st.lists(st.one_of(st.binary(max_size=40), st.integers(0, 30)), max_size=60))
def test_bytes_come_out_in_order_however_they_are_cut(steps: list[bytes | int]) -> None:
    pipe, written, read = Pipe(capacity=64), b"", b""
    for step in steps:
        if isinstance(step, bytes):
            pipe.write(step)
            written += step
        else:
            data = pipe.read_nowait(step)
            assert len(data) <= step
            read += data
        assert pipe.size == len(written) - len(read)
        assert pipe.writable() == max(0, 64 - pipe.size)
    pipe.finish()
    while not pipe.exhausted:
        read += pipe.read_nowait(7)
    assert read == written


def test_a_chunk_that_fits_is_not_copied() -> None:
    pipe, data = Pipe(), bytes(10_000)
    pipe.write(data)
    assert pipe.read_nowait(10_000) is data
    source = BytesSource(data)
    assert source.read_nowait(65_536) is data
    assert source.exhausted


def test_single_bytes_are_joined() -> None:
    pipe = Pipe()
    for _ in range(10_000):
        pipe.write(b"x")
    assert len(pipe._chunks) == 3


def test_the_end_shows_after_the_last_byte() -> None:
    pipe = Pipe()
    pipe.write(b"abc")
    pipe.finish([(b"a", b"b")])
    assert pipe.ended
    assert not pipe.exhausted
    assert pipe.read_nowait(10) == b"abc"
    assert pipe.exhausted
    assert pipe.trailers == [(b"a", b"b")]
    pipe.abort(RuntimeError("too late"))
    pipe.write(b"too late")
    assert pipe.error is None
    assert pipe.read_nowait(10) == b""


def test_an_abort_lets_the_buffered_bytes_out_first() -> None:
    pipe = Pipe()
    pipe.write(b"abc")
    pipe.abort(RuntimeError("cut"))
    assert pipe.read_nowait(10) == b"abc"
    assert pipe.exhausted
    assert str(pipe.error) == "cut"


async def test_a_full_pipe_makes_its_writer_wait_for_its_reader() -> None:
    pipe, log = Pipe(capacity=4), []

    async def writer() -> None:
        for byte in b"abcdefgh":
            await pipe.wait_writable()
            pipe.write(bytes([byte]))
            log.append(byte)
        pipe.finish()

    async with asyncio.TaskGroup() as group:
        group.create_task(writer())
        await asyncio.sleep(0)
        assert bytes(log) == b"abcd"
        assert await read_all(pipe, 100) == b"abcdefgh"


async def test_a_reader_that_closes_wakes_the_writer_and_the_callback() -> None:
    called: list[bool] = []
    pipe = Pipe(capacity=1, on_writable=lambda: called.append(True))
    pipe.write(b"ab")
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(pipe.wait_writable())
        await asyncio.sleep(0)
        pipe.close()
    assert waiting.done()
    assert called == [True]
    assert isinstance(pipe.error, BrokenPipeError)
    assert pipe.writable() == 0
    pipe.close()


async def test_several_may_wait_and_one_may_be_cancelled() -> None:
    signal = Signal()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(signal.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.sleep(0)
        signal.wake()
    assert [task.cancelled() for task in tasks] == [False, True, False]
    assert signal._waiters == []


async def test_leaving_the_chunks_early_closes_the_source() -> None:
    pipe = Pipe()
    pipe.write(bytes(10))
    stream = chunks(pipe)
    assert await anext(stream) == bytes(10)
    await stream.aclose()
    assert isinstance(pipe.error, BrokenPipeError)


@pytest.mark.parametrize("source", [BytesSource(bytes(11)), Pipe(100)])
async def test_a_body_larger_than_the_limit_is_refused(source: Source) -> None:
    if isinstance(source, Pipe):
        source.write(bytes(11))
    with pytest.raises(ValueError, match="larger than 10"):
        await read_all(source, 10)


async def test_a_local_reply_gives_its_head_then_its_body() -> None:
    reply = LocalReply()
    async with asyncio.TaskGroup() as group:
        head = group.create_task(reply.head())
        await asyncio.sleep(0)
        reply.start(201, [(b"a", b"b")])
    assert head.result() == (201, [(b"a", b"b")])
    reply.write(b"body")
    reply.finish()
    assert await read_all(reply.body, 10) == b"body"


async def test_a_local_reply_aborted_before_its_head_raises_the_cause() -> None:
    reply = LocalReply()
    reply.abort(KeyError("cause"))
    with pytest.raises(KeyError):
        await reply.head()
