"""`edge top`: what it says of a node is what happened there."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from node_lab import EDGE, PATIENCE, Node, application, node
from textual.pilot import Pilot
from textual.widgets import DataTable, RichLog, Static

from edge.cli.figures import Past, quantile, show_rate, show_seconds
from edge.cli.screen import Top, _peers

Guest = Callable[[str], Path]

APPS = {"thermo": "hello", "printer": "prints", "moody": "status"}


@pytest.fixture(scope="module")
def running(guest: Guest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("node")
    apps = []
    for name, wasm in APPS.items():
        place = folder / name
        place.mkdir()
        (place / "spin.toml").write_text(
            f'spin_manifest_version = 2\n[application]\nname = "{name}"\n'
            '[[trigger.http]]\nroute = "/..."\ncomponent = "guest"\n'
            f'[component.guest]\nsource = "{guest(wasm)}"\n'
        )
        apps.append(application(name, place, f"/{name}"))
    with node(folder, "".join(apps)) as started:
        yield started


def of(found: dict[str, Any], name: str) -> dict[str, Any]:
    (one,) = (one for one in found["components"] if one["application"] == name)
    assert isinstance(one, dict)
    return one


def snapshot(running: Node, interval: str = "100ms") -> dict[str, Any]:
    found = json.loads(running.tell("top", "--json", "--interval", interval))
    assert isinstance(found, dict)
    return found


def test_a_snapshot_counts_what_wrk_does(running: Node) -> None:
    first = of(snapshot(running), "thermo")
    command = ["wrk", "-t1", "-c4", "-d2s", f"{running.url}/thermo/"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as wrk:
        running.until(lambda: of(snapshot(running), "thermo")["total"] > first["total"])
        found = snapshot(running, "1s")
        out, _ = wrk.communicate(timeout=PATIENCE)
    made = re.search(r"(\d+) requests in", out)
    assert made is not None
    thermo, last = of(found, "thermo"), of(snapshot(running), "thermo")
    # One for each connection was under way when wrk went away.
    assert 0 <= last["total"] - first["total"] - int(made[1]) <= 4
    assert 0 < thermo["invocations"] <= last["total"] - first["total"]
    assert thermo["rate"] == pytest.approx(thermo["invocations"] / found["seconds"], rel=0.01)
    assert (thermo["failed"], thermo["state"]) == (0, "live")
    assert 0 < thermo["median"] <= thermo["slow"]
    assert found["node"]["memory"]["rss"] > 1 << 20


def test_a_table_says_the_same(running: Node) -> None:
    assert running.get("/moody/500")[0] == 500
    first, head, *rows = running.tell("top", "--once", "--interval", "100ms").splitlines()
    assert "places for guests" in first
    assert head.split()[:4] == ["APPLICATION", "COMPONENT", "STATE", "RATE/s"]
    assert sorted(row.split()[0] for row in rows) == sorted(APPS)


def test_what_it_needs_is_said(running: Node) -> None:
    done = running.edge("top")
    assert (done.returncode, done.stderr) == (
        78,
        "edge: top: this is no terminal\nhint: --once prints a table, --json JSON\n",
    )
    assert running.edge("top", "--interval", "5s").returncode == 78
    with pytest.raises(SystemExit, match="2"):
        running.edge("top", "--once", "--interval", "soon")


def test_only_the_screen_loads_its_library() -> None:
    code = (
        "import sys; from edge import cli; cli._parser(['top', 'status', 'apps']);"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"textual", "rich"} & set(done.stdout.split())


# --- the screen ----------------------------------------------------------------------------------


async def until(pilot: Pilot[None], true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, (about(pilot), rows(pilot), log(pilot))
        await pilot.pause(0.02)


def about(pilot: Pilot[None]) -> str:
    return str(pilot.app.query_one("#about", Static).render())


def rows(pilot: Pilot[None]) -> list[list[str]]:
    table: DataTable[Any] = pilot.app.query_one(DataTable)
    return [[str(cell) for cell in table.get_row_at(i)] for i in range(table.row_count)]


def names(pilot: Pilot[None]) -> list[str]:
    return [row[0] for row in rows(pilot)]


def title(pilot: Pilot[None]) -> str:
    return str(pilot.app.query_one(RichLog).border_title)


def log(pilot: Pilot[None]) -> str:
    return "\n".join(line.text for line in pilot.app.query_one(RichLog).lines)


async def test_the_screen_shows_components_and_the_log_of_one(running: Node) -> None:
    async with Top(running.socket, 0.05).run_test(size=(120, 30)) as pilot:
        await until(pilot, lambda: len(rows(pilot)) == len(APPS))
        assert "lab · edge" in about(pilot)
        await pilot.press("n")
        await until(pilot, lambda: names(pilot) == ["moody/guest", "printer/guest", "thermo/guest"])
        table = pilot.app.query_one(DataTable)
        table.move_cursor(row=1)
        await until(pilot, lambda: title(pilot).startswith("log of printer/guest"))
        running.get("/printer/escapes/1")
        await until(pilot, lambda: "<script>alert(1)</script>" in log(pilot))
        assert "\x1b" not in log(pilot)
        assert r"\x1b[31mred" in log(pilot)
        before = next(row for row in rows(pilot) if row[0].startswith("moody"))
        running.get("/moody/500")
        failed = str(int(before[-1]) + 1)
        await until(pilot, lambda: [row[-1] for row in rows(pilot)].count(failed))
        await pilot.press("f")
        await until(pilot, lambda: names(pilot)[0] == "moody/guest")
        table.move_cursor(row=0)
        await until(pilot, lambda: title(pilot).startswith("log of moody/guest: "))
        assert title(pilot).endswith(f"{failed} failed")
        await pilot.press("n")
        await until(pilot, lambda: names(pilot)[2] == "thermo/guest")
        table.move_cursor(row=1)
        await until(pilot, lambda: title(pilot).startswith("log of printer/guest"))
        await pilot.press("f")
        await until(pilot, lambda: names(pilot)[0] == "moody/guest")
        assert table.cursor_row == names(pilot).index("printer/guest"), "it stays on what it was on"


async def test_the_screen_can_be_held_explained_and_left(running: Node) -> None:
    def total() -> list[str]:
        return [row[-2] for row in rows(pilot) if row[0] == "thermo/guest"]

    async with Top(running.socket, 0.05).run_test(size=(120, 30)) as pilot:
        await until(pilot, total)
        await pilot.press("question_mark")
        await until(pilot, lambda: len(pilot.app.screen_stack) == 2)
        await pilot.press("escape")
        await until(pilot, lambda: len(pilot.app.screen_stack) == 1)
        await pilot.press("space")
        assert "held" in about(pilot)
        before = total()
        running.get("/thermo/x")
        looks = len(pilot.app._past._told)  # type: ignore[attr-defined]
        await until(pilot, lambda: len(pilot.app._past._told) > looks + 2)  # type: ignore[attr-defined]
        assert total() == before
        await pilot.press("space")
        await until(pilot, lambda: total() != before)
        await pilot.press("enter")
        await until(pilot, lambda: not pilot.app.query_one(DataTable).display)
        await pilot.press("enter")
        await until(pilot, lambda: pilot.app.query_one(DataTable).display)


async def test_a_node_that_is_away_is_said_and_asked_again(tmp_path: Path) -> None:
    async with Top(tmp_path / "nowhere.sock", 0.05).run_test(size=(120, 30)) as pilot:
        await until(pilot, lambda: "no node answers at" in about(pilot))
        assert "trying again" in about(pilot)


def test_in_a_real_terminal_it_ends_with_a_key(running: Node) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [EDGE, "top", "--socket", running.socket],
        stdin=theirs, stdout=theirs, stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"},
    )  # fmt: skip
    os.close(theirs)
    try:
        seen = b""
        deadline = time.monotonic() + 2 * PATIENCE
        while not seen.endswith(b"\0"):
            assert time.monotonic() < deadline, seen[-2000:]
            if select.select([ours], [], [], 1)[0]:
                seen += _read(ours)
            if b"thermo/guest" in seen:
                os.write(ours, b"q")
        assert process.wait(PATIENCE) == 0
        assert b"\x1b[?1049l" in seen, "the screen before is back"
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _read(terminal: int) -> bytes:
    """A zero once nobody is at the other end."""
    try:
        return os.read(terminal, 1 << 16)
    except OSError:
        return b"\0"


def test_peers_that_are_away_come_first() -> None:
    peers = [
        {"name": "b", "state": "alive"},
        {"name": "[red]a", "state": "alive"},
        {"name": "z\x1b", "state": "left"},
    ]
    assert _peers(peers).plain == r"z\x1b (left), [red]a, b"


# --- the numbers ---------------------------------------------------------------------------------


def metrics(at: float, ok: int, failed: int = 0, counts: tuple[int, ...] = (0, 0, 0)) -> Any:
    return {
        "at": at,
        "components": [
            {
                "application": "a",
                "component": "c",
                "outcomes": {"ok": ok, "failed": failed, "cancelled": 1},
                "in_flight": 2,
                "queued": 3,
                "latency": {"bounds": [1.0, 2.0], "counts": list(counts), "sum": 0.0},
            }
        ],
    }


def test_rates_are_of_the_last_seconds() -> None:
    past = Past()
    for second in range(20):
        past.add(metrics(100.0 + second, second * 10 if second < 10 else 100))
    assert past.of("a", "c").rate == 0
    past.add(metrics(120.0, 130, failed=3))
    found = past.of("a")
    assert (found.rate, found.failing) == (pytest.approx(33 / 3), pytest.approx(1))
    assert (found.total, found.failed, found.in_flight, found.queued) == (134, 3, 2, 3)
    assert past.of("b").total == 0


def test_a_node_that_begins_anew_has_no_past() -> None:
    past = Past()
    past.add(metrics(100, 50))
    past.add(metrics(101, 60))
    past.add(metrics(102, 5))
    assert past.figures().rate == 0
    past.add(metrics(103, 6))
    assert past.figures().rate == 1
    past.add(metrics(50, 7))
    assert past.figures().rate == 0, "its clock was set back"


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [
        ((0, 0, 0), 0.5, None),
        ((10, 0, 0), 0.5, 0.5),
        ((0, 10, 0), 0.5, 1.5),
        ((1, 1, 0), 0.99, 1.98),
        ((1, 0, 9), 0.99, float("inf")),
    ],
)
def test_quantiles_lie_within_their_bucket(
    counts: tuple[int, ...], share: float, expected: float | None
) -> None:
    found = quantile([1.0, 2.0], counts, share)
    assert found == (None if expected is None else pytest.approx(expected))


def test_numbers_are_as_exact_as_people_want_them() -> None:
    assert [show_rate(one) for one in (0, 0.25, 9.94, 12.5, 12345)] == [
        "0", "0.2", "9.9", "12", "12\u202f345",
    ]  # fmt: skip
    shown = [show_seconds(one) for one in (None, 28e-6, 0.0012, 0.034, 1.25, float("inf"))]
    assert shown == ["–", "28 µs", "1.2 ms", "34 ms", "1.2 s", "> 60 s"]
