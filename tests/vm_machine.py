"""Virtual machines with the service: Debian's own kernels, control groups of version 2.

    with vm(folder) as machine:
        machine.install(files)
        machine.start()
        machine.get("/"), machine.shell("systemctl status edge")

qemu      a PC; where there is no KVM its processor is emulated, and an answer takes a minute
usermode  the same kernel as a process (user-mode-linux): its memory, page cache, file systems and
          control groups are its own, its instructions are this machine's; answers after seconds

`EDGE_VM` chooses; otherwise the faster one that is there.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pytest
from vm_relay import Relay
from vm_root import ram_disk, root, system

__all__ = ["KIND", "PATIENCE", "StateDisk", "VirtualMachine", "needs_vm", "vm"]

# Of the machine, by what answers there.
PORTS = {"http": 80, "shell": 2222, "api": 7070}
# The same at each start: this machine remembers it.
MAC = "02:00:00:00:00:02"
# What of a kernel's start takes time, and what systemd would print.
COMMAND_LINE = "panic=-1 quiet audit=0 selinux=0 apparmor=0 systemd.show_status=false"


class StateDisk(Protocol):
    """What becomes of it without power, and where it is: by NBD."""

    @property
    def address(self) -> Path: ...

    def switch_on(self) -> None: ...

    def cut(self) -> None: ...


@dataclass(slots=True)
class VirtualMachine:
    """One that may be started again after it was cut off."""

    folder: Path
    suite: str
    disk: StateDisk | None = None
    memory: int = 768
    process: subprocess.Popen[bytes] | None = None
    stack: ExitStack = field(default_factory=ExitStack)

    @property
    def host(self) -> str:
        """This machine, as it sees it."""
        raise NotImplementedError

    def connect(self) -> None:
        """Gives it what it needs of this machine, until `stack` is closed."""

    def install(self, files: Mapping[str, str | bytes]) -> None:
        """Once, with these beside those of the package: it stays the same while the checkout
        changes.
        """
        kernel, modules = self.kernel()
        shutil.copy(kernel, self.folder / "kernel")
        ram_disk(self.folder / "initial", system(self.suite) / "bin/busybox", modules, files)
        image = ["cp", "--sparse=always", str(root(self.suite)), str(self.folder / "root.img")]
        subprocess.run(image, check=True)

    def kernel(self) -> tuple[Path, list[Path]]:
        """And its modules that are needed, in the order in which they need each other."""
        raise NotImplementedError

    def command(self) -> list[str]:
        raise NotImplementedError

    def place(self, name: str) -> tuple[str, int]:
        """Host and port by which this machine reaches it; a key of PORTS."""
        raise NotImplementedError

    @contextmanager
    def reachable(self, port: int) -> Iterator[str]:
        """Host and port by which it reaches a port of this machine's loopback."""
        yield f"{self.host}:{port}"

    def start(self) -> None:
        assert self.process is None
        if self.disk is not None:
            self.disk.switch_on()
        with (self.folder / "console").open("wb") as console:
            self.process = subprocess.Popen(
                ["nice", "-n", "10", *self.command()],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )

    def cut(self) -> None:
        """Its power is gone: with it what the machine and its disk had not made permanent."""
        if self.process is not None:
            with suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
            if self.disk is not None:
                self.disk.cut()

    def get(self, path: str = "/") -> tuple[int, bytes]:
        """Status and body, however long the machine takes to its first answer."""
        deadline = time.monotonic() + PATIENCE
        while True:
            with suppress(OSError, http.client.HTTPException):
                return self.ask("GET", path)
            self.alive(deadline, f"no answer to {path}")
            time.sleep(0.1)

    def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """As `get`, of a machine that serves. Raises what the connection does."""
        connection = http.client.HTTPConnection(*self.place("http"), timeout=PATIENCE)
        try:
            connection.request(method, path, body or None)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def shell(self, script: str) -> str:
        """What a script prints that runs in it as root."""
        deadline = time.monotonic() + PATIENCE
        while True:
            with suppress(OSError):
                said = self._shell(f"{{\n{script}\n}} </dev/null\necho +$?\n")
                text, mark, code = said.rpartition("+")
                if mark:
                    assert code == "0\n", f"{script}\n{said}"
                    return text
            self.alive(deadline, "no shell answers")
            time.sleep(0.1)

    def _shell(self, script: str) -> str:
        with socket.create_connection(self.place("shell"), PATIENCE) as connection:
            connection.sendall(script.encode())
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

    def alive(self, deadline: float, what: str) -> None:
        assert self.process is not None
        assert self.process.poll() is None, self.console
        assert time.monotonic() < deadline, f"{what}; its console:\n{self.console[-3000:]}"

    @property
    def console(self) -> str:
        path = self.folder / "console"
        return path.read_bytes().decode(errors="replace") if path.exists() else ""

    @contextmanager
    def api(self) -> Iterator[Path]:
        """A socket of this machine that is the node's."""
        path = self.folder / "api"
        path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(path))
        listening.listen()
        with Relay(listening, lambda: socket.create_connection(self.place("api"))):
            yield path


