# cython: annotation_typing=False, binding=False
"""A request that a guest answers: incoming-request, outgoing-response, response-outparam."""

from __future__ import annotations

from collections.abc import Iterable

from edge.engine.host import Err, Ok
from edge.wasi.http.body import FutureTrailers, IncomingBody, OutgoingBody
from edge.wasi.http.errors import body_size, failure, internal
from edge.wasi.http.fields import Fields, content_length, visible
from edge.wasi.http.message import Reply, Request

__all__ = [
    "METHODS",
    "IncomingRequest",
    "OutgoingResponse",
    "ResponseOutparam",
    "parts_of_requests",
]

# What the cases of `method` stand for; RFC 9110 §9.1: methods are case-sensitive.
METHODS = {
    name.upper(): name
    for name in ("get", "head", "post", "put", "delete", "connect", "options", "trace", "patch")
}
_SCHEMES = {"http": "HTTP", "https": "HTTPS"}


class IncomingRequest:
    """A request as its guest sees it."""

    __slots__ = ("_consumed", "_request")

    def __init__(self, request: Request) -> None:
        self._request = request
        self._consumed = False

    def method(self) -> str | tuple[str, str]:
        method = self._request.method
        return METHODS.get(method) or ("other", method)

    def path_with_query(self) -> str:
        return self._request.target

    def scheme(self) -> str | tuple[str, str]:
        scheme = self._request.scheme
        return _SCHEMES.get(scheme) or ("other", scheme)

    def authority(self) -> str | None:
        return self._request.authority or None

    def headers(self) -> Fields:
        return Fields(visible(self._request.routed_headers()))

    def consume(self) -> IncomingBody | Err:
        if self._consumed:
            return Err()
        self._consumed = True
        return IncomingBody(self._request.body)

    def drop(self) -> None:
        if not self._consumed:
            self._request.body.close()


class OutgoingResponse:
    """A response that a guest makes."""

    __slots__ = ("_body", "_headers", "_status")

    def __init__(self, headers: Fields) -> None:
        headers.mutable = False
        self._headers = headers.list
        self._status = 200
        self._body: OutgoingBody | None = None

    @staticmethod
    def new(_context: object, headers: Fields) -> OutgoingResponse:
        return OutgoingResponse(headers)

    def status_code(self) -> int:
        return self._status

    def set_status_code(self, status: int) -> Err | None:
        # An informational head is no response: the client would wait for another.
        if not 200 <= status <= 999:
            return Err()
        self._status = status
        return None

    def headers(self) -> Fields:
        return Fields(self._headers)

    def body(self) -> OutgoingBody | Err:
        if self._body is not None:
            return Err()
        try:
            self._body = OutgoingBody("response", content_length(self._headers))
        except ValueError:
            return Err()
        return self._body

    def send(self, reply: Reply, method: str) -> None:
        """Start `reply`; the body follows as the guest writes it."""
        status, body = self._status, self._body
        bodyless = method == "HEAD" or status in (204, 304)
        if body is not None:
            reply.start(status, self._headers)
            body.connect(reply, bodyless=bodyless)
            return
        try:
            length = content_length(self._headers)
        except ValueError as error:
            reply.abort(internal(str(error)))
            return
        if length and not bodyless:
            reply.abort(body_size("response", 0))
            return
        reply.start(status, self._headers)
        reply.finish()


class ResponseOutparam:
    """Where a guest puts its response. `answered`: it did, with a response or an error code;
    `status`: of the response, 0 without one.

    Of a guest that returned or failed without an answer nothing reached the reply, which is then
    for the caller to abort.
    """

    __slots__ = ("_method", "_reply", "answered", "status")

    def __init__(self, reply: Reply, method: str) -> None:
        self._reply = reply
        self._method = method
        self.answered = False
        self.status = 0

    @staticmethod
    def set(_context: object, param: ResponseOutparam, response: Ok | Err) -> None:
        param.answered = True
        if isinstance(response, Err):
            param._reply.abort(failure(response.payload))
        else:
            param.status = response.value._status
            response.value.send(param._reply, param._method)


def parts_of_requests(resources: Iterable[object]) -> list[object]:
    """Those of `resources` that are of one request only, and the streams of its body."""
    kinds = (IncomingRequest, IncomingBody, FutureTrailers)
    parts: list[object] = [part for part in resources if isinstance(part, kinds)]
    parts += [part._stream for part in parts if isinstance(part, IncomingBody)]
    return parts
