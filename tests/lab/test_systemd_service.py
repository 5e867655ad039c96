"""`edge.service` under real systemd, of Debian 12 and of Debian 13."""

from __future__ import annotations

import http.client
import re
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from machines import SUITES, Lab, Machine, eventually, lab, needs_machines
from service import dropped_in, prepared, serves

from edge.platform import messages

pytestmark = needs_machines

UNITS = ("edge.service", "edge.socket", "edge-tls.socket")
HELLO = Path(__file__).parents[2] / "examples/hello/hello.wasm"


@pytest.fixture(scope="module")
def machines() -> Iterator[Lab]:
    with lab() as made:
        yield made


@pytest.fixture(scope="module", params=SUITES)
def machine(machines: Lab, request: pytest.FixtureRequest) -> Machine:
    """One for all tests of a Debian: each leaves the service serving."""
    prepare = prepared(HELLO, "edge.socket")
    machine = machines.machine(request.param, prepare=prepare)
    eventually("the service serves", lambda: serves(machine))
    return machine


def test_it_boots_to_ready_without_a_failed_unit(machine: Machine) -> None:
    assert machine.property("edge.service", "ActiveState") == "active"
    assert "0 loaded units listed" in machine.run("systemctl", "--failed", "--no-pager")
    assert "ordering cycle" not in machine.run("journalctl", "-b", "--no-pager")


def test_the_units_are_valid(machine: Machine) -> None:
    assert _complaints(machine, *UNITS) == []
    for name in ("gpio", "lan-only", "pulley"):
        drop_in = machine.root / f"usr/share/edge/drop-ins/{name}.conf"
        with dropped_in(machine, drop_in.read_text()):
            assert _complaints(machine, "edge.service") == []


def test_what_only_later_systemds_know_is_valid_there(machine: Machine) -> None:
    with dropped_in(machine, _later(machine)):
        assert _complaints(machine, "edge.service") == []
        machine.run("systemctl", "restart", "edge.service")
        mark = _mark(machine)
        machine.run("systemctl", "reload", "edge.service")
        assert _after(machine, mark, "reloaded")  # it was waited for
    machine.run("systemctl", "restart", "edge.service")


def test_later_systemds_try_ever_more_rarely_and_never_give_up(machine: Machine) -> None:
    broken = "[Service]\nExecStart=\nExecStart=/bin/false\nRestartSec=10ms\n"
    broken += "RestartMaxDelaySec=800ms\n"  # of five minutes
    later = _later(machine)
    machine.run("systemctl", "stop", "edge.socket", "edge.service")
    with dropped_in(machine, later + broken):
        machine.run("systemctl", "start", "edge.service", expected=1)
        eventually("it was tried often", lambda: _restarts(machine) > 15)
        assert machine.property("edge.service", "SubState") != "failed"
        assert machine.property("edge.service", "RestartUSecNext") == "800ms"
        machine.run("systemctl", "stop", "edge.service")
    machine.run("systemctl", "start", "edge.socket", "edge.service")
    eventually("it serves", lambda: serves(machine))


def _restarts(machine: Machine) -> int:
    return int(machine.property("edge.service", "NRestarts"))


def _later(machine: Machine) -> str:
    if int(machine.run("systemctl", "--version").split()[1]) < 254:
        pytest.skip("this systemd is older")
    return (machine.root / "usr/share/edge/drop-ins/systemd-254.conf").read_text()


def _complaints(machine: Machine, *units: str) -> list[str]:
    """Of `systemd-analyze verify`; manual pages are the package's."""
    found = machine.run("systemd-analyze", "verify", *units, expected=None)
    return [line for line in found.splitlines() if "Command 'man" not in line]


def test_its_exposure_is_small(machine: Machine) -> None:
    found = machine.run("systemd-analyze", "security", "--no-pager", "edge.service")
    (level,) = re.findall(r"Overall exposure level for edge.service: ([0-9.]+)", found)
    assert float(level) <= 1.5


def test_systemctl_status_says_what_it_serves(machine: Machine) -> None:
    assert machine.property("edge.service", "StatusText") == "serving 1 application"


def test_it_runs_as_its_own_user_and_keeps_its_state_to_itself(machine: Machine) -> None:
    pid = machine.property("edge.service", "MainPID")
    assert machine.run("ps", "-o", "user=", "-p", pid).strip() == "edge"
    found = machine.run("stat", "-c", "%U:%G %a", "/var/lib/edge", "/var/cache/edge").split("\n")
    assert found[:2] == ["edge:edge 750", "edge:edge 750"]


