"""Modules loaded by who first needs them, several at once."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path

import pytest

from edge.spin import lazy

SLOW = """
import sys, threading
sys.edge_test_begun.set()
sys.edge_test_go.wait(20)
ready = threading.current_thread().name
"""


async def test_nobody_gets_half_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go = threading.Event(), threading.Event()
    monkeypatch.setattr(sys, "edge_test_begun", begun, raising=False)
    monkeypatch.setattr(sys, "edge_test_go", go, raising=False)
    (tmp_path / "slow_to_load.py").write_text(SLOW)
    monkeypatch.syspath_prepend(tmp_path)
    loop = asyncio.get_running_loop()
    first = loop.create_task(lazy.load("slow_to_load"))
    assert await asyncio.to_thread(begun.wait, 20)
    assert "slow_to_load" in sys.modules
    others = [loop.create_task(lazy.load("slow_to_load")) for _ in range(3)]
    await asyncio.sleep(0)  # the loop goes on while the module does not
    assert not any(task.done() for task in (first, *others))
    go.set()
    loaded = [await task for task in (first, *others)]
    assert all(module.ready != threading.main_thread().name for module in loaded)
    assert await lazy.load("slow_to_load") is loaded[0]
    del sys.modules["slow_to_load"]


async def test_a_module_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ModuleNotFoundError):
        await lazy.load("edge.spin.nothing")
