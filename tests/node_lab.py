"""Real nodes: `edge run` as a process of its own, asked over HTTP and by the other verbs."""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from edge.cli import main

EDGE = str(Path(sys.executable).parent / "edge")

# A machine that is busy with other tests needs its time.
PATIENCE = 60.0


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def run_edge(*arguments: str | Path) -> Done:
    """`edge …` within this process."""
    out, err = io.TextIOWrapper(io.BytesIO(), write_through=True), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    out.seek(0)
    return Done(code, out.read(), err.getvalue())


@dataclass(slots=True)
class Node:
    """A node under way. `log`: its lines on stderr, complete once it has ended."""

    process: subprocess.Popen[str]
    folder: Path
    url: str = ""
    log: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def socket(self) -> Path:
        return self.folder / "edge.sock"

    def get(self, path: str = "/", host: str | None = None) -> tuple[int, bytes]:
        """Status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path, headers={"host": host} if host else {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def edge(self, *arguments: str | Path) -> Done:
        """A verb that asks this node, within this process: that takes a tenth of the time."""
        return run_edge(*arguments, "--socket", self.socket)

    def tell(self, *arguments: str | Path) -> str:
        """… which must succeed; what it prints."""
        done = self.edge(*arguments)
        assert done.returncode == 0, done.stderr + self.text
        return done.stdout

    def apps(self) -> dict[str, dict[str, Any]]:
        return {app["name"]: app for app in json.loads(self.tell("apps", "--json"))}

    def hangup(self) -> None:
        """SIGHUP; returns when the configuration was read, or refused."""
        seen = self.count("reloaded")
        self.process.send_signal(signal.SIGHUP)
        self.until(lambda: self.count("reloaded") > seen)

    def count(self, text: str) -> int:
        return sum(text in line for line in self.log)

    @property
    def text(self) -> str:
        return "".join(self.log)

    def until(self, true: Callable[[], object], seconds: float = PATIENCE) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            assert self.process.poll() is None, self.text
            assert time.monotonic() < deadline, self.text
            time.sleep(0.02)


@contextmanager
def node(
    folder: Path,
    config: str = "",
    *arguments: str | Path,
    expected_exit: int | None = 0,
    prefix: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Iterator[Node]:
    """Runs a node whose configuration and state are in `folder`; `config` is TOML after [node].

    Leaving the block sends SIGTERM and expects a clean end. `prefix`: a command that runs it.
    """
    started = start(folder, config, *arguments, prefix=prefix, environ=environ)
    process = started.process
    assert process.stdout is not None
    assert process.stderr is not None
    reader = threading.Thread(target=lambda f: started.log.extend(f), args=(process.stderr,))
    reader.start()
    try:
        line = process.stdout.readline()  # empty when it ends without serving
        started.url = line.removeprefix("listening on ").strip()
        if not started.url:
            process.wait(20)
            reader.join()
        assert started.url, "edge run did not start:\n" + started.text
        yield started
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join()
        process.stdout.close()
        process.stderr.close()
    if expected_exit is not None:
        assert process.returncode == expected_exit, started.text


def start(
    folder: Path,
    config: str = "",
    *arguments: str | Path,
    prefix: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Node:
    """Without waiting for anything."""
    file = configured(folder, config)
    command = [*prefix, EDGE, "run", "--config", str(file), *map(str, arguments)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "DOCKER_CONFIG": str(folder / "docker"), **(environ or {})},
    )
    return Node(process, folder)


def configured(folder: Path, config: str) -> Path:
    """Writes the edge.toml of a node: state, socket and ports of its own."""
    file = folder / "edge.toml"
    mirror = "" if "[mirror]" in config else '[mirror]\nlisten = "127.0.0.1:0"\n'
    listen = "" if "[http]" in config else '[http]\nlisten = ["127.0.0.1:0"]\n'
    own = '[node]\nname = "lab"\nstate_dir = "state"\nsocket = "edge.sock"\n'
    page = "" if "[page]" in config else '[page]\nlisten = ""\n'
    file.write_text(f"{own}{listen}{mirror}{page}{config}\n")
    return file


def application(name: str, path: Path, mount: str = "/", **more: str) -> str:
    """An [[application]] of a folder; `more`: TOML values."""
    lines = "".join(f"{key} = {value}\n" for key, value in more.items())
    return f'[[application]]\nname = "{name}"\npath = "{path}"\nmount = "{mount}"\n{lines}'


@contextmanager
def notify_socket(address: str) -> Iterator[socket.socket]:
    """The service manager's end of sd_notify. "@…" is abstract."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + address[1:] if address.startswith("@") else address)
        sock.settimeout(PATIENCE)
        yield sock
