"""Modules that take long to load, such as a database's client: loaded by who first needs one."""

from __future__ import annotations

import asyncio
import importlib
import sys
from typing import Any

__all__ = ["load"]


async def load(name: str) -> Any:
    """The module of that name. In a thread: the loop goes on meanwhile."""
    module = sys.modules.get(name)
    # While another thread executes a module it is there already, in part: the import system asks
    # the same attribute before it waits.
    spec = getattr(module, "__spec__", None)
    if spec is None or getattr(spec, "_initializing", False):
        return await asyncio.to_thread(importlib.import_module, name)
    return module