@dataclass(slots=True)
class Qemu(VirtualMachine):
    ports: dict[str, int] = field(default_factory=lambda: {name: _free_port() for name in PORTS})

    @property
    def host(self) -> str:
        return "10.0.2.2"

    def kernel(self) -> tuple[Path, list[Path]]:
        names = (
            "virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev",
            "virtio_pci", "virtio_blk", "failover", "net_failover", "virtio_net", "overlay",
        )  # fmt: skip
        files = system(self.suite)
        modules = [next((files / "lib/modules").rglob(f"{name}.ko")) for name in names]
        return next((files / "boot").glob("vmlinuz-*")), modules

    def place(self, name: str) -> tuple[str, int]:
        return "127.0.0.1", self.ports[name]

    def command(self) -> list[str]:
        forwards = "".join(
            f",hostfwd=tcp:127.0.0.1:{self.ports[name]}-:{port}" for name, port in PORTS.items()
        )
        told = (
            f"{COMMAND_LINE} console=ttyS0 mitigations=off nokaslr no_timer_check tsc=reliable"
            " cryptomgr.notests random.trust_cpu=on interface=eth0 address=10.0.2.15/24"
            f" gateway={self.host} disk=/dev/vda"
        )
        state = []
        if self.disk is not None:
            told += " state=/dev/vdb"
            node = f"driver=nbd,node-name=state,server.type=unix,server.path={self.disk.address}"
            state = ["-blockdev", node]
            state += ["-device", "virtio-blk-pci,drive=state,write-cache=on"]
        return [
            "qemu-system-x86_64", "-nodefaults", "-no-reboot", "-display", "none",
            "-serial", "stdio", "-machine", "pc", *_acceleration(), "-smp", "2",
            "-m", str(self.memory), "-kernel", str(self.folder / "kernel"),
            "-initrd", str(self.folder / "initial"), "-append", told,
            "-drive", f"if=none,id=root,format=raw,readonly=on,file={self.folder / 'root.img'}",
            "-device", "virtio-blk-pci,drive=root", *state,
            "-netdev", f"user,id=net{forwards}", "-device", "virtio-net-pci,netdev=net,romfile=",
        ]  # fmt: skip


@dataclass(slots=True)
class UserMode(VirtualMachine):
    tap: str = ""
    network: str = ""

    @property
    def host(self) -> str:
        return f"{self.network}.1"

    def kernel(self) -> tuple[Path, list[Path]]:
        kernel = shutil.which("linux.uml")
        assert kernel is not None
        found = Path("/usr/lib/uml/modules").rglob("*.ko")
        modules = {path.stem: path for path in found}
        return Path(kernel), [modules["overlay"], modules["nbd"]]

    def place(self, name: str) -> tuple[str, int]:
        return f"{self.network}.2", PORTS[name]

    @contextmanager
    def reachable(self, port: int) -> Iterator[str]:
        with Relay.to_port(self.host, port) as relay:
            yield f"{self.host}:{relay.port}"

    def command(self) -> list[str]:
        words = [
            str(self.folder / "kernel"), f"mem={self.memory}M", f"uml_dir={self.folder}",
            f"ubd0r={self.folder / 'root.img'}", f"initrd={self.folder / 'initial'}",
            f"vec0:transport=tap,ifname={self.tap},depth=64,gro=1,mac={MAC}",
            "con=null", "con0=fd:0,fd:1",
            *COMMAND_LINE.split(), "interface=vec0", f"address={self.network}.2/24",
            f"gateway={self.host}", "disk=/dev/ubda",
        ]  # fmt: skip
        return words + ([f"nbd={self._disk_port()}", "state=/dev/nbd0"] if self.disk else [])

    def _disk_port(self) -> int:
        """Its disk is reached over the network, as it has no other way to one that forgets."""
        assert self.disk is not None
        path = str(self.disk.address)
        listening = socket.create_server((self.host, 0))
        self.stack.enter_context(Relay(listening, lambda: _connected(path)))
        return int(listening.getsockname()[1])

    def connect(self) -> None:
        for number in range(200, 250):
            self.tap, self.network = f"edgevm{number}", f"10.79.{number}"
            command = ["ip", "tuntap", "add", self.tap, "mode", "tap"]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                self.stack.callback(_ip, "link", "delete", self.tap)
                _ip("address", "add", f"{self.host}/24", "dev", self.tap)
                _ip("link", "set", self.tap, "up")
                return
        raise AssertionError("no free interface: ip link delete edgevm200, …")


def _kind() -> type[VirtualMachine]:
    wanted = os.environ.get("EDGE_VM") or ("usermode" if shutil.which("linux.uml") else "qemu")
    return {"qemu": Qemu, "usermode": UserMode}[wanted]


KIND = _kind()
# Seconds. Where a processor is emulated by one that others use as well, a node starts in minutes.
PATIENCE = 900.0 if KIND is Qemu else 300.0

needs_vm = pytest.mark.skipif(
    os.geteuid() != 0
    or shutil.which("linux.uml" if KIND is UserMode else "qemu-system-x86_64") is None,
    reason="needs root and the Debian package user-mode-linux or qemu-system-x86",
)


@contextmanager
def vm(
    folder: Path, disk: StateDisk | None = None, suite: str = "bookworm"
) -> Iterator[VirtualMachine]:
    """One that is off, to be installed and switched on."""
    folder.mkdir(parents=True, exist_ok=True)
    machine = KIND(folder, suite, disk)
    with machine.stack:
        machine.connect()
        try:
            yield machine
        finally:
            machine.cut()


def _acceleration() -> list[str]:
    """KVM where the processor has it: /dev/kvm may also be an emulation that no kernel starts in.
    Emulated, a processor without much is faster: what can be chosen by its features is not.
    """
    flags = Path("/proc/cpuinfo").read_text().split()
    if Path("/dev/kvm").exists() and ("vmx" in flags or "svm" in flags):
        return ["-accel", "kvm", "-cpu", "host"]
    return ["-accel", "tcg,thread=multi", "-cpu", "qemu64,+rdrand,+ssse3,+sse4.1,+sse4.2"]


def _connected(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return connection


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
