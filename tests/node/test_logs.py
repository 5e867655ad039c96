"""`edge logs` of nodes that no journal listens to: attributed, bounded, followed."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from node_lab import EDGE, PATIENCE, Node, application, node, run_edge

Guest = Callable[[str], Path]

# Blocks of 4 KiB.
GIBIBYTE = 1 << 18

# What a guest floods its output with.
KINDS = ("words", "newlines", "binary", "lineless")

Start = Callable[..., AbstractContextManager[Node]]


def _folder(folder: Path, name: str, wasm: Path) -> Path:
    place = folder / name
    place.mkdir()
    (place / "spin.toml").write_text(
        f'spin_manifest_version = 2\n[application]\nname = "{name}"\n'
        '[[trigger.http]]\nroute = "/..."\ncomponent = "guest"\n'
        f'[component.guest]\nsource = "{wasm}"\n'
    )
    return place


@pytest.fixture(scope="module")
def start(guest: Guest, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """A node with applications of these names, which print what they are asked to."""
    wasm = guest("prints")

    @contextmanager
    def started(*names: str) -> Iterator[Node]:
        folder = tmp_path_factory.mktemp("node")
        apps = "".join(application(n, _folder(folder, n, wasm), f"/{n}") for n in names)
        with node(folder, apps) as running:
            yield running

    return started


@pytest.fixture(scope="module")
def running(start: Start) -> Iterator[Node]:
    """One for all tests that let it run."""
    calm = [f"calm-{kind}" for kind in KINDS]
    with start("quiet", "other", "escapes", *KINDS, *calm) as shared:
        yield shared


def told(running: Node, *arguments: str) -> list[dict[str, Any]]:
    text = running.tell("logs", "--json", *arguments)
    return [json.loads(line) for line in text.splitlines()]


def test_lines_have_the_names_of_who_printed_them(running: Node) -> None:
    running.get("/other/words/1")
    running.get("/quiet/words/1")
    found = told(running, "--application", "quiet", "--component", "guest")
    assert len(found) == 64
    assert {entry["message"] for entry in found} == {" ".join(["w" * 7] * 8)}
    assert {(entry["application"], entry["stream"]) for entry in found} == {("quiet", "stdout")}
    (invocation,) = {entry["invocation"] for entry in found}
    assert told(running, "--invocation", invocation) == found
    assert told(running, "-n", "3", "-a", "quiet") == found[-3:]
    (ready,) = [e for e in told(running, "-n", "1000") if e["message"].startswith("ready: ")]
    assert ready["component"] is None
    last = running.tell("logs", "-a", "quiet").splitlines()[-1]
    assert last.endswith(f" quiet/guest [{invocation}]: {found[-1]['message']}")


def test_since_is_a_time_ago_or_a_date(running: Node) -> None:
    running.get("/quiet/words/1")
    assert len(told(running, "--since", "1h")) > 64
    assert told(running, "--since", "2001-02-03 04:05") == told(running, "--since", "1h")
    assert told(running, "--since", "2999-01-01") == []
    assert running.edge("logs", "-a", "nobody").stderr == "nothing of that is in the log\n"


def test_what_guests_print_does_not_control_the_terminal(running: Node) -> None:
    running.get("/escapes/escapes/1")
    shown = running.tell("logs", "-a", "escapes")
    assert "\x1b" not in shown
    assert "\r" not in shown
    first, second = shown.splitlines()
    assert first.endswith(r"\x1b]0;owned\x07\x1b[31mred\r2026 edge: forged")
    assert second.endswith("<script>alert(1)</script>")
    (entry, _) = told(running, "-a", "escapes")
    assert entry["message"] == "\x1b]0;owned\x07\x1b[31mred\r2026 edge: forged"


@pytest.mark.parametrize("kind", KINDS)
def test_a_gibibyte_is_cut_and_nobody_else_is_harmed(kind: str, running: Node) -> None:
    calm = f"calm-{kind}"
    printed = running.get(f"/{calm}/words/1")
    written = sum(map(len, running.log))
    answers: list[tuple[int, bytes]] = []
    flood = threading.Thread(
        target=lambda: answers.extend(running.get(f"/{kind}/{kind}/{GIBIBYTE}") for _ in range(2))
    )
    flood.start()
    served = 0
    while flood.is_alive():
        assert running.get(f"/{calm}/nothing/0") == printed
        served += 1
    flood.join()
    assert answers == [printed, printed]
    assert served > 2
    loud = told(running, "-a", kind, "-n", "100000")
    assert len(loud) < 5000
    assert sum(len(entry["message"]) for entry in loud) < 1 << 20
    assert any("prints too much" in entry["message"] for entry in loud)
    # On stderr, which may be a file on a card, hardly more.
    assert sum(map(len, running.log)) - written < 1 << 20
    assert len(told(running, "-a", calm, "-n", "100000")) == 64
    assert [e for e in told(running, "-n", "100000") if e["message"].startswith("ready: ")]


class Following:
    """`edge logs -f` under way, as long as the block. `lines`: what it has shown."""

    def __init__(self, running: Node, *arguments: str) -> None:
        command = [EDGE, "logs", "-f", "--socket", str(running.socket), *arguments]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.lines: list[str] = []
        self.said: list[str] = []
        self._readers = [
            threading.Thread(target=into.extend, args=(stream,))
            for into, stream in (
                (self.lines, self.process.stdout),
                (self.said, self.process.stderr),
            )
        ]

    def __enter__(self) -> Following:
        for reader in self._readers:
            reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.end()

    def shows(self, text: str) -> bool:
        return any(text in line for line in self.lines)

    def end(self) -> None:
        self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


def test_who_follows_sees_lines_as_they_come_and_the_end(start: Start) -> None:
    with start("quiet") as running, Following(running, "-n", "1") as following:
        running.until(lambda: following.shows("ready: serving 1 application"))
        running.get("/quiet/escapes/1")
        running.until(lambda: following.shows("forged") and following.shows("alert"))
        # Nobody waits for who only listens.
        started = time.monotonic()
        running.process.terminate()
        following.end()
        assert running.process.wait(PATIENCE) == 0
        assert time.monotonic() - started < 20
    assert following.shows("draining")
    assert following.process.returncode == 1
    assert following.said[0] == "edge: the node has ended\n"
    assert following.said[1].startswith("hint: ")


def test_who_reads_slowly_misses_lines_and_is_told_so(start: Start) -> None:
    """The node keeps nothing for it alone: what it is late for, newer lines have displaced."""
    names = ("a", "b", "c", "d", "e", "f")
    with start(*names) as running, Following(running, "--json", "-n", "1") as following:
        running.until(lambda: following.shows("ready"))
        following.process.send_signal(signal.SIGSTOP)
        for name in names:
            running.get(f"/{name}/lineless/{GIBIBYTE}")
        following.process.send_signal(signal.SIGCONT)
        running.process.terminate()
        following.end()
    assert any("lines came faster than they were read)" in line for line in following.said)
    assert following.shows("draining")


def test_who_has_seen_enough_ends_it_quietly(running: Node) -> None:
    running.get("/other/words/100")
    done = subprocess.run(
        f"{EDGE} logs --lines 100000 --socket {running.socket} | head -n 1",
        shell=True, capture_output=True, text=True, check=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_the_api_tells_lines_of_json_and_refuses_what_it_does_not_know(running: Node) -> None:
    def ask(query: str) -> str:
        command = ["curl", "-s", "--unix-socket", str(running.socket)]
        command.append(f"http://node/v1/logs{query}")
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout

    (line,) = ask("?lines=1").splitlines()
    assert json.loads(line)["level"] == "info"
    assert json.loads(ask("?lines=0") or "null") is None
    for query, said in (
        ("?line=1", 'did you mean \\"lines\\"?'),
        ("?lines=-1", 'logs: lines: cannot be \\"-1\\"'),
        ("?since=nan", 'logs: since: cannot be \\"nan\\"'),
        ("?follow=perhaps", 'logs: follow: cannot be \\"perhaps\\"'),
    ):
        assert said in ask(query)
    assert json.loads(running.tell("status", "--json"))["journal"] is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--since", "yesterday"], '"yesterday" is neither a time ago, like "10m", nor a date'),
        (["--lines", "-1"], "argument --lines/-n: "),
        (["--lines", "many"], '"many" is not a number of lines'),
        (["--folow"], 'did you mean "--follow"?'),
    ],
)
def test_typing_mistakes(given: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run([EDGE, "logs", *given], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_node_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "edge.sock"))
        silent.listen()
        done = run_edge("logs", "--socket", tmp_path / "edge.sock")
    assert done.returncode == 1
    assert "no answer within 3 s\nhint: `edge logs --unit edge.service`" in done.stderr


def test_without_a_node_that_was_named_the_reason_is_told(tmp_path: Path) -> None:
    done = run_edge("logs", "--socket", tmp_path / "none.sock")
    assert done.returncode == 1
    assert done.stderr.startswith(f"edge: no node answers at {tmp_path}/none.sock")
