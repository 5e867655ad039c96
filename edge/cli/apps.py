"""`edge apps` and `edge status`: what a running node runs, and how it is."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from edge.cli.common import Verbs
from edge.cli.node import (
    age,
    amount,
    ask,
    json_argument,
    place,
    say,
    say_json,
    short,
    socket_argument,
    span,
    table,
)

_HEAD = ["NAME", "MOUNT", "STATE", "DIGEST", "SINCE", "SOURCE", "REFERENCE"]


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser(
        "apps",
        parents=[common],
        help="what the node runs",
        description="Lists the applications of the node: where they are, which version is live.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="only this one, with its details")
    socket_argument(parser)
    json_argument(parser)
    parser.set_defaults(run=_apps)
    parser = verbs.add_parser(
        "status",
        parents=[common],
        help="how the node is",
        description="Says how the node is: since when it runs, where it serves, what it stores.",
    )
    socket_argument(parser)
    json_argument(parser)
    parser.set_defaults(run=_status)


def _apps(options: argparse.Namespace) -> int:
    name = options.name and f"/{quote(options.name, safe='')}"
    found = ask(options, lambda node: node.get(f"/v1/apps{name or ''}"))
    if options.json:
        say_json(found)
    else:
        say("\n".join(_details(found) if name else _lines(found)))
    return 0


def _lines(found: list[dict[str, Any]]) -> Iterator[str]:
    if not found:
        yield "no applications; `edge deploy REF` adds one"
        return
    head, *lines = table([_HEAD, *map(_row, found)])
    yield head
    for application, line in zip(found, lines, strict=True):
        yield line
        if application["reason"]:
            yield f"  {application['reason']}"


def _row(application: Mapping[str, Any]) -> list[str]:
    return [
        application["name"],
        place(application["mount"]),
        application["state"],
        short(application["digest"]),
        age(application["since"]),
        application["source"],
        application["reference"] or "-",
    ]


def _details(application: Mapping[str, Any]) -> Iterator[str]:
    since = f" for {age(application['since'])}" if application["since"] else ""
    yield f"{application['name']}: {application['state']}{since}"
    shown = {
        "reason": application["reason"],
        "mount": place(application["mount"]),
        "source": application["source"],
        "reference": application["reference"],
        "digest": application["digest"],
        "previous": application["previous"],
    }
    for name, value in shown.items():
        if value:
            yield f"  {name:<9}  {value}"


def _status(options: argparse.Namespace) -> int:
    found = ask(options, lambda node: node.get("/v1/status"))
    say_json(found) if options.json else say("\n".join(_status_lines(found)))
    return 0


def _status_lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"{found['name']}: edge {found['version']}, up {span(found['uptime'])}"
    shown = {
        "serves": ", ".join(found["listening"]),
        "mirror": ", ".join(found["mirror"]),
        "runs": _counted(found["applications"]),
        "synced": found["last_sync"] and f"{age(found['last_sync'])} ago",
        "fleet": found["generation"] and f"generation {found['generation']}",
        "labels": ", ".join(f"{name}={value}" for name, value in found["labels"].items()),
        "stores": _stored(found["store"]),
        "state": found["state_dir"],
    }
    for name, value in shown.items():
        if value:
            yield f"  {name:<7}  {value}"
    for note in found["notes"]:
        yield f"  note: {note}"


def _counted(states: Mapping[str, int]) -> str:
    total = sum(states.values())
    each = ", ".join(f"{count} {state}" for state, count in states.items())
    noun = "application" if total == 1 else "applications"
    return f"{total} {noun}: {each}" if total else "no applications"


def _stored(store: Mapping[str, int | None]) -> str:
    used, quota = store["used"], store["quota"]
    if used is None or quota is None:
        return ""
    return f"{amount(used)} of {amount(quota)}"
