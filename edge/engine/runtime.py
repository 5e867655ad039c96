"""Finds and binds Wasmtime's library: the one that the `wasmtime` package ships, and no other
version.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import mmap
import platform
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from edge.engine import _core
from edge.engine.pool import INTERPRETER, PoolOptions, fitting_options

# The C API's structs are laid out by hand in capi.h for this version.
WASMTIME = "50.0"

_log = logging.getLogger("edge.engine")


@functools.cache
def bind() -> None:
    """Loads libwasmtime, once per process. Raises ImportError with what does not fit."""
    version = metadata.version("wasmtime")
    if not version.startswith(f"{WASMTIME}."):
        raise ImportError(f"edge needs wasmtime {WASMTIME}, found {version}")
    _core.load_library(str(_library()))


def create_engine(options: PoolOptions | None = None) -> _core.Engine:
    """An engine with a pool that fits this machine. One is enough for a process."""
    bind()
    return _core.Engine(options or _permitted(fitting_options()))


def _permitted(options: PoolOptions) -> PoolOptions:
    """A service may be denied to make code of its own (MemoryDenyWriteExecute=)."""
    try:
        mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()
    except PermissionError:
        _log.warning("no executable memory is allowed: guests are interpreted, which is slow")
        return replace(options, target=INTERPRETER)
    return options


def _library() -> Path:
    """The package is found without importing it: its Python layer costs 30 ms and 10 MB that nobody
    uses.
    """
    spec = importlib.util.find_spec("wasmtime")
    if spec is None or spec.origin is None:
        raise ImportError("the package wasmtime is not installed")
    machine = {"arm64": "aarch64", "amd64": "x86_64"}.get(
        platform.machine().lower(), platform.machine()
    )
    found = list(Path(spec.origin).parent.glob(f"*-{machine}/_libwasmtime.so"))
    if not found:
        raise ImportError(f"the package wasmtime has no library for {machine}")
    return found[0]
