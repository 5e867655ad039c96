"""`edge peers`: the other nodes of the fleet, as this node knows them."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from edge.cli.common import Verbs
from edge.cli.node import age, ask, json_argument, say, say_json, socket_argument, table
from edge.errors import ConfigError
from edge.node.client import NodeClient

_HEAD = ["NAME", "ID", "STATE", "ADDRESS", "TRIP", "APPS", "SEEN", "VERSION"]
# Seconds between two looks of --watch.
_EVERY = 1.0
# Enough of an id to tell nodes apart.
_SHORT = 12


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser(
        "peers",
        parents=[common],
        help="the other nodes of the fleet",
        description="Lists the other nodes of the fleet as this node knows them, and what it was"
        " told that is not so.",
    )
    parser.add_argument("--watch", action="store_true", help="show it again whenever it changes")
    parser.add_argument(
        "--browse",
        action="store_true",
        help="ask the network instead of the node: every node that advertises itself. Nothing of"
        " it is authenticated",
    )
    parser.add_argument(
        "--seconds", type=float, default=3.0, metavar="N", help="how long to browse (default: 3)"
    )
    socket_argument(parser)
    json_argument(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    if options.browse:
        if options.watch:
            raise ConfigError("--watch: is about the peers of a node, not for --browse")
        return _browse(options)
    if options.watch:
        return ask(options, lambda node: _watch(node, as_json=options.json))
    found = ask(options, lambda node: node.get("/v1/peers"))
    say_json(found) if options.json else say("\n".join(_lines(found)))
    return 0


async def _watch(node: NodeClient, *, as_json: bool) -> int:
    """Until Ctrl-C."""
    shown = None
    while True:
        found = await node.get("/v1/peers")
        state = _without_ages(found)
        if state != shown:
            shown = state
            say_json(found) if as_json else say(f"{time.strftime('%X')}\n" + _text(found))
            sys.stdout.flush()
        await asyncio.sleep(_EVERY)


def _text(found: Mapping[str, Any]) -> str:
    return "\n".join(_lines(found)) + "\n"


def _without_ages(found: Mapping[str, Any]) -> object:
    passing = ("last_seen", "round_trip")
    peers = [{k: v for k, v in peer.items() if k not in passing} for peer in found["peers"]]
    reports = [(report["where"], report["what"]) for report in found["reports"]]
    return peers, reports, found["notes"], found["fleet"]


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    if found["fleet"] is None:
        yield "this node is alone: `edge fleet init` or `edge fleet join` changes that"
    elif not found["peers"]:
        yield f"{found['fleet']['name']}: no other nodes yet"
    else:
        head, *lines = table([_HEAD, *map(_row, found["peers"])])
        yield head
        for peer, line in zip(found["peers"], lines, strict=True):
            yield line
            if peer["reason"]:
                yield f"  {peer['reason']}"
    for report in found["reports"]:
        times = f", {report['count']} times" if report["count"] > 1 else ""
        yield f"  {report['where']}: {report['what']}{times}, {age(report['last'])} ago"
    for note in found["notes"]:
        yield f"  note: {note}"


def _row(peer: Mapping[str, Any]) -> list[str]:
    trip = peer["round_trip"]
    return [
        peer["name"],
        peer["id"][:_SHORT],
        peer["state"],
        peer["addresses"][0] if peer["addresses"] else "-",
        "-" if trip is None else f"{1000 * trip:.1f}ms",
        str(peer["applications"]),
        age(peer["last_seen"]),
        peer["version"] or "-",
    ]


def _browse(options: argparse.Namespace) -> int:
    from edge.fleet.discovery import browse

    adverts = sorted(asyncio.run(browse(options.seconds)), key=lambda one: (one.name, one.id))
    if options.json:
        say_json([_described(advert) for advert in adverts])
    elif not adverts:
        say("no node advertises itself here")
    else:
        head = ["NAME", "ID", "FLEET", "ADDRESS", "ARCH", "VERSION"]
        rows = [_advertised(_described(advert)) for advert in adverts]
        say("\n".join(table([head, *rows])))
        sys.stderr.write("whoever is on this network can say so: nothing of it is authenticated\n")
    return 0


def _described(advert: Any) -> dict[str, Any]:
    return {
        "name": advert.name,
        "id": advert.id,
        "fleet": advert.fleet,
        "addresses": [
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            for host, port in advert.addresses
        ],
        "inventory": advert.inventory,
        "arch": advert.arch,
        "version": advert.version,
    }


def _advertised(advert: Mapping[str, Any]) -> list[str]:
    return [
        advert["name"],
        advert["id"][:_SHORT],
        advert["fleet"][:_SHORT],
        advert["addresses"][0] if advert["addresses"] else "-",
        advert["arch"] or "-",
        advert["version"] or "-",
    ]
