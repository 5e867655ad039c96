"""Coroutines in the thread of a check."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["complete"]

T = TypeVar("T")


def complete(work: Coroutine[Any, Any, T]) -> T:
    """Runs it. Other than asyncio.run it does not wait for threads: one may ask a name server that
    does not answer, or read a file that hangs.
    """
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()