def test_a_reload_takes_what_edge_toml_says_and_a_mistake_changes_nothing(
    machine: Machine,
) -> None:
    path = machine.root / "etc/edge/edge.toml"
    before = path.read_text()
    mark = _mark(machine)
    path.write_text(f"{before}mistake = 1\n")
    machine.run("systemctl", "reload", "edge.service", expected=None)
    eventually("it says so", lambda: _after(machine, mark, "not reloaded"))
    assert serves(machine)
    path.write_text(before)
    machine.run("systemctl", "reload", "edge.service")
    eventually("it is reloaded", lambda: _after(machine, mark, "reloaded"))
    status = machine.property("edge.service", "StatusText")
    assert status == "serving 1 application"
    assert machine.property("edge.service", "NRestarts") == "0"


def test_a_restart_under_load_refuses_nobody(machine: Machine) -> None:
    before = machine.property("edge.service", "MainPID")
    with Load(lambda: machine.get()[0]) as load:
        eventually("there is load", lambda: load.served > 50)
        for _ in range(3):
            machine.run("systemctl", "restart", "edge.service")
            now = load.served
            eventually("it goes on", lambda now=now: load.served > now + 50)
    assert machine.property("edge.service", "MainPID") != before
    assert load.failures == []


def test_https_comes_by_its_own_socket_and_a_restart_refuses_nobody(
    machine: Machine, tmp_path: Path
) -> None:
    trust = _certified(machine, tmp_path)
    with _https(machine):
        assert _get_https(machine, trust) == 200
        assert serves(machine)  # port 80 beside it
        with Load(lambda: _get_https(machine, trust)) as load:
            eventually("there is load", lambda: load.served > 20)
            for _ in range(3):
                machine.run("systemctl", "restart", "edge.service")
                now = load.served
                eventually("it goes on", lambda now=now: load.served > now + 20)
        assert load.failures == []
    eventually("it serves", lambda: serves(machine))


def test_without_a_certificate_the_socket_of_https_is_a_mistake_that_is_named(
    machine: Machine,
) -> None:
    machine.run("systemctl", "stop", "edge.service")
    machine.run("systemctl", "start", "edge-tls.socket")
    mark = _mark(machine)
    machine.run("systemctl", "start", "edge.service", expected=1)
    assert machine.property("edge.service", "ExecMainStatus") == "78"
    assert any("there is no certificate" in str(e["MESSAGE"]) for e in _since(machine, mark))
    # Ports are given back where nobody will serve them.
    machine.run("systemctl", "stop", "edge-tls.socket")
    machine.run("systemctl", "reset-failed", "edge.service", "edge.socket")
    machine.run("systemctl", "start", "edge.socket", "edge.service")
    eventually("it serves", lambda: serves(machine))


def _certified(machine: Machine, folder: Path) -> ssl.SSLContext:
    """Puts a key there as a credential, which the node cannot read as a file."""
    chain, key = folder / "chain.pem", folder / "key.pem"
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    name = ["-nodes", "-days", "2", "-subj", "/CN=edge", "-addext"]
    name += [f"subjectAltName=IP:{machine.address}", "-keyout", str(key), "-out", str(chain)]
    subprocess.run([*new, *name], check=True, capture_output=True)
    machine.write("etc/edge/chain.pem", chain.read_text())
    machine.write("etc/edge/credentials/tls.key", key.read_text(), mode=0o600)
    return ssl.create_default_context(cafile=str(chain))


@contextmanager
def _https(machine: Machine) -> Iterator[None]:
    path = machine.root / "etc/edge/edge.toml"
    before = path.read_text()
    tls = '[http]\ntls_certificate = "chain.pem"\ntls_key = "edge_tls.key"\n'
    path.write_text(before.replace("[http]\n", tls))
    machine.run("systemctl", "stop", "edge.service")
    machine.run("systemctl", "start", "edge-tls.socket", "edge.service")
    try:
        yield
    finally:
        path.write_text(before)
        machine.run("systemctl", "stop", "edge-tls.socket", "edge.service")
        machine.run("systemctl", "start", "edge.socket", "edge.service")


def _get_https(machine: Machine, trust: ssl.SSLContext) -> int:
    connection = http.client.HTTPSConnection(machine.address, context=trust, timeout=30)
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def test_without_executable_memory_guests_are_interpreted(machine: Machine) -> None:
    drop_in = (machine.root / "usr/share/edge/drop-ins/pulley.conf").read_text()
    mark = _mark(machine)
    with dropped_in(machine, drop_in):
        machine.run("systemctl", "restart", "edge.service")
        eventually("it serves", lambda: serves(machine))
        assert _after(machine, mark, "no executable memory is allowed")
        found = machine.run("systemd-analyze", "security", "--no-pager", "edge.service")
        assert "✗ MemoryDenyWriteExecute" not in found
    machine.run("systemctl", "restart", "edge.service")
    eventually("it serves", lambda: serves(machine))


