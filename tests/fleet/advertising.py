"""Nodes that only advertise and browse: a Discovery each, in a thread in its own network."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from base64 import b32encode
from collections.abc import Callable
from typing import TypeVar

from fleet_lab import Machine, enter

from edge.fleet.discovery import Advert, Discovery

T = TypeVar("T")


def made_id(text: str) -> str:
    return b32encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=").lower()


FLEET = made_id("fleet")


class Advertiser:
    """As a context: entering starts it, leaving says goodbye."""

    def __init__(
        self,
        machine: Machine,
        name: str = "",
        *,
        id: str = "",
        fleet: str = FLEET,
        port: int = 7466,
    ) -> None:
        self.machine = machine
        self.id = id or made_id(machine.name)
        self.me = Advert(
            self.id, name or machine.name, fleet, (("::", port),), "0", "x86_64", "0.1.0"
        )
        self.events: list[tuple[float, Advert | str]] = []
        self.discovery: Discovery | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end = asyncio.Event()
        self._entered = threading.Event()
        self._failed: list[BaseException] = []
        self._thread = threading.Thread(target=self._inside, name=machine.name)

    def __enter__(self) -> Advertiser:
        self._thread.start()
        assert self._entered.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> float:
        """The seconds that leaving took."""
        began = time.monotonic()
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)
        assert not self._thread.is_alive()
        if self._failed:
            raise self._failed[0]
        return time.monotonic() - began

    def tell(self, do: Callable[[Discovery], T]) -> T:
        """Does it on the discovery's own loop."""
        assert self._loop is not None

        async def inside() -> T:
            assert self.discovery is not None
            return do(self.discovery)

        return asyncio.run_coroutine_threadsafe(inside(), self._loop).result(10)

    def adverts(self) -> dict[str, Advert]:
        """The last that was heard of each id that has not gone."""
        found: dict[str, Advert] = {}
        for _, event in list(self.events):
            if isinstance(event, Advert):
                found[event.id] = event
            else:
                found.pop(event, None)
        return found

    def names(self) -> set[str]:
        return {advert.name for advert in self.adverts().values()}

    def hosts(self, id: str) -> set[str]:
        advert = self.adverts().get(id)
        return {host for host, _ in advert.addresses} if advert else set()

    def _inside(self) -> None:
        try:
            enter(self.machine.namespace)
            asyncio.run(self._main())
        except BaseException as exc:  # raised where the thread is waited for
            self._failed.append(exc)
        finally:
            self._entered.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with Discovery(self.me, heard=self._event, gone=self._event) as self.discovery:
            self._entered.set()
            await self._end.wait()

    def _event(self, event: Advert | str) -> None:
        self.events.append((time.monotonic(), event))
