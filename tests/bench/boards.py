"""The same inside of what a Raspberry Pi has: addresses of 39 bits, 512 MB, one core.

Its speed is not the point, which is another processor's: that everything works, and what stays of
the lead. Without root, or without a controller for memory, that limit is left out and the rows say
so.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import bodies
from servers import edge, wasmtime_serve
from serving import BODY, LARGE, WIDE, Row, compared, guest

MiB = 1 << 20
MEMORY = 512 * MiB
ADDRESSES = 1 << 39
# What `wasmtime serve` can pool there: its own default does not fit, and it does not start.
MEMORIES = 60
GROUPS = Path("/sys/fs/cgroup")


def rows(rounds: int, seconds: int) -> Iterator[Row]:
    hello, echo, python, javascript = map(guest, ("hello", "echo", "python", "javascript"))
    with confined() as (under, where), TemporaryDirectory() as folder:
        for row, wasm, body, options in (
            ("small guest", hello, 0, WIDE),
            ("64 KiB echoed", echo, BODY, WIDE),
            ("Python guest", python, 0, {**LARGE, "concurrency": 2}),
            ("JavaScript guest", javascript, 0, {**LARGE, "concurrency": 2}),
        ):
            starts = {
                "edge": lambda w=wasm, o=options: edge(w, state=Path(folder), under=under, **o),
                "wasmtime serve": lambda w=wasm: wasmtime_serve(w, under=under, memories=MEMORIES),
            }
            yield from compared(
                f"{where}: {row}", starts, rounds, seconds, body=body, latency=False
            )
        with edge(echo, under=under, **WIDE) as server:
            bodies.send(server, "echoed", 64 * MiB, 1, 1)  # fails where not all of it comes back
            idle = server.forget_peak()
            bodies.send(server, "echoed", 64 * MiB, 2, 1)
            more = (server.peak() - idle) / MiB
        yield f"{where}: two bodies of 64 MiB echoed, memory meanwhile", "MiB", {"edge": [more]}


@contextmanager
def confined() -> Iterator[tuple[list[str], str]]:
    """What comes before a command, and what of a Pi's limits it gives it."""
    prefix, where = ["prlimit", f"--as={ADDRESSES}"], "39 bits"
    with group() as procs:
        if procs is not None:
            prefix += ["sh", "-c", f'echo $$ > "{procs}" && exec "$@"', "sh"]
            where += ", 512 MB"
        yield prefix, where


@contextmanager
def group() -> Iterator[Path | None]:
    """Where a process joins a control group of so much memory; None: there can be none here."""
    old = GROUPS / "memory/memory.limit_in_bytes"
    parent, limit = (old.parent, old.name) if old.exists() else (GROUPS, "memory.max")
    made = parent / f"edge-bench-{os.getpid()}"
    try:
        made.mkdir()
    except OSError:
        yield None
        return
    try:
        try:
            (made / limit).write_text(str(MEMORY))
        except OSError:
            yield None
        else:
            yield made / "cgroup.procs"
    finally:
        made.rmdir()
