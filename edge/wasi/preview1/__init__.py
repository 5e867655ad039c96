"""wasi_snapshot_preview1: a thin layer over the files, clocks and streams of WASI 0.2.

`interface()` is the module that commands and reactors of preview 1 import. Source: the witx files
of `wasi_snapshot_preview1`; where they leave a choice, what wasi-libc and its tests expect.
"""

from __future__ import annotations

from edge.engine.host import CoreInterface
from edge.wasi.preview1 import descriptors, paths, poll, process

__all__ = ["MODULE", "interface"]

MODULE = "wasi_snapshot_preview1"


def interface() -> CoreInterface:
    """All 46 functions."""
    tables = (process.FUNCTIONS, descriptors.FUNCTIONS, paths.FUNCTIONS, poll.FUNCTIONS)
    return CoreInterface(
        MODULE, {name: function for table in tables for name, function in table.items()}
    )
