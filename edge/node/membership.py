"""A node's place in a fleet: founding one, letting others in, joining, leaving, revoking.

What it needs for that is loaded when there is something to do: most nodes of most fleets never do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from edge import config
from edge.application.fields import Reader, Table, Where, boolean, integer, items, parsed, string
from edge.application.quantities import seconds
from edge.errors import ConfigError, EdgeError
from edge.node.tokenfile import clear_away, join_by
from edge.platform.dates import Clock
from edge.platform.files import unreadable

if TYPE_CHECKING:
    from edge.fleet.authority import Authority
    from edge.fleet.door import Door
    from edge.fleet.identity import Identity
    from edge.fleet.token import Token

__all__ = ["Membership"]

_DAY = 86400.0
# Of a token: one that lies about for long is one that somebody finds.
_LIFE = seconds(at_least=60, at_most=30 * _DAY)
_HOUR = 3600.0
# Seconds to listen for a fleet whose addresses do not answer.
_BROWSE = 3.0
_MAX_PORT = 65_535
_EVERYWHERE = ("::", "0.0.0.0")  # noqa: S104

_log = logging.getLogger("edge.fleet")

T = TypeVar("T")


async def _nobody() -> None:
    pass


class Membership:
    """As an async context manager, in which `identity` is what it is now; None: in no fleet.

    `changed` is awaited after each change of `identity`; it is set by who brings the node in touch
    with its peers.
    """

    def __init__(self, node: config.Node, fleet: config.Fleet, clock: Clock) -> None:
        self._node, self._fleet, self._clock = node, fleet, clock
        self._state_dir = node.state_dir
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._door: Door | None = None
        self._watching: asyncio.Task[None] | None = None
        self._note: str | None = None
        self.identity: Identity | None = None
        self.authority: Authority | None = None
        self.changed: Callable[[], Awaitable[None]] = _nobody

    async def __aenter__(self) -> Self:
        # A node serves, whatever has become of its place in a fleet.
        try:
            await self._load()
            if self.authority is not None and self.authority.open_until() is not None:
                await self._open()
        except EdgeError as error:
            self._note = error.message + (f" ({error.hint})" if error.hint else "")
            _log.error("%s", self._note)
        if (file := self._fleet.join_token_file) is not None:
            if self.identity is not None:
                await clear_away(file, self.identity.fleet)
            elif not self._membership.exists():
                self._own(join_by(file, self._join_with, self._noted), "join")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._shut()

    def notes(self) -> tuple[str, ...]:
        """What the node's operator should know."""
        own = () if self._note is None else (self._note,)
        return own if self.identity is None else (*own, *self.identity.notes())

    # For the node API: JSON in, JSON out

    @property
    def operations(self) -> Mapping[str, Callable[[object], Awaitable[Any]]]:
        """Name -> what it does. Each raises EdgeError."""
        every = {
            "init": self._init,
            "token": self._token,
            "join": self._join,
            "leave": self._leave,
            "revoke": self._revoke,
        }
        return {name: partial(self._whole, name, do) for name, do in every.items()}

    async def _whole(
        self, name: str, do: Callable[[object], Coroutine[Any, Any, Any]], request: object
    ) -> Any:
        """To its end, also when who asked goes away: half of it is on the disk by then."""
        return await asyncio.shield(self._own(do(request), name))

    def about(self) -> dict[str, Any] | None:
        """Which fleet this node is in, if any."""
        if (identity := self.identity) is None:
            return None
        return {
            "fleet": identity.fleet,
            "name": identity.fleet_name,
            "node": identity.node,
            "issuer": identity.issuer,
            "until": _moment(identity.until),
            "revocations": identity.revocations.number,
            "joining": self._door is not None,
        }

    def members(self) -> list[dict[str, Any]]:
        """Who got a certificate. Raises EdgeError where the authority is not."""
        authority, identity = self._issuing()
        return [
            {
                "name": member.name,
                "id": member.node,
                "since": _moment(member.since),
                "until": _moment(member.until),
                "serials": [f"{serial:x}" for serial in member.serials],
                "revoked": member.node in identity.revoked,
                "authority": member.node == identity.node,
            }
            for member in authority.members
        ]

    async def _init(self, request: object) -> dict[str, Any] | None:
        from edge.fleet.names import fleet_name

        with Table(request, Where("init")) as table:
            name = table.get("name", parsed(fleet_name), "edge")
        async with self._changing:
            self._may_join(None)
            await asyncio.to_thread(self._found, name)
            await self._load()
            await self.changed()
        _log.info("a fleet was founded: %s", name)
        return self.about()

    def _found(self, name: str) -> None:
        from edge.fleet import authority, join, keeping
        from edge.fleet.names import plain_node_name

        issuing = authority.found(self._state_dir / authority.DIRECTORY, name, self._clock)
        own = keeping.Kept(self._state_dir / keeping.DIRECTORY)
        join.found(own, issuing, plain_node_name(self._node.name))

    async def _token(self, request: object) -> dict[str, Any]:
        from edge.fleet.where import own_addresses

        with Table(request, Where("token")) as table:
            uses = table.get("uses", integer(1, 1000), 1)
            life = table.get("life", _LIFE, _HOUR)
            addresses = table.get("addresses", _ADDRESSES, _NOWHERE)
        async with self._changing:
            authority, _ = self._issuing()
            door = await self._open()
            where = tuple((host, port or door.port) for host, port in addresses)
            if not where and (host := self._fleet.listen.host) not in _EVERYWHERE:
                where = ((host, door.port),)
            if not where:
                where = await asyncio.to_thread(own_addresses, door.port, self._fleet.interfaces)
            token = await asyncio.to_thread(authority.offer, uses, life, where)
        _log.info("token %s was made, for %d, until %s", token.id, uses, _moment(token.expires))
        return {
            "token": str(token),
            "id": token.id,
            "uses": uses,
            "expires": _moment(token.expires),
            "addresses": [str(config.Address(*address)) for address in token.addresses],
            "clock": self._clock.is_set,
        }

    async def _join(self, request: object) -> dict[str, Any] | None:
        from edge.fleet.token import Token

        with Table(request, Where("join")) as table:
            token = Token.parse(table.need("token", string))
        await self._join_with(token)
        return self.about()

    async def _leave(self, request: object) -> None:
        with Table(request, Where("leave")) as table:
            dissolve = table.get("dissolve", boolean, False)
        from edge.fleet import authority, keeping

        async with self._changing:
            if self.authority is not None and not dissolve:
                raise EdgeError(
                    f"the authority of the fleet {self.authority.fleet_name} is on this node:"
                    " without it nobody joins and nobody can be revoked",
                    hint="--dissolve removes it for ever",
                )
            await self._shut()
            kept = keeping.Kept(self._state_dir / keeping.DIRECTORY)
            await asyncio.to_thread(kept.remove)
            if dissolve:
                state = self._state_dir / authority.DIRECTORY / "authority.json"
                await asyncio.to_thread(keeping.remove, state)
            self.identity, self.authority, self._note = None, None, None
            await self.changed()
        _log.info("this node left its fleet")

    async def _revoke(self, request: object) -> dict[str, Any]:
        from edge.fleet.names import Refused

        with Table(request, Where("revoke")) as table:
            who = table.need("who", string)
        async with self._changing:
            authority, identity = self._issuing()
            node = authority.find(who, identity.revoked)
            if node == identity.node:
                raise EdgeError("that is this node, which has the fleet's authority")
            if node not in identity.revoked:
                known = identity.revocations.data
                try:
                    data = await asyncio.to_thread(authority.revoke, node, known)
                    await identity.take_revocations(data)
                except Refused as refused:
                    raise EdgeError(f"{node}: {refused}") from None
        _log.warning("node %s was revoked", node)
        return {"id": node, "revocations": identity.revocations.number}

    # Joining

    async def _join_with(self, token: Token) -> None:
        from edge.fleet import join, keeping
        from edge.fleet.names import plain_node_name

        async with self._changing:
            self._may_join(token)
            kept = keeping.Kept(self._state_dir / keeping.DIRECTORY)
            name = plain_node_name(self._node.name)
            heard = self._heard if self._fleet.discovery else None
            await join.join(kept, token, name, self._clock, heard)
            self._note = None
            await self._load()
            await self.changed()
        assert self.identity is not None
        _log.info("this node joined the fleet %s", self.identity.fleet_name)

    async def _heard(self, token: Token) -> list[tuple[str, int]]:
        """Doors of the token's fleet, as multicast DNS has it: of its nodes one has a door. Whoever
        is there has to prove itself as at the token's own addresses.
        """
        from edge.fleet.discovery import browse
        from edge.fleet.names import is_id
        from edge.fleet.token import fleet_bytes

        try:
            adverts = await browse(_BROWSE, interfaces=self._fleet.interfaces)
        except OSError as error:
            _log.info("no multicast DNS: %s", unreadable(error))
            return []
        same = [a for a in adverts if is_id(a.fleet) and fleet_bytes(a.fleet) == token.fleet]
        found = [(host, port + 1) for advert in same for host, port in advert.addresses]
        return [(host, port) for host, port in found if port <= _MAX_PORT]

    def _may_join(self, token: Token | None) -> None:
        """A member whose certificate has ended may: it stays the node that it is."""
        from edge.fleet.token import fleet_bytes

        if (identity := self.identity) is None:
            if self._membership.exists():
                raise EdgeError(self._note or "", hint="`edge fleet leave` removes it")
            return
        ended = self._clock() > identity.until and not identity.is_revoked
        same = token is not None and fleet_bytes(identity.fleet) == token.fleet
        if self.authority is not None or not ended or not same:
            raise EdgeError(
                f"this node is in the fleet {identity.fleet_name} already",
                hint="`edge fleet leave` ends that",
            )

    def _noted(self, note: str) -> None:
        self._note = note

    # The door

    async def _open(self) -> Door:
        from edge.fleet.door import Door

        authority, identity = self._issuing()
        if self._door is None:
            listen = self._fleet.listen
            port = listen.port + 1 if 0 < listen.port < _MAX_PORT else 0
            door = Door(identity, authority, config.Address(listen.host, port), listen.port)
            self._door = await door.__aenter__()
            _log.info("nodes with a token may join at port %d", door.port)
            self._watching = self._own(self._watch(), "door")
        return self._door

    async def _watch(self) -> None:
        """Shuts the door when no token is good any more."""
        while True:
            until = self.authority.open_until() if self.authority is not None else None
            if until is not None:
                await asyncio.sleep(min(max(until - self._clock(), 1.0), _HOUR))
                continue
            async with self._changing:
                if self.authority is None or self.authority.open_until() is None:
                    await self._shut()
                    _log.info("no token is good any more: nobody can join")
                    return

    async def _shut(self) -> None:
        if (watching := self._watching) is not None and watching is not asyncio.current_task():
            watching.cancel()
        if (door := self._door) is not None:
            self._door = self._watching = None
            await door.__aexit__(None, None, None)

    # Helpers

    def _issuing(self) -> tuple[Authority, Identity]:
        if self.identity is None:
            raise EdgeError(
                "this node is in no fleet", hint="`edge fleet init` founds one, `join` enters one"
            )
        if self.authority is None:
            raise EdgeError(
                f"the authority of the fleet {self.identity.fleet_name} is on another node",
                hint=f"ask that one: its id is {self.identity.issuer}",
            )
        return self.authority, self.identity

    @property
    def _membership(self) -> Path:
        return self._state_dir / "identity" / "membership.json"

    async def _load(self) -> None:
        """What is on the disk. Nothing of it is there on a node without a fleet."""
        if not self._membership.exists():
            return
        from edge.fleet import authority, identity

        loaded = await asyncio.to_thread(identity.load, self._state_dir, self._clock)
        issuing = await asyncio.to_thread(authority.load, self._state_dir, self._clock)
        if issuing is not None and loaded is not None and issuing.fleet != loaded.fleet:
            self._note = "the authority on this node is not that of its fleet, and is not used"
            issuing = None
        self.identity, self.authority = loaded, issuing

    def _own(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _address(text: str) -> tuple[str, int]:
    """HOST or HOST:PORT; port 0: that of the door."""
    try:
        found = config.parse_address(text if _has_port(text) else f"{text}:0")
    except ConfigError:
        raise ValueError(f'"{text}" is not HOST or HOST:PORT') from None
    return found.host, found.port


_ADDRESSES: Reader[tuple[tuple[str, int], ...]] = items(parsed(_address))
_NOWHERE: tuple[tuple[str, int], ...] = ()


def _has_port(text: str) -> bool:
    return ":" in text.rpartition("]")[2]


def _moment(at: float) -> str:
    """As RFC 3339 has it."""
    return datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
