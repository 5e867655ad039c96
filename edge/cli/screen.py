"""The screen of `edge top`: a table of components, and the log of the one that is chosen.

Asks the node once a second while it is open, over its socket. What others wrote is text here: never
markup, and nothing that controls a terminal.
"""

from __future__ import annotations

import asyncio
import datetime
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlencode

from rich.markup import escape
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, RichLog, Sparkline, Static
from textual.worker import Worker

from edge.cli.figures import Figures, Past, show_rate, show_seconds
from edge.cli.node import amount, printable, span
from edge.errors import EdgeError
from edge.node.client import NodeClient

__all__ = ["Top"]

# Seconds between two looks, until a node that did not answer is asked again, and for an answer.
_EVERY, _AGAIN, _PATIENCE = 1.0, 2.0, 5.0
# Rates that the line at the top shows; lines of the log that are kept, and asked for at first.
_RATES, _LINES, _FIRST = 60, 1000, 200

# Header, and what it is sorted by; what is largest comes first.
_COLUMNS: Mapping[str, Callable[[Figures], float]] = {
    "Rate/s": lambda found: found.rate,
    "Failed/s": lambda found: found.failing,
    "p50": lambda found: found.median or 0.0,
    "p99": lambda found: found.slow or 0.0,
    "Now": lambda found: found.in_flight,
    "Waiting": lambda found: found.queued,
    "Total": lambda found: found.total,
    "Failed": lambda found: found.failed,
}
_FAILING = ("Failed/s", "Failed")

_STYLES = {"error": "red", "warning": "yellow"}
_STATES = {"live": "green", "soaking": "green", "failed": "red", "rolled back": "red"}

_HELP = """\
[b]edge top[/b]: what happens on this node now

Rates are of the last three seconds, p50 and p99 of the last thirty:
half of the invocations, and 99 %, took at most as long. Now: under
way; Waiting: for room. Total and Failed: since the node was started.

  [b]↑ ↓[/b]        choose a component; its log is below
  [b]r f l t n[/b]  sort by rate, failures, latency, total, name
  [b]Enter[/b]      the log alone, and back
  [b]Tab[/b]        to the log, to scroll in it, and back
  [b]Space[/b]      hold everything, and go on
  [b]q[/b]          end"""

_Key = tuple[str, str]


class _Help(ModalScreen[None]):
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark", "dismiss", "Back")]
    DEFAULT_CSS = "_Help { align: center middle; } _Help Static { width: auto; padding: 1 3; border: round $primary; background: $surface; }"  # noqa: E501 – a line of CSS

    def compose(self) -> ComposeResult:
        yield Static(_HELP)


