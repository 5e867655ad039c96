"""One process of a node against two, on all cores: what the second one adds, and what it costs.

The load shares the cores with them: it takes a few hundredths of what a Python guest does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from load import Result, load
from servers import HEAD, PART, Server, free_port, running
from serving import Row, in_turn, no_failures

CORES = ",".join(map(str, sorted(os.sched_getaffinity(0))))
# Each process has half of it.
OPTIONS = 'concurrency = 64\nmemory = "128MiB"'
CONFIG = """
[node]
state_dir = "{folder}/state{workers}"
socket = "{folder}/edge{workers}.sock"
[http]
listen = ["127.0.0.1:{port}"]
workers = {workers}
[mirror]
listen = ""
[page]
listen = ""
[[application]]
name = "bench"
path = "{folder}"
"""


def rows(python: Path, small: Path, rounds: int, seconds: int) -> Iterator[Row]:
    """Requests a second, and processor time of one, of a Python guest and of a small one."""
    for row, wasm in (("Python guest", python), ("small guest", small)):
        with ExitStack() as stack:
            servers = {
                name: stack.enter_context(_node(wasm, count))
                for name, count in (("two workers", 2), ("one worker", 1))
            }
            results: dict[str, list[Result]] = {name: [] for name in servers}
            cost: dict[str, list[float]] = {name: [] for name in servers}
            for server in servers.values():
                load(server.url(), 2, cores=CORES)
            for number in range(rounds):
                for name, server in in_turn(servers, number):
                    before = server.cpu()
                    result = load(server.url(), seconds, cores=CORES)
                    results[name].append(result)
                    cost[name].append(1e6 * (server.cpu() - before) / result.requests)
            no_failures(row, list(results.values()))
        rates = {name: [one.rate for one in all_] for name, all_ in results.items()}
        yield f"{row}, all cores", "requests/s", rates
        both = zip(*rates.values(), strict=True)
        yield f"{row}: two workers / one", "×", {"edge": [two / one for two, one in both]}
        yield f"{row}, all cores: processor time of a request", "µs", cost
        p99 = {name: [one.p99 for one in all_] for name, all_ in results.items()}
        yield f"{row}, all cores, full load, p99", "µs", p99


@contextmanager
def _node(wasm: Path, workers: int) -> Iterator[Server]:
    port = free_port()
    with TemporaryDirectory() as folder:
        part = PART.format(name="guest", route="", source=wasm, options=OPTIONS)
        (Path(folder) / "spin.toml").write_text(HEAD + part)
        file = Path(folder) / "edge.toml"
        file.write_text(CONFIG.format(folder=folder, port=port, workers=workers))
        command = [str(Path(sys.executable).parent / "edge"), "run", "--config", str(file)]
        with running(command, port, "/", CORES) as server:
            yield server
