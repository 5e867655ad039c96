"""What brokers, networks and strangers do to a node by mistake or on purpose."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mqtt_lab import Component, Mosquitto, Peer, Proxy, mosquitto, proxied, service, subscription

from edge.invocation.event import DONE, Outcome, Status
from edge.triggers.mqtt import MqttService
from edge.triggers.mqtt.run import shown
from edge.triggers.mqtt.state import Session, State


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with mosquitto(tmp_path / "broker", "max_inflight_messages 100") as running:
        yield running


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
                replies.add(bytes((await peer.get()).payload))


async def _reconnected(proxy: Proxy, running: MqttService, timeout: float = 20) -> bool:
    """Until the subscriptions are in place again; False: not in that time."""
    before = proxy.connections
    proxy.cut()
    try:
        async with asyncio.timeout(timeout):
            while proxy.connections == before:  # noqa: ASYNC110 - it only counts
                await asyncio.sleep(0.01)
            await running.ready()
            return True
    except TimeoutError:
        return False


def _waiting(gate: asyncio.Event) -> Component:
    async def wait() -> Outcome:
        await gate.wait()
        return DONE

    return Component(lambda _event: wait())


async def test_a_message_that_may_expire_joins_its_run_over_many_connections(
    broker: Mosquitto,
) -> None:
    gate = asyncio.Event()
    component = _waiting(gate)
    taken = subscription(component, reply_topic="out")
    async with Peer(broker.port) as peer, proxied(broker) as proxy:  # noqa: SIM117
        async with service(proxy.url, taken, reconnect_max=0.05) as running:
            for _ in range(5):
                await peer.publish("in/a", b"x", MessageExpiryInterval=600)
            await component.seen(1)
            for _ in range(5):
                assert await _reconnected(proxy, running)
            gate.set()
            await component.seen(5)
            await peer.publish("in/b", b"last")
            assert [e.data for e in await component.seen(6)] == [b"x"] * 5 + [b"last"]


async def test_what_lost_sessions_left_under_way_is_bounded(broker: Mosquitto) -> None:
    gate = asyncio.Event()
    component = _waiting(gate)
    async with Peer(broker.port) as peer, proxied(broker) as proxy:
        for number in range(20):
            await peer.publish(f"in/{number}", b"x", retain=True)
        settings: dict[str, Any] = {"session_expiry": 0, "receive_maximum": 4}
        taken = subscription(component, ordered="none")
        async with service(proxy.url, taken, reconnect_max=0.05, **settings) as running:
            for count in range(4, 17, 4):  # each time with all that is retained
                if not await _reconnected(proxy, running, 2):
                    break
                await component.seen(min(count, 9))
            assert len(component.events) <= 3 * 4 + 1
            gate.set()
            async with asyncio.timeout(20):
                while len({event.subject for event in component.events}) < 20:
                    await component.seen(len(component.events) + 1)


@pytest.mark.parametrize(
    ("options", "asked", "refused"),
    [
        ({"reply_topic": "{topic.1}/{topic.1}"}, {}, "a/a"),
        ({"dead_letter": "{topic.1}/{topic.1}"}, {}, "a/a"),
        ({"responses": ["#"]}, {"ResponseTopic": "a/b"}, "a/b"),
    ],
)
async def test_no_topic_makes_a_message_come_back(
    broker: Mosquitto,
    options: dict[str, Any],
    asked: dict[str, Any],
    refused: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    status = Status.REJECTED if "dead_letter" in options else Status.DONE
    component = Component(lambda _event: Outcome(status, "no", reply=b"again"))
    async with (
        Peer(broker.port) as peer,
        service(broker.url, subscription(component, "a/#", **options), receive_maximum=1),
    ):
        for topic in ("a/a", "a/c"):  # the second shows that the first is through
            await peer.publish(topic, b"first", **asked)
        await peer.publish("a/d", b"last")
        async with asyncio.timeout(20):
            while "a/d" not in {event.subject for event in component.events}:
                await component.seen(len(component.events) + 1)
    assert {event.data for event in component.events} <= {b"first", b"last"}
    where = f"spin.toml: component.c.tool.edge.trigger.t.{next(iter(options))}"
    assert f'{where}: "{refused}" would come back' in caplog.text


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
@pytest.mark.parametrize("reply", [b"", b"r" * 5000])
async def test_what_the_broker_finds_too_large_is_told_at_least(
    tmp_path: Path, protocol: str, reply: bytes
) -> None:
    status = Status.DONE if reply else Status.REJECTED
    component = Component(lambda _event: Outcome(status, "no", reply=reply))
    taken = subscription(component, reply_topic="out", dead_letter="dead")
    quick: dict[str, Any] = {"protocol": protocol, "reconnect_max": 0.05}
    with mosquitto(tmp_path / "broker", "max_packet_size 4000") as broker:
        async with service(broker.url, taken, **quick), Peer(broker.port) as peer:
            await peer.subscribe("dead")
            await peer.publish("in/a", b"x" if reply else b"\xff" * 3900)
            letter = await peer.get()
    if protocol == "5":
        assert letter.properties is not None
        told = dict(vars(letter.properties)["UserProperty"])
        assert letter.payload == (b"x" if reply else b"")
    else:
        told = json.loads(letter.payload)
        assert told["data"] == ("x" if reply else "")
    assert told["topic"] == "in/a"
    wanted = "its reply to out was not taken" if reply else "no; its payload was too large"
    assert told["reason"].startswith(wanted)


async def test_what_expires_while_the_node_has_no_room_does_not_run(broker: Mosquitto) -> None:
    room = asyncio.Event()
    component = Component(lambda _event: DONE if room.is_set() else Outcome(Status.BUSY))
    taken = subscription(component, dead_letter="dead")
    async with service(broker.url, taken), Peer(broker.port) as peer:
        await peer.subscribe("dead")
        await peer.publish("in/a", b"old", MessageExpiryInterval=1)
        letter = await peer.get()
        room.set()
        assert (letter.payload, letter.topic) == (b"old", "dead")
        await peer.publish("in/a", b"new")
        while b"new" not in {event.data for event in component.events}:
            await component.seen(len(component.events) + 1)


def test_no_topic_ends_a_line_of_the_log() -> None:
    assert shown("a/\nERROR x") == "'a/\\nERROR x'"
    assert shown("a/é" * 100) == ("a/é" * 100)[:80]


def test_a_state_that_can_not_be_read_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mqtt.json").write_text('{"client_id": 1')
    assert State.load(tmp_path / "mqtt.json").sessions == {}
    assert "mqtt.json: not readable: the sessions it named are left" in caplog.text
