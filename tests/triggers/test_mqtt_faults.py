"""What brokers, networks and strangers do to a node by mistake or on purpose."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from edge.triggers.mqtt.state import Session, State


async def test_connections_that_save_at_once_leave_a_whole_state_the_newest(tmp_path: Path) -> None:
    state = State(tmp_path / "mqtt.json")
    saves = []
    for number in range(50):
        state.sessions[f"s{number}"] = Session()
        saves.append(asyncio.create_task(state.save()))
        await asyncio.sleep(0)
    saves[-2].cancel()
    await asyncio.gather(*saves, return_exceptions=True)
    assert [task.exception() for task in saves if not task.cancelled()] == [None] * 49
    kept = json.loads((tmp_path / "mqtt.json").read_text())
    assert list(kept["sessions"]) == [f"s{number}" for number in range(50)]
