"""Puts load on a server with wrk, from a core of its own, and reads what wrk measured."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

# wrk's own connections; more would measure queues, fewer leave the server idle between answers.
CONNECTIONS = 16
CORE = "1"

# Prints what we need in a fixed form, and turns what is not an answer into a failure.
DONE = """
function done(summary, latency, requests)
  local errors = summary.errors
  local bad = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format("RESULT %d %d %d %.0f %.0f %d\\n", summary.requests, summary.duration,
    summary.bytes, latency:percentile(50), latency:percentile(99), bad))
end
"""
BODY = """
wrk.method = "POST"
wrk.body = string.rep("0123456789abcdef", {size} / 16)
wrk.headers["Content-Type"] = "application/octet-stream"
"""
# Exponential pauses on each connection: together a Poisson stream of about the wanted rate.
PAUSE = """
function delay()
  return math.floor(-{milliseconds} * math.log(1 - math.random()) + 0.5)
end
"""


@dataclass(frozen=True, slots=True)
class Result:
    """One run of wrk; latencies in µs."""

    requests: int
    rate: float
    p50: float
    p99: float
    megabytes: float
    bad: int


def load(
    url: str,
    seconds: int,
    body: int = 0,
    rate: float | None = None,
    connections: int = 0,
    cores: str = CORE,
) -> Result:
    """Full load, or about `rate` requests a second. `body`: size of a POST's body."""
    script = DONE
    if body:
        script += BODY.format(size=body)
    connections = connections or CONNECTIONS
    if rate is not None:
        # Whole milliseconds are all that wrk's delay can do: many connections with long pauses.
        connections = max(connections, min(512, round(rate * 0.05)))
        script += PAUSE.format(milliseconds=1000 * connections / rate)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "load.lua"
        path.write_text(script)
        command = ["taskset", "-c", cores, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s"]
        command += ["--timeout", "10s", "-s", str(path), url]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    line = next(li for li in done.stdout.splitlines() if li.startswith("RESULT "))
    requests, duration, size, p50, p99, bad = map(float, line.split()[1:])
    took = duration / 1e6
    return Result(int(requests), requests / took, p50, p99, size / took / 1e6, int(bad))
