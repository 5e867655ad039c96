"""`edge` that does not count what it answers, for comparison: uncounted.py EDGE ARGUMENT…"""

from __future__ import annotations

import sys
from typing import Any

from edge.cli import main
from edge.invocation import http, run


def start(sandboxes: Any, export: int, arguments: Any, ended: Any, *_counting: Any) -> Any:
    """`run.start` for guests that end within their first time slice, without what counts."""
    sandbox = sandboxes.take()
    sandbox.outbound = sandboxes.outbound()
    call = sandbox.instance.call(export, arguments(sandbox))
    if not call.poll():
        return run.Run(sandboxes, sandbox, call, ended, (sandboxes.meter, 0.0, 0.0))
    ended(sandbox.id, None)
    sandboxes.give(sandbox)
    sandboxes.gate.leave()
    return call.result


http.start = start  # type: ignore[attr-defined]

if __name__ == "__main__":
    sys.exit(main(sys.argv[2:]))
