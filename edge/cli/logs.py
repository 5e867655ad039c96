"""`edge logs`: what the node and its guests wrote, from the journal or from the node."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from urllib.parse import urlencode

from edge.application.units import duration
from edge.cli.common import Verbs, argument
from edge.cli.node import printable, say, socket_argument, socket_of
from edge.errors import EdgeError
from edge.node.client import NodeClient
from edge.platform.entries import Entry, Wanted, of_json
from edge.platform.journalctl import journal, there_is_a_journal

# Where the service's log is.
_UNIT = "edge.service"
# Seconds for a node to say where its log is: whoever looks for a fault has one that may hang.
_PATIENCE = 3.0
# Lines that are shown where nothing says how many.
_LINES = 100

_EPILOG = """\
examples:
  edge logs -f                                   what happens, until Ctrl-C
  edge logs --application thermo --since 10m     what it printed, and what the node says of it
  edge logs --invocation 1a2b3c4d-7              one event from end to end; the id is in each error
  edge logs --json | jq 'select(.level == "error")'

Under systemd the lines come from the journal, also when the node does not run. Otherwise the node
has the last ones in memory. What a guest prints has its name, and is bounded: beyond, it says so.
"""


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser(
        "logs",
        parents=[common],
        help="what the node and its guests wrote",
        description="Shows the log of the node: its own lines, and what guests print.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--follow", "-f", action="store_true", help="and what comes, until Ctrl-C")
    parser.add_argument("--application", "-a", metavar="NAME", help="only of this application")
    parser.add_argument("--component", "-c", metavar="NAME", help="only of this component")
    parser.add_argument("--invocation", "-i", metavar="ID", help="only of this one event")
    parser.add_argument(
        "--since",
        type=argument(_since),
        metavar="TIME",
        help='"10m", "2h" or "3d" ago, or a date and time of this machine like "2026-11-23 08:30"',
    )
    parser.add_argument(
        "--lines",
        "-n",
        type=argument(_count),
        metavar="N",
        help=f"at most the last N (default: {_LINES}; all with --since or --invocation)",
    )
    parser.add_argument(
        "--unit", metavar="NAME", help=f"the journal of this service (default: {_UNIT})"
    )
    parser.add_argument("--json", action="store_true", help="a line of JSON for each")
    socket_argument(parser)
    parser.set_defaults(run=_run)


def _since(text: str) -> float:
    """Seconds since 1970."""
    try:
        return time.time() - duration(text)  # noqa: TID251 – entries have dates
    except ValueError:
        pass
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise ValueError(
            f'"{text}" is neither a time ago, like "10m", nor a date like "2026-11-23 08:30"'
        ) from None


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f'"{text}" is not a number of lines')
    return int(text)


def _run(options: argparse.Namespace) -> int:
    try:
        return asyncio.run(_show(options))
    except BrokenPipeError:
        # Who read it has seen enough; nor is there anybody to tell when Python flushes its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


async def _show(options: argparse.Namespace) -> int:
    shown = 0
    async with aclosing(await _entries(options)) as entries:
        async for entry in entries:
            shown += 1
            say(json.dumps(entry.to_json()) if options.json else _text(entry))
            if options.follow:
                sys.stdout.flush()
    sys.stdout.flush()
    if not shown and not options.json:
        sys.stderr.write("nothing of that is in the log\n")
    return 0


async def _entries(options: argparse.Namespace) -> AsyncGenerator[Entry, None]:
    """Of where the log is: the node knows; where it does not answer, the journal of its service."""
    wanted = Wanted(options.application, options.component, options.invocation, options.since)
    lines = options.lines
    if lines is None and options.since is None and options.invocation is None:
        lines = _LINES
    unit = options.unit or await _unit(options)
    if unit is not None:
        return journal(unit, wanted, lines=lines, follow=options.follow)
    return _of_node(options, wanted, lines)


async def _unit(options: argparse.Namespace) -> str | None:
    """Whose journal is to be read; None: the node itself is to be asked."""
    try:
        found = await _asked(socket_of(options))
    except EdgeError:
        if options.socket is not None or "EDGE_SOCKET" in os.environ or not there_is_a_journal():
            raise
        return _UNIT
    return found if there_is_a_journal() else None


async def _asked(path: Path) -> str | None:
    """The unit in whose journal a node's log is; None: it is in none. Raises EdgeError."""
    try:
        async with asyncio.timeout(_PATIENCE), NodeClient(path) as node:
            found: str | None = (await node.get("/v1/status")).get("journal")
            return found
    except TimeoutError:
        raise EdgeError(
            f"the node at {path}: no answer within {_PATIENCE:g} s",
            hint="`edge logs --unit edge.service` reads the journal without it",
        ) from None


async def _of_node(
    options: argparse.Namespace, wanted: Wanted, lines: int | None
) -> AsyncGenerator[Entry, None]:
    asked = {
        "application": wanted.application,
        "component": wanted.component,
        "invocation": wanted.invocation,
        "since": wanted.since,
        "lines": lines,
        "follow": int(options.follow),
    }
    query = urlencode({name: value for name, value in asked.items() if value is not None})
    async with (
        NodeClient(socket_of(options)) as node,
        aclosing(node.follow(f"/v1/logs?{query}")) as told,
    ):
        async for line in told:
            if "time" in line:
                yield of_json(line)
            elif "missed" in line:
                sys.stderr.write(f"({line['missed']} lines came faster than they were read)\n")
    if options.follow:
        raise EdgeError("the node has ended", hint="once it runs again, `edge logs` asks it anew")


def _text(entry: Entry) -> str:
    moment = datetime.datetime.fromtimestamp(entry.time).astimezone()
    date = f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03}"
    level = f"{entry.level}: " if entry.level in ("error", "warning") else ""
    message = "\n    ".join(map(printable, entry.message.split("\n")))
    return f"{date} {printable(_who(entry))}: {level}{message}"


def _who(entry: Entry) -> str:
    if entry.component is None:
        # What the service manager says of the node has its name.
        logger = entry.logger or "edge"
        return "edge" if logger.startswith("edge") else logger
    invocation = f" [{entry.invocation}]" if entry.invocation else ""
    return f"{entry.application}/{entry.component}{invocation}"
