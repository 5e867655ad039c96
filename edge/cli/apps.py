"""`edge apps`: what a running node runs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from edge.cli.common import Verbs
from edge.cli.node import (
    age,
    ask,
    json_argument,
    place,
    printable,
    say,
    say_json,
    short,
    socket_argument,
    table,
)
from edge.node.client import NodeClient

_FLEET_HEAD = ["NODE", "APPLICATION", "STATE", "DIGEST", "REFERENCE"]
_HEAD = ["NAME", "MOUNT", "STATE", "DIGEST", "SINCE", "SOURCE", "REFERENCE"]


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser(
        "apps",
        parents=[common],
        help="what the node runs",
        description="Lists the applications of the node: where they are, which version is live.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="only this one, with its details")
    parser.add_argument("--fleet", action="store_true", help="what all nodes of the fleet run")
    socket_argument(parser)
    json_argument(parser)
    parser.set_defaults(run=_apps)


def _apps(options: argparse.Namespace) -> int:
    if options.fleet:
        return _fleet_apps(options)
    name = options.name and f"/{quote(options.name, safe='')}"
    found = ask(options, lambda node: node.get(f"/v1/apps{name or ''}"))
    if options.json:
        say_json(found)
    else:
        say("\n".join(_details(found) if name else _lines(found)))
    return 0


def _fleet_apps(options: argparse.Namespace) -> int:
    async def asked(node: NodeClient) -> list[dict[str, Any]]:
        return [*await _own(node), *await node.get("/v1/fleet/apps")]

    nodes = ask(options, asked)
    if options.name:
        nodes = [{**node, "applications": _named(node, options.name)} for node in nodes]
    say_json(nodes) if options.json else say("\n".join(_fleet_lines(nodes, options.name)))
    return 0


async def _own(node: NodeClient) -> list[dict[str, Any]]:
    """This node's, as its peers would tell them."""
    fleet, status, apps = [await node.get(f"/v1/{path}") for path in ("fleet", "status", "apps")]
    keys = ("name", "state", "digest", "reference")
    own = [{key: app[key] for key in keys} for app in apps]
    about = {"name": status["name"], "id": fleet and fleet["node"], "error": None}
    return [{**about, "applications": own, "total": len(own)}]


def _named(node: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    return [app for app in node["applications"] if app["name"] == name]


def _fleet_lines(nodes: list[dict[str, Any]], name: str | None) -> Iterator[str]:
    rows = [_fleet_row(node, app) for node in nodes for app in node["applications"]]
    if rows:
        yield from table([_FLEET_HEAD, *rows])
    else:
        yield f"no node that answers has {name}" if name else "no applications"
    for node in nodes:
        if node["error"]:
            yield f"  {node['name']}: {node['error']}"


def _fleet_row(node: Mapping[str, Any], app: Mapping[str, Any]) -> list[str]:
    state, reference = app["state"] or "-", app["reference"] or "-"
    return [node["name"], app["name"], state, short(app["digest"]), reference]


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
        "about": application["description"],
        "version": application["version"],
        "mount": place(application["mount"]),
        "source": application["source"],
        "reference": application["reference"],
        "digest": application["digest"],
        "previous": application["previous"],
    }
    for name, value in shown.items():
        if value:
            yield f"  {name:<9}  {printable(value)}"
    for trigger in application["triggers"]:
        yield f"  {trigger['type']:<9}  {printable(_trigger(trigger))}"


def _trigger(trigger: Mapping[str, Any]) -> str:
    return f"{trigger['on']} → {trigger['component'] or 'a static answer'}"
