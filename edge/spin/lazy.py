"""Modules that take long to load, such as a database's client: loaded by who first needs one."""

from __future__ import annotations

import asyncio
import importlib
import sys
from typing import Any

__all__ = ["load"]


async def load(name: str) -> Any:
    """The module of that name. In a thread: the loop goes on meanwhile."""
    return sys.modules.get(name) or await asyncio.to_thread(importlib.import_module, name)
