"""What a thousand deployed applications cost a node that has nothing to do, and their first events.

Ours alone: neither peer runs more than one application in a process. Beside it stands what can be
compared in the same run: the import of the same modules, a warm request, a node without
applications.
"""

from __future__ import annotations

import http.client
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from servers import Server, free_port, running

Row = tuple[str, str, dict[str, list[float]]]

# Different binaries among the applications; compiling one takes a process and a second.
BINARIES = 50
# Applications that are asked, of thousands.
ASKED = 200
# Seconds of which the node's wake-ups are counted.
WATCHED = 10
# What a node imports before it can do anything.
IMPORT = "import edge.cli.run, edge.node.daemon"

MANIFEST = """
spin_manifest_version = 2

[application]
name = "a{number}"
version = "1.0.0"

[[trigger.http]]
route = "/..."
component = "guest"

[component.guest]
source = "../../guest{binary}.wasm"
"""

CONFIG = """
[node]
state_dir = "{folder}/state"
socket = "{folder}/edge.sock"

[http]
listen = ["127.0.0.1:{port}"]

[mirror]
listen = ""
"""

ENTRY = """
[[application]]
name = "a{number}"
path = "a{number}"
mount = "/a{number}"
"""


def rows(wasm: Path, rounds: int) -> Iterator[Row]:
    """`wasm`: a small guest that answers any request."""
    imports = [_imported() for _ in range(rounds)]
    with TemporaryDirectory() as name:
        folder = Path(name)
        _binaries(wasm, folder)
        # 100 first: what they compile is there for the thousands.
        empty = yield from _idle(folder / "n0", 0, rounds, imports, None)
        yield from _idle(folder / "n100", 100, rounds, imports, empty)
        yield from _idle(folder / "n1000", 1000, rounds, imports, empty)
        yield from _idle(folder / "n10000", 10_000, 1, imports[:1], empty)


def _idle(
    folder: Path, count: int, rounds: int, imports: list[float], empty: float | None
) -> Iterator[Row]:
    """Rows of a node with so many applications; returns its memory. The first start, which
    deploys them, is not what is measured: a node is started again and again, with what it had.
    """
    what = f"{count:,} applications"
    config, port = _configured(folder, count)
    with _node(config, port, count):
        pass
    ready: list[float] = []
    pss: list[float] = []
    private: list[float] = []
    woken: list[float] = []
    first: list[float] = []
    again: list[float] = []
    for _ in range(rounds):
        with _node(config, port, count) as server:
            ready.append(1000 * server.started)
            time.sleep(2)  # it has looked at what it follows
            pss.append(server.pss() / 1e6)
            private.append(_private(server.process.pid) / 1e6)
            woken.append(_wakeups(server.process.pid))
            for times in (first, again):
                times.append(median(_asked(server, count)) if count else 0)
    yield f"{what}: start to the first answer", "ms", {"edge": ready, "import alone": imports}
    yield f"{what}: PSS idle", "MB", {"edge": pss}
    yield f"{what}: private memory idle", "MB", {"edge": private}
    yield f"{what}: wake-ups a second", "", {"edge": woken}
    if count:
        assert empty is not None
        each = [1000 * (figure - empty) / count for figure in pss]
        yield f"{what}: PSS of each", "kB", {"edge": each}
        yield f"{what}: a request to one asleep, p50", "ms", {"edge": first}
        yield f"{what}: a request to one awake, p50", "ms", {"edge": again}
    return median(pss)


def _binaries(wasm: Path, folder: Path) -> None:
    """Guests that differ in a constant, so each is compiled and loaded by itself."""
    binary = wasm.read_bytes()
    at = binary.index(b"hello ")
    for number in range(BINARIES):
        made = binary[:at] + b"%06d" % number + binary[at + 6 :]
        (folder / f"guest{number}.wasm").write_bytes(made)


def _configured(folder: Path, count: int) -> tuple[Path, int]:
    folder.mkdir()
    port = free_port()
    text = [CONFIG.format(folder=folder, port=port)]
    for number in range(count):
        app = folder / f"a{number}"
        app.mkdir()
        manifest = MANIFEST.format(number=number, binary=number % BINARIES)
        (app / "spin.toml").write_text(manifest)
        text.append(ENTRY.format(number=number))
    config = folder / "edge.toml"
    config.write_text("".join(text))
    return config, port


@contextmanager
def _node(config: Path, port: int, count: int) -> Iterator[Server]:
    command = [str(Path(sys.executable).parent / "edge"), "run", "--config", str(config)]
    path = f"/a{count - 1}/" if count else "/.well-known/spin/health"
    with running(command, port, path, seconds=3600) as server:
        yield server


def _asked(server: Server, count: int) -> Iterator[float]:
    """Milliseconds of a request to each of some applications, one after the other."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    step = max(1, count // ASKED)
    for number in range(0, count - 1, step):
        start = time.perf_counter()
        connection.request("GET", f"/a{number}/")
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise RuntimeError(f"application a{number} answers {answer.status}")
        yield 1000 * (time.perf_counter() - start)
    connection.close()


def _imported() -> float:
    """Milliseconds of a process that imports what a node imports."""
    start = time.monotonic()
    subprocess.run(["taskset", "-c", "0", sys.executable, "-c", IMPORT], check=True)
    return 1000 * (time.monotonic() - start)


def _private(pid: int) -> int:
    """What only this process has and the kernel cannot read from a file again."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_Dirty"))


def _wakeups(pid: int) -> float:
    """How often a second one of its threads had something to do."""
    before = _switches(pid)
    time.sleep(WATCHED)
    return (_switches(pid) - before) / WATCHED


def _switches(pid: int) -> int:
    count = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                count += int(line.split()[1])
    return count
