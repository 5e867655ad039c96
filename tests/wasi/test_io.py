from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from edge.engine.host import Err, Trap
from edge.wasi.io import READ_MAX, Error, InputStream, OutputStream, SharedSource
from edge.wasi.pipe import BytesSource, Pipe


class Broken(Exception):
    pass


def failure(call: Callable[[], object]) -> object:
    with pytest.raises(Err) as caught:
        call()
    return caught.value.payload


# Reading


def test_a_read_returns_what_is_there_and_nothing_when_nothing_is() -> None:
    pipe = Pipe()
    stream = InputStream(pipe)
    assert stream.read(10) == b""
    pipe.write(b"hello world")
    assert stream.read(5) == b"hello"
    assert stream.read(100) == b" world"
    assert stream.read(100) == b""


def test_a_read_is_bounded_whatever_is_asked_for() -> None:
    stream = InputStream(BytesSource(bytes(3 * READ_MAX)))
    assert len(stream.read(2**64 - 1)) == READ_MAX
    assert stream.skip(2**64 - 1) == READ_MAX


def test_after_the_last_byte_a_stream_is_closed() -> None:
    pipe = Pipe()
    stream = InputStream(pipe)
    pipe.write(b"x")
    pipe.finish()
    assert stream.read(0) == b""
    assert stream.read(10) == b"x"
    assert failure(lambda: stream.read(10)) == "closed"
    assert failure(lambda: stream.read(0)) == "closed"
    assert failure(lambda: stream.blocking_read(10)) == "closed"
    assert failure(lambda: stream.skip(10)) == "closed"


def test_an_error_shows_once_after_the_bytes_then_the_stream_is_closed() -> None:
    pipe = Pipe()
    stream = InputStream(pipe)
    pipe.write(b"x")
    pipe.finish()
    pipe.error = Broken("cable cut")
    assert stream.read(10) == b"x"
    case, error = failure(lambda: stream.read(10))  # type: ignore[misc]
    assert case == "last-operation-failed"
    assert error.to_debug_string() == "cable cut"
    assert failure(lambda: stream.read(10)) == "closed"


def test_an_error_names_no_file_of_the_host() -> None:
    assert Error(FileNotFoundError(2, "No such file", "/etc/secret")).to_debug_string() == (
        "No such file"
    )
    assert Error(Broken()).to_debug_string() == "Broken"


def test_dropping_a_stream_tells_the_writer() -> None:
    pipe = Pipe()
    stream = InputStream(pipe)
    stream.drop()
    assert isinstance(pipe.error, BrokenPipeError)
    assert failure(lambda: stream.read(1)) == "closed"


def test_a_pollable_of_a_dropped_stream_is_ready() -> None:
    stream, sink = InputStream(Pipe()), OutputStream(Pipe(capacity=0))
    readable, writable = stream.subscribe(), sink.subscribe()
    assert not readable.ready()
    assert not writable.ready()
    stream.drop()
    sink.drop()
    assert readable.ready()
    assert writable.ready()


def test_asking_whether_a_stream_is_readable_loses_nothing() -> None:
    pipe = Pipe()
    stream = InputStream(pipe)
    pollable = stream.subscribe()
    assert not pollable.ready()
    pipe.write(b"abcdef")
    assert pollable.ready()
    assert stream.read(2) == b"ab"
    pipe.write(b"gh")
    pipe.finish()
    assert pollable.ready()
    assert stream.read(10) + stream.read(10) == b"cdefgh"
    assert pollable.ready()
    assert failure(lambda: stream.read(1)) == "closed"


def test_reads_and_writes_that_need_not_wait_make_no_coroutine() -> None:
    pipe = Pipe()
    out, into = OutputStream(pipe), InputStream(pipe)
    assert out.blocking_write_and_flush(b"abc") is None
    assert out.blocking_flush() is None
    assert into.blocking_read(10) == b"abc"
    assert into.blocking_read(0) == b""
    assert into.blocking_skip(0) == 0


async def test_a_blocking_read_waits_for_the_first_byte() -> None:
    pipe = Pipe()
    stream = InputStream(pipe)
    read = stream.blocking_read(10)
    skip = stream.blocking_skip(10)
    assert asyncio.iscoroutine(read)
    assert asyncio.iscoroutine(skip)
    asyncio.get_running_loop().call_later(0.01, pipe.write, b"late")
    assert await read == b"late"
    asyncio.get_running_loop().call_later(0.01, pipe.write, b"again")
    assert await skip == 5


async def test_a_blocking_read_ends_with_the_stream() -> None:
    pipe = Pipe()
    read = InputStream(pipe).blocking_read(10)
    assert asyncio.iscoroutine(read)
    asyncio.get_running_loop().call_later(0.01, pipe.finish)
    with pytest.raises(Err) as caught:
        await read
    assert caught.value.payload == "closed"


def test_a_shared_source_outlives_its_streams_with_what_was_read_ahead() -> None:
    pipe = Pipe()
    source = SharedSource(pipe)
    first = InputStream(source)
    pipe.write(b"abc")
    assert first.subscribe().ready()
    assert first.read(1) == b"a"
    first.drop()
    assert pipe.error is None
    assert InputStream(source).read(10) == b"bc"


