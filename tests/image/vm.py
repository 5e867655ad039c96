"""An image in QEMU: its boot partition filled as by a user, booted, asked, cut off.

The guest is reached as by a user as well: HTTP, and ssh with a key from the boot partition.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self

import bootloader

BOOT_AT = "4M"  # of the boot partition, for mtools
PATIENCE = 1800  # seconds; an emulated machine takes minutes to start, and a trial of an update ten
OVMF = Path("/usr/share/OVMF")
AAVMF = Path("/usr/share/AAVMF")


@dataclass
class Disk:
    """A writable copy of an image, in raw form, larger than the image as a card would be."""

    path: Path

    @classmethod
    def of(cls, image: Path, path: Path, size: str = "3G") -> Disk:
        if image.suffix == ".zst":
            run("zstd", "-q", "-f", "-d", image, "-o", path, "--sparse")
        else:
            run("qemu-img", "convert", "-O", "raw", image, path)
        run("qemu-img", "resize", "-q", "-f", "raw", path, size)
        return cls(path)

    def copy(self, path: Path) -> Disk:
        run("cp", "--sparse=always", self.path, path)
        return Disk(path)

    def put(self, name: str, content: bytes | Path) -> None:
        """A file on the boot partition."""
        source = content
        if isinstance(content, bytes):
            source = self.path.with_suffix(".put")
            source.write_bytes(content)
        assert isinstance(source, Path)
        self._mtools("mcopy", "-o", source, f"::{name}")

    def make_folder(self, name: str) -> None:
        self._mtools("mmd", f"::{name}")

    def get(self, name: str) -> bytes:
        return self._mtools("mtype", f"::{name}")

    def names(self, folder: str) -> list[str]:
        return self._mtools("mdir", "-b", f"::{folder}").decode().split()

    def rename(self, name: str, new: str) -> None:
        self._mtools("mren", f"::{name}", f"::{Path(name).parent}/{new}")

    def files(self) -> dict[str, bytes]:
        """All of the boot partition."""
        target = self.path.with_suffix(".boot")
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        self._mtools("mcopy", "-s", "-n", "-Q", "::", target)
        found = (path for path in target.rglob("*") if path.is_file())
        return {str(path.relative_to(target)): path.read_bytes() for path in found}

    def _mtools(self, program: str, *words: str | Path) -> bytes:
        return run(program, "-i", f"{self.path}@@{BOOT_AT}", *words)


@dataclass
class Machine:
    """One machine: `start`, then `get` and `ssh`; `kill` is a power cut."""

    disk: Disk
    folder: Path
    network: bool = True
    http_port: int = field(default_factory=lambda: free_port())
    ssh_port: int = field(default_factory=lambda: free_port())
    process: subprocess.Popen[bytes] | None = None

    @property
    def console(self) -> str:
        path = self.folder / "console"
        return path.read_bytes().decode(errors="replace") if path.exists() else ""

    @property
    def key(self) -> Path:
        path = self.folder / "key"
        if not path.exists():
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path)
        return path

    def command(self) -> list[str | Path]:
        """QEMU's; a subclass is another kind of machine."""
        variables = self.folder / "variables.fd"
        if not variables.exists():
            shutil.copy(OVMF / "OVMF_VARS_4M.fd", variables)
        code = OVMF / "OVMF_CODE_4M.fd"
        return [
            "qemu-system-x86_64", "-machine", "q35", *acceleration(), "-m", "1024", "-smp", "2",
            "-drive", f"if=pflash,format=raw,readonly=on,file={code}",
            "-drive", f"if=pflash,format=raw,file={variables}",
            "-drive", f"if=virtio,format=raw,file={self.disk.path}",
            *(["-nic", f"user,model=virtio-net-pci{self.forwards()}"] if self.network
              else ["-nic", "none"]),
        ]  # fmt: skip

    def forwards(self) -> str:
        pairs = ((self.http_port, self.guest_http), (self.ssh_port, 22))
        return "".join(f",hostfwd=tcp:127.0.0.1:{here}-:{there}" for here, there in pairs)

    guest_http = 80

    def qemu_words(self) -> list[str]:
        return ["-display", "none", "-monitor", "none", "-serial", "stdio"]

    def http_place(self) -> tuple[str, int]:
        return "127.0.0.1", self.http_port

    def ssh_place(self) -> tuple[str, int]:
        return "127.0.0.1", self.ssh_port

    def start(self) -> None:
        assert self.process is None
        words = ["nice", "-n", "10", *self.command(), *self.qemu_words()]
        with (self.folder / "console").open("ab") as log:
            self.process = subprocess.Popen(
                list(map(str, words)), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def configure(self, edge_toml: str, bundle: Path) -> None:
        """What a user puts on the boot partition."""
        self.disk.put("setup/authorized_keys", self.key.with_suffix(".pub").read_bytes())
        self.disk.put("setup/edge.toml", edge_toml.encode())
        self.disk.put("setup/hostname", b"shelf-1\n")
        self.disk.make_folder("setup/bundles")
        self.disk.put(f"setup/bundles/{bundle.name}", bundle)

    def copy(self, folder: Path) -> Self:
        """Another one with the same disk, which is not under way."""
        for name in ("key", "key.pub"):
            shutil.copy(self.folder / name, folder / name)
        return type(self)(self.disk.copy(folder / "disk.img"), folder)

    def shut_down(self) -> None:
        """As by a user who waits until it is off."""
        assert self.process is not None
        self.ssh("systemctl", "poweroff", "--no-block")
        self.process.wait(timeout=PATIENCE)
        self.process = None

    @contextmanager
    def sending(self, update: Path) -> Iterator[Callable[[], str]]:
        """An update is on its way; what it said. How that ends is of no interest."""
        words = [*self._ssh_words(), "edge-image", "update", "-"]
        path = self.folder / "update.log"
        with update.open("rb") as source, path.open("wb") as log:
            process = subprocess.Popen(words, stdin=source, stdout=log, stderr=log)
        try:
            yield path.read_text
        finally:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """The power is gone, and with it what the guest had not written."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def close(self) -> None:
        """For good."""
        self.kill()

    def get(self, path: str = "/", timeout: float = PATIENCE) -> tuple[int, bytes]:
        """The first answer to this request, however long the machine takes to its first."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                return self.ask(path)
            except (OSError, http.client.HTTPException):
                self._alive(deadline, f"no answer to {path}")
                time.sleep(0.2)

    def wait_for(self, path: str, wanted: bytes, timeout: float = PATIENCE) -> bytes:
        deadline = time.monotonic() + timeout
        while True:
            status, body = self.get(path, timeout)
            if status == 200 and wanted in body:
                return body
            self._alive(deadline, f"{path} answers {status} {body[:200]!r}")
            time.sleep(0.5)

    def ask(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(*self.http_place(), timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def ssh(self, *command: str, data: bytes = b"", timeout: float = PATIENCE) -> str:
        """What a command writes on the machine. Waits for the machine to be there."""
        deadline = time.monotonic() + timeout
        while True:
            done = self._ssh(*command, data=data, timeout=timeout)
            # 255 is ssh's own: nobody answered, or not yet.
            if done.returncode != 255:
                assert done.returncode == 0, f"{command}: {done.stderr.decode()}"
                return done.stdout.decode()
            self._alive(deadline, f"no ssh: {done.stderr.decode()}")
            time.sleep(0.5)

    def _ssh(
        self, *command: str, data: bytes, timeout: float
    ) -> subprocess.CompletedProcess[bytes]:
        words = [*self._ssh_words(), *command]
        return subprocess.run(words, input=data, capture_output=True, check=False, timeout=timeout)

    def _ssh_words(self, *options: str) -> list[str]:
        host, port = self.ssh_place()
        return [
            "ssh", "-i", str(self.key), "-p", str(port), "-o", "BatchMode=yes",
            "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
            "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=60", *options, f"root@{host}", "--",
        ]  # fmt: skip

    def image_status(self, timeout: float = PATIENCE) -> Mapping[str, object]:
        found: Mapping[str, object] = json.loads(self.ssh("edge-image", "status", timeout=timeout))
        return found

    def boot_id(self) -> str:
        return self.ssh("cat", "/proc/sys/kernel/random/boot_id")

    def _alive(self, deadline: float, what: str) -> None:
        assert self.process is not None
        assert self.process.poll() is None, self.console[-3000:]
        assert time.monotonic() < deadline, f"{what}; its console:\n{self.console[-3000:]}"


class MessageTap:
    """Messages of a machine's broker, which only answers on the machine: by a tunnel of ssh."""

    def __init__(self, machine: Machine, topic: str) -> None:
        self._machine, self._topic = machine, topic
        self._port = free_port()
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        deadline = time.monotonic() + PATIENCE
        while True:
            self._open()
            if self._line("Subscribed"):
                return self
            self.__exit__()
            self._machine._alive(deadline, "no broker")

    def _open(self) -> None:
        options = ("-o", "ExitOnForwardFailure=yes", "-L", f"{self._port}:127.0.0.1:1883")
        # It says something once the tunnel is there, and ends with its input.
        tunnel = [*self._machine._ssh_words(*options), "echo there; cat"]
        self._start(tunnel).readline()
        topic = ("-v", "-d", "-q", "1", "-t", self._topic)
        self._lines = self._start(["stdbuf", "-oL", "mosquitto_sub", *self._broker(), *topic])

    def _start(self, words: list[str]) -> IO[str]:
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._processes.append(process)
        assert process.stdout is not None
        return process.stdout

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()
        self._processes.clear()

    def publish(self, topic: str, message: str) -> None:
        """As a sensor: again and again. The node may not be the broker's client yet, and a broker
        that lost its power does not know that it was.
        """
        often = ["--repeat", str(PATIENCE), "--repeat-delay", "1"]
        self._start(
            ["mosquitto_pub", *self._broker(), *often, "-q", "1", "-t", topic, "-m", message]
        )

    def next(self) -> str:
        """Topic and text of the next message. The machine's deadline is the test's."""
        line = self._line(self._topic.rstrip("#"))
        assert line, "the broker went away"
        return line

    def _line(self, beginning: str) -> str:
        """The next line that begins so; empty: there are no more."""
        return next((x.strip() for x in self._lines if x.startswith(beginning)), "")

    def _broker(self) -> list[str]:
        return ["-h", "127.0.0.1", "-p", str(self._port)]


class ArmMachine(Machine):
    """The ARM64 image for virtual machines, by UEFI as well."""

    def command(self) -> list[str | Path]:
        variables = self.folder / "variables.fd"
        if not variables.exists():
            shutil.copy(AAVMF / "AAVMF_VARS.fd", variables)
        code = AAVMF / "AAVMF_CODE.fd"
        return [
            *self.board(),
            "-drive", f"if=pflash,format=raw,readonly=on,file={code}",
            "-drive", f"if=pflash,format=raw,file={variables}",
        ]  # fmt: skip

    def board(self) -> list[str | Path]:
        """Its processor is a Raspberry Pi 3's; all around it is QEMU's."""
        return [
            "qemu-system-aarch64", "-machine", "virt", "-accel", "tcg,thread=multi",
            "-cpu", "cortex-a53", "-m", "1024", "-smp", "2",
            "-drive", f"if=virtio,format=raw,file={self.disk.path}",
            *(["-nic", f"user,model=virtio-net-pci{self.forwards()}"] if self.network
              else ["-nic", "none"]),
        ]  # fmt: skip


class PiMachine(ArmMachine):
    """The card of a Raspberry Pi, whose firmware is a model (bootloader.py): kernel, RAM disk and
    command line are what it chooses from the card. The kernel's devices are those of QEMU.
    """

    model = "pi3b"

    def command(self) -> list[str | Path]:
        files = self.disk.files()
        start = bootloader.choose(files, self.model)
        for name, path in (("kernel", start.kernel), ("initrd", start.initramfs)):
            (self.folder / name).write_bytes(files[path])
        return [
            *self.board(), "-kernel", self.folder / "kernel", "-initrd", self.folder / "initrd",
            "-append", f"{start.command_line} console=ttyAMA0",
        ]  # fmt: skip


def acceleration() -> list[str]:
    """KVM where the processor has it: /dev/kvm may also be an emulation that knows no AVX, which a
    kernel's first instructions stop at.
    """
    flags = Path("/proc/cpuinfo").read_text().split()
    if Path("/dev/kvm").exists() and ("vmx" in flags or "svm" in flags):
        return ["-accel", "kvm", "-cpu", "host"]
    return ["-accel", "tcg,thread=multi", "-cpu", "max"]


def run(*command: str | Path) -> bytes:
    environment = os.environ | {"MTOOLS_SKIP_CHECK": "1"}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, check=False, env=environment
    )
    assert done.returncode == 0, f"{command}: {done.stderr.decode()}"
    return done.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
