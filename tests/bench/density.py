"""What a node costs that has nothing to do: its start, its memory, its wake-ups, with 100, 1,000
and 10,000 applications; and what their first requests cost.

`wasmtime serve` has one application in a process, so a thousand of them are a thousand processes:
some are started, and one's share of the memory is what it adds to them.
"""

from __future__ import annotations

import http.client
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from servers import Server, free_port, running, wasmtime_serve

Row = tuple[str, str, dict[str, list[float]]]

# Different binaries among the applications; compiling one takes a process and a second.
BINARIES = 50
# Applications that are asked, of thousands.
ASKED = 200
# Processes of the peer, each with an application of its own.
PROCESSES = 20
# Seconds after a start until what it left to do is done, and of which wake-ups are counted.
SETTLED, WATCHED = 2, 60
# Applications in Python that take turns, how often, the MiB that an instance reserves, and how many
# of them have room.
TURNS, ROUNDS, RESERVED, SHORT = 20, 10, 64, 4
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

MEMORY = """
[component.guest.tool.edge]
memory = "{memory}MiB"
"""

LIMITS = """
[limits]
memory = "{memory}MiB"
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


def rows(wasm: Path, python: Path, rounds: int) -> Iterator[Row]:
    """`wasm`: a small guest that answers any request; `python`: one that is kept ready."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        _binaries(wasm, folder)
        # 100 first: what they compile is there for the thousands.
        yield from _idle(folder / "n100", 100, rounds)
        empty = _pss(folder / "n0", 0)
        each = _each(folder, rounds)
        for count, times in ((1000, min(rounds, 3)), (10_000, 1)):
            yield from _many(folder / f"n{count}", count, times, empty, each)
    yield from _pressed(python, min(rounds, 3))


def _pressed(python: Path, rounds: int) -> Iterator[Row]:
    """Applications that take turns where not all of their instances have room: who asks gets the
    place of one that was kept ready, and somebody else's is made anew.
    """
    short: list[list[float]] = []
    roomy: list[list[float]] = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "guest0.wasm").write_bytes(python.read_bytes())
        for places, times in ((SHORT, short), (4 * TURNS, roomy)):
            config, port = _configured(folder / f"p{places}", TURNS, places * RESERVED)
            for _ in range(rounds):
                with _node(config, port, TURNS) as server:
                    list(_asked(server, TURNS + 1))
                    took = [t for _ in range(ROUNDS) for t in _asked(server, TURNS + 1)]
                    times.append(sorted(took))
    for what, at in (("p50", 50), ("p99", 99)):
        pressed, free = ([took[len(took) * at // 100] for took in all] for all in (short, roomy))
        yield (
            f"{TURNS} Python applications in turn, room for {SHORT} instances, {what}", "ms",
            {"edge": pressed, "awake": free},
        )  # fmt: skip


def _idle(folder: Path, count: int, rounds: int) -> Iterator[Row]:
    """A node with so many applications that it had before: each round is a start."""
    config, port = _configured(folder, count)
    with _node(config, port, count):
        pass  # deploys and compiles them
    ready: list[float] = []
    imports: list[float] = []
    spent: dict[str, list[float]] = {"edge": [], "import alone": []}
    pss: list[float] = []
    private: list[float] = []
    woken: list[float] = []
    for number in range(rounds):
        took, cpu = _imported()
        imports.append(took)
        spent["import alone"].append(cpu)
        with _node(config, port, count) as server:
            ready.append(1000 * server.started)
            spent["edge"].append(1000 * server.cpu())
            time.sleep(SETTLED)
            pss.append(server.pss() / 1e6)
            private.append(server.private() / 1e6)
            if number == rounds - 1:
                before = server.wakeups()
                time.sleep(WATCHED)
                woken.append((server.wakeups() - before) * 60 / WATCHED)
    what = f"{count:,} applications"
    yield f"{what}: start to the first answer", "ms", {"edge": ready, "import alone": imports}
    yield f"{what}: processor time of a start", "ms", spent
    yield f"{what}: PSS idle", "MB", {"edge": pss}
    yield f"{what}: private memory idle", "MB", {"edge": private}
    yield f"{what}: wake-ups a minute of all threads", "", {"edge": woken}


def _many(folder: Path, count: int, rounds: int, empty: float, peer: list[float]) -> Iterator[Row]:
    """`empty`: bytes of a node without any. `peer`: kB of each process of the peer."""
    config, port = _configured(folder, count)
    with _node(config, port, count):
        pass
    ready: list[float] = []
    each: list[float] = []
    awake: list[float] = []
    first: list[list[float]] = []
    again: list[list[float]] = []
    for _ in range(rounds):
        with _node(config, port, count) as server:
            ready.append(server.started)
            time.sleep(SETTLED)
            idle = server.pss()
            each.append((idle - empty) / count / 1000)
            for times in (first, again):
                times.append(sorted(_asked(server, count)))
            awake.append((server.pss() - idle) / len(first[-1]) / 1000)
    what = f"{count:,} applications"
    yield f"{what}: start to the first answer", "s", {"edge": ready}
    yield f"{what}: memory of each", "kB", {"edge": each, "wasmtime serve": peer[:rounds]}
    yield f"{what}: memory of each that was asked once, more", "kB", {"edge": awake}
    for name, at in (("p50", 50), ("p99", 99)):
        cold, warm = ([took[len(took) * at // 100] for took in all] for all in (first, again))
        yield f"{what}: a request to one asleep, {name}", "ms", {"edge": cold, "awake": warm}


def _each(folder: Path, rounds: int) -> list[float]:
    """kB that one more process of the peer takes, of memory that it shares with the others too."""
    with ExitStack() as stack:
        servers = [
            stack.enter_context(wasmtime_serve(folder / f"guest{number}.wasm"))
            for number in range(PROCESSES)
        ]
        time.sleep(SETTLED)
        return [median(server.pss() for server in servers) / 1000 for _ in range(rounds)]


def _pss(folder: Path, count: int) -> float:
    config, port = _configured(folder, count)
    found = []
    for _ in range(3):
        with _node(config, port, count) as server:
            time.sleep(SETTLED)
            found.append(server.pss())
    return median(found)


def _binaries(wasm: Path, folder: Path) -> None:
    """Guests that differ in a constant, so each is compiled and loaded by itself."""
    binary = wasm.read_bytes()
    at = binary.index(b"hello ")
    for number in range(BINARIES):
        made = binary[:at] + b"%06d" % number + binary[at + 6 :]
        (folder / f"guest{number}.wasm").write_bytes(made)


def _configured(folder: Path, count: int, memory: int = 0) -> tuple[Path, int]:
    """`memory`: MiB of all instances; each of them reserves RESERVED then, of one binary."""
    folder.mkdir()
    port = free_port()
    text = [CONFIG.format(folder=folder, port=port)]
    if memory:
        text.append(LIMITS.format(memory=memory))
    for number in range(count):
        app = folder / f"a{number}"
        app.mkdir()
        manifest = MANIFEST.format(number=number, binary=0 if memory else number % BINARIES)
        if memory:
            manifest += MEMORY.format(memory=RESERVED)
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


def _imported() -> tuple[float, float]:
    """Milliseconds of a process that imports what a node imports, and those it computed."""
    start = time.monotonic()
    command = ["taskset", "-c", "0", sys.executable, "-c", IMPORT]
    process = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(process, 0)
    if status:
        raise RuntimeError(f"{IMPORT}: exit {os.waitstatus_to_exitcode(status)}")
    return 1000 * (time.monotonic() - start), 1000 * (usage.ru_utime + usage.ru_stime)
