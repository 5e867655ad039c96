"""How long `edge.service` may take to start, under real systemd."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from machines import SUITES, Lab, Machine, eventually, lab, needs_machines
from service import dropped_in, prepared, serves

pytestmark = needs_machines

# Seconds. The first sign of progress comes ten after the program was read, which takes its time.
ALLOWED = 18
LIMITS = f"[Service]\nTimeoutStartSec={ALLOWED}\nCPUAffinity=0\nRestart=no\n"
# One processor for the guest's compiler and for this: long enough on a fast machine, too.
BUSY = ("taskset", "0x1", "sh", "-c", "while :; do :; done")
COMPILED = 400.0


@pytest.fixture(scope="module")
def machines() -> Iterator[Lab]:
    with lab() as made:
        yield made


@pytest.fixture(params=SUITES)
def machine(
    machines: Lab, request: pytest.FixtureRequest, guest: Callable[[str], Path]
) -> Iterator[Machine]:
    """It is to serve a large guest, and was not started yet."""

    def prepare(machine: Machine) -> None:
        prepared(guest("spin-python"))(machine)
        (machine.root / "etc/systemd/system/multi-user.target.wants/edge.service").unlink()

    machine = machines.machine(request.param, prepare=prepare)
    yield machine
    machine.stop()


@pytest.mark.patience(900)  # it compiles for as long as COMPILED, and is ended after
def test_who_computes_is_given_more_time_and_who_stands_still_is_not(machine: Machine) -> None:
    with dropped_in(machine, LIMITS):
        with busy():
            assert _outcome(machine, COMPILED) == "active", machine.journal("-u", "edge.service")
        assert _took(machine) > ALLOWED, "this machine compiles too fast to show it"
        assert serves(machine, 8080)

        machine.run("systemctl", "stop", "edge.service")
        machine.run("sh", "-c", "rm -r /var/lib/edge/*")
        assert _outcome(machine, ALLOWED + 120, freeze=True) == "failed"
        assert machine.property("edge.service", "Result") == "timeout"


@contextmanager
def busy() -> Iterator[None]:
    with subprocess.Popen(BUSY) as process:
        try:
            yield
        finally:
            process.kill()


def _outcome(machine: Machine, patience: float, *, freeze: bool = False) -> str:
    """What state a start ends in. `freeze`: the program stands still soon after it began."""
    machine.run("systemctl", "start", "--no-block", "edge.service")
    if freeze:
        machine.run("kill", "-STOP", eventually("it begins", lambda: _begun(machine)))
    ended = ("active", "failed")
    eventually("it has started or not", lambda: _state(machine) in ended, patience)
    return _state(machine)


def _state(machine: Machine) -> str:
    return machine.property("edge.service", "ActiveState")


def _begun(machine: Machine) -> str:
    pid = machine.property("edge.service", "MainPID")
    return pid if pid != "0" and _state(machine) == "activating" else ""


def _took(machine: Machine) -> float:
    """Seconds from the start of its process to its being ready."""
    names = ("ActiveEnterTimestampMonotonic", "ExecMainStartTimestampMonotonic")
    ready, begun = (int(machine.property("edge.service", name)) for name in names)
    return (ready - begun) / 1e6
