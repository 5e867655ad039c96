"""`make bench`: ours and the peers side by side, in interleaved rounds. A table, and bench.json.

    run.py [--rounds 3] [--seconds 3] [--json FILE] [--keep] [--readme]
           [--only micro,http,metrics,instructions,memory,start,mqtt,density,fleet]

Every server runs on core 0, the load comes from core 1. A figure is the median of its rounds; a
ratio is the median of the ratios of each round, so that a noisy minute hits both sides.
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
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(HERE.parent / "guests")]

import build  # noqa: E402
import density  # noqa: E402
import fleet  # noqa: E402
import instructions  # noqa: E402
import mqtt  # noqa: E402
from load import Result, load  # noqa: E402
from servers import Server, aiohttp_bare, edge, wasmtime_serve  # noqa: E402

Start = Callable[[], AbstractContextManager[Server]]
BODY = 64 * 1024
# In flight at once for the memory of one of them; below the smallest pool there is (64 slots).
IN_FLIGHT = 40
REUSE = 1000


def guest(name: str) -> Path:
    made = build.guests()[name]
    made.make()
    return made.output


class Bench:
    def __init__(self, rounds: int, seconds: int) -> None:
        self.rounds = rounds
        self.seconds = seconds
        self.rows: list[dict[str, Any]] = []

    def add(self, row: str, unit: str, rounds: dict[str, list[float]]) -> None:
        """One row: for each server its figure in each round."""
        date = datetime.now(UTC).strftime("%Y-%m-%d")
        entry: dict[str, Any] = {"row": row, "unit": unit, "date": date, "rounds": rounds}
        entry["median"] = {name: median(figures) for name, figures in rounds.items()}
        for peer in ("wasmtime serve", "aiomqtt", "each for itself", "not counting"):
            if "edge" in rounds and peer in rounds:
                pairs = zip(rounds["edge"], rounds[peer], strict=True)
                entry["ratio"] = median(ours / theirs for ours, theirs in pairs)
        self.rows.append(entry)
        figures = ", ".join(f"{n} {shown(f)}" for n, f in entry["median"].items())
        ratio = f" (× {entry['ratio']:.2f})" if "ratio" in entry else ""
        say(f"{row}: {figures} {unit}{ratio}")

    # --- HTTP -----------------------------------------------------------------------------------

    def http(self) -> None:
        """Requests a second on one core, then latency at half of that."""
        small, echo, python, javascript = map(guest, ("hello", "echo", "python", "javascript"))
        wide = {"concurrency": 64}
        self.compare(
            "small guest",
            edge=lambda: edge(small, **wide),
            peer=lambda: wasmtime_serve(small),
            aiohttp=aiohttp_bare,
        )
        self.compare(
            f"small guest, reuse {REUSE}",
            edge=lambda: edge(small, reuse=REUSE, **wide),
            peer=lambda: wasmtime_serve(small, reuse=REUSE),
        )
        self.compare(
            "64 KiB echoed",
            body=BODY,
            edge=lambda: edge(echo, **wide),
            peer=lambda: wasmtime_serve(echo),
            aiohttp=aiohttp_bare,
        )
        self.compare(
            "Python guest",
            edge=lambda: edge(python, memory="128MiB", **wide),
            peer=lambda: wasmtime_serve(python),
        )
        self.compare(
            "JavaScript guest",
            edge=lambda: edge(javascript, memory="128MiB", **wide),
            peer=lambda: wasmtime_serve(javascript),
        )

    def compare(
        self, row: str, *, edge: Start, peer: Start, aiohttp: Start | None = None, body: int = 0
    ) -> None:
        starts = {"edge": edge, "wasmtime serve": peer}
        if aiohttp is not None:
            starts["aiohttp"] = aiohttp
        with ExitStack() as stack:
            servers = {name: stack.enter_context(start()) for name, start in starts.items()}
            full: dict[str, list[Result]] = {name: [] for name in servers}
            half: dict[str, list[Result]] = {name: [] for name in servers}
            for server in servers.values():
                load(server.url("/warm"), 1, body)
            for number in range(self.rounds):
                # Who comes first changes: the second finds a warmer machine.
                order = list(servers.items())
                for name, server in order[number % 2 :] + order[: number % 2]:
                    full[name].append(load(server.url("/full"), self.seconds, body))
            # Each at half of its own rate: the wait that its users see on a day of half its load.
            for _ in range(self.rounds):
                for name, server in servers.items():
                    rate = median(r.rate for r in full[name]) / 2
                    half[name].append(load(server.url("/half"), self.seconds, body, rate))
        bad = {name: sum(r.bad for r in full[name] + half[name]) for name in servers}
        if any(bad.values()):
            say(f"{row}: failed requests: {bad}")
        self.add(row, "requests/s", {n: [r.rate for r in rs] for n, rs in full.items()})
        for what in ("p50", "p99"):
            figures = {n: [getattr(r, what) for r in rs] for n, rs in half.items()}
            self.add(f"{row}, half load, {what}", "µs", figures)

    def instructions(self) -> None:
        """What does not depend on the machine: thousands of instructions of a request."""
        small, few = guest("hello"), instructions.MEMORIES
        figures = instructions.row(
            {
                "edge": lambda under: edge(small, under=under),
                "wasmtime serve": lambda under: wasmtime_serve(small, under=under, memories=few),
            }
        )
        self.add("small guest: instructions of a request", "10³", figures)

    def metrics(self) -> None:
        """What counting costs an event, where there is little else to do for it."""
        small, without = guest("hello"), [sys.executable, str(HERE / "uncounted.py")]
        with (
            edge(small, concurrency=64) as ours,
            edge(small, under=without, concurrency=64) as not_,
        ):
            servers = {"edge": ours, "not counting": not_}
            rates: dict[str, list[float]] = {name: [] for name in servers}
            for server in servers.values():
                load(server.url("/warm"), 1)
            # The difference is small: many short rounds, each of which begins with another one.
            for number in range(4 * self.rounds):
                order = list(servers.items())
                for name, server in order[:: -1 if number % 2 else 1]:
                    rates[name].append(load(server.url("/full"), 1).rate)
        self.add("small guest, counted", "requests/s", rates)
        found = instructions.row(
            {
                "edge": lambda under: edge(small, under=under),
                "not counting": lambda under: edge(small, under=[*under, *without]),
            }
        )
        self.add("small guest, counted: instructions of a request", "10³", found)

    # --- memory and start -----------------------------------------------------------------------

    def memory(self) -> None:
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
            self.add(f"{row}: PSS idle", "MB", idle)
            self.add(f"{row}: PSS of each request in flight", "KiB", each)

    def start(self) -> None:
        """From the start of the process to its first answer."""
        for row, name in (("small guest", "hello"), ("Python guest", "python")):
            wasm = guest(name)
            cold: list[float] = []
            warm: list[float] = []
            peer: list[float] = []
            for _ in range(self.rounds):
                with TemporaryDirectory() as folder:
                    state = Path(folder)
                    for times in (cold, warm):
                        with edge(wasm, state=state, memory="128MiB", cores="0,1") as server:
                            times.append(1000 * server.started)
                with wasmtime_serve(wasm, cores="0,1") as server:
                    peer.append(1000 * server.started)
            self.add(f"{row}: first answer, nothing cached", "ms", {"edge": cold})
            self.add(f"{row}: first answer, code cached", "ms", {"edge": warm})
            self.add(f"{row}: first answer", "ms", {"wasmtime serve": peer})

    # --- messages -------------------------------------------------------------------------------

    def mqtt(self) -> None:
        """Messages a second on one core, then the time from a message to its answer."""
        for row, unit, figures in mqtt.rows(self.rounds, self.seconds):
            self.add(row, unit, figures)

    # --- thousands of applications ----------------------------------------------------------------

    def density(self) -> None:
        """A node with 100, 1,000 and 10,000 applications that nobody asks."""
        for row, unit, figures in density.rows(guest("hello"), self.rounds):
            self.add(row, unit, figures)

    # --- a fleet --------------------------------------------------------------------------------

    def fleet(self) -> None:
        """A new version on nodes of one network, that share it or not."""
        if os.geteuid() != 0:
            say("fleet: left out: network namespaces need root")
            return
        for row, unit, figures in fleet.rows(guest("hello"), self.rounds):
            self.add(row, unit, figures)

    # --- in one process -------------------------------------------------------------------------

    def micro(self) -> None:
        """Instantiation and whole invocations without HTTP, in a process of their own."""
        runs: list[dict[str, dict[str, float]]] = []
        wasm = {name: str(guest(name)) for name in ("hello", "python", "javascript")}
        for _ in range(self.rounds):
            command = ["taskset", "-c", "0", sys.executable, str(HERE / "micro.py")]
            done = subprocess.run(
                [*command, json.dumps(wasm)], stdout=subprocess.PIPE, text=True, check=True
            )
            runs.append({**json.loads(done.stdout), "pooled InstancePre": floor()})
        for row in runs[0]:
            for what in ("p50", "p99"):
                self.add(f"{row}, {what}", "µs", {"edge": [run[row][what] for run in runs]})
        small, least = (
            [run[row]["p50"] for run in runs]
            for row in ("instantiate, small guest", "pooled InstancePre")
        )
        ratio = [a / b for a, b in zip(small, least, strict=True)]
        self.add("instantiate, small guest / pooled InstancePre, p50", "×", {"edge": ratio})


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


# --- the report ---------------------------------------------------------------------------------


def say(message: str) -> None:
    sys.stderr.write(f"bench: {message}\n")
    sys.stderr.flush()


def shown(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"


def tables(rows: list[dict[str, Any]]) -> str:
    """Markdown, as it goes into the README: a table for each kind of peer."""
    messages = [row for row in rows if "aiomqtt" in row["median"]]
    dense = [row for row in rows if " applications: " in row["row"]]
    shared = [row for row in rows if "each for itself" in row["median"]]
    counted = [row for row in rows if "not counting" in row["median"]]
    others = [row for row in rows if row not in (*messages, *dense, *shared, *counted)]
    parts = []
    if others:
        parts.append(table(others, ("edge", "wasmtime serve"), ("aiohttp",)))
    if counted:
        parts.append(table(counted, ("edge", "not counting"), ()))
    if messages:
        beside = ("edge, Spin's handler", "aiomqtt, early", "paho")
        parts.append(table(messages, ("edge", "aiomqtt"), beside))
    if dense:
        parts.append(table(dense, ("edge", "import alone"), ()))
    if shared:
        parts.append(table(shared, ("edge", "each for itself"), ()))
    return "\n\n".join(parts)


def table(rows: list[dict[str, Any]], pair: tuple[str, str], beside: tuple[str, ...]) -> str:
    columns = ["what", "unit", *pair, "ratio", *beside]
    lines = [" | ".join(["", *columns, ""]).strip(), "|---|---|" + "--:|" * (len(columns) - 2)]
    for row in rows:
        first, second, *rest = (
            shown(row["median"][name]) if name in row["median"] else "" for name in (*pair, *beside)
        )
        ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
        cells = [row["row"], row["unit"], first, second, ratio, *rest]
        lines.append(" | ".join(["", *cells, ""]).strip())
    return "\n".join(lines)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument(
        "--only", default="micro,http,metrics,instructions,memory,start,mqtt,density,fleet"
    )
    parser.add_argument("--json", type=Path, default=ROOT / "bench.json")
    parser.add_argument(
        "--keep", action="store_true", help="rows that are not measured stay as the JSON has them"
    )
    parser.add_argument("--readme", action="store_true", help="put the table into README.md")
    options = parser.parse_args()

    bench = Bench(options.rounds, options.seconds)
    for part in options.only.split(","):
        getattr(bench, part)()
    kept = json.loads(options.json.read_text())["rows"] if options.keep else []
    result = {"machine": machine(), "rows": merged(kept, bench.rows)}
    options.json.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    print(tables(bench.rows))
    if options.readme:
        into_readme(result)


def merged(kept: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was measured now in the place of what was before; what is new at the end."""
    fresh = {row["row"]: row for row in rows}
    return [fresh.pop(row["row"], row) for row in kept] + list(fresh.values())


def into_readme(result: dict[str, Any]) -> None:
    about, readme = result["machine"], ROOT / "README.md"
    before, rest = readme.read_text().split("<!-- bench -->")
    after = rest.split("<!-- /bench -->")[1]
    where = f"{about['cpu']}, Linux {about['kernel']}, Python {about['python']}"
    dates = sorted({row.get("date", "before") for row in result["rows"]})
    note = f"{where}, wasmtime {about['wasmtime']}, peer {about['peer']}, {' and '.join(dates)}."
    parts = (
        before,
        "<!-- bench -->\n",
        tables(result["rows"]),
        "\n\n",
        note,
        "\n<!-- /bench -->",
        after,
    )
    readme.write_text("".join(parts))


if __name__ == "__main__":
    main()
