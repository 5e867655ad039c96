"""Machines with real systemd: `systemd-nspawn` from cached roots, each with its own files,
processes, network and journal.

    lab       a bridge of this machine; machines are ports of it, and have addresses in its network
    machine   a Debian that booted; `run` runs a command in it, `journal` reads its log

Needs root and the Debian packages systemd-container, mmdebstrap and iproute2. It is no test of
limits of memory: this machine may have cgroups of version 1.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from machine_roots import CACHE, SUITES, debian, overlaid, product

__all__ = [
    "SUITES",
    "Lab",
    "Machine",
    "enable",
    "eventually",
    "install",
    "lab",
    "needs_machines",
]

T = TypeVar("T")

# Seconds. Machines boot in three; one that others keep busy takes its time.
BOOT, PATIENCE = 90.0, 60.0

needs_machines = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("systemd-nspawn") is None,
    reason="machines need root and the Debian package systemd-container",
)

PREFIX = "edgemach"
NETWORK = """[Match]
Name=host0
[Network]
Address={address}/24
Gateway={gateway}
LinkLocalAddressing=ipv6
"""


@dataclass(slots=True)
class Machine:
    """One that runs. `root`: its files, as it sees them."""

    name: str
    suite: str
    address: str
    root: Path
    leader: int = 0
    process: subprocess.Popen[str] | None = field(default=None, repr=False)

    def run(self, *command: str, expected: int | None = 0, stdin: str = "") -> str:
        """What a command prints that runs in it as root. `expected`: its exit code; None: any."""
        enter = ["nsenter", "--target", str(self.leader), "--all", "--root", "--wdns=/", "--"]
        done = subprocess.run(
            [*enter, *command],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE * 2,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root"},
        )
        if expected is not None:
            assert done.returncode == expected, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """A file of it, also before it boots."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def property(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", unit, f"--property={name}", "--value").strip()

    def journal(self, *matches: str) -> list[dict[str, Any]]:
        """Entries of this boot, with all their fields."""
        self.run("journalctl", "--sync")
        text = self.run("journalctl", "-b", "-o", "json", "--no-pager", "--all", *matches)
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def get(self, path: str = "/", port: int = 80, timeout: float = 30) -> tuple[int, bytes]:
        """Status and body of a request over the network."""
        connection = http.client.HTTPConnection(self.address, port, timeout=timeout)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def stop(self) -> None:
        """Ends it at once; its files stay as they are."""
        if self.process is None:
            return
        if self.leader:
            with suppress(ProcessLookupError):
                os.kill(self.leader, signal.SIGKILL)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None
        self.leader = 0


