"""Replies of a Redis server as a stream of bytes: whole, in pieces, too large, or nothing of it."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from edge.spin.resp import Refused, Reply, Status, TooLarge, packed, read_reply

LIMIT = 1 << 16
WORDS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
SCALARS = st.one_of(
    st.none(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.binary(max_size=200),
    WORDS.map(lambda text: Status(text.encode())),
)
REPLIES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=5), max_leaves=30)


def written(reply: Reply) -> bytes:
    match reply:
        case None:
            return b"$-1\r\n"
        case Status():
            return b"+%b\r\n" % bytes(reply)
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(reply), reply)
        case int():
            return b":%d\r\n" % reply
        case list():
            return b"*%d\r\n%b" % (len(reply), b"".join(map(written, reply)))
    raise AssertionError(reply)


async def read(*pieces: bytes, limit: int = LIMIT, count: int = 1) -> list[Reply]:
    """What the pieces hold, each arriving when the one before has been looked at."""
    stream = asyncio.StreamReader()

    async def feed() -> None:
        for piece in pieces:
            stream.feed_data(piece)
            await asyncio.sleep(0)
        stream.feed_eof()

    async with asyncio.TaskGroup() as group:
        group.create_task(feed())
        return [await read_reply(stream, limit) for _ in range(count)]


@given(REPLIES, st.lists(st.integers(1, 40), max_size=20))
def test_a_reply_is_the_same_however_it_is_cut(reply: Reply, cuts: list[int]) -> None:
    data, pieces = written(reply) + b":7\r\n", []
    for size in cuts:
        pieces.append(data[:size])
        data = data[size:]
    found, after = asyncio.run(read(*filter(None, pieces), data, count=2))
    assert (found, after) == (reply, 7)
    assert type(found) is type(reply)


@given(REPLIES)
def test_a_reply_that_is_too_large_is_read_over(reply: Reply) -> None:
    found, after = asyncio.run(read(written(reply) + b"+next\r\n", limit=63, count=2))
    assert isinstance(found, TooLarge)
    assert after == b"next" or isinstance(after, TooLarge)


def test_the_limit_counts_what_is_kept() -> None:
    fits = written([b"x" * 1000])
    assert asyncio.run(read(fits, limit=1200)) == [[b"x" * 1000]]
    large = written([b"x" * 1000, b"y" * 100_000, 1])
    found, after = asyncio.run(read(large + b":7\r\n", limit=1200, count=2))
    assert isinstance(found, TooLarge)
    assert after == 7


def test_long_strings_end_where_they_end() -> None:
    for size in (65_534, 65_535, 65_536, 65_537, 1_000_000):
        data = b"x" * size
        pieces = [written(data)[at : at + 60_000] for at in range(0, size + 20, 60_000)]
        found, after = asyncio.run(read(*filter(None, pieces), b":7\r\n", limit=1 << 21, count=2))
        assert (found, after) == (data, 7)


def test_errors_are_values_until_somebody_raises_them() -> None:
    found, nested = asyncio.run(read(b"-ERR no \xff\r\n*1\r\n-WRONGTYPE x\r\n", count=2))
    assert isinstance(found, Refused)
    assert (found.code, str(found)) == ("ERR", "ERR no �")
    assert isinstance(nested, list)
    assert isinstance(nested[0], Refused)


ALPHABET = st.sampled_from(
    [
        *(b"$", b"*", b":", b"+", b"-", b"%", b"1", b"0", b"-1", b"99999999999", b"\r", b"\n"),
        *(b"\r\n", b"x", b"\0", b"\xff", b"_", b" "),
    ]
)


@settings(max_examples=500)
@given(st.lists(ALPHABET, max_size=30).map(b"".join))
def test_anything_else_is_refused(data: bytes) -> None:
    async def all_of_it() -> None:
        stream = asyncio.StreamReader()
        stream.feed_data(data)
        stream.feed_eof()
        while not stream.at_eof():
            await read_reply(stream, LIMIT)

    try:
        asyncio.run(all_of_it())
    except (ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        pass


@given(st.lists(st.one_of(st.binary(max_size=50), st.integers(-9, 9)), min_size=1, max_size=5))
def test_a_command_is_read_back_as_its_arguments(arguments: list[bytes | int]) -> None:
    data = b"".join(packed(arguments))
    expected = [a if isinstance(a, bytes) else str(a).encode() for a in arguments]
    assert asyncio.run(read(data)) == [expected]
