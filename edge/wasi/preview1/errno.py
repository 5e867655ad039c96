"""Error numbers of preview 1, and the border where a failure becomes one."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from edge.engine.host import CoreFunction, Err
from edge.wasi.context import Context

__all__ = ["Memory", "errno", "function"]

Outcome = int | None | Coroutine[Any, Any, int | None]

_NAMES = """
    success 2big access addrinuse addrnotavail afnosupport would-block already bad-descriptor badmsg
    busy canceled child connaborted connrefused connreset deadlock destaddrreq dom quota exist fault
    file-too-large hostunreach idrm illegal-byte-sequence in-progress interrupted invalid io isconn
    is-directory loop mfile too-many-links message-size multihop name-too-long netdown netreset
    netunreach nfile nobufs no-device no-entry noexec no-lock nolink insufficient-memory nomsg
    noprotoopt insufficient-space nosys notconn not-directory not-empty not-recoverable notsock
    unsupported no-tty no-such-device overflow ownerdead not-permitted pipe proto protonosupport
    prototype range read-only invalid-seek srch stale timedout text-file-busy cross-device
    notcapable
"""

# Codes of wasi:filesystem by their names there, the others by those of the witx.
_ERRNO = {name: number for number, name in enumerate(_NAMES.split())}


class Memory(Protocol):
    """The guest's memory. Whatever is out of its bounds is a trap."""

    def read(self, pointer: int, length: int, /) -> bytes: ...
    def write(self, pointer: int, data: bytes, /) -> None: ...
    def u32(self, pointer: int, /) -> int: ...
    def set_u32(self, pointer: int, value: int, /) -> None: ...
    def set_u64(self, pointer: int, value: int, /) -> None: ...


def errno(error: Err) -> int:
    """The number for an error; a failed stream counts as an I/O error, a closed one as a pipe."""
    payload = error.payload
    if payload == "closed":
        return _ERRNO["pipe"]
    return _ERRNO.get(payload, _ERRNO["io"]) if isinstance(payload, str) else _ERRNO["io"]


def function(params: str, call: Callable[..., Outcome]) -> CoreFunction:
    """A function of preview 1: what `call` raises becomes its result, and nothing becomes 0."""

    def checked(context: Context, memory: Memory, *arguments: int) -> Any:
        try:
            outcome = call(context, memory, *arguments)
        except Err as error:
            return errno(error)
        if outcome is None:
            return 0
        return outcome if isinstance(outcome, int) else _later(outcome)

    return CoreFunction(params, "i", checked)


async def _later(outcome: Coroutine[Any, Any, int | None]) -> int:
    try:
        return await outcome or 0
    except Err as error:
        return errno(error)
