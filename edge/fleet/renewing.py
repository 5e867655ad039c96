"""Certificates are renewed when a third of their year is left, by the node that issued them."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from edge.errors import EdgeError
from edge.fleet.authority import Authority
from edge.fleet.identity import Identity
from edge.fleet.names import Refused

__all__ = ["Renewing"]

DAY = 86400.0
# Before the end. The authority may be away for as long.
_EARLY = 365 * DAY / 3
# Seconds between two looks: a clock that is set later is noticed.
_LOOK = DAY / 4
# Seconds between two attempts, growing.
_FIRST, _LAST = 600.0, DAY / 4

_log = logging.getLogger("edge.fleet")


class Renewing:
    """One node's. `ask` brings a request to the node with the authority, and its answer back; it
    raises EdgeError or OSError. Who has the authority asks it directly.
    """

    def __init__(
        self,
        identity: Identity,
        clock: Callable[[], float],
        ask: Callable[[bytes], Awaitable[bytes]],
        authority: Authority | None = None,
    ) -> None:
        self._identity, self._clock = identity, clock
        self._remote, self._authority = ask, authority

    async def run(self) -> None:
        """Until it is cancelled."""
        pause = _FIRST
        while True:
            left = self._identity.until - _EARLY - self._clock()
            if left > 0:
                await asyncio.sleep(min(left, _LOOK))
                continue
            if await self._renewed():
                pause = _FIRST
                continue
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 – spreads nodes
            pause = min(pause * 2, _LAST)

    async def _renewed(self) -> bool:
        identity = self._identity
        try:
            await identity.take_certificate(await self._ask(await identity.request()))
        except (EdgeError, Refused, OSError, TimeoutError) as error:
            days = (identity.until - self._clock()) / DAY
            _log.warning("the certificate ends in %.0f days, and is not renewed: %s", days, error)
            return False
        _log.info("the certificate was renewed")
        return True

    async def _ask(self, request: bytes) -> bytes:
        if self._authority is None:
            return await self._remote(request)
        renew, identity = self._authority.renew, self._identity
        issued = await asyncio.to_thread(renew, identity.node, request, identity.revoked)
        return issued.pem
