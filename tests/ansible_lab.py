"""Bare Debians that Ansible reaches by ssh, with what they need of the world: a registry and a way
to Debian's packages. `play` runs a playbook of the collection as its user would.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from debs import package, with_version
from machine_roots import REPOSITORY
from machines import Lab, Machine, enable, eventually, lab

__all__ = [
    "NAMES",
    "REPOSITORY",
    "Fleet",
    "Load",
    "Played",
    "broken",
    "fleet",
    "install_collection",
]

NAMES = ("pi-1", "pi-2", "pi-3")
# Seconds for a whole play, on a machine that others keep busy.
PLAY = 1200.0
RECAP = re.compile(r"^(\S+) +: (ok=.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Played:
    """What a play said. `counts`: of each machine, as in its recap."""

    code: int
    text: str

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        found = RECAP.findall(self.text)
        pairs = {name: [item.split("=") for item in line.split()] for name, line in found}
        return {name: {key: int(value) for key, value in pair} for name, pair in pairs.items()}

    def of_each(self, count: str) -> dict[str, int]:
        return {name: counts[count] for name, counts in self.counts.items()}


@dataclass(slots=True)
class Fleet:
    """Three machines, and the inventory that says what they are to be."""

    machines: dict[str, Machine]
    folder: Path
    host: str  # this machine, as they see it
    registry: str
    lab: Lab = field(repr=False)
    variables: dict[str, Any] = field(default_factory=dict)

    def play(self, name: str, *arguments: str, **extra: object) -> Played:
        """Runs edge.appliance.NAME. `extra`: what `-e` says."""
        command = ["ansible-playbook", "-i", str(self._inventory()), f"edge.appliance.{name}"]
        told = ["-e", json.dumps(extra)] if extra else []
        done = subprocess.run(
            [*command, *told, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=PLAY,
            cwd=self.folder,
            env=self.environ,
        )
        text = done.stdout + done.stderr
        with (self.folder / "plays.log").open("a") as log:
            log.write(f"$ {name} {extra} {arguments}\n{text}\n")
        return Played(done.returncode, text)

    @property
    def environ(self) -> Mapping[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "ANSIBLE_COLLECTIONS_PATH": str(self.folder / "collections"),
            "ANSIBLE_HOST_KEY_CHECKING": "False",
            "ANSIBLE_PIPELINING": "True",
            "ANSIBLE_SSH_ARGS": "-o ControlMaster=auto -o ControlPersist=20s",
            "ANSIBLE_SSH_CONTROL_PATH_DIR": f"/tmp/{self.folder.name}",
            "ANSIBLE_TIMEOUT": "10",
        }

    def _inventory(self) -> Path:
        hosts = {name: {"ansible_host": m.address} for name, m in self.machines.items()}
        ssh = {
            "ansible_user": "pi",
            "ansible_ssh_private_key_file": str(self.folder / "key"),
            "edge_packages": str(self.folder / "dist"),
        }
        path = self.folder / "hosts.yml"
        inventory = {"edge": {"hosts": hosts, "vars": {**ssh, **self.variables}}}
        path.write_text(json.dumps(inventory))  # YAML is that as well
        return path

    def edge(self, name: str, *arguments: str) -> Any:
        """What a verb prints there as JSON."""
        return json.loads(self.machines[name].run("edge", *arguments, "--json"))

    def push(self, folder: Path, name: str) -> None:
        """Puts an application into the registry, as team/NAME."""
        edge = Path(sys.executable).parent / "edge"
        command = [str(edge), "push", "--insecure", str(folder), f"{self.registry}/team/{name}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def packages(self, version: str, change: Callable[[Path], None] | None = None) -> str:
        """A directory with the same package of another version. `change`: of its files."""
        target = self.folder / f"packages-{version}"
        target.mkdir()
        (original,) = (self.folder / "dist").iterdir()
        made = with_version(original, f"{version}+deb12", self.folder, change)
        shutil.move(made, target / f"edge_{version}+deb12_amd64.deb")
        return str(target)


def broken(tree: Path) -> None:
    """A package that installs, and whose service does not start."""
    (tree / "usr/lib/edge/bin/edge").write_text("#!/bin/sh\nexit 1\n")


@contextmanager
def fleet(folder: Path, *, python: bool = True) -> Iterator[Fleet]:
    """Ends with all its machines. `python`: whether the last one has it already."""
    with ExitStack() as stack:
        made = stack.enter_context(lab())
        host = f"{made.network}.1"
        _keys(folder)
        proxy = stack.enter_context(_packages_of_debian(host))
        registry = stack.enter_context(_registry(folder / "registry", host))
        (folder / "dist").mkdir()
        shutil.copy(package("bookworm", "amd64"), folder / "dist")
        install_collection(folder)
        stack.callback(shutil.rmtree, f"/tmp/{folder.name}", ignore_errors=True)

        def bare(machine: Machine) -> None:
            _reachable(machine, folder / "key.pub", proxy)
            if machine.name == NAMES[-1] and not python:
                _without_python(machine)

        machines = {
            name: made.machine("bookworm", name, installed=False, prepare=bare) for name in NAMES
        }
        yield Fleet(machines, folder, host, registry, made)


def _reachable(machine: Machine, key: Path, proxy: str) -> None:
    """As the imager of Raspberry Pi OS leaves it: a user with a key, who may become root."""
    _chroot(machine, "useradd", "--create-home", "--shell", "/bin/bash", "pi")
    machine.write("etc/sudoers.d/pi", "pi ALL=(ALL) NOPASSWD: ALL\n", 0o440)
    machine.write("home/pi/.ssh/authorized_keys", key.read_text(), 0o600)
    _chroot(machine, "chown", "-R", "pi:pi", "/home/pi")
    machine.write("etc/apt/apt.conf.d/proxy", f'Acquire::http::Proxy "{proxy}";\n')
    machine.write("etc/hosts", f"127.0.0.1 localhost {machine.name}\n")
    enable(machine, "multi-user.target", "ssh.service")


def _without_python(machine: Machine) -> None:
    _chroot(machine, "apt-get", "-qq", "purge", "--yes", "--autoremove", "python3*", "libpython3*")


def _chroot(machine: Machine, *command: str) -> None:
    done = subprocess.run(
        ["chroot", str(machine.root), *command],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"},
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def _keys(folder: Path) -> None:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")]
    subprocess.run(command, check=True, capture_output=True)


def install_collection(folder: Path) -> None:
    command = ["ansible-galaxy", "collection", "install", str(REPOSITORY / "ansible")]
    subprocess.run(
        [*command, "-p", str(folder / "collections")],
        check=True,
        capture_output=True,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8"},
    )


@contextmanager
def _registry(folder: Path, host: str) -> Iterator[str]:
    """Debian's, over plain HTTP; host and port."""
    folder.mkdir()
    port = 5000
    configuration = {
        "version": "0.1",
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "storage")}},
        "http": {"addr": f"{host}:{port}", "secret": "test"},
    }
    (folder / "registry.json").write_text(json.dumps(configuration))
    command = ["docker-registry", "serve", str(folder / "registry.json")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        eventually("the registry answers", lambda: _answers(host, port))
        yield f"{host}:{port}"
    finally:
        process.terminate()
        process.wait(20)


def _answers(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", "/v2/")
        return connection.getresponse().status == 200
    finally:
        connection.close()


class _Proxy(BaseHTTPRequestHandler):
    """What apt asks for by a proxy, and nothing else: the machines have no way to the world."""

    def do_GET(self) -> None:
        target = urllib.parse.urlsplit(self.path)
        if target.scheme != "http" or not (target.hostname or "").endswith(".debian.org"):
            self.send_error(403)
            return
        connection = http.client.HTTPConnection(target.netloc, timeout=60)
        with suppress(OSError, http.client.HTTPException):
            wanted = ("If-Modified-Since", "Range", "If-Range")
            headers = {name: self.headers[name] for name in wanted if name in self.headers}
            connection.request("GET", target.path, headers=headers)
            self._pass_on(connection.getresponse())
        connection.close()

    def _pass_on(self, answer: http.client.HTTPResponse) -> None:
        self.send_response(answer.status)
        for name in ("Content-Length", "Last-Modified", "Content-Range", "Location"):
            if value := answer.headers[name]:
                self.send_header(name, value)
        self.end_headers()
        shutil.copyfileobj(answer, self.wfile)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def _packages_of_debian(host: str) -> Iterator[str]:
    """The address of a proxy for apt."""
    with ThreadingHTTPServer((host, 0), _Proxy) as server:
        thread = threading.Thread(target=server.serve_forever, name="proxy")
        thread.start()
        try:
            yield f"http://{host}:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class Load:
    """While entered, a client for each machine that opens a connection for every request."""

    def __init__(self, machines: Sequence[Machine], path: str = "/") -> None:
        self._machines, self._path = machines, path
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(m,)) for m in machines]
        self.answered = {machine.name: 0 for machine in machines}
        self.failed: list[str] = []

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(90)

    def _ask(self, machine: Machine) -> None:
        while not self._end.is_set():
            try:
                status, body = machine.get(self._path, timeout=60)
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(f"{machine.name}: {error!r}")
            else:
                self.answered[machine.name] += 1
                if status != 200:
                    self.failed.append(f"{machine.name}: {status} {body!r:.200}")
            # Enough to meet every moment of a restart; the machines share few processors.
            self._end.wait(0.01)
