"""Lists of revocations reach a node past those who say that they have one and do not deliver."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from edge.errors import PullError
from edge.fleet.names import Refused
from edge.fleet.revoking import Revocations
from edge.fleet.table import Peer
from edge.fleet.wire import Facts, Record


@dataclass
class Numbered:
    number: int = 1


@dataclass
class Known:
    """A list is its number, in digits; "forged" is none of this fleet."""

    revocations: Numbered = field(default_factory=Numbered)

    async def take_revocations(self, data: bytes) -> bool:
        if data == b"forged":
            raise Refused("it is not signed by the fleet's authority")
        newer = int(data) > self.revocations.number
        self.revocations = Numbered(max(int(data), self.revocations.number))
        return newer


def claims(*numbers: int) -> list[Peer]:
    """Peers that say they have such lists: "a…", "b…", and so on."""
    return [
        Peer(Record("abcdef"[n] * 52, Facts("x", 1, revocations=number)), 0.0)
        for n, number in enumerate(numbers)
    ]


async def test_who_stalls_or_lies_is_left_out_and_the_others_are_asked() -> None:
    known = Known()
    asked: list[str] = []

    async def ask(id: str) -> bytes:
        asked.append(id[0])
        if id[0] == "a":
            raise PullError("no answer in time")
        return {"b": b"forged", "c": b"1", "d": b"7"}[id[0]]

    revocations = Revocations(known, ask)
    liars, honest = claims(1 << 50, 9, 5), claims(1, 1, 1, 7)
    now = asyncio.get_running_loop().time()
    for peers in (liars, [*liars, *honest]):
        for id in list(revocations.due(peers, now)):
            await revocations.fetch(id)
    assert known.revocations.number == 7
    assert len(asked) == len(set(asked)), "who did not deliver was asked again"
    late = claims(1 << 50, 9, 8)
    assert not list(revocations.due(late, now))
    assert len(list(revocations.due(late, now + 301))) == 3


async def test_few_are_asked_at_a_time_and_each_once() -> None:
    release = asyncio.Event()

    async def ask(_id: str) -> bytes:
        await release.wait()
        return b"2"

    known = Known()
    revocations = Revocations(known, ask)
    peers = claims(2, 2, 2, 2, 2)
    due = list(revocations.due(peers, 0.0))
    assert len(set(due)) == 3
    assert list(revocations.due(peers, 0.0)) == []
    async with asyncio.TaskGroup() as group:
        for id in due:
            group.create_task(revocations.fetch(id))
        release.set()
    assert known.revocations.number == 2
    assert list(revocations.due(peers, 0.0)) == []
