"""Finds out which nodes are at the addresses that the configuration names."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from edge.fleet.asking import Impostor, Unanswered
from edge.fleet.probe import Start
from edge.fleet.wire import Endpoint, show_address

__all__ = ["Statics"]

# Seconds: to find out who is there; between two attempts, at most.
_IDENTIFY, _BACK_OFF = 3.0, 30.0
_ADDRESSES_MOST = 4


@dataclass(slots=True)
class _Static:
    endpoints: tuple[Endpoint, ...]
    attempts: int = 0
    due: float = 0.0
    silent: bool = False


class Statics:
    """Asks each of them who it is, again and again until one of its addresses is a peer's.

    `identify` asks an address, `heard` is told. `known` says whether there is a living peer at an
    address. `report` gets what is wrong there.
    """

    def __init__(
        self,
        *,
        identify: Callable[[Endpoint, float], Awaitable[str]],
        heard: Callable[[str, Sequence[Endpoint]], None],
        known: Callable[[Endpoint], bool],
        report: Callable[[str, str], None],
        now: Callable[[], float],
    ) -> None:
        self._all: dict[str, _Static] = {}
        self._identify, self._heard, self._known = identify, heard, known
        self._report = report
        self._now = now

    def resolved(self, peer: str, endpoints: Sequence[Endpoint]) -> None:
        """One of them, as it was written, is at these addresses now."""
        self._all[peer] = _Static(tuple(endpoints)[:_ADDRESSES_MOST], due=self._now())

    @property
    def silent(self) -> tuple[str, ...]:
        """Those at whose addresses nobody of the fleet was found; this node itself would be."""
        return tuple(
            peer
            for peer, one in self._all.items()
            if one.silent and not any(map(self._known, one.endpoints))
        )

    def due(self, start: Start) -> float:
        """Starts what is due; when it is to be called again."""
        now = self._now()
        for one in self._all.values():
            if one.due > now:
                continue
            if any(map(self._known, one.endpoints)):
                one.attempts, one.due, one.silent = 0, now + _BACK_OFF, False
            else:
                one.attempts += 1
                one.due = now + min(2.0 ** min(one.attempts, 10), _BACK_OFF)
                start(self._look(one))
        return min((one.due for one in self._all.values()), default=float("inf"))

    async def _look(self, one: _Static) -> None:
        for endpoint in one.endpoints:
            try:
                id = await self._identify(endpoint, _IDENTIFY)
            except Impostor as error:
                self._report(show_address(endpoint), f"is no node of this fleet: {error.message}")
            except Unanswered:
                continue
            else:
                one.silent = False
                self._heard(id, (endpoint,))
                return
        one.silent = True
