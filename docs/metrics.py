"""Writes the table of metrics.md from what the code declares; `--check` only tells if it has."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from edge.invocation.meter import BOUNDS
from edge.node.metrics.families import FAMILIES

FILE = Path(__file__).with_suffix(".md")
BEGIN, END = "<!-- metrics.py writes what follows -->\n", "<!-- until here -->\n"


def table() -> Iterator[str]:
    yield "| name | type | labels | |\n|---|---|---|---|\n"
    for family in FAMILIES:
        labels = ", ".join(f"`{label}`" for label in family.labels)
        yield f"| `{family.name}` | {family.kind} | {labels} | {family.help} |\n"
    bounds = ", ".join(f"{bound:.6f}".rstrip("0").rstrip(".") for bound in BOUNDS)
    yield f"\nBuckets of the histograms, in seconds: {bounds}.\n"


def main() -> int:
    text = FILE.read_text()
    head, _, rest = text.partition(BEGIN)
    written = "".join((head, BEGIN, *table(), END, rest.partition(END)[2]))
    if sys.argv[1:] == ["--check"]:
        return int(written != text)
    FILE.write_text(written)
    return 0


if __name__ == "__main__":
    sys.exit(main())
