"""The time that a node keeps for its next boot."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sync_lab import until

from edge import config
from edge.node import daemon
from edge.platform.clock import TrustedClock


async def test_the_time_is_kept_soon_after_the_clock_was_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = [0.0]  # a board without a battery
    clock = TrustedClock(tmp_path / "clock", wall=lambda: wall[0], built=1.8e9)
    names = ("applications", "crew", "fleet", "guests", "services", "store", "sync")
    others = dict.fromkeys(names)
    parts: Any = SimpleNamespace(clock=clock, **others)
    node = daemon.Daemon(lambda: (config.Daemon(), ()), config.Daemon(), (), parts)
    assert daemon._TIME_LOOK <= 600
    monkeypatch.setattr(daemon, "_TIME_LOOK", 0.01)
    saving = asyncio.get_running_loop().create_task(node._save_time())
    try:
        await until((tmp_path / "clock").exists)
        wall[0] = 1.81e9
        await until(lambda: int((tmp_path / "clock").read_text()) >= 1.81e9)
    finally:
        saving.cancel()
