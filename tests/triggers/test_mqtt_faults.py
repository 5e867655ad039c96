"""What brokers, networks and strangers do to a node by mistake or on purpose."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from mqtt_lab import Component, Peer, mosquitto, service, subscription

from edge.invocation.event import Outcome, Status
from edge.triggers.mqtt.state import Session, State


async def test_connections_that_save_at_once_leave_a_whole_state_the_newest(tmp_path: Path) -> None:
    state = State(tmp_path / "mqtt.json")
    loop = asyncio.get_running_loop()
    saves = []
    for number in range(50):
        state.sessions[f"s{number}"] = Session()
        saves.append(loop.create_task(state.save()))
        await asyncio.sleep(0)
    saves[-2].cancel()
    await asyncio.wait(saves)
    assert [task.exception() for task in saves if not task.cancelled()] == [None] * 49
    kept = json.loads((tmp_path / "mqtt.json").read_text())
    assert list(kept["sessions"]) == [f"s{number}" for number in range(50)]


async def test_a_dead_letter_for_which_the_broker_hangs_up_does_not_stop_all_others(
    tmp_path: Path,
) -> None:
    # With 3.1.1 it does not say how much it takes, and ends the connection of who sends more.
    component = Component(
        lambda event: (
            Outcome(Status.REJECTED, "no")
            if len(event.data) > 9
            else Outcome(Status.DONE, reply=event.data)
        )
    )
    with mosquitto(tmp_path / "broker", "max_packet_size 4000") as broker:
        taken = subscription(component, "in/+", reply_topic="out/{topic.1}", dead_letter="dead")
        quick: dict[str, Any] = {"protocol": "3.1.1", "reconnect_max": 0.1}
        async with service(broker.url, taken, **quick), Peer(broker.port, protocol="3.1.1") as peer:
            await peer.subscribe("out/+")
            await peer.publish("in/large", b"\xff" * 3500)  # half as much again in base64
            replies: set[bytes] = set()
            for number in range(70):  # more than are taken without an acknowledgement
                await peer.publish("in/small", b"%d" % number)
            while len(replies) < 70:
                replies.add((await peer.get()).payload)
