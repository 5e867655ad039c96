"""The plot of the README: ratios as bars on a logarithmic scale, as plain SVG."""

from __future__ import annotations

import math
from html import escape
from typing import Any

# A row, what the plot calls it, and whether less is better.
BARS = (
    ("small guest", "small guest, fresh: requests/s", False),
    ("Python guest", "Python guest, fresh: requests/s", False),
    ("JavaScript guest", "JavaScript guest, fresh: requests/s", False),
    ("small guest, reuse 1000", "small guest, reused: requests/s", False),
    ("Python guest, reuse 1000", "Python guest, reused: requests/s", False),
    ("JavaScript guest, reuse 1000", "JavaScript guest, reused: requests/s", False),
    ("64 KiB echoed", "64 KiB echoed: requests/s", False),
    ("1 MiB up", "1 MiB up: MB/s", False),
    ("1 MiB down", "1 MiB down: MB/s", False),
    ("64 MiB up", "64 MiB up: MB/s", False),
    ("64 MiB down", "64 MiB down: MB/s", False),
    ("64 MiB echoed", "64 MiB echoed: MB/s", False),
    ("small guest, half load, p99", "small guest, half load: p99", True),
    ("Python guest, half load, p99", "Python guest, half load: p99", True),
    ("1,000 applications: memory of each", "an idle application: memory", True),
    ("small guest: PSS of each request in flight", "a small request in flight: memory", True),
    ("Python guest: PSS of each request in flight", "a Python request in flight: memory", True),
    ("QoS 1, small guest", "MQTT, QoS 1, beside aiomqtt: messages/s", False),
)
WIDTH, LABEL, HEIGHT, TOP = 820, 300, 22, 56
# Of the scale; what is beyond ends there, with its figure.
LEAST, MOST = 1 / 8, 8
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600 }
.axis, .scale { stroke: #8c959f; stroke-width: 1 }
.scale { stroke-dasharray: 2 4 }
.better { fill: #1a7f5a } .worse { fill: #b3541e }
.box { fill: #ffffff }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .box { fill: #0d1117 } .better { fill: #3fb984 } .worse { fill: #e0823d }
}
"""


def drawn(rows: list[dict[str, Any]]) -> str:
    """SVG; rows that were not measured are left out."""
    ratios = {row["row"]: row["ratio"] for row in rows if "ratio" in row}
    found = [(title, ratios[row], less) for row, title, less in BARS if ratios.get(row, 0) > 0]
    height = TOP + HEIGHT * len(found) + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        "<title>edge beside wasmtime serve, one core each</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="box" width="{WIDTH}" height="{height}"/>',
        '<text class="title" x="12" y="20">'
        "edge beside wasmtime serve, one core each: how many times as good</text>",
    ]
    for tick in (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8):
        at, name = place(tick), f"{tick:g} ×" if tick >= 1 else f"1/{1 / tick:g} ×"
        kind = "axis" if tick == 1 else "scale"
        parts.append(f'<line class="{kind}" x1="{at}" x2="{at}" y1="46" y2="{height - 8}"/>')
        parts.append(f'<text x="{at}" y="40" text-anchor="middle">{name}</text>')
    for number, (title, ratio, less) in enumerate(found):
        parts += bar(TOP + HEIGHT * number, title, 1 / ratio if less else ratio)
    return "\n".join([*parts, "</svg>", ""])


def bar(top: int, title: str, good: float) -> list[str]:
    axis, end = place(1), place(good)
    left, width = min(axis, end), max(1.0, abs(end - axis))
    kind = "better" if good >= 1 else "worse"
    # Beside its end, where there is room.
    figure = f"{good:.2f}" if good < 10 else f"{good:,.0f}"
    at, anchor = (end + 5, "start") if good >= 1 else (end - 5, "end")
    return [
        f'<text x="{LABEL - 8}" y="{top + 15}" text-anchor="end">{escape(title)}</text>',
        f'<rect class="{kind}" x="{left:.1f}" y="{top + 4}" width="{width:.1f}" '
        f'height="{HEIGHT - 8}" rx="2"/>',
        f'<text x="{at:.1f}" y="{top + 15}" text-anchor="{anchor}">{figure}</text>',
    ]


def place(ratio: float) -> float:
    """Where a ratio is on the scale, in pixels."""
    bounded = min(MOST, max(LEAST, ratio))
    share = math.log(bounded / LEAST) / math.log(MOST / LEAST)
    return round(LABEL + 40 + share * (WIDTH - LABEL - 100), 1)
