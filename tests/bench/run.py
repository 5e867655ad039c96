"""`make bench`: ours and the peers side by side, in interleaved rounds.

    run.py [--rounds 9] [--seconds 1] [--only PART,…] [--keep] [--readme] [--json FILE]

Every server runs on core 0, the load comes from core 1 (`workers`: all on all). A figure is the
median of its rounds; a ratio is the median of the ratios of each round, so that a noisy minute hits
both sides. What each round measured is kept in the JSON; tables and the plot are made of it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(HERE.parent / "guests")]

import boards  # noqa: E402
import bodies  # noqa: E402
import build  # noqa: E402
import density  # noqa: E402
import fleet  # noqa: E402
import instructions  # noqa: E402
import mqtt  # noqa: E402
import report  # noqa: E402
import scale  # noqa: E402
import serving  # noqa: E402
import workers  # noqa: E402
from load import load  # noqa: E402
from servers import edge, wasmtime_serve  # noqa: E402
from serving import Row, guest  # noqa: E402

# In flight at once for the memory of one of them; below the smallest pool there is (64 slots).
IN_FLIGHT = 40
# What a cold start compiles takes a minute for all rounds of one guest: fewer.
COLD_ROUNDS = 3


# --- parts: each yields rows --------------------------------------------------------------------


def http(rounds: int, seconds: int) -> Iterator[Row]:
    """Requests a second on one core, what one costs, then latency at half of that."""
    yield from serving.rows(rounds, seconds)
    yield from serving.neighbours(rounds, seconds)


def large(rounds: int, _: int) -> Iterator[Row]:
    """Bodies of 1 and 64 MiB."""
    yield from bodies.rows(rounds)


def small(rounds: int, seconds: int) -> Iterator[Row]:
    """The same within what a Raspberry Pi has."""
    yield from boards.rows(rounds, seconds)


def counted(_: int, __: int) -> Iterator[Row]:
    """What does not depend on the machine: thousands of instructions of a request."""
    wasm, few = guest("hello"), instructions.MEMORIES
    yield (
        "small guest: instructions of a request",
        "10³",
        instructions.row(
            {
                "edge": lambda under: edge(wasm, under=under),
                "wasmtime serve": lambda under: wasmtime_serve(wasm, under=under, memories=few),
            }
        ),
    )


def memory(_: int, __: int) -> Iterator[Row]:
    """PSS of a server that does nothing, and what each request under way adds."""
    for row, name, path in (
        ("small guest", "sleeper", "/20000"),
        ("Python guest", "probe", "/clocks?sleep=20"),
    ):
        wasm, quick = guest(name), path.replace("20000", "0").replace("20", "0")
        idle: dict[str, list[float]] = {}
        each: dict[str, list[float]] = {}
        for peer, start in {
            "edge": lambda w=wasm, q=quick: edge(w, q, concurrency=64, memory="64MiB"),
            "wasmtime serve": lambda w=wasm, q=quick: wasmtime_serve(w, q),
        }.items():
            with start() as server:
                load(server.url(quick), 1)
                time.sleep(2)  # whoever compiled has ended
                before = server.pss()
                with sleeping(server.url(path)):
                    each[peer] = [(server.pss() - before) / IN_FLIGHT / 1024]
                idle[peer] = [before / 1e6]
        yield f"{row}: PSS idle", "MB", idle
        yield f"{row}: PSS of each request in flight", "KiB", each


def start(rounds: int, _: int) -> Iterator[Row]:
    """From the start of the process to its first answer."""
    for row, name in (("small guest", "hello"), ("Python guest", "python")):
        wasm = guest(name)
        cold: list[float] = []
        warm: list[float] = []
        peer: list[float] = []
        for _ in range(min(rounds, COLD_ROUNDS)):
            with TemporaryDirectory() as folder:
                state = Path(folder)
                for times in (cold, warm):
                    with edge(wasm, state=state, memory="128MiB", cores="0,1") as server:
                        times.append(1000 * server.started)
            with wasmtime_serve(wasm, cores="0,1") as server:
                peer.append(1000 * server.started)
        yield f"{row}: first answer, nothing cached", "ms", {"edge": cold}
        yield f"{row}: first answer, code cached", "ms", {"edge": warm}
        yield f"{row}: first answer", "ms", {"wasmtime serve": peer}


def processes(rounds: int, seconds: int) -> Iterator[Row]:
    """Two processes of a node against one, on all cores."""
    yield from workers.rows(guest("python"), guest("hello"), rounds, seconds)


def messages(rounds: int, seconds: int) -> Iterator[Row]:
    """Messages a second on one core, then the time from a message to its answer."""
    yield from mqtt.rows(rounds, seconds)


def idle(rounds: int, _: int) -> Iterator[Row]:
    """A node with 100, 1,000 and 10,000 applications that nobody asks."""
    yield from density.rows(guest("hello"), guest("python"), rounds)


def shared(_: int, __: int) -> Iterator[Row]:
    """A new version on nodes of one network, that share it or not. A round takes minutes: one."""
    if os.geteuid() == 0:
        yield from fleet.rows(guest("hello"), 1)
    else:
        say("fleet: left out: network namespaces need root")


def simulated(_: int, __: int) -> Iterator[Row]:
    """What large fleets tell each other."""
    yield from scale.rows()


def micro(rounds: int, _: int) -> Iterator[Row]:
    """Instantiation and whole invocations without HTTP, in a process of their own."""
    runs: list[dict[str, dict[str, float]]] = []
    wasm = {name: str(guest(name)) for name in ("hello", "python", "javascript")}
    with TemporaryDirectory() as state:
        command = ["taskset", "-c", "0", sys.executable, str(HERE / "micro.py"), state]
        for _ in range(rounds):
            done = subprocess.run(
                [*command, json.dumps(wasm)], stdout=subprocess.PIPE, text=True, check=True
            )
            runs.append({**json.loads(done.stdout), "pooled InstancePre": floor()})
    for row in runs[0]:
        for what in ("p50", "p99"):
            yield f"{row}, {what}", "µs", {"edge": [run[row][what] for run in runs]}
    least, ours = (
        [run[row]["p50"] for run in runs]
        for row in ("pooled InstancePre", "instantiate, small guest")
    )
    ratio = [a / b for a, b in zip(ours, least, strict=True)]
    yield "instantiate, small guest / pooled InstancePre, p50", "×", {"edge": ratio}


PARTS: dict[str, Callable[[int, int], Iterator[Row]]] = {
    "http": http,
    "bodies": large,
    "workers": processes,
    "messages": messages,
    "idle": idle,
    "memory": memory,
    "start": start,
    "boards": small,
    "instructions": counted,
    "micro": micro,
    "scale": simulated,
    "fleet": shared,
}


@contextmanager
def sleeping(url: str) -> Iterator[None]:
    """IN_FLIGHT requests under way, each waiting in its guest."""
    command = ["curl", "-s", "--no-progress-meter", "--parallel", "--parallel-immediate"]
    command += ["--parallel-max", str(IN_FLIGHT), *[url] * IN_FLIGHT]
    clients = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        clients.communicate(timeout=5)
    except subprocess.TimeoutExpired:
        yield
    else:
        raise RuntimeError(f"{url}: the guests did not sleep")
    finally:
        clients.kill()
        clients.communicate()


def floor() -> dict[str, float]:
    """Store + InstancePre + drop of the small guest's core module, in C; µs."""
    library = subprocess.run(
        [sys.executable, "-c", "import wasmtime._ffi as f; print(f.dll._name)"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout.strip()
    core = guest("hello").with_suffix(".core.wasm")
    with TemporaryDirectory() as folder:
        binary = Path(folder) / "pre"
        command = ["cc", "-O2", "-o", str(binary), str(HERE / "pre.c"), "-ldl"]
        subprocess.run(command, check=True)
        done = subprocess.run(
            ["taskset", "-c", "0", str(binary), library, str(core), "20000"],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    took = sorted(int(line) / 1000 for line in done.stdout.split())
    return {"p50": took[len(took) // 2], "p99": took[len(took) * 99 // 100]}


# --- the run ------------------------------------------------------------------------------------


def say(message: str) -> None:
    sys.stderr.write(f"bench: {message}\n")
    sys.stderr.flush()


def entry(part: str, row: str, unit: str, rounds: dict[str, list[float]]) -> dict[str, Any]:
    """One row: for each server its figure in each round."""
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    found: dict[str, Any] = {"part": part, "row": row, "unit": unit, "date": date}
    found["median"] = {name: median(figures) for name, figures in rounds.items()}
    for peer in report.PEERS:
        if "edge" in rounds and peer in rounds and all(rounds[peer]):
            pairs = zip(rounds["edge"], rounds[peer], strict=True)
            found["ratio"] = median(ours / theirs for ours, theirs in pairs)
            break
    found["rounds"] = {name: [float(f"{f:.5g}") for f in all_] for name, all_ in rounds.items()}
    return found


def measured(part: str, rounds: int, seconds: int) -> Iterator[dict[str, Any]]:
    begun = time.monotonic()
    for row, unit, figures in PARTS[part](rounds, seconds):
        found = entry(part, row, unit, figures)
        shown = ", ".join(f"{n} {report.shown(f)}" for n, f in found["median"].items())
        ratio = f" (× {found['ratio']:.2f})" if "ratio" in found else ""
        say(f"{row}: {shown} {unit}{ratio}")
        yield found
    say(f"{part}: {time.monotonic() - begun:.0f} s")


def machine() -> dict[str, Any]:
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith(("model name", "Model"))
        ),
        platform.machine(),
    )
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "wasmtime": version("wasmtime"),
        "peer": build.PACKAGES["peer"][0],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def merged(kept: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was measured now in the place of what was before; in the order of the parts."""
    fresh = {row["row"]: row for row in rows}
    found = [fresh.pop(row["row"], row) for row in kept] + list(fresh.values())
    order = list(PARTS)
    return sorted(found, key=lambda row: order.index(row["part"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=int, default=1, help="of each measurement of a rate")
    parser.add_argument("--only", default=",".join(PARTS), help="default: %(default)s")
    parser.add_argument("--json", type=Path, default=ROOT / "bench.json")
    parser.add_argument(
        "--keep", action="store_true", help="rows that are not measured stay as the JSON has them"
    )
    parser.add_argument(
        "--readme",
        action="store_true",
        help="write README.md's table, docs/speed.md, docs/speed.svg and docs/bench.json",
    )
    options = parser.parse_args()

    kept = json.loads(options.json.read_text())["rows"] if options.keep else []
    rows: list[dict[str, Any]] = []
    for part in options.only.split(","):
        rows.extend(measured(part, options.rounds, options.seconds))
        # What was measured stays if a later part fails.
        result = {"machine": machine(), "rows": merged(kept, rows)}
        options.json.write_text(report.compact(result))
    print(report.tables(rows))
    if options.readme:
        report.publish(result, ROOT)


if __name__ == "__main__":
    main()
