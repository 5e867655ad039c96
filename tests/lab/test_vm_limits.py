"""Limits of the unit where control groups are of version 2: in a virtual machine. What a machine
of systemd-nspawn has are those of this machine, which may be older.
"""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from machines import eventually
from service import CONFIGURATION, MANIFEST
from vm_machine import PATIENCE, VirtualMachine, needs_vm, vm

pytestmark = needs_vm

HELLO = Path(__file__).resolve().parents[2] / "examples/hello/hello.wasm"
UNIT = "/sys/fs/cgroup/system.slice/edge.service"
LARGE = '\n[[application]]\nname = "large"\npath = "/srv/large"\nmount = "/large"\n'
STRANGER = "203.0.113.1"


@pytest.fixture(scope="module")
def machine(
    tmp_path_factory: pytest.TempPathFactory, guest: Callable[[str], Path]
) -> Iterator[VirtualMachine]:
    with vm(tmp_path_factory.mktemp("vm")) as found:
        found.install(
            {
                "etc/edge/edge.toml": CONFIGURATION.format(name="vm", application="hello"),
                "srv/hello/spin.toml": MANIFEST.format(options=""),
                "srv/hello/guest.wasm": HELLO.read_bytes(),
                "srv/large/spin.toml": MANIFEST.format(options=""),
                "srv/large/guest.wasm": guest("python").read_bytes(),
            }
        )
        found.start()
        assert found.get()[0] == 200
        yield found


def test_the_limits_of_the_unit_are_those_of_its_control_group(machine: VirtualMachine) -> None:
    assert machine.shell("stat -fc %T /sys/fs/cgroup").strip() == "cgroup2fs"
    high, most, tasks, total = machine.shell(
        f"cd {UNIT}; cat memory.high memory.max pids.max; grep MemTotal /proc/meminfo"
    ).splitlines()
    memory = int(total.split()[1]) * 1024
    assert int(high) == pytest.approx(0.75 * memory, rel=0.01)
    assert int(most) == pytest.approx(0.85 * memory, rel=0.01)
    assert tasks == "256"


def test_a_compiler_that_takes_too_much_is_ended_and_the_node_goes_on(
    machine: VirtualMachine,
) -> None:
    before = machine.shell("cat /etc/edge/edge.toml")
    with drop_in(machine, "MemoryMax=300M\nMemoryHigh=infinity\nMemorySwapMax=0"):
        pid = main_pid(machine)
        machine.shell(f"cat >>/etc/edge/edge.toml <<'END'\n{LARGE}\nEND\nsystemctl reload edge")
        eventually(
            "the compiler is ended",
            lambda: "killed by SIGKILL" in journal(machine),
            PATIENCE,
        )
        assert main_pid(machine) == pid
        assert machine.get()[0] == 200
        assert "oom_kill 0" not in machine.shell(f"cat {UNIT}/memory.events").splitlines()
        machine.shell(f"cat >/etc/edge/edge.toml <<'END'\n{before}\nEND\nsystemctl reload edge")
    assert machine.get()[0] == 200


def test_a_node_that_takes_too_much_is_ended_and_started_again(machine: VirtualMachine) -> None:
    pid = main_pid(machine)
    # What it has now is more: it is ended at the next page that it needs.
    machine.shell(f"echo 8M >{UNIT}/memory.max")
    eventually("it is another", lambda: main_pid(machine) not in ("0", pid), PATIENCE)
    machine.shell(f"echo max >{UNIT}/memory.max")
    assert machine.get()[0] == 200
    eventually("the journal says why", lambda: "OOM killer" in journal(machine), PATIENCE)


def test_with_lan_only_neighbours_are_served_and_strangers_are_not_heard(
    machine: VirtualMachine,
) -> None:
    machine.shell(f"ip address add {STRANGER}/32 dev lo; ip address add 10.9.9.9/32 dev lo")
    assert reaches(machine, STRANGER, STRANGER)
    machine.shell(
        "for unit in service socket; do mkdir -p /run/systemd/system/edge.$unit.d; done\n"
        "cp /usr/share/edge/drop-ins/lan-only.conf /run/systemd/system/edge.service.d/\n"
        "cp /usr/share/edge/drop-ins/lan-only.socket.conf /run/systemd/system/edge.socket.d/\n"
        "systemctl daemon-reload; systemctl stop edge.socket edge; systemctl start edge.socket edge"
    )
    assert machine.get()[0] == 200  # from a private network
    assert reaches(machine, "10.9.9.9", "10.9.9.9")
    assert not reaches(machine, STRANGER, STRANGER)
    assert not reaches(machine, "10.9.9.9", STRANGER)


def reaches(machine: VirtualMachine, address: str, source: str) -> bool:
    """Whether somebody who has the address `source` is answered."""
    code = machine.shell(
        "curl --silent --output /dev/null --write-out '%{http_code}' --max-time 20"
        f" --interface {source} http://{address}/ || true"
    )
    return code.strip() == "200"


def journal(machine: VirtualMachine) -> str:
    return machine.shell("journalctl --sync; journalctl -b -u edge --no-pager -o cat")


def main_pid(machine: VirtualMachine) -> str:
    return machine.shell("systemctl show edge.service --property=MainPID --value").strip()


class drop_in:
    """The service restarted with these lines, until the block is left."""

    def __init__(self, machine: VirtualMachine, lines: str) -> None:
        self._machine, self._lines = machine, lines

    def __enter__(self) -> None:
        self._machine.shell(
            "mkdir -p /run/systemd/system/edge.service.d\n"
            "cat >/run/systemd/system/edge.service.d/test.conf <<'END'\n"
            f"[Service]\n{self._lines}\nEND\n"
            "systemctl daemon-reload; systemctl restart edge"
        )

    def __exit__(self, *_: object) -> None:
        self._machine.shell(
            "rm -r /run/systemd/system/edge.service.d; systemctl daemon-reload\n"
            "systemctl restart edge"
        )
        with suppress(OSError, http.client.HTTPException):
            self._machine.get()
