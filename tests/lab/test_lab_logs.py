"""`edge logs` where the service runs under real systemd: from the journal, also of a dead node."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from machines import SUITES, Lab, Machine, eventually, lab, needs_machines
from service import prepared

pytestmark = needs_machines

GIBIBYTE = 1 << 18  # blocks of 4 KiB


@pytest.fixture(scope="module")
def machines() -> Iterator[Lab]:
    with lab() as made:
        yield made


@pytest.fixture(scope="module", params=SUITES)
def machine(
    machines: Lab, guest: Callable[[str], Path], request: pytest.FixtureRequest
) -> Iterator[Machine]:
    made = machines.machine(request.param, prepare=prepared(guest("prints"), "edge.socket"))
    eventually("the service serves", lambda: made.get("/nothing/0")[0] == 200)
    yield made
    made.stop()


def told(machine: Machine, *arguments: str) -> list[dict[str, Any]]:
    machine.run("journalctl", "--sync")
    text = machine.run("edge", "logs", "--json", *arguments)
    return [json.loads(line) for line in text.splitlines()]


def test_lines_of_the_journal_have_the_names_of_who_printed_them(machine: Machine) -> None:
    assert machine.get("/words/1")[0] == 200
    found = told(machine, "--application", "hello", "--component", "guest", "--since", "1h")
    assert {entry["message"] for entry in found} == {" ".join(["w" * 7] * 8)}
    assert len(found) == 64
    (invocation,) = {entry["invocation"] for entry in found}
    assert told(machine, "-i", invocation) == found
    assert told(machine, "-a", "hello", "-n", "3") == found[-3:]
    assert told(machine, "-a", "nobody") == []
    lines = told(machine, "--since", "1h")
    assert [e["logger"] for e in lines if "Started edge.service" in e["message"]] == ["systemd"]
    assert [e["level"] for e in lines if e["message"].startswith("ready: ")] == ["info"]
    status = json.loads(machine.run("edge", "status", "--json"))
    assert status["journal"] == "edge.service"


def test_a_guest_that_prints_without_end_leaves_room_for_others(machine: Machine) -> None:
    before = len(told(machine, "-a", "hello", "--since", "1h"))
    for kind in ("words", "newlines", "binary", "lineless"):
        assert machine.get(f"/{kind}/{GIBIBYTE}")[0] == 200
    machine.run("systemctl", "reload", "edge.service")
    eventually("its own line is there", lambda: _says(machine, "reloaded"))
    printed = told(machine, "-a", "hello", "--since", "1h")[before:]
    assert any("prints too much" in entry["message"] for entry in printed)
    assert len(printed) < 5000


def _says(machine: Machine, message: str) -> bool:
    return any(entry["message"] == message for entry in told(machine, "--since", "1h"))


def test_escapes_of_a_guest_do_not_reach_the_terminal(machine: Machine) -> None:
    mark = told(machine, "-n", "1")[0]["time"]

    def prints() -> bool:
        # The test before has used up what its component may print in a while.
        assert machine.get("/escapes/1")[0] == 200
        return "forged" in machine.run("edge", "logs", "--since", mark)

    eventually("they are there", prints)
    shown = machine.run("edge", "logs", "--since", mark)
    assert "\x1b" not in shown
    assert r"\x1b]0;owned\x07\x1b[31mred\r2026 edge: forged" in shown


def test_a_node_that_died_can_still_be_read(machine: Machine) -> None:
    machine.run("systemctl", "stop", "edge.socket", "edge.service")
    last = [entry["message"] for entry in told(machine, "-n", "20")]
    assert "draining; a second signal ends at once" in last
    assert any("Stopped edge.service" in message for message in last)
    # Whoever names a node asks that one.
    said = machine.run("edge", "logs", "--socket", "/run/edge/edge.sock", expected=1)
    assert "no node answers at /run/edge/edge.sock" in said
    machine.run("systemctl", "start", "edge.socket", "edge.service")


def test_a_node_that_hangs_can_still_be_read(machine: Machine) -> None:
    machine.run("systemctl", "kill", "--signal=STOP", "edge.service")
    try:
        shown = machine.run("edge", "logs", "-n", "1000")
    finally:
        machine.run("systemctl", "kill", "--signal=CONT", "edge.service")
    assert "ready: serving 1 application" in shown


def test_who_may_not_read_the_journal_is_told_what_to_do(machine: Machine) -> None:
    as_user = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
    said = machine.run(*as_user, "edge", "logs", expected=1)
    assert "edge: the journal may not be read by this user\nhint: as root, or: sudo usermod" in said


def test_what_comes_is_followed(machine: Machine) -> None:
    script = (
        "timeout 30 edge logs -f -n 0 -a hello --json > /tmp/followed & "
        "for i in $(seq 200); do curl -s http://127.0.0.1/escapes/1 > /tmp/answer; "
        "sleep 0.1; test -s /tmp/followed && break; done; kill %1; head -n 1 /tmp/followed"
    )
    entry = json.loads(machine.run("bash", "-mc", script).splitlines()[0])
    assert entry["application"] == "hello"
