"""A guest answers a request: what it may do in which order, and what reaches the reply."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.engine.host import Err, Ok, Trap
from edge.wasi.http.body import EARLY_CAPACITY, IncomingBody, OutgoingBody
from edge.wasi.http.errors import HttpError
from edge.wasi.http.fields import Fields
from edge.wasi.http.incoming import IncomingRequest, OutgoingResponse, ResponseOutparam
from edge.wasi.http.message import LocalReply, Request
from edge.wasi.http.types import TYPES
from edge.wasi.io import Error, InputStream, OutputStream
from edge.wasi.pipe import BytesSource, Pipe, read_all


def request(method: str = "GET", body: Pipe | BytesSource | None = None) -> Request:
    headers = [(b"host", b"h"), (b"a", b"b"), (b"connection", b"close"), (b"upgrade", b"x")]
    return Request(
        method, "http", "h:80", "/p?q", headers, BytesSource() if body is None else body, "c:1"
    )


def response(status: int = 200, *entries: tuple[str, bytes]) -> OutgoingResponse:
    made = OutgoingResponse.new(None, Fields.from_list(None, entries))
    assert made.set_status_code(status) is None
    return made


def body_of(message: OutgoingResponse) -> OutgoingBody:
    body = message.body()
    assert isinstance(body, OutgoingBody)
    return body


def stream_of(body: OutgoingBody) -> OutputStream:
    stream = body.write()
    assert isinstance(stream, OutputStream)
    return stream


def answer(message: OutgoingResponse, method: str = "GET") -> LocalReply:
    reply = LocalReply()
    ResponseOutparam.set(None, ResponseOutparam(reply, method), Ok(message))
    return reply


def write(stream: OutputStream, data: bytes) -> None:
    assert stream.check_write() >= len(data)
    stream.write(data)


def test_a_guest_sees_the_request_without_what_belongs_to_the_connection() -> None:
    seen = IncomingRequest(request())
    assert (seen.method(), seen.path_with_query()) == ("get", "/p?q")
    assert (seen.scheme(), seen.authority()) == ("HTTP", "h:80")
    assert seen.headers().entries() == [("a", b"b")]
    with pytest.raises(Err):
        seen.headers().append("a", b"c")
    assert IncomingRequest(request("PROPFIND")).method() == ("other", "PROPFIND")
    assert IncomingRequest(request("get")).method() == ("other", "get")


def test_a_body_is_taken_once() -> None:
    seen = IncomingRequest(request("POST", BytesSource(b"data")))
    body = seen.consume()
    assert isinstance(body, IncomingBody)
    assert seen.consume() == Err()
    stream = body.stream()
    assert isinstance(stream, InputStream)
    assert body.stream() == Err()
    assert stream.read(10) == b"data"
    with pytest.raises(Err, match="closed"):
        stream.read(10)


def test_dropping_request_or_body_unread_tells_the_sender() -> None:
    for drop in ("request", "body"):
        pipe = Pipe()
        seen = IncomingRequest(request("POST", pipe))
        if drop == "body":
            body = seen.consume()
            assert isinstance(body, IncomingBody)
            seen.drop()
            assert pipe.error is None
            body.drop()
        else:
            seen.drop()
        assert isinstance(pipe.error, BrokenPipeError)


async def test_trailers_come_after_a_body_that_was_not_read() -> None:
    pipe = Pipe()
    body = IncomingBody(pipe)
    stream = body.stream()
    assert isinstance(stream, InputStream)
    pipe.write(b"some")
    assert stream.read(1) == b"s"
    stream.drop()
    future = IncomingBody.finish(None, body)
    assert future.get() is None
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(future.wait())
        await asyncio.sleep(0)
        pipe.write(bytes(65_536))
        await asyncio.sleep(0)
        assert not waiting.done()
        pipe.finish([(b"x-sum", b"1"), (b"connection", b"x")])
    got = future.get()
    assert isinstance(got, Ok)
    assert isinstance(got.value, Ok)
    assert got.value.value.entries() == [("x-sum", b"1")]
    assert future.get() == Err()
    future.drop()
    body.drop()


@pytest.mark.parametrize("trailers", [None, []])
def test_no_trailers_are_none(trailers: list[tuple[bytes, bytes]] | None) -> None:
    body = IncomingBody(BytesSource(b"abc", trailers))
    assert IncomingBody.finish(None, body).get() == Ok(Ok(None))
    with pytest.raises(Trap):
        IncomingBody.finish(None, body)


def test_a_body_that_broke_off_has_an_error_instead_of_trailers() -> None:
    pipe = Pipe()
    pipe.abort(ConnectionResetError())
    future = IncomingBody.finish(None, IncomingBody(pipe))
    assert future.get() == Ok(Err("connection-terminated"))


async def test_a_response_streams_straight_into_the_reply() -> None:
    made = response(201, ("X-A", b"1"))
    body = body_of(made)
    assert made.body() == Err()
    reply = answer(made)
    assert (reply.status, reply.headers) == (201, [(b"x-a", b"1")])
    stream = stream_of(body)
    assert body.write() == Err()
    write(stream, b"hello")
    assert reply.body.read_nowait(10) == b"hello"
    stream.drop()
    OutgoingBody.finish(None, body, Fields.from_list(None, [("t", b"v")]))
    body.drop()
    assert await read_all(reply.body, 10) == b""
    assert reply.body.trailers == [(b"t", b"v")]


async def test_what_was_written_before_the_answer_arrives_first() -> None:
    made = response()
    body = body_of(made)
    stream = stream_of(body)
    write(stream, b"x" * 100_000)
    reply = answer(made)
    assert stream.check_write() == 0
    assert reply.body.read_nowait(100_000) == b"x" * 100_000
    write(stream, b"later")
    OutgoingBody.finish(None, body, None)
    assert await read_all(reply.body, 10) == b"later"


async def test_a_body_may_be_finished_before_the_answer() -> None:
    made = response(200, ("content-length", b"3"))
    body = body_of(made)
    write(stream_of(body), b"abc")
    OutgoingBody.finish(None, body, None)
    assert await read_all(answer(made).body, 10) == b"abc"


async def test_a_writer_that_filled_the_early_buffer_goes_on_after_the_answer() -> None:
    made = response()
    body = body_of(made)
    stream = stream_of(body)
    write(stream, bytes(EARLY_CAPACITY))
    assert stream.check_write() == 0
    later = stream.blocking_write_and_flush(b"end")
    assert later is not None
    async with asyncio.TaskGroup() as group:
        writing = group.create_task(later)
        await asyncio.sleep(0)
        reply = answer(made)
        await asyncio.sleep(0)
        assert not writing.done()
        reading = group.create_task(read_all(reply.body, 2 * EARLY_CAPACITY))
        await writing
        OutgoingBody.finish(None, body, None)
    assert reading.result() == bytes(EARLY_CAPACITY) + b"end"


@pytest.mark.parametrize("early", [True, False])
def test_a_body_shorter_than_declared_is_an_error_and_cuts_the_reply(early: bool) -> None:
    made = response(200, ("Content-Length", b"10"))
    body = body_of(made)
    reply = LocalReply() if early else answer(made)
    write(stream_of(body), b"12345")
    with pytest.raises(Err) as raised:
        OutgoingBody.finish(None, body, None)
    assert raised.value.payload == ("HTTP-response-body-size", 5)
    if early:
        reply = answer(made)
    assert isinstance(reply.error, HttpError)


def test_a_byte_more_than_declared_fails_and_cuts_the_reply() -> None:
    made = response(200, ("content-length", b"4"))
    body = body_of(made)
    reply = answer(made)
    stream = stream_of(body)
    write(stream, b"1234")
    stream.check_write()
    with pytest.raises(Err) as raised:
        stream.write(b"5")
    kind, error = raised.value.payload
    assert kind == "last-operation-failed"
    code = TYPES.functions["http-error-code"].call(None, error)
    assert code == ("HTTP-response-body-size", 5)
    assert TYPES.functions["http-error-code"].call(None, Error(OSError())) is None
    with pytest.raises(Err) as raised:
        OutgoingBody.finish(None, body, None)
    assert raised.value.payload == ("HTTP-response-body-size", 5)
    assert reply.body.read_nowait(10) == b"1234"
    assert isinstance(reply.error, HttpError)


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 304)])
def test_a_response_without_a_body_may_declare_the_length_of_one(method: str, status: int) -> None:
    for with_body in (True, False):
        made = response(status, ("content-length", b"1000"))
        body = body_of(made) if with_body else None
        reply = answer(made, method)
        if body is not None:
            OutgoingBody.finish(None, body, None)
        assert reply.error is None
        assert reply.body.ended
        assert reply.headers == [(b"content-length", b"1000")]


def test_a_declared_body_that_was_never_made_is_an_error() -> None:
    reply = answer(response(200, ("content-length", b"1000")))
    assert not reply.started
    assert isinstance(reply.error, HttpError)
    assert reply.error.status == 500


def test_a_nonsense_length_never_reaches_the_wire() -> None:
    made = response(200, ("content-length", b"1"), ("content-length", b"2"))
    assert made.body() == Err()
    reply = answer(made)
    assert not reply.started
    assert reply.error is not None


def test_a_response_without_a_body_ends_at_once() -> None:
    reply = answer(response(204))
    assert reply.status == 204
    assert reply.body.exhausted
    assert reply.error is None


def test_dropping_a_body_unfinished_cuts_the_reply() -> None:
    made = response()
    body = body_of(made)
    reply = answer(made)
    stream = stream_of(body)
    write(stream, b"half")
    stream.drop()
    body.drop()
    assert reply.body.read_nowait(10) == b"half"
    assert isinstance(reply.error, HttpError)


def test_dropping_a_body_before_the_answer_cuts_it_too() -> None:
    made = response()
    body = body_of(made)
    body.drop()
    assert answer(made).error is not None


@pytest.mark.parametrize("status", [0, 100, 101, 199, 1000])
def test_a_status_that_is_none_of_a_response_is_refused(status: int) -> None:
    made = response()
    assert made.set_status_code(status) == Err()
    assert made.status_code() == 200


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (("internal-error", "x"), 500),
        (("HTTP-response-timeout", None), 504),
        (("connection-refused", None), 502),
    ],
)
def test_an_error_code_as_answer_becomes_a_status(
    code: tuple[str, str | None], status: int
) -> None:
    reply = LocalReply()
    out = ResponseOutparam(reply, "GET")
    assert not out.answered
    ResponseOutparam.set(None, out, Err(code))
    assert out.answered
    assert not reply.started
    assert isinstance(reply.error, HttpError)
    assert reply.error.status == status


STEPS = ("answer", "stream", "write", "drop stream", "finish", "drop body")


@given(st.lists(st.sampled_from(STEPS), max_size=10), st.one_of(st.none(), st.integers(0, 9)))
def test_a_reply_ends_cleanly_only_when_its_body_did(steps: list[str], length: int | None) -> None:
    """Whatever a guest does in whatever order; at its end all that is left is dropped."""
    entries = () if length is None else (("content-length", str(length).encode()),)
    made, reply = response(200, *entries), LocalReply()
    body = body_of(made)
    stream: OutputStream | None = None
    written, answered, open_, finished = 0, False, True, False
    for step in steps:
        if step == "answer" and not answered:
            answered = True
            ResponseOutparam.set(None, ResponseOutparam(reply, "GET"), Ok(made))
        elif step == "stream" and stream is None and open_:
            stream = stream_of(body)
        elif step == "write" and stream is not None:
            with contextlib.suppress(Err):  # it is closed, or that was too much
                write(stream, b"abc")
                written += 3
        elif step == "drop stream" and stream is not None:
            stream.drop()
        elif step in ("finish", "drop body") and open_:
            open_ = False
            if step == "finish":
                with contextlib.suppress(Err):
                    OutgoingBody.finish(None, body, None)
                    finished = True
            body.drop()
    if open_:
        body.drop()
    assert reply.started == answered
    if not answered:
        return
    clean = reply.body.ended and reply.error is None
    assert clean == finished
    sent = reply.body.read_nowait(1000)
    while more := reply.body.read_nowait(1000):
        sent += more
    assert len(sent) == written if clean else len(sent) <= written
    assert not clean or length in (None, written)


def test_headers_given_to_a_response_can_no_longer_change() -> None:
    headers = Fields.from_list(None, [("a", b"1")])
    made = OutgoingResponse.new(None, headers)
    for fields in (headers, made.headers()):
        with pytest.raises(Err) as raised:
            fields.append("b", b"2")
        assert raised.value.payload == "immutable"
