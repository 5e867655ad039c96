"""What the figures are shown as: tables of Markdown, a plot, and the JSON that both are made of.

`report.py` makes the documents anew of docs/bench.json, `report.py --check` says whether they are.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import plot

Entry = dict[str, Any]

# Beside whom a row stands: its ratio is ours by the first of them that it has.
PEERS = (
    "wasmtime serve",
    "aiomqtt",
    "each for itself",
    "import alone",
    "alone",
    "awake",
)
# Each kind of rows, as docs/speed.md calls it; a part of the run.
TITLES = {
    "http": "Requests",
    "bodies": "Large bodies",
    "workers": "Several processes",
    "messages": "Messages",
    "idle": "Nodes that have nothing to do",
    "memory": "Memory",
    "start": "The first answer of `edge up`",
    "boards": "Within a Raspberry Pi's limits",
    "instructions": "Instructions",
    "micro": "Without HTTP",
    "scale": "Simulated fleets",
    "fleet": "A new version on nodes of one network",
}
# The rows of the README, and what we want of them: a ratio, or a figure.
CHOSEN = {
    "small guest": "≥ 3 ×",
    "small guest, reuse 1000": "≥ 1 ×",
    "Python guest": "≥ 2 ×",
    "Python guest, reuse 1000": "≥ 1 ×",
    "JavaScript guest": "≥ 2 ×",
    "JavaScript guest, reuse 1000": "≥ 1 ×",
    "small guest: processor time of a request": "≤ 0.33 ×",
    "small guest: instructions of a request": "",
    "small guest, half load, p99": "≤ 1 ×",
    "small guest, at half of the peer's, p99": "≤ 1 ×",
    "small guest, half load, 4 guests compute beside it, p99": "≤ alone + 4,000",
    "1 MiB up": "≥ 1 ×",
    "1 MiB down": "≥ 1 ×",
    "64 MiB up": "≥ 1 ×",
    "64 MiB down": "≥ 1 ×",
    "64 MiB echoed": "≥ 1 ×",
    "Python guest: two workers / one": "≥ 1.7",
    "QoS 1, small guest": "≥ 1 ×",
    "instantiate, small guest / pooled InstancePre, p50": "≤ 2",
    "instantiate, Python guest, ready, p99": "≤ 1,000",
    "100 applications: start to the first answer": "≤ 1.5 × + 200",
    "100 applications: PSS idle": "≤ 70",
    "100 applications: private memory idle": "≤ 45",
    "100 applications: wake-ups a minute of all threads": "≤ 60",
    "1,000 applications: memory of each": "≤ 100",
    "1,000 applications: a request to one asleep, p99": "≤ awake + 5",
    "10,000 applications: start to the first answer": "≤ 30",
    "small guest: PSS of each request in flight": "",
    "Python guest: PSS of each request in flight": "",
    "39 bits, 512 MB: small guest": "≥ 3 ×",
    "39 bits, 512 MB: Python guest": "≥ 2 ×",
}


def shown(figure: float) -> str:
    if figure and abs(figure) < 0.005:
        return f"{figure:.1g}"
    return f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.3g}"


def tables(rows: list[Entry]) -> str:
    """A table for each part, with a column for each that was measured there."""
    parts = []
    for part, title in TITLES.items():
        found = [row for row in rows if row["part"] == part]
        if found:
            parts.append(f"## {title}\n\n{table(found)}")
    return "\n\n".join(parts)


def table(rows: list[Entry]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row["median"]))
    pair = [name for name in names if name == "edge" or name in PEERS]
    columns = [*pair, "ratio", *(name for name in names if name not in pair)]
    if not any("ratio" in row for row in rows):
        columns.remove("ratio")
    lines = [line(["what", "unit", *columns]), "|---|---|" + "--:|" * len(columns)]
    for row in rows:
        cells = {name: shown(figure) for name, figure in row["median"].items()}
        if "ratio" in row:
            cells["ratio"] = f"{row['ratio']:.2f}"
        lines.append(line([row["row"], row["unit"], *(cells.get(name, "") for name in columns)]))
    return "\n".join(lines)


def chosen(rows: list[Entry]) -> str:
    """The rows of the README: ours, who is beside it, what we want."""
    by_name = {row["row"]: row for row in rows}
    lines = [line(["what", "unit", "edge", "beside it", "ratio", "wanted"])]
    lines.append("|---|---|--:|--:|--:|--:|")
    for name, wanted in CHOSEN.items():
        if name not in by_name:
            continue
        row = by_name[name]
        peer = next((peer for peer in PEERS if peer in row["median"]), None)
        beside = f"{shown(row['median'][peer])} {peer}" if peer else ""
        ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
        cells = [name, row["unit"], shown(row["median"]["edge"]), beside, ratio, wanted]
        lines.append(line(cells))
    return "\n".join(lines)


def line(cells: list[str]) -> str:
    return " | ".join(["", *cells, ""]).strip()


def compact(result: dict[str, Any]) -> str:
    """JSON with a line for each row."""
    rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in result["rows"])
    return f'{{"machine": {json.dumps(result["machine"])},\n"rows": [\n{rows}\n]}}\n'


def note(result: dict[str, Any]) -> str:
    about, rows = result["machine"], result["rows"]
    dates = " and ".join(sorted({row["date"] for row in rows}))
    where = f"{about['cpu']}, {about['cores']} cores, Linux {about['kernel']}"
    what = f"Python {about['python']}, wasmtime {about['wasmtime']}, peer {about['peer']}"
    return f"{where}, {what}, {dates}."


# What a fleet is made of, for docs/scale.md: nodes, their cores that serve.
FLEETS = ((1, 1), (8, 1), (8, 4), (200, 4), (10_000, 4))
# How much of a core each further process of a node adds (`workers`), and what a core of a Raspberry
# Pi 4 is beside one of the machine that was measured: assumed, not measured.
ADDED, BOARD = 0.85, 1 / 5
SERVED = {
    "small guest": "small, fresh",
    "small guest, reuse 1000": "small, reused",
    "64 KiB echoed": "64 KiB echoed",
    "JavaScript guest": "JavaScript, fresh",
    "Python guest": "Python, fresh",
}


def fleets(rows: list[Entry]) -> str:
    """What fleets serve, by what one core does, in requests a second; beside it, of Pis."""
    by_name = {row["row"]: row["median"]["edge"] for row in rows if row["row"] in SERVED}
    kinds = {name: title for name, title in SERVED.items() if name in by_name}
    lines = [line(["nodes × cores", *kinds.values()]), "|---|" + "--:|" * len(kinds)]
    for nodes, cores in FLEETS:
        core = nodes * (1 + (cores - 1) * ADDED)
        all_ = (rounded(core * by_name[name]) for name in kinds)
        boards = (rounded(core * by_name[name] * BOARD) for name in kinds)
        cells = [f"{one} ({other})" for one, other in zip(all_, boards, strict=True)]
        lines.append(line([f"{nodes:,} × {cores}", *cells]))
    return "\n".join(lines)


def rounded(figure: float) -> str:
    """Two digits: more would be a claim."""
    return f"{float(f'{figure:.2g}'):,.0f}"


def publish(result: dict[str, Any], root: Path) -> None:
    """Into the README and docs/."""
    for path, text in documents(result, root).items():
        path.write_text(text)


def documents(result: dict[str, Any], root: Path) -> dict[Path, str]:
    """What is made of the figures, whole."""
    rows, docs, readme = result["rows"], root / "docs", root / "README.md"
    below = note(result)
    return {
        docs / "bench.json": compact(result),
        docs / "speed.svg": plot.drawn(rows),
        docs / "speed.md": replaced(docs / "speed.md", f"{tables(rows)}\n\n{below}"),
        docs / "scale.md": replaced(docs / "scale.md", f"{fleets(rows)}\n\n{below}"),
        readme: replaced(readme, f"{chosen(rows)}\n\n{below}"),
    }


def replaced(file: Path, text: str) -> str:
    """The file with this between its marks."""
    before, rest = file.read_text().split("<!-- bench -->")
    after = rest.split("<!-- /bench -->")[1]
    return f"{before}<!-- bench -->\n{text}\n<!-- /bench -->{after}"


def main() -> int:
    root = Path(__file__).resolve().parent.parent.parent
    result = json.loads((root / "docs/bench.json").read_text())
    if sys.argv[1:] != ["--check"]:
        publish(result, root)
        return 0
    old = [path for path, text in documents(result, root).items() if path.read_text() != text]
    print(*old, sep="\n")
    return 1 if old else 0


if __name__ == "__main__":
    sys.exit(main())
