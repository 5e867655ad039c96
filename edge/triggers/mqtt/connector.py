"""Connections to the broker, one attempt after the other, and what is said about them."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from edge.errors import EdgeError
from edge.spin.broker import Broker, BrokerError, BrokerOptions, Message, Refused
from edge.triggers.mqtt.access import Access, Role

__all__ = ["Connector"]

_log = logging.getLogger("edge.mqtt")

# Seconds before the first new attempt to connect, at most; doubled each time.
_FIRST_PAUSE = 0.25
# A connection that ended sooner did not work: the next attempt waits as after a failure.
_STABLE = 1.0
# A broker before MQTT 5 answers to it that it does not know the version, or closes the connection.
# So does a proxy whose broker is away: after so many silences it is asked more closely.
_SILENCES = 3


class Connector:
    """Makes the connections of one role. Says each reason for a failure once, until it changes."""

    def __init__(self, access: Access, role: Role) -> None:
        self._access = access
        self._role: Role = role
        self._protocol = access.settings.protocol
        self._loop = asyncio.get_running_loop()
        self._failures = 0
        self._silences = 0
        self._began = 0.0
        self._reported = ""

    async def connect(
        self,
        on_message: Callable[[Message], None] | None = None,
        on_refused: Callable[[Refused], None] | None = None,
    ) -> Broker | None:
        """A connection; None when this attempt failed, which has been said."""
        try:
            broker = await self._either(on_message, on_refused)
        except EdgeError as exc:
            self.report(exc)
            return None
        where, version = self._access.where, broker.options.protocol
        level = logging.DEBUG if self._role == "out" else logging.INFO
        _log.log(level, "connected to %s with MQTT %s", where, version)
        self._began = self._loop.time()
        return broker

    async def pause(self) -> None:
        """Before the next attempt. A full jitter: a fleet must not come back all at once."""
        if self._stable():
            self._failures = 0
        self._began = 0.0
        longest = _FIRST_PAUSE * 2 ** min(self._failures, 16)
        self._failures += 1
        await asyncio.sleep(
            random.uniform(0, min(self._access.settings.reconnect_max, longest))  # noqa: S311
        )

    def _stable(self) -> bool:
        """Did the last connection work?"""
        return self._began > 0 and self._loop.time() - self._began > _STABLE

    def report(self, error: EdgeError) -> None:
        if self._stable():
            self._reported = ""
        if error.message == self._reported:
            return
        self._reported = error.message
        hint = f" ({error.hint})" if error.hint else ""
        lost = isinstance(error, BrokerError) and error.reason == "lost"
        level = logging.WARNING if lost else logging.ERROR
        _log.log(level, "%s%s; trying again", error.message, hint)

    async def _either(
        self,
        on_message: Callable[[Message], None] | None,
        on_refused: Callable[[Refused], None] | None,
    ) -> Broker:
        try:
            broker = await self._attempt(self._protocol, on_message, on_refused)
        except BrokerError as exc:
            if self._protocol != "5" or not await self._is_old(exc):
                raise
            self._protocol = "3.1.1"
            return await self._attempt(self._protocol, on_message, on_refused)
        self._silences = 0
        return broker

    async def _is_old(self, error: BrokerError) -> bool:
        """Does the broker not know MQTT 5, to which it gave this answer?"""
        if error.reason != "lost":
            return error.reason == "version"
        self._silences += 1
        if self._silences < _SILENCES:
            return False
        for _ in range(2):  # a connection that is lost just now proves nothing
            if not await self._answers("3.1.1") or await self._answers("5"):
                return False
        return True

    async def _answers(self, protocol: str) -> bool:
        """Whether the broker answers to a version, be it with a refusal."""
        options = await asyncio.to_thread(self._access.options, protocol, "probe")
        broker = Broker(options)
        try:
            await broker.connect(self._access.settings.connect_timeout)
        except BrokerError as exc:
            return exc.reason == "refused"
        await broker.disconnect(2)
        return True

    async def _attempt(
        self,
        protocol: str,
        on_message: Callable[[Message], None] | None,
        on_refused: Callable[[Refused], None] | None,
    ) -> Broker:
        def options() -> BrokerOptions:
            return self._access.options(protocol, self._role)

        broker = Broker(await asyncio.to_thread(options), on_message, on_refused)
        await broker.connect(self._access.settings.connect_timeout)
        return broker