# Writing


def test_a_write_beyond_the_permit_is_a_trap() -> None:
    stream = OutputStream(Pipe(capacity=10))
    with pytest.raises(Trap):
        stream.write(b"x")
    assert stream.check_write() == 10
    stream.write(b"12345")
    with pytest.raises(Trap):
        stream.write(b"123456")
    stream.write(b"12345")
    assert stream.check_write() == 0
    with pytest.raises(Trap):
        stream.write_zeroes(2**64 - 1)


def test_a_flush_ends_the_permit() -> None:
    stream = OutputStream(Pipe())
    stream.check_write()
    stream.flush()
    with pytest.raises(Trap):
        stream.write(b"x")


def test_blocking_writes_take_4096_bytes_and_no_more() -> None:
    pipe = Pipe()
    stream = OutputStream(pipe)
    stream.blocking_write_and_flush(bytes(4096))
    stream.blocking_write_zeroes_and_flush(4096)
    assert pipe.size == 8192
    with pytest.raises(Trap):
        stream.blocking_write_and_flush(bytes(4097))
    with pytest.raises(Trap):
        stream.blocking_write_zeroes_and_flush(4097)


async def test_a_blocking_write_waits_for_the_reader_and_keeps_the_order() -> None:
    pipe = Pipe(capacity=1000)
    stream = OutputStream(pipe)
    data = bytes(range(256)) * 16
    received = bytearray()

    async def read() -> None:
        while not pipe.exhausted:
            await pipe.wait_readable()
            received.extend(pipe.read_nowait(300))
            assert pipe.size <= 1000

    async with asyncio.TaskGroup() as group:
        group.create_task(read())
        later = stream.blocking_write_and_flush(data)
        assert asyncio.iscoroutine(later)
        await later
        pipe.finish()
    assert received == data


async def test_blocking_flush_waits_for_room() -> None:
    pipe = Pipe(capacity=3)
    stream = OutputStream(pipe)
    stream.check_write()
    stream.write(b"abc")
    later = stream.blocking_flush()
    assert asyncio.iscoroutine(later)
    asyncio.get_running_loop().call_soon(pipe.read_nowait, 1)
    await later
    assert stream.check_write() == 1


def test_a_reader_that_left_closes_the_stream() -> None:
    pipe = Pipe()
    stream = OutputStream(pipe)
    stream.check_write()
    pipe.close()
    assert failure(lambda: stream.write(b"x")) == "closed"
    assert failure(stream.check_write) == "closed"
    assert failure(stream.flush) == "closed"
    assert failure(lambda: stream.blocking_write_and_flush(b"x")) == "closed"
    assert failure(stream.blocking_flush) == "closed"


def test_a_sink_that_failed_tells_why_once() -> None:
    pipe = Pipe()
    stream = OutputStream(pipe)
    pipe.abort(Broken("no space"))
    case, error = failure(stream.check_write)  # type: ignore[misc]
    assert case == "last-operation-failed"
    assert error.to_debug_string() == "no space"
    assert failure(stream.check_write) == "closed"


async def test_a_reader_that_leaves_ends_a_blocking_write() -> None:
    pipe = Pipe(capacity=1)
    later = OutputStream(pipe).blocking_write_and_flush(b"abc")
    assert asyncio.iscoroutine(later)
    asyncio.get_running_loop().call_later(0.01, pipe.close)
    with pytest.raises(Err) as caught:
        await later
    assert caught.value.payload == "closed"


async def test_a_write_to_a_finished_sink_ends_instead_of_spinning() -> None:
    pipe = Pipe()
    stream = OutputStream(pipe)
    pipe.finish()
    later = stream.blocking_write_and_flush(b"abc")
    assert asyncio.iscoroutine(later)
    with pytest.raises(Err):
        await later


async def test_a_cancelled_write_leaves_no_waiter() -> None:
    pipe = Pipe(capacity=1)
    pipe.write(b"x")
    later = OutputStream(pipe).blocking_write_and_flush(b"abc")
    assert asyncio.iscoroutine(later)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await later
    assert not pipe._writable._waiters


# Splicing


def test_a_splice_moves_what_both_sides_allow() -> None:
    source, sink = Pipe(), Pipe(capacity=4)
    into, out = InputStream(source), OutputStream(sink)
    source.write(b"abcdef")
    assert out.splice(into, 3) == 3
    assert out.splice(into, 100) == 1
    assert out.splice(into, 100) == 0
    assert sink.read_nowait(10) + sink.read_nowait(10) == b"abcd"
    assert out.splice(into, 100) == 2
    source.finish()
    assert failure(lambda: out.splice(into, 100)) == "closed"


async def test_a_blocking_splice_waits_for_both_sides() -> None:
    source, sink = Pipe(), Pipe(capacity=4)
    into, out = InputStream(source), OutputStream(sink)
    loop = asyncio.get_running_loop()
    sink.write(b"full")
    loop.call_later(0.01, source.write, b"abc")
    loop.call_later(0.02, sink.read_nowait, 4)
    later = out.blocking_splice(into, 100)
    assert asyncio.iscoroutine(later)
    assert await later == 3
    assert sink.read_nowait(10) == b"abc"
    assert out.blocking_splice(into, 0) == 0
