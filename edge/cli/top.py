"""`edge top`: what happens on a node now, in the terminal or as one snapshot."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from edge.application.units import duration
from edge.cli.common import Verbs, argument
from edge.cli.figures import Figures, Past, show_rate, show_seconds
from edge.cli.node import (
    amount,
    ask,
    json_argument,
    say,
    say_json,
    socket_argument,
    socket_of,
    table,
)
from edge.errors import ConfigError
from edge.node.client import NodeClient

_HEAD = [
    "APPLICATION", "COMPONENT", "STATE", "RATE/s", "FAILED/s", "P50", "P99", "NOW", "WAITING",
    "TOTAL",
]  # fmt: skip
# Seconds.
_SHORTEST, _LONGEST = 0.1, 3600.0

_EPILOG = """\
keys: arrows choose a component, whose log is below; r f l t n sort by rate, failures, latency,
total, name; Enter shows the log alone, space holds everything, ? explains, q ends.

examples:
  edge top                               until q is pressed
  edge top --once --interval 10s         a table of the next ten seconds
  edge top --json | jq '.components[] | select(.failing > 0)'
"""


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser(
        "top",
        parents=[common],
        help="what happens now: rates, latencies, memory",
        description="Shows what happens on the node: each component's rate, failures and latency,"
        " and the log of the one that is chosen.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--once", action="store_true", help="print one table, over an interval")
    parser.add_argument(
        "--interval",
        type=argument(_interval),
        metavar="TIME",
        help='of --once and --json, like "10s" (default: 1s)',
    )
    socket_argument(parser)
    json_argument(parser)
    parser.set_defaults(run=_run)


def _interval(text: str) -> float:
    seconds = duration(text)
    if not _SHORTEST <= seconds <= _LONGEST:
        raise ValueError("must be between 100ms and 1h")
    return seconds


def _run(options: argparse.Namespace) -> int:
    if options.once or options.json:
        interval = options.interval or 1.0
        found = ask(options, lambda node: _snapshot(node, interval))
        say_json(found) if options.json else say("\n".join(_lines(found)))
        return 0
    if options.interval is not None:
        raise ConfigError("--interval: is for --once and --json")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError("top: this is no terminal", hint="--once prints a table, --json JSON")
    # A node that is not there is an error of a line, and not a screen.
    ask(options, lambda node: node.get("/v1/status"))
    # Its library takes a quarter of a second to load, and nobody else needs it.
    from edge.cli.screen import Top

    Top(socket_of(options)).run()
    return 0


async def _snapshot(node: NodeClient, interval: float) -> dict[str, Any]:
    """What happened in the next `interval` seconds."""
    past = Past(interval, interval)
    first = await node.get("/v1/metrics")
    past.add(first)
    await asyncio.sleep(interval)
    last = await node.get("/v1/metrics")
    past.add(last)
    states = {app["name"]: app["state"] for app in await node.get("/v1/apps")}
    before = {(a, c): past_total for a, c, past_total in _totals(first)}
    return {
        "seconds": round(last["at"] - first["at"], 3),
        "node": last["node"],
        "all": _described(past.figures()),
        "components": [
            {
                "application": application,
                "component": component,
                "state": states.get(application),
                "invocations": max(0, total - before.get((application, component), 0)),
                **_described(past.of(application, component)),
            }
            for application, component, total in _totals(last)
        ],
    }


def _totals(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str, int]]:
    for one in metrics["components"]:
        yield one["application"], one["component"], sum(one["outcomes"].values())


def _described(figures: Figures) -> dict[str, Any]:
    """JSON knows no infinity."""
    found = asdict(figures)
    endless = float("inf")
    return {name: None if value == endless else value for name, value in found.items()}


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    node, together = found["node"], found["all"]
    memory = node["memory"]["pss"] or node["memory"]["rss"]
    pool = node["pool"]
    yield (
        f"{show_rate(together['rate'])}/s, {show_rate(together['failing'])}/s failed, "
        f"p99 {show_seconds(together['slow'])}; {amount(memory)}, "
        f"{pool['slots_used']} of {pool['slots']} places for guests"
    )
    if not found["components"]:
        yield "nothing has come for any component yet"
        return
    busiest = sorted(found["components"], key=lambda one: -one["rate"])
    yield from table([_HEAD, *map(_row, busiest)])


def _row(one: Mapping[str, Any]) -> list[str]:
    return [
        one["application"],
        one["component"],
        one["state"] or "-",
        show_rate(one["rate"]),
        show_rate(one["failing"]),
        show_seconds(one["median"]),
        show_seconds(one["slow"]),
        str(one["in_flight"]),
        str(one["queued"]),
        str(one["total"]),
    ]
