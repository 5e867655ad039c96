"""`edge doctor` where the service runs under real systemd: faults of an installation, and whether
what is advised mends them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from machines import SUITES, Lab, Machine, eventually, lab, needs_machines
from service import prepared, serves

pytestmark = needs_machines

HELLO = Path(__file__).parents[2] / "examples/hello/hello.wasm"
AS_NOBODY = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")

Found = dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def machines() -> Iterator[Lab]:
    with lab() as made:
        yield made


@pytest.fixture(scope="module", params=SUITES)
def machine(machines: Lab, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """One for all tests of a Debian: each leaves the service serving."""
    made = machines.machine(request.param, prepare=prepared(HELLO, "edge.socket"))
    eventually("the service serves", lambda: serves(made))
    yield made
    made.stop()


def doctor(machine: Machine, *checks: str, prefix: tuple[str, ...] = ()) -> Found:
    """The worst that each check has found."""
    text = machine.run(*prefix, "edge", "doctor", "--json", *checks, expected=None)
    assert text.startswith("{"), text
    findings = json.loads(text)["findings"]
    worst = sorted(findings, key=lambda one: ["ok", "warning", "error"].index(one["status"]))
    return {one["check"]: one for one in worst}


def follow(machine: Machine, advice: str) -> None:
    """Does what stands between the first backquotes."""
    (command, *_) = re.findall("`([^`]+)`", advice)
    machine.run("sh", "-c", command)


def test_a_service_that_is_well(machine: Machine) -> None:
    found = doctor(machine)
    assert {name: one for name, one in found.items() if one["status"] == "error"} == {}
    for name in ("configuration", "node", "unit", "permissions", "ports", "addresses", "space"):
        assert found[name]["status"] == "ok", found[name]
    assert found["unit"]["found"] == "edge.service and its drop-ins are those of this version"
    assert "http://[::]:80" in found["ports"]["found"]


def test_a_user_who_may_not_ask_the_node(machine: Machine) -> None:
    found = doctor(machine, prefix=AS_NOBODY)
    assert "usermod -aG edge" in found["permissions"]["advice"]
    assert found["clock"]["status"] != "error"
    assert found["certificates"]["status"] == "ok"


def test_a_drop_in_that_is_old_or_not_read(machine: Machine) -> None:
    copy = "etc/systemd/system/edge.service.d/pulley.conf"
    machine.write(copy, "[Service]\n# of an earlier version\n")
    machine.run("systemctl", "daemon-reload")
    old = doctor(machine, "unit")["unit"]
    assert "is not the one of this version" in old["found"]
    machine.run("cp", "/usr/share/edge/drop-ins/pulley.conf", f"/{copy}")
    unread = doctor(machine, "unit")["unit"]
    assert "have changed since systemd read them" in unread["found"]
    machine.run("rm", f"/{copy}")
    machine.run("systemctl", "daemon-reload")
    assert doctor(machine, "unit")["unit"]["status"] == "ok"
    machine.run("systemctl", "restart", "edge.service")


def test_a_state_that_root_has_written(machine: Machine) -> None:
    machine.run("touch", "/var/lib/edge/of-root")
    wrong = doctor(machine, "permissions")["permissions"]
    assert wrong["found"] == "/var/lib/edge/of-root: belongs to root, the node is edge"
    follow(machine, wrong["advice"])
    assert doctor(machine, "permissions")["permissions"]["status"] == "ok"


def test_a_service_that_is_off(machine: Machine) -> None:
    machine.run("systemctl", "stop", "edge.socket", "edge.service")
    found = doctor(machine)
    assert found["node"]["status"] == "warning"
    assert "the service is inactive" in found["node"]["found"]
    # Whose the state is, is known from the installation.
    assert found["permissions"]["status"] == "ok"
    assert found["ports"]["status"] == "ok"
    follow(machine, found["node"]["advice"])
    assert doctor(machine, "node")["node"]["status"] == "ok"
    machine.run("systemctl", "stop", "edge.service")
    machine.run("systemctl", "start", "edge.socket", "edge.service")
    eventually("it serves", lambda: serves(machine))


def test_a_service_that_failed(machine: Machine) -> None:
    path = machine.root / "etc/edge/edge.toml"
    before = path.read_text()
    path.write_text(f"{before}\nmistake = 1\n")
    machine.run("systemctl", "restart", "edge.service", expected=None)
    found = doctor(machine)
    assert found["configuration"]["status"] == "error"
    assert "mistake" in found["configuration"]["found"]
    assert found["node"]["status"] == "error"
    assert "the service is failed" in found["node"]["found"]
    (command,) = re.findall("`([^`]+)`", found["node"]["advice"])
    assert "edge.toml: " in machine.run("sh", "-c", command)
    path.write_text(before)
    machine.run("systemctl", "reset-failed", "edge.service")
    machine.run("systemctl", "restart", "edge.service")
    eventually("it serves", lambda: serves(machine))
    assert doctor(machine, "configuration", "node")["node"]["status"] == "ok"