class Lab:
    """Where machines are. Made by `lab`."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self._number = 1
        self.bridge, self.network = _bridge(stack)

    def machine(
        self,
        suite: str,
        name: str = "",
        *,
        installed: bool = True,
        prepare: Callable[[Machine], None] | None = None,
    ) -> Machine:
        """A fresh one, which has booted. `installed`: with this checkout as a package would put it.
        `prepare`: called before it boots, to write files of it.
        """
        self._number += 1
        name = name or f"{suite}-{self._number}"
        layers = [debian(suite)] + ([product(suite)] if installed else [])
        place = self.folder / name
        for part in ("upper", "work", "root"):
            (place / part).mkdir(parents=True)
        root = place / "root"
        self._stack.enter_context(overlaid(root, layers, place / "upper", place / "work"))
        machine = Machine(name, suite, f"{self.network}.{self._number}", root)
        self._configure(machine, installed=installed)
        if prepare is not None:
            prepare(machine)
        self._stack.callback(machine.stop)
        self.boot(machine)
        return machine

    def boot(self, machine: Machine) -> None:
        """Starts it, also again after `stop`: with the files that it left."""
        folder = machine.root.parent
        with _ready_socket(folder / "notify") as ready:
            machine.process = _start(machine, self.bridge, folder)
            machine.leader = _await_ready(ready, machine.process, folder / "console")

    def _configure(self, machine: Machine, *, installed: bool) -> None:
        machine.write("etc/hostname", f"{machine.name}\n")
        machine.write("etc/machine-id", "")
        network = NETWORK.format(address=machine.address, gateway=f"{self.network}.1")
        machine.write("etc/systemd/network/10-host0.network", network)
        enable(machine, "multi-user.target", "systemd-networkd.service")
        if installed:
            install(machine)


def install(machine: Machine) -> None:
    """What the package does beside bringing its files."""
    root = str(machine.root)
    _host("systemd-sysusers", f"--root={root}", "edge.conf")
    _host("systemd-tmpfiles", f"--root={root}", "--create", "edge.conf")
    _host("chroot", root, "journalctl", "--update-catalog")


def enable(machine: Machine, target: str, unit: str) -> None:
    """Before it boots."""
    wants = machine.root / f"etc/systemd/system/{target}.wants" / unit
    wants.parent.mkdir(parents=True, exist_ok=True)
    if not wants.is_symlink():
        wants.symlink_to(f"/usr/lib/systemd/system/{unit}")


@contextmanager
def lab() -> Iterator[Lab]:
    """Ends with all its machines, also after a failure."""
    with ExitStack() as stack:
        CACHE.mkdir(exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="lab-", dir=CACHE))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield Lab(folder, stack)


def eventually(what: str, found: Callable[[], T], seconds: float = PATIENCE) -> T:
    """What `found` returns once that is true; OSError counts as not yet."""
    deadline = time.monotonic() + seconds
    while True:
        with suppress(OSError, http.client.HTTPException):
            if value := found():
                return value
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)


def _bridge(stack: ExitStack) -> tuple[str, str]:
    """A bridge with a network of its own, and the first three numbers of its addresses."""
    for number in range(200, 250):
        name, network = f"{PREFIX}{number}", f"10.78.{number}"
        command = ["ip", "link", "add", name, "type", "bridge"]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            stack.callback(_host, "ip", "link", "delete", name)
            _host("ip", "address", "add", f"{network}.1/24", "dev", name)
            _host("ip", "link", "set", name, "up")
            return name, network
    raise AssertionError("no free bridge: ip link delete edgemach200, …")


def _start(machine: Machine, bridge: str, folder: Path) -> subprocess.Popen[str]:
    """In a control group of its own: systemd in it takes itself for the first of its tree."""
    groups = [*Path("/sys/fs/cgroup").glob("*/cgroup.procs"), Path("/sys/fs/cgroup/cgroup.procs")]
    places = [g.parent / f"edge-{bridge}-{machine.name}" for g in groups if _is_systemd(g.parent)]
    for group in places:
        group.mkdir(exist_ok=True)
    join = "".join(f"echo $$ > '{group}/cgroup.procs'; " for group in places)
    arguments = ["--quiet", "--register=no", "--keep-unit", "--boot", "--notify-ready=yes"]
    arguments += [f"--directory={machine.root}", "--console=pipe", "--link-journal=no"]
    # A time zone that is mounted there cannot be replaced by the package tzdata.
    arguments += ["--timezone=off"]
    # Names of this machine's: others may run labs as well, and an interface outlives its machine
    # for a moment.
    own_name = f"{bridge.removeprefix(PREFIX)}-{machine.address.rpartition('.')[2]}"
    arguments += [f"--machine=edge{own_name}", f"--hostname={machine.name}"]
    arguments += [f"--network-bridge={bridge}"]
    interface = ["ip", "link", "delete", f"vb-edge{own_name}"]
    subprocess.run(interface, capture_output=True, check=False)
    with (folder / "console").open("w") as console:
        return subprocess.Popen(
            ["sh", "-c", f'{join} exec systemd-nspawn "$@"', "sh", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            text=True,
            env={
                **os.environ,
                "NOTIFY_SOCKET": str(folder / "notify"),
                "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
            },
        )


def _is_systemd(group: Path) -> bool:
    """The tree in which systemd keeps its services: that of version 2, and its own of version 1."""
    return group.name in ("unified", "systemd") or (group / "cgroup.controllers").exists()


@contextmanager
def _ready_socket(path: Path) -> Iterator[socket.socket]:
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.bind(str(path))
        ready.settimeout(1)
        yield ready


def _await_ready(ready: socket.socket, process: subprocess.Popen[str], console: Path) -> int:
    """The first process of the machine, once everything in it was started."""
    leader, deadline = 0, time.monotonic() + BOOT
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(TimeoutError):
            for line in ready.recv(4096).decode().splitlines():
                name, _, value = line.partition("=")
                if name == "X_NSPAWN_LEADER_PID":
                    leader = int(value)
                elif name == "READY" and leader:
                    return leader
    raise AssertionError(f"the machine did not boot:\n{console.read_text()[-4000:]}")


def _host(*command: str | Sequence[str]) -> None:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