class Top(App[None]):
    """Open until somebody ends it. `path`: the node's socket."""

    ENABLE_COMMAND_PALETTE = False
    TITLE = "edge top"
    CSS = """
    #head { height: 3; padding: 0 1; }
    #about { width: 1fr; height: 3; }
    #rates { width: 40%; max-width: 60; height: 2; margin-top: 0; }
    #components { height: 1fr; min-height: 5; }
    #log { height: 1fr; border-top: solid $primary; padding: 0 1; }
    .alone #components, .alone #head { display: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "End"),
        Binding("r", "sort('Rate/s')", "Rate"),
        Binding("f", "sort('Failed/s')", "Failures"),
        Binding("l", "sort('p99')", "Latency"),
        Binding("t", "sort('Total')", "Total"),
        Binding("n", "sort('')", "Name"),
        Binding("enter", "alone", "Log", priority=True),
        Binding("space", "hold", "Hold", priority=True),
        Binding("question_mark", "help", "Help", key_display="?"),
    ]

    def __init__(self, path: Path, every: float = _EVERY) -> None:
        super().__init__()
        self._path, self._every = path, every
        self._past = Past()
        self._rates: deque[float] = deque([0.0] * _RATES, _RATES)
        self._node: Mapping[str, Any] = {}
        self._status: Mapping[str, Any] = {}
        self._states: Mapping[str, str] = {}
        self._peers: Sequence[Mapping[str, Any]] = ()
        self._problem = ""
        self._by = "Rate/s"
        self._held = False
        self._shown: list[_Key] = []
        self._of: _Key | None = None
        # Not looked up when they are written to: the help may be in front, or the end has begun.
        self._about = Static(id="about", markup=False)
        self._spark = Sparkline(self._rates, id="rates")
        self._table: DataTable[Text] = DataTable(
            id="components", cursor_type="row", zebra_stripes=True
        )
        self._lines = RichLog(id="log", max_lines=_LINES, wrap=True, min_width=20)

    def compose(self) -> ComposeResult:
        with Horizontal(id="head"):
            yield self._about
            yield self._spark
        yield self._table
        yield self._lines
        yield Footer()

    def on_mount(self) -> None:
        self._table.add_column("Component", key="name")
        self._table.add_column("State", key="state")
        for name in _COLUMNS:
            self._table.add_column(Text(name, justify="right"), key=name)
        self._table.focus()
        self.run_worker(self._ask(), name="ask", exit_on_error=True)
        self._follow(None)

    # What keys do

    def action_sort(self, by: str) -> None:
        self._by = by
        self._show()

    def action_hold(self) -> None:
        self._held = not self._held
        self._show_head()

    def action_alone(self) -> None:
        self.screen.toggle_class("alone")
        (self._lines if self.screen.has_class("alone") else self._table).focus()

    def action_help(self) -> None:
        self.push_screen(_Help())

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Within the help the keys are its own."""
        return not isinstance(self.screen, ModalScreen) or action == "quit"

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        row = event.cursor_row
        key = self._shown[row] if 0 <= row < len(self._shown) else None
        if key != self._of:
            self._follow(key)

    # What the node is asked

    async def _ask(self) -> None:
        """Until the screen is closed."""
        while True:
            try:
                async with NodeClient(self._path) as node:
                    while True:
                        await self._look(node)
                        await asyncio.sleep(self._every)
            except (EdgeError, TimeoutError) as error:
                told = error.message if isinstance(error, EdgeError) else "no answer in time"
                self._problem = f"{told}; trying again"
                self._show_head()
                await asyncio.sleep(_AGAIN)

    async def _look(self, node: NodeClient) -> None:
        async with asyncio.timeout(_PATIENCE):
            metrics = await node.get("/v1/metrics")
            apps = await node.get("/v1/apps")
            if not self._status or self._problem:
                self._status = await node.get("/v1/status")
            if metrics["node"]["peers"] is not None:
                self._peers = (await node.get("/v1/peers"))["peers"]
        self._problem = ""
        self._past.add(metrics)
        if self._held:
            return
        self._node = metrics["node"]
        self._states = {app["name"]: app["state"] for app in apps}
        self._rates.append(self._past.figures().rate)
        self._show()

    # What is seen

    def _show(self) -> None:
        self._show_head()
        self._show_title()
        figures = {key: self._past.of(*key) for key in self._past.components}
        named = {application for application, _ in figures}
        # Nothing came for them yet.
        figures.update({(name, ""): Figures() for name in self._states if name not in named})
        order = sorted(figures)
        if self._by:
            order.sort(key=lambda key: -_COLUMNS[self._by](figures[key]))
        self._place(order)
        for key in order:
            cells = self._cells(key, figures[key])
            for column, cell in cells.items():
                if self._table.get_cell(_row(key), column) != cell:
                    self._table.update_cell(_row(key), column, cell, update_width=True)

    def _place(self, order: list[_Key]) -> None:
        """Rows in this order; the cursor stays on what it was on."""
        if order == self._shown:
            return
        chosen = self._of
        self._shown = order
        self._table.clear()
        for key in order:
            self._table.add_row(*[Text()] * (len(_COLUMNS) + 2), key=_row(key))
        if chosen in order:
            self._table.move_cursor(row=order.index(chosen), animate=False)

    def _cells(self, key: _Key, found: Figures) -> dict[str, Text]:
        application, component = key
        state = self._states.get(application, "")
        texts = {
            "Rate/s": show_rate(found.rate),
            "Failed/s": show_rate(found.failing),
            "p50": show_seconds(found.median),
            "p99": show_seconds(found.slow),
            "Now": str(found.in_flight),
            "Waiting": str(found.queued),
            "Total": f"{found.total:,}".replace(",", "\u202f"),
            "Failed": f"{found.failed:,}".replace(",", "\u202f"),
        }
        cells = {
            "name": Text(f"{application}/{component}" if component else application),
            "state": Text(state, style=_STATES.get(state, "yellow")),
        }
        for name, text in texts.items():
            bad = name in _FAILING and found.failing > 0
            cells[name] = Text(text, style="red" if bad else "", justify="right")
        return cells

    def _show_head(self) -> None:
        all_ = self._past.figures()
        self._spark.data = list(self._rates)
        first = self._status.get("name", "")
        if self._node:
            first += f" · edge {self._status.get('version')} · up {span(self._node['uptime'])}"
        if self._held:
            first += " · held"
        second = f"{show_rate(all_.rate)}/s · {show_rate(all_.failing)}/s failed"
        second += f" · p99 {show_seconds(all_.slow)}"
        text = Text(f"{first}\n{second}\n")
        text.append(self._problem or _machine(self._node), "red" if self._problem else "")
        if self._peers and not self._problem:
            text.append(" · peers: ").append(_peers(self._peers))
        self._about.update(text)

    def _show_title(self) -> None:
        """Whose log it is, and what became of its events."""
        if self._of is None:
            self._lines.border_title = "log"
            return
        application, component = self._of
        title = f"log of {application}" + (f"/{component}" if component else "")
        outcomes = self._past.of(application, component).outcomes
        told = [f"{count:,} {name}" for name, count in outcomes.items() if count]
        self._lines.border_title = escape(f"{title}: {', '.join(told)}" if told else title)

    # Its log

    def _follow(self, key: _Key | None) -> None:
        """Shows the log of this component from now on; None: of the whole node."""
        self._of = key
        self._lines.clear()
        self._show_title()
        # Called by the worker: one that is replaced before it begins leaves no coroutine behind.
        read = partial(self._read_log, key)
        _: Worker[None] = self.run_worker(read, name="log", group="log", exclusive=True)

    async def _read_log(self, key: _Key | None) -> None:
        asked: dict[str, object] = {"lines": _FIRST, "follow": 1}
        if key is not None:
            asked |= {n: v for n, v in zip(("application", "component"), key, strict=True) if v}
        while True:
            try:
                async with (
                    NodeClient(self._path) as node,
                    aclosing(node.follow(f"/v1/logs?{urlencode(asked)}")) as lines,
                ):
                    async for line in lines:
                        if "time" in line:
                            self._lines.write(_line(line))
            except EdgeError:
                pass  # the head says so
            await asyncio.sleep(_AGAIN)
            self._lines.clear()


def _row(key: _Key) -> str:
    return "/".join(key)


def _machine(node: Mapping[str, Any]) -> str:
    if not node:
        return ""
    memory, pool = node["memory"], node["pool"]
    size = amount(memory["pss"] or memory["rss"])
    return f"{size} · {pool['slots_used']} of {pool['slots']} places"


def _peers(peers: Sequence[Mapping[str, Any]]) -> Text:
    """Their names, and what is wrong with those that are not alive, who come first."""
    texts = [
        Text(printable(peer["name"]))
        if peer["state"] == "alive"
        else Text(printable(f"{peer['name']} ({peer['state']})"), "red")
        for peer in sorted(peers, key=lambda peer: (peer["state"] == "alive", peer["name"]))
    ]
    return Text(", ").join(texts)


def _line(told: Mapping[str, Any]) -> Text:
    moment = datetime.datetime.fromisoformat(told["time"]).astimezone()
    who = told["component"] or told["application"] or "edge"
    text = Text(f"{moment:%H:%M:%S} ", style="dim")
    text.append(f"{printable(who)} ", "dim")
    text.append(
        "\n    ".join(map(printable, told["message"].split("\n"))), _STYLES.get(told["level"], "")
    )
    return text
