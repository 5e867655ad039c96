"""A member that lies about others: what it makes up dies, what it says of the living is refuted."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from dataclasses import replace

import pytest
from air import Air, Node, in_the_air, until

from edge.errors import BundleError
from edge.fleet.gossip import Gossip
from edge.fleet.table import Table
from edge.fleet.wire import (
    PEERS_MOST,
    Facts,
    Hint,
    Message,
    Record,
    Status,
    dump,
    read_message,
    write_message,
)

DATE = 1_795_000_000


def node_id(text: str) -> str:
    return base64.b32encode(hashlib.sha256(text.encode()).digest()).decode().lower().rstrip("=")


def made_up(number: int) -> Record:
    at = (f"10.9.{number // 250}.{number % 250 + 1}", 7466)
    return Record(node_id(f"nobody {number}"), Facts(f"nobody-{number}", 7466), (at,), DATE)


def table(name: str = "me") -> Table:
    return Table(Record(node_id(name), Facts(name, 7466), (("10.0.0.1", 7466),), DATE))


async def small_fleet(air: Air) -> list[Node]:
    first = air.node(0)
    nodes = [first, *(air.node(number, first) for number in range(1, 8))]
    await until(lambda: all(len(node.knows()) == 7 for node in nodes), 30)
    return nodes


def say(liar: Node, to: Node, message: Message) -> None:
    to.life.gossip.told(liar.id, liar.at[0], dump(write_message(message)))


@in_the_air
async def test_nodes_that_are_made_up_hide_no_death_and_die_themselves(air: Air) -> None:
    liar, *others = await small_fleet(air)
    lies = Message(tuple(made_up(number) for number in range(40)))
    for node in others:
        say(liar, node, lies)
    air.stop(others[0])
    left = others[1:]
    assert await until(lambda: all(node.buried(others[0]) for node in left), 40) < 15

    def believed() -> int:
        return sum(len([p for p in node.table.peers.values() if p.lives]) for node in left)

    # Some may not have been looked at yet by those that have to.
    await until(lambda: believed() <= len(left) * 7, 900)
    await until(lambda: all(len(node.table.peers) <= 8 for node in left), 1200)


def test_what_was_not_tried_yet_makes_room_for_nobody() -> None:
    mine = table()
    assert all(mine.take(made_up(number), 0.0) for number in range(PEERS_MOST))
    assert not mine.take(made_up(PEERS_MOST), 1.0)
    next(iter(mine.peers.values())).attempts = 1
    assert mine.take(made_up(PEERS_MOST), 1.0)
    assert len(mine.peers) == PEERS_MOST


def test_nobody_is_led_beyond_what_others_believe() -> None:
    mine, theirs = table("me"), table("other")
    assert theirs.take(mine.me, 0.0)
    lie = replace(mine.me, status=Status.DEAD)
    # Beyond what anybody believes, it is nothing to refute.
    for absurd in ((1 << 53) - 2, DATE + (1 << 33)):
        assert not mine.take(replace(lie, incarnation=absurd), 0.0)
        assert not theirs.take(replace(lie, incarnation=absurd), 0.0)
        assert not theirs.take(replace(made_up(1), incarnation=absurd), 0.0)
    # As far as others follow; a second time only when they can have.
    for second in (0.0, 20.0, 40.0):
        leap = replace(lie, incarnation=mine.me.incarnation + (1 << 32) - 1)
        assert theirs.take(leap, second)
        assert mine.take(leap, second)
        assert not mine.take(replace(leap, incarnation=leap.incarnation + (1 << 31)), second + 1)
        assert theirs.take(mine.me, second)
        assert theirs.peers[mine.me.id].lives


@in_the_air
async def test_leaps_in_one_message_are_one(air: Air) -> None:
    liar, victim, other, *_ = await small_fleet(air)
    begun = victim.table.me.incarnation
    leaps = (begun + (number << 32) for number in range(1, 200))
    lies = tuple(replace(victim.table.me, incarnation=leap) for leap in leaps)
    for node in (other, victim):
        say(liar, node, Message(lies))
    assert victim.table.me.incarnation <= begun + (1 << 32) + 1
    victim.life.gossip.hint("registry.example/team/app:1")
    # What it says is not refused for its numbers.
    message = victim.life.gossip.take_news()
    assert isinstance(message.hints[0], Hint)
    say(victim, other, message)
    await until(lambda: len({n.table.digest for n in air.nodes.values()}) == 1, 60)


@in_the_air
async def test_two_machines_with_one_key_are_told_and_quarrel_seldom(air: Air) -> None:
    nodes = await small_fleet(air)
    first, double = nodes[0], Node(3, air)
    double.at = ("10.0.9.9", 7466)
    facts = replace(double.table.me.facts, name="copy")
    double.table.me = replace(
        double.table.me, facts=facts, endpoints=(double.at,), incarnation=DATE + 60
    )
    air.nodes[double.at] = double
    air.tasks[1000] = air.group.create_task(double.life.run())
    double.life.prober.heard(first.id, [first.at])
    now = asyncio.get_running_loop().time
    pair = (nodes[3], double)
    await until(lambda: all(node.table.is_doubled(now()) for node in pair), 120)
    assert pair[0].table.double == (double.at,)
    assert pair[1].table.double == (pair[0].at,)
    assert not any(node.table.is_doubled(now()) for node in nodes if node not in pair)
    before = pair[0].table.me.incarnation
    await asyncio.sleep(300)
    assert all(node.table.is_doubled(now()) for node in pair)
    assert pair[0].table.me.incarnation - before < 50
    double.runs = False
    air.tasks[1000].cancel()
    await asyncio.sleep(700)
    assert not pair[0].table.is_doubled(now())


def test_a_message_of_nothing_is_not_even_parsed() -> None:
    with pytest.raises(BundleError, match="too many parts"):
        read_message(b'{"news":[' + b"[]," * 100_000 + b"[]]}", "what it says")


def test_a_restart_is_no_double() -> None:
    mine = table()
    earlier = replace(mine.me, incarnation=DATE + 5, endpoints=(("10.0.0.7", 7466),))
    assert mine.take(earlier, 0.0)
    assert not mine.take(earlier, 1.0)
    assert not mine.is_doubled(1.0)


async def test_who_was_buried_and_says_that_it_lives_is_told_the_rest() -> None:
    """What it says of itself makes its address one to be looked at; it is being talked to there."""
    mine, other = table(), made_up(1)
    at = other.endpoints[0]
    mine.take(other, 0.0)
    mine.found(mine.peers[other.id], at)
    mine.dead(other.id, 1.0)
    risen = Message((replace(other, incarnation=other.incarnation + 2),), want=(mine.me.id,))
    told: list[Message] = []

    class Its:
        async def ask(
            self, id: str, endpoint: object, target: str, body: bytes | None, seconds: float
        ) -> bytes:
            assert endpoint == at
            if body is None:
                return dump(write_message(Message(digest="another")))
            told.append(read_message(body, "told"))
            return dump(write_message(risen if len(told) == 1 else Message()))

    gossip = Gossip(
        mine,
        Its(),
        asyncio.get_running_loop().time,
        wake=lambda: None,
        learned=lambda _: None,
        hinted=lambda _id, _text: None,
    )
    assert await gossip.look(other.id, at, 1.0)
    assert [record.id for record in told[1].news] == [mine.me.id]
    assert mine.peers[other.id].lives