def test_who_stands_still_is_started_anew_by_the_watchdog(machine: Machine) -> None:
    with dropped_in(machine, "[Service]\nWatchdogSec=3\nRestartSec=1\n"):
        machine.run("systemctl", "restart", "edge.service")
        eventually("it serves", lambda: serves(machine))
        pid = machine.property("edge.service", "MainPID")
        mark = _mark(machine)
        machine.run("kill", "-STOP", pid)
        eventually("it is another", lambda: machine.property("edge.service", "MainPID") not in
                   ("0", pid))  # fmt: skip
        eventually("it serves again", lambda: serves(machine))
        entries = _since(machine, mark)
        assert any("Watchdog timeout" in str(e["MESSAGE"]) for e in entries)
        # Alive and idle, it is left alone for several periods.
        pid = machine.property("edge.service", "MainPID")
        time.sleep(8)
        assert machine.property("edge.service", "MainPID") == pid


def test_a_mistake_in_edge_toml_is_not_tried_again_and_again(machine: Machine) -> None:
    path = machine.root / "etc/edge/edge.toml"
    before = path.read_text()
    path.write_text(f"{before}mistake = 1\n")
    machine.run("systemctl", "stop", "edge.socket", "edge.service")
    machine.run("systemctl", "start", "edge.service", expected=1)
    assert machine.property("edge.service", "ExecMainStatus") == "78"
    assert machine.property("edge.service", "ActiveState") == "failed"
    path.write_text(before)
    machine.run("systemctl", "reset-failed", "edge.service")
    machine.run("systemctl", "start", "edge.socket", "edge.service")
    eventually("it serves", lambda: serves(machine))


def test_who_crashes_again_and_again_is_given_up(machine: Machine) -> None:
    broken = "[Service]\nExecStart=\nExecStart=/bin/false\nRestartSec=10ms\n"
    machine.run("systemctl", "stop", "edge.socket", "edge.service")
    with dropped_in(machine, broken):
        machine.run("systemctl", "start", "edge.service", expected=1)
        state = "it is given up"
        eventually(state, lambda: machine.property("edge.service", "SubState") == "failed")
        assert _restarts(machine) <= 10
    machine.run("systemctl", "reset-failed", "edge.service")
    machine.run("systemctl", "start", "edge.socket", "edge.service")
    eventually("it serves", lambda: serves(machine))


def test_a_failing_guest_is_named_in_fields(machine: Machine, guest: Callable[[str], Path]) -> None:
    wasm = machine.root / "srv/hello/guest.wasm"
    mark = _mark(machine)
    wasm.write_bytes(guest("late_trap").read_bytes())
    machine.run("edge", "sync", expected=None)
    (entry, *_) = eventually("it says so", lambda: _told(machine, mark, messages.GUEST_FAILED))
    assert (entry["EDGE_APP"], entry["EDGE_COMPONENT"]) == ("hello", "guest")
    assert entry["EDGE_INVOCATION"]
    assert entry["PRIORITY"] == "4"
    (entry, *_) = eventually("and what follows", lambda: _told(machine, mark, messages.FAILED))
    assert entry["EDGE_APP"] == "hello"
    assert serves(machine)  # what was live before
    wasm.write_bytes(HELLO.read_bytes())
    machine.run("edge", "sync", "--retry")


def test_lines_of_the_journal_have_fields_and_explanations(machine: Machine) -> None:
    entries = [e for e in machine.journal("-u", "edge.service") if "EDGE_LOGGER" in e]
    ready = [e for e in entries if str(e["MESSAGE"]).startswith("ready: ")]
    assert ready
    assert ready[0]["SYSLOG_IDENTIFIER"] == "edge"
    assert ready[0]["PRIORITY"] == "6"
    explained = machine.run(
        "journalctl", "-b", "-x", "--no-pager", f"MESSAGE_ID={ready[0]['MESSAGE_ID']}"
    )
    assert "accepts requests" in explained


class Load:
    """Clients that connect anew for each request, four at a time, until the block is left. `ask`:
    one request; its status.
    """

    def __init__(self, ask: Callable[[], int]) -> None:
        self._status = ask
        self.served = 0
        self.failures: list[str] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(4)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        while not self._over.is_set():
            try:
                status = self._status()
            except Exception as error:
                self.failures.append(repr(error))
            else:
                self.served += 1
                if status != 200:
                    self.failures.append(str(status))


def _mark(machine: Machine) -> str:
    return str(machine.journal("-u", "edge.service", "-n", "1")[-1]["__CURSOR"])


def _since(machine: Machine, mark: str) -> list[dict[str, Any]]:
    """Entries of the service. Of the same unit as the mark: others would lose one."""
    return machine.journal("-u", "edge.service", f"--after-cursor={mark}")


def _after(machine: Machine, mark: str, text: str) -> bool:
    return any(str(entry["MESSAGE"]).startswith(text) for entry in _since(machine, mark))


def _told(machine: Machine, mark: str, message: str) -> list[dict[str, Any]]:
    return [entry for entry in _since(machine, mark) if entry.get("MESSAGE_ID") == message]
