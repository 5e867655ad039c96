"""A wasi:http component in Python: greets, and counts the words of what it is sent."""

import json
from collections import Counter

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.imports.streams import InputStream, StreamError_Closed
from wit_world.imports.types import (
    Fields,
    IncomingRequest,
    Method_Post,
    OutgoingBody,
    OutgoingResponse,
    ResponseOutparam,
)

# What blocking_write_and_flush takes at once.
PART = 4096


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        if isinstance(request.method(), Method_Post):
            words = Counter(read_all(request).decode(errors="replace").split())
            answer(response_out, "application/json", json.dumps(words).encode())
        else:
            answer(response_out, "text/plain", f"hello {request.path_with_query()}".encode())


def read_all(request: IncomingRequest) -> bytes:
    parts = []
    with request.consume() as body, body.stream() as stream:
        while part := read(stream):
            parts.append(part)
    return b"".join(parts)


def read(stream: InputStream) -> bytes:
    try:
        return stream.blocking_read(64 * 1024)
    except Err as error:
        if isinstance(error.value, StreamError_Closed):
            return b""
        raise


def answer(response_out: ResponseOutparam, content_type: str, content: bytes) -> None:
    response = OutgoingResponse(Fields.from_list([("content-type", content_type.encode())]))
    body = response.body()
    ResponseOutparam.set(response_out, Ok(response))
    with body.write() as stream:
        for at in range(0, len(content), PART):
            stream.blocking_write_and_flush(content[at : at + PART])
    OutgoingBody.finish(body, None)
