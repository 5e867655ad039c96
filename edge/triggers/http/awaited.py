"""The body of a client that waits for "100 Continue" (RFC 9110 §10.1.1)."""

from __future__ import annotations

from collections.abc import Callable

from edge.wasi.pipe import CAPACITY, Pipe


class AwaitedBody(Pipe):
    """A body that is invited by the first who reads it."""

    __slots__ = ("_invite",)

    def __init__(self, on_writable: Callable[[], None], invite: Callable[[Pipe], None]) -> None:
        super().__init__(CAPACITY, on_writable)
        self._invite: Callable[[Pipe], None] | None = invite

    def read_nowait(self, n: int) -> bytes:
        self._ask()
        return super().read_nowait(n)

    async def wait_readable(self) -> None:
        self._ask()
        await super().wait_readable()

    def _ask(self) -> None:
        if self._invite is not None:
            self._invite(self)
            self._invite = None
