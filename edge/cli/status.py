"""`edge status`: how a running node is, on one screen."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edge.cli.common import Verbs
from edge.cli.figures import Past
from edge.cli.node import (
    age,
    amount,
    ask,
    json_argument,
    printable,
    say,
    say_json,
    socket_argument,
    span,
)
from edge.errors import EdgeError
from edge.node.client import NodeClient

_FINE = ("live", "soaking")
# Applications that are not as wanted and are named: who has more of them asks `edge apps`.
_NAMED = 8

Json = Mapping[str, Any]


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser(
        "status",
        parents=[common],
        help="how the node is",
        description="Says how the node is: where it serves, what is not as wanted and why, what it"
        " handled, needs and stores.",
    )
    socket_argument(parser)
    json_argument(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    if options.json:
        say_json(ask(options, lambda node: node.get("/v1/status")))
    else:
        say("\n".join(map(printable, _lines(*ask(options, _asked)))))
    return 0


async def _asked(node: NodeClient) -> tuple[Json, Sequence[Json], Json | None]:
    status, apps = await node.get("/v1/status"), await node.get("/v1/apps")
    try:
        return status, apps, await node.get("/v1/metrics")
    except EdgeError:  # of a version before, that an update has not started anew yet
        return status, apps, None


def _lines(status: Json, apps: Sequence[Json], metrics: Json | None) -> Iterator[str]:
    yield f"{status['name']}: edge {status['version']}, up {span(status['uptime'])}"
    shown = {
        "serves": _listed(status["listening"]),
        "page": _listed(status.get("page", ())),
        "mirror": _listed(status["mirror"]),
        "runs": [_counted(status["applications"]), *_wrong(apps)],
        "handled": _handled(metrics),
        "memory": _memory(metrics),
        "brokers": _brokers(metrics),
        "synced": [f"{age(status['last_sync'])} ago"] if status["last_sync"] else [],
        "fleet": _fleet(status),
        "labels": _listed([f"{name}={value}" for name, value in status["labels"].items()]),
        "stores": _stored(status["store"], metrics),
        "state": [status["state_dir"]],
    }
    for name, values in shown.items():
        for number, value in enumerate(values):
            yield f"  {'' if number else name:<7}  {value}"
    for note in status["notes"]:
        yield f"  note: {note}"


def _listed(texts: Sequence[str]) -> list[str]:
    return [", ".join(texts)] if texts else []


def _counted(states: Mapping[str, int]) -> str:
    total = sum(states.values())
    each = ", ".join(f"{count} {state}" for state, count in states.items())
    noun = "application" if total == 1 else "applications"
    return f"{total} {noun}: {each}" if total else "no applications; `edge deploy REF` adds one"


def _wrong(apps: Sequence[Json]) -> Iterator[str]:
    """A line for each that is not as wanted."""
    wrong = [app for app in apps if app["state"] not in _FINE]
    for app in wrong[:_NAMED]:
        since = f" for {age(app['since'])}" if app["since"] else ""
        yield f"{app['name']}: {app['state']}{since}: {app['reason'] or 'not tried yet'}"
    if len(wrong) > _NAMED:
        yield f"… and {len(wrong) - _NAMED} more: `edge apps`"


def _handled(metrics: Json | None) -> list[str]:
    if metrics is None:
        return []
    past = Past()
    past.add(metrics)
    found = past.figures()
    waiting = f", {found.queued} waiting" if found.queued else ""
    events = "event" if found.total == 1 else "events"
    return [
        f"{found.total:,} {events}, {found.failed:,} failed; {found.in_flight} under way{waiting}"
    ]


def _memory(metrics: Json | None) -> list[str]:
    if metrics is None:
        return []
    memory, pool = metrics["node"]["memory"], metrics["node"]["pool"]
    return [
        f"{amount(memory['pss'] or memory['rss'])}; guests have {pool['slots_used']} of"
        f" {pool['slots']} places, {amount(pool['memory_used'])} of {amount(pool['memory'])}"
    ]


def _brokers(metrics: Json | None) -> list[str]:
    return [
        f"{one['broker']}: {'connected' if one['connected'] else 'not connected'},"
        f" {one['received']:,} received, {one['published']:,} published"
        + (f", {one['dead']:,} given up" if one["dead"] else "")
        for one in (metrics["node"]["mqtt"] if metrics else ())
    ]


def _fleet(status: Json) -> list[str]:
    about, generation = status["fleet"], status["generation"]
    parts = []
    if about is not None:
        alive = about.get("alive", 0)
        parts.append(f"{about['name']}, with {alive} other node{'' if alive == 1 else 's'}")
    if generation is not None:
        parts.append(f"generation {generation}")
    return _listed(parts)


def _stored(store: Mapping[str, int | None], metrics: Json | None) -> list[str]:
    used, quota = store["used"], store["quota"]
    if used is None or quota is None:
        return []
    written = metrics["node"]["disk"]["written"] if metrics else None
    since = f"; {amount(written)} written to disk since the start" if written is not None else ""
    return [f"{amount(used)} of {amount(quota)}{since}"]
