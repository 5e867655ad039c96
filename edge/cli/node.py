"""What verbs need that ask a running node: where its socket is, one question, ages for people."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

from edge.config import Node
from edge.node.client import NodeClient

T = TypeVar("T")


def socket_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--socket",
        type=Path,
        metavar="PATH",
        help=f"where the node answers (default: $EDGE_SOCKET, then {Node().socket})",
    )


def json_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def ask(options: argparse.Namespace, question: Callable[[NodeClient], Coroutine[Any, Any, T]]) -> T:
    """Asks the node that the options or the environment name."""
    return asyncio.run(_ask(socket_of(options), question))


async def _ask(path: Path, question: Callable[[NodeClient], Coroutine[Any, Any, T]]) -> T:
    async with NodeClient(path) as client:
        return await question(client)


def socket_of(options: argparse.Namespace) -> Path:
    """Where the node answers that the options or the environment name."""
    given: Path | None = options.socket
    return given or Path(os.environ.get("EDGE_SOCKET") or Node().socket)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


class Progress:
    """Says how far a node is, of what takes longer than a second: to stderr, it is not what was
    asked for.
    """

    def __init__(self) -> None:
        self._last: str | None = None
        self._patient = True

    def __call__(self, text: str) -> None:
        if not self._patient:
            self._show(text)
        elif self._last is None:
            asyncio.get_running_loop().call_later(1, self._late)
        self._last = text

    def _late(self) -> None:
        self._patient = False
        self._show(self._last or "")

    def _show(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def say_json(value: object) -> None:
    say(json.dumps(value, indent=2, ensure_ascii=False))


# What people read


def short(digest: str | None) -> str:
    """Enough of a digest to tell versions apart."""
    return "-" if digest is None else digest.partition(":")[2][:12]


def place(mount: Mapping[str, str | None]) -> str:
    """A mount as it stands in URLs: `/thermo`, `thermo.local/`."""
    return f"{mount['host'] or ''}{mount['path']}"


def age(moment: str | None) -> str:
    """How long ago a moment of the node was."""
    if moment is None:
        return "-"
    then = datetime.datetime.fromisoformat(moment)
    return span((datetime.datetime.now(datetime.UTC) - then).total_seconds())


def span(seconds: float) -> str:
    """Seconds in the largest unit that has two of them: `90s`, `5m`, `47h`, `12d`."""
    whole = max(0, int(seconds))  # a clock that was set back
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if whole >= 2 * size:
            return f"{whole // size}{unit}"
    return f"{whole}s"


def amount(size: float) -> str:
    """Bytes, as exactly as people want to know: `20 KiB`, `3.4 MiB`."""
    units = iter(("bytes", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while size >= 1024 and unit != "TiB":
        size, unit = size / 1024, next(units)
    digits = 1 if size < 10 and size % 1 >= 0.05 and unit != "bytes" else 0
    return f"{size:.{digits}f} {unit}"


def table(rows: list[list[str]]) -> list[str]:
    """Columns as wide as they must be."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def printable(text: str) -> str:
    """What others wrote does not control anybody's terminal."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in text
    )
