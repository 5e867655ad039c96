"""What people are shown of a node's peers. JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from edge.application.fields import Table, Where, integer, items, parsed, string
from edge.errors import EdgeError
from edge.fleet.peers import Peers
from edge.fleet.routes import APPS
from edge.fleet.table import Peer
from edge.fleet.wire import Record, Status, load, plain_text, show_address

__all__ = ["applications", "view"]

# Peers that are asked at the same time, and seconds for each.
_AT_ONCE, _SECONDS = 8, 5.0


def view(peers: Peers, date: float) -> dict[str, Any]:
    """`date`: trusted time now."""
    now = peers.now

    def moment(then: float | None) -> str | None:
        return None if then is None else _moment(date - (now - then))

    return {
        "node": _described(peers.table.me),
        "peers": [
            {
                **_described(peer.record),
                "addresses": [show_address(endpoint) for endpoint in peer.places],
                "state": _state(peer, now),
                "reason": _reason(peer, now),
                "round_trip": None if peer.round_trip is None else round(peer.round_trip, 6),
                "last_seen": moment(peer.seen),
                "since": moment(peer.since),
            }
            for peer in peers.peers()
        ],
        "reports": [
            {
                "where": report.where,
                "what": report.what,
                "count": report.count,
                "first": moment(report.first),
                "last": moment(report.last),
            }
            for report in peers.reports.latest()
        ],
    }


def _described(record: Record) -> dict[str, Any]:
    facts = record.facts
    return {
        "name": facts.name,
        "id": record.id,
        "version": facts.version,
        "arch": facts.arch,
        "addresses": [show_address(endpoint) for endpoint in record.endpoints],
        "inventory": facts.inventory,
        "generation": facts.generation,
        "applications": facts.applications,
    }


def _state(peer: Peer, now: float) -> str:
    if peer.record.status != Status.ALIVE:
        return peer.record.status.name.lower()
    if peer.penalised > now:
        return "penalised"
    return "alive" if peer.endpoint else "unverified"


def _reason(peer: Peer, now: float) -> str | None:
    if peer.penalised > now:
        return peer.penalty
    if peer.lives and peer.endpoint is None:
        return "others know it, this node has not reached it yet"
    if peer.lives and peer.attempts:
        return "does not answer this node"
    return None


async def applications(peers: Peers) -> list[dict[str, Any]]:
    """One entry for each living peer: what it runs, or why that is not known."""
    slots = asyncio.Semaphore(_AT_ONCE)

    async def ask(peer: Peer) -> dict[str, Any]:
        async with slots:
            return await _applications(peers, peer)

    async with asyncio.TaskGroup() as group:
        asked = [
            group.create_task(ask(peer), name="applications of a peer")
            for peer in peers.peers()
            if peer.lives and peer.endpoint
        ]
    return [task.result() for task in asked]


async def _applications(peers: Peers, peer: Peer) -> dict[str, Any]:
    about = {"name": peer.record.facts.name, "id": peer.id}
    try:
        data = await peers.ask(peer.id, APPS, _SECONDS)
        total, apps = _read(*load(data, f"what {peer.id} says"))
    except EdgeError as error:
        return {**about, "applications": [], "total": None, "error": error.message}
    return {**about, "applications": apps, "total": total, "error": None}


def _read(value: object, where: Where) -> tuple[int, Sequence[dict[str, Any]]]:
    table = Table(value, where)
    apps = table.need("apps", items(_application))
    return table.need("total", integer(0, 1 << 31)), apps


def _application(value: object, where: Where) -> dict[str, Any]:
    if not isinstance(value, list) or len(value) < 4:
        raise where.error("must be a list of four")
    name, state, digest, reference = (_maybe(item, where) for item in value[:4])
    return {"name": name, "state": state, "digest": digest, "reference": reference}


def _maybe(value: object, where: Where) -> str | None:
    return None if value is None else parsed(plain_text)(string(value, where), where)


def _moment(seconds: float) -> str:
    """As RFC 3339 has it."""
    moment = datetime.fromtimestamp(max(int(seconds), 0), UTC)
    return moment.isoformat().replace("+00:00", "Z")
