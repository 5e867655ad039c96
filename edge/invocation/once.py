"""A command run for its own sake: the outcome is its exit status."""

from __future__ import annotations

from collections.abc import Sequence

from edge.engine.values import Err
from edge.errors import GuestError
from edge.invocation.run import Run, start
from edge.invocation.sandbox import Sandbox, Sandboxes
from edge.wasi.cli import Exit
from edge.wasi.pipe import Sink, Source


async def run_once(
    sandboxes: Sandboxes,
    export: int,
    arguments: Sequence[str],
    stdin: Source,
    stdout: Sink,
    stderr: Sink,
) -> int:
    """Runs the command `export` and returns its exit status. Raises EdgeError for any other end.

    `arguments`: all of them, the command's own name first.
    """
    if not sandboxes.gate.enter():
        await sandboxes.gate.wait()

    def prepare(sandbox: Sandbox) -> tuple[()]:
        sandbox.expire()
        sandbox.arguments = tuple(arguments)
        sandbox.stdin, sandbox.stdout, sandbox.stderr = stdin, stdout, stderr
        return ()

    try:
        result = start(sandboxes, export, prepare)
        if isinstance(result, Run):
            result = await result.finish()
    except GuestError as exc:
        if isinstance(exc.__cause__, Exit):
            return exc.__cause__.status
        raise
    return 1 if isinstance(result, Err) else 0
