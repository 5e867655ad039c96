"""Virtual machines with the service: QEMU, Debian's kernel, control groups of version 2.

    with vm(folder, files) as machine: machine.get("/"); machine.shell("systemctl status edge")

Emulated where there is no KVM: an answer may take tens of seconds.
"""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pytest
from vm_root import kernel, ram_disk, root

__all__ = ["PATIENCE", "StateDisk", "VirtualMachine", "needs_vm", "vm"]

# Seconds, of a machine whose processor is emulated by one that others use as well.
PATIENCE = 300.0

needs_vm = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("qemu-system-x86_64") is None,
    reason="needs root and the Debian package qemu-system-x86",
)

# What of a kernel's start costs an emulated processor time.
COMMAND_LINE = (
    "console=ttyS0 quiet panic=-1 mitigations=off nokaslr no_timer_check tsc=reliable"
    " cryptomgr.notests audit=0 random.trust_cpu=on systemd.show_status=false"
)
# Port of the machine, by what answers there.
PORTS = {"http": 80, "shell": 2222, "api": 7070}


class StateDisk(Protocol):
    """What QEMU is told of it, and what becomes of it without power."""

    def blockdev(self) -> str: ...

    def cut(self) -> None: ...


@dataclass(slots=True)
class VirtualMachine:
    """One that may be started again after it was cut off."""

    folder: Path
    suite: str
    files: Mapping[str, str | bytes]
    disk: StateDisk | None = None
    memory: int = 768
    ports: dict[str, int] = field(default_factory=lambda: {name: _free_port() for name in PORTS})
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert self.process is None
        self._build()
        with (self.folder / "qemu.log").open("ab") as log:
            self.process = subprocess.Popen(self._command(), stdout=log, stderr=log)

    def _build(self) -> None:
        """Once: it stays the same machine while the checkout changes."""
        self.folder.mkdir(exist_ok=True)
        image = self.folder / "root.img"
        if not image.exists():
            ram_disk(self.suite, self.files, self.folder / "initial")
            shutil.copy(kernel(self.suite), self.folder / "kernel")
            _run("cp", "--sparse=always", str(root(self.suite)), str(image))

    def _command(self) -> list[str]:
        forwards = "".join(
            f",hostfwd=tcp:127.0.0.1:{self.ports[name]}-:{port}" for name, port in PORTS.items()
        )
        command = [
            "nice", "-n", "10", "qemu-system-x86_64", "-nodefaults", "-no-reboot",
            "-machine", "pc", *_acceleration(), "-smp", "2", "-m", str(self.memory),
            "-kernel", str(self.folder / "kernel"), "-initrd", str(self.folder / "initial"),
            "-append", COMMAND_LINE,
            "-drive", f"if=none,id=root,format=raw,readonly=on,file={self.folder / 'root.img'}",
            "-device", "virtio-blk-pci,drive=root",
            "-netdev", f"user,id=net{forwards}", "-device", "virtio-net-pci,netdev=net,romfile=",
            "-display", "none", "-serial", f"file:{self.folder / 'console'}",
        ]  # fmt: skip
        if self.disk is not None:
            command += ["-blockdev", self.disk.blockdev()]
            command += ["-device", "virtio-blk-pci,drive=state,write-cache=on"]
        return command

    def cut(self) -> None:
        """Its power is gone: with it what the machine and its disk had not made permanent."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
            if self.disk is not None:
                self.disk.cut()

    def get(self, path: str = "/", timeout: float = PATIENCE) -> tuple[int, bytes]:
        """Status and body, however long the machine takes to its first answer."""
        deadline = time.monotonic() + timeout
        while True:
            with suppress(OSError, http.client.HTTPException):
                return self.ask("GET", path, timeout=timeout)
            self.alive(deadline, f"no answer to {path}")
            time.sleep(0.1)

    def ask(
        self, method: str, path: str, body: bytes = b"", timeout: float = PATIENCE
    ) -> tuple[int, bytes]:
        """As `get`, of a machine that serves. Raises what the connection does."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports["http"], timeout=timeout)
        try:
            connection.request(method, path, body or None)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def shell(self, script: str, timeout: float = PATIENCE) -> str:
        """What a script prints that runs in it as root."""
        deadline = time.monotonic() + timeout
        while True:
            with suppress(ConnectionError):
                said = self._shell(f"{script}\necho +$?\n", timeout)
                text, mark, code = said.rpartition("+")
                if mark:
                    assert code == "0\n", f"{script}\n{said}"
                    return text
            self.alive(deadline, "no shell answers")
            time.sleep(0.1)

    def _shell(self, script: str, timeout: float) -> str:
        with socket.create_connection(("127.0.0.1", self.ports["shell"]), timeout) as connection:
            connection.sendall(script.encode())
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

    def alive(self, deadline: float, what: str) -> None:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "qemu.log").read_text() + self.console
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
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
            listening.listen()
            accepting = threading.Thread(target=self._accept, args=(listening,))
            accepting.start()
            try:
                yield path
            finally:
                listening.shutdown(socket.SHUT_RDWR)
                accepting.join()

    def _accept(self, listening: socket.socket) -> None:
        pumps: list[threading.Thread] = []
        with suppress(OSError):
            while True:
                near, _ = listening.accept()
                far = socket.create_connection(("127.0.0.1", self.ports["api"]))
                for ends in ((near, far), (far, near)):
                    pumps.append(threading.Thread(target=_pump, args=ends))
                    pumps[-1].start()
        for pump in pumps:
            pump.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    # The last to see an end closes nothing that the other still uses.
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextmanager
def vm(
    folder: Path,
    files: Mapping[str, str | bytes],
    disk: StateDisk | None = None,
    suite: str = "bookworm",
    memory: int = 768,
) -> Iterator[VirtualMachine]:
    """A machine that was switched on, with these files beside those of the package."""
    machine = VirtualMachine(folder, suite, files, disk, memory)
    try:
        machine.start()
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


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
