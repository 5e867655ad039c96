"""Nodes of one network find each other by multicast DNS (RFC 6762, 6763).

What is heard here is a hint: nobody vouches for it. Knows no certificate and asks no peer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import ip_address
from types import TracebackType
from typing import Self

from zeroconf import Error, NonUniqueNameException, ServiceInfo
from zeroconf.asyncio import AsyncZeroconf

from edge.fleet import multicast, netlink
from edge.fleet.adverts import TYPE, Advert, label, properties
from edge.fleet.browser import Browser
from edge.fleet.interfaces import Interface, bindings, followed, hosts, near

__all__ = ["Advert", "Discovery", "browse"]

_log = logging.getLogger(__name__)

_SPACING = 2.0  # seconds between two announcements: what changes meanwhile goes out as one
_RETRY = 60.0  # after sockets could not be opened, unless the network changes before
_DEFENCE_MAX = 60.0  # between two answers to somebody who keeps on claiming our name
# Seconds after one question the next one; then at the interval, well within the 75 minutes for
# which others are to remember what was answered.
_QUESTIONS = (1.0, 3.0, 9.0)
_QUESTION_INTERVAL = 900.0


class Discovery:
    """Advertises this node and browses for those of its fleet, while it is entered.

    `heard` gets each advert of this fleet when it is new or has changed, never the node's own.
    `gone` gets the id of a node that said goodbye, or that was not heard of for long: a hint too.
    `doubled` gets an advert of the node's own id with addresses that are not its own.
    Entering never fails because of the network: `problem` says what is amiss, and it is tried
    again.
    """

    def __init__(
        self,
        me: Advert,
        *,
        interfaces: Sequence[str] = (),
        heard: Callable[[Advert], None],
        gone: Callable[[str], None],
        doubled: Callable[[Advert], None] = lambda _: None,
    ) -> None:
        """`me.addresses`: where peers are served; of "::" and "0.0.0.0" the interfaces' addresses.

        `interfaces`: names; none: all that are not virtual. Raises ValueError for an advert that
        nobody would accept.
        """
        properties(me)
        self._me = me
        self._host, self._port = me.addresses[0]
        self._names = tuple(interfaces)
        self._heard = heard
        self._gone = gone
        self._doubled = doubled
        self._problem: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._zc: AsyncZeroconf | None = None
        self._browser: Browser | None = None
        self._info: ServiceInfo | None = None
        self._followed: tuple[Interface, ...] = ()
        self._suffixes = ("", me.id[:4], me.id[:8])
        self._taken = 0  # so many of the names with them are others'
        self._question: asyncio.TimerHandle | None = None
        # What the next step is about.
        self._wake = asyncio.Event()
        self._stale = False  # what is advertised
        self._moved = False
        self._disturbed: frozenset[int] | None = frozenset()
        self._rival = ""
        self._defence = _SPACING
        self._defended = 0.0

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._run(), name="mdns")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        try:
            await asyncio.wait([self._task])
        finally:
            await self._close()

    @property
    def name(self) -> str:
        """The name under which this node is advertised; empty until it is."""
        return self._info.get_name() if self._info else ""

    @property
    def problem(self) -> str | None:
        """Why nobody is found here, where that is known."""
        if self._problem is None and self._zc is not None and not self._followed:
            return "no multicast DNS: no network interface with an address leads to other machines"
        return self._problem

    @property
    def strangers(self) -> int:
        """Names heard that are of other fleets or malformed, of the last thousand."""
        return len(self._browser.strangers) if self._browser else 0

    def update(self, inventory: str) -> None:
        """Advertises another inventory; several within two seconds go out as one."""
        if inventory != self._me.inventory:
            me = replace(self._me, inventory=inventory)
            properties(me)
            self._me = me
            self._stale = True
            self._wake.set()

    # --- one task does all that changes what is advertised ---

    async def _run(self) -> None:
        try:
            with netlink.Watcher(self._network_changed):
                while True:
                    await self._attempt()
        except OSError as error:
            # A sandbox without netlink: its kernel will not be another one later.
            self._failed(error)

    async def _attempt(self) -> None:
        self._wake.clear()
        try:
            await self._session()
        except (OSError, Error) as error:
            self._failed(error)
        except Exception as error:
            _log.exception("multicast DNS")
            self._failed(error)
        await self._close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RETRY):
                await self._wake.wait()

    def _failed(self, error: Exception) -> None:
        if self._problem is None:
            _log.warning("no multicast DNS: %s", error)
        self._problem = f"no multicast DNS: {error}"

    async def _session(self) -> None:
        self._rival = ""
        self._followed = followed(netlink.interfaces(), self._names)
        self._zc = await multicast.opened(self._followed)
        self._browser = Browser(
            self._zc.zeroconf,
            fleet=self._me.fleet,
            me=self._me.id,
            near=lambda found: near(found, self._followed),
            heard=self._heard,
            gone=self._gone,
            claimed=self._claimed,
            myself=self._heard_myself,
        )
        self._ask()
        await self._register()
        self._problem = None
        loop = asyncio.get_running_loop()
        while True:
            spoken = loop.time()
            await self._wake.wait()
            await asyncio.sleep(spoken + _SPACING - loop.time())
            self._wake.clear()
            await self._step()

    async def _step(self) -> None:
        if self._rival:
            await self._settle()
        if self._moved:
            await self._move()
        if self._stale:
            self._stale = False
            await self._announce()

    # --- what is advertised ---

    def _service(self) -> ServiceInfo:
        return ServiceInfo(
            TYPE,
            f"{label(self._me.name, self._suffixes[self._taken])}.{TYPE}",
            port=self._port,
            properties=dict(properties(self._me)),
            # Not the machine's own host name, which another responder here may defend.
            server=f"edge-{self._me.id[:20]}.local.",
            parsed_addresses=self._hosts(),
        )

    def _hosts(self) -> list[str]:
        found = hosts(self._followed)
        try:
            listen = ip_address(self._host)
        except ValueError:
            return found
        if listen.is_unspecified:
            return [host for host in found if listen.version == 6 or ":" not in host]
        return [host for host in found if ip_address(host) == listen]

    async def _register(self) -> None:
        """Takes the first of our names that nobody else has."""
        assert self._zc is not None
        assert self._browser is not None
        info = self._service()
        while True:
            # Who has even the last one means us: then it is ours, asked or not.
            last = self._taken == len(self._suffixes) - 1
            try:
                announced = await self._zc.async_register_service(info, cooperating_responders=last)
                break
            except NonUniqueNameException:
                self._taken += 1
                info = self._service()
        self._info = info
        self._stale = False
        self._browser.rename(info.name)
        await announced

    async def _announce(self) -> None:
        assert self._zc is not None
        self._info = self._service()
        await (await self._zc.async_update_service(self._info))

    def _heard_myself(self, advert: Advert) -> None:
        own = {str(address.ip) for one in self._followed for address in one.addresses}
        others = tuple(at for at in advert.addresses if at[0].partition("%")[0] not in own)
        if others:
            self._doubled(replace(advert, addresses=others))

    # --- names ---

    def _claimed(self, rival: str) -> None:
        """Another node has our name: after a partition, or by starting at the same moment."""
        if asyncio.get_running_loop().time() >= self._defended:
            self._rival = rival
            self._wake.set()

    async def _settle(self) -> None:
        """Of two nodes the one with the lower id keeps the name and says so."""
        rival, self._rival = self._rival, ""
        if rival < self._me.id and self._taken < len(self._suffixes) - 1:
            assert self._zc is not None
            assert self._info is not None
            # Without a goodbye: its pointer is the rival's as well.
            self._zc.zeroconf.registry.async_remove(self._info)
            self._info = None
            self._taken += 1
            await self._register()
            return
        self._stale = True
        self._defended = asyncio.get_running_loop().time() + self._defence
        self._defence = min(2 * self._defence, _DEFENCE_MAX)

    # --- the network ---

    def _network_changed(self, disturbed: frozenset[int] | None) -> None:
        if disturbed is None or self._disturbed is None:
            self._disturbed = None
        else:
            self._disturbed |= disturbed
        self._moved = True
        self._wake.set()

    async def _move(self) -> None:
        """Follows the interfaces and, where a link was lost, starts anew (RFC 6762 §8)."""
        assert self._zc is not None
        assert self._browser is not None
        disturbed, self._disturbed = self._disturbed, frozenset()
        self._moved = False
        found = followed(netlink.interfaces(), self._names)
        lost = disturbed is None or any(one.index in disturbed for one in found)
        if found == self._followed and not lost:
            return
        self._followed = found
        self._info = self._service()
        self._zc.zeroconf.registry.async_update(self._info)
        await self._zc.async_update_interfaces(bindings(found))
        multicast.restrict(self._zc)
        self._browser.again()
        self._ask()
        self._stale = True

    def _ask(self, already: int = 0) -> None:
        """Asks now and again, seldom after a while."""
        assert self._browser is not None
        if self._question is not None:
            self._question.cancel()
        self._browser.ask()
        delay = _QUESTIONS[already] if already < len(_QUESTIONS) else _QUESTION_INTERVAL
        delay *= random.uniform(1.0, 1.1)  # noqa: S311 - boards start together
        loop = asyncio.get_running_loop()
        self._question = loop.call_later(delay, self._ask, already + 1)

    async def _close(self) -> None:
        """Says goodbye and closes; takes two seconds at most."""
        zc, browser = self._zc, self._browser
        self._zc = self._browser = self._info = None
        if self._question is not None:
            self._question.cancel()
            self._question = None
        if browser is not None:
            await browser.close()
        if zc is not None:
            await multicast.close(zc)


async def browse(seconds: float, *, interfaces: Sequence[str] = ()) -> list[Advert]:
    """Every node of any fleet that answers within this time. Nothing of it is authenticated.

    Raises OSError where the network cannot be asked.
    """
    found: dict[tuple[str, str], Advert] = {}

    def heard(advert: Advert) -> None:
        found[advert.id, advert.name] = advert

    here = followed(netlink.interfaces(), interfaces)
    zc = await multicast.opened(here)
    try:
        browser = Browser(
            zc.zeroconf, fleet=None, near=lambda found: near(found, here), heard=heard
        )
        try:
            browser.ask()
            await asyncio.sleep(seconds / 3)
            browser.ask()
            await asyncio.sleep(2 * seconds / 3)
        finally:
            await browser.close()
    finally:
        await multicast.close(zc)
    return sorted(found.values(), key=lambda advert: (advert.fleet, advert.name, advert.id))
