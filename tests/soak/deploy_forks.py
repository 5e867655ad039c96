"""Nodes that start in a tenth of the time: forked by a process that has loaded all modules.

`Nursery` starts this file as that process. It forks one node at a time: a line with its arguments
comes in, one with its process id goes out, and one with how it ended.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

# What `edge run` loads on its way.
MODULES = ("edge.cli", "edge.cli.run", "edge.node.daemon")


class Forked:
    """A node, as `subprocess.Popen` would have it."""

    def __init__(self, nursery: Nursery, pid: int, out: Path) -> None:
        self.pid = pid
        self.stdout: IO[str] = out.open()
        self._nursery = nursery
        self._code: int | None = None

    def send_signal(self, number: int) -> None:
        if self._code is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, _seconds: float | None = None) -> int:
        if self._code is None:
            self._code = int(self._nursery.read())
        return self._code


class Nursery:
    """As a context manager; its nodes have its environment."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = {**os.environ, **(environ or {})}

    def __enter__(self) -> Nursery:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self._environ,
        )
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            pass  # its input ends, and so does it

    def launch(self, folder: Path, arguments: Sequence[str]) -> Forked:
        out = folder / "out"
        out.unlink(missing_ok=True)
        os.mkfifo(out)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([str(folder), *arguments]) + "\n")
        self._process.stdin.flush()
        return Forked(self, int(self.read()), out)

    def read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


def _main() -> None:
    for module in MODULES:
        importlib.import_module(module)
    for line in sys.stdin:
        folder, *arguments = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _run(folder, arguments)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _run(folder: str, arguments: list[str]) -> None:
    code = 70
    try:
        os.chdir(folder)
        out = os.open("out", os.O_WRONLY)
        log = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for own, standard in ((nothing, 0), (out, 1), (log, 2)):
            os.dup2(own, standard)
            os.close(own)
        code = sys.modules["edge.cli"].main(arguments)
        sys.stdout.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    _main()
