"""The compiler's process: `python -m edge.engine.compile OPTIONS < request`.

The request's first line is a JSON list of (file to write, size of the module); the modules follow.
Writes each file and its proof. The last line on stderr is the peak memory, or what was wrong (exit
code 1).
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
from pathlib import Path

from edge.engine import runtime
from edge.engine._core import Engine, Module
from edge.engine.cache import store
from edge.engine.pool import PoolOptions


def main() -> int:
    options = json.loads(sys.argv[1])
    work = json.loads(sys.stdin.buffer.readline())
    with contextlib.suppress(OSError):  # where memory runs out, the node is not what has to go
        Path("/proc/self/oom_score_adj").write_text("1000")
    runtime.bind()
    # The code does not depend on the pool, and a compiler needs none.
    engine = Engine(PoolOptions(**{**options, "slots": 0}))
    try:
        for path, size in work:
            store(Path(path), Module.compile(engine, sys.stdin.buffer.read(size)).serialize())
    except (ValueError, OSError) as exc:
        sys.stderr.write(f"{exc}\n".replace("\n", " ").strip() + "\n")
        return 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    sys.stderr.write(f"{peak} MiB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
