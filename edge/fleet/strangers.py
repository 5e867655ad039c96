"""Addresses whose handshakes fail: each costs milliseconds, so they may not try without end."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Strangers"]


class Strangers:
    """An address may fail `most` times within `seconds` of the first; until those are over it is
    unwelcome. A handshake that succeeds there clears it. Remembers the latest `addresses`.
    """

    def __init__(
        self,
        now: Callable[[], float],
        *,
        most: int = 20,
        seconds: float = 10.0,
        addresses: int = 1024,
    ) -> None:
        self._now, self._most, self._seconds, self._addresses = now, most, seconds, addresses
        # Address -> when it began to fail, how often since.
        self._failures: dict[str, tuple[float, int]] = {}

    def unwelcome(self, address: str) -> bool:
        return self._recent(address)[1] >= self._most

    def failed(self, address: str) -> None:
        since, count = self._recent(address)
        self._failures.pop(address, None)
        self._failures[address] = since, count + 1
        if len(self._failures) > self._addresses:
            del self._failures[next(iter(self._failures))]

    def passed(self, address: str) -> None:
        self._failures.pop(address, None)

    def _recent(self, address: str) -> tuple[float, int]:
        now = self._now()
        since, count = self._failures.get(address, (now, 0))
        return (since, count) if now - since < self._seconds else (now, 0)
