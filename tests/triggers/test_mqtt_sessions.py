"""Connections come and go; sessions, orders and messages stay."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from mqtt_lab import (
    Component,
    Mosquitto,
    Peer,
    eventually,
    mosquitto,
    proxied,
    service,
    subscription,
)

from edge.invocation.event import DONE, Event, Outcome, Status


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with mosquitto(tmp_path / "broker", "max_inflight_messages 100\nlog_type all") as running:
        yield running


class Gate:
    """A component that waits until it is let go."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.component = Component(self._wait)

    async def _wait(self, _event: Event) -> Outcome:
        await self.open.wait()
        return Outcome(Status.DONE, reply=b"r")


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_what_was_sent_while_the_node_was_away_is_delivered(
    broker: Mosquitto, tmp_path: Path, protocol: str
) -> None:
    component = Component()
    options = {"state_dir": tmp_path, "protocol": protocol}
    async with Peer(broker.port) as peer:
        async with service(broker.url, subscription(component), **options) as running:  # type: ignore[arg-type]
            await peer.publish("in/a", b"1")
            await component.seen(1)
            await running.drain(5)
        for number in ("2", "3"):
            await peer.publish("in/a", number.encode())
        broker.stop()
        broker.start()
        async with service(broker.url, subscription(component), **options):  # type: ignore[arg-type]
            await component.seen(3)
    assert component.texts == ["1", "2", "3"]


async def test_what_a_killed_node_had_not_acknowledged_comes_again_under_the_same_key(
    broker: Mosquitto, tmp_path: Path
) -> None:
    gate, component = Gate(), Component()
    wanted = subscription(gate.component, ordered="none")
    async with Peer(broker.port) as peer:
        async with service(broker.url, wanted, state_dir=tmp_path):
            # The same bytes twice: two messages.
            await peer.publish("in/a", b"x")
            await peer.publish("in/a", b"x")
            before = [e.id for e in await gate.component.seen(2)]
            # Leaving without a drain: nothing is acknowledged, as when the process is killed.
        async with service(broker.url, subscription(component), state_dir=tmp_path):
            after = [e.id for e in await component.seen(2)]
    assert before == after
    assert len(set(before)) == 2
    assert ("mqttduplicate", "true") in component.events[0].attributes


async def test_a_message_that_is_delivered_again_joins_the_run_that_is_under_way(
    broker: Mosquitto,
) -> None:
    gate = Gate()
    wanted = subscription(gate.component, ordered="none", reply_topic="out/x")
    async with proxied(broker) as proxy, Peer(broker.port) as peer:
        await peer.subscribe("out/#")
        async with service(proxy.url, wanted) as running:
            await peer.publish("in/a", b"1")
            await peer.publish("in/b", b"2")
            await gate.component.seen(2)
            proxy.cut()
            await eventually(lambda: proxy.connections >= 2)
            await running.ready()
            gate.open.set()
            assert [(await peer.get()).payload for _ in "12"] == [b"r", b"r"]
            await eventually(lambda: acknowledged(broker) == 2)
            assert len(gate.component.events) == 2, "nothing ran twice"


async def test_what_was_final_but_not_acknowledged_is_acknowledged_without_another_run(
    broker: Mosquitto,
) -> None:
    first = asyncio.Event()

    async def wait(_: Event) -> Outcome:
        await first.wait()
        return DONE

    component = Component(lambda event: wait(event) if event.data == b"1" else DONE)
    wanted = subscription(component, ordered="none")
    async with (
        proxied(broker) as proxy,
        Peer(broker.port) as peer,
        service(proxy.url, wanted) as running,
    ):
        for text in (b"1", b"2", b"3"):
            await peer.publish("in/a", text)
        await component.seen(3)
        proxy.cut()
        await eventually(lambda: proxy.connections >= 2)
        await running.ready()
        first.set()
        await eventually(lambda: acknowledged(broker) == 3)
    assert component.texts == ["1", "2", "3"]


async def test_an_acknowledgement_that_was_lost_means_another_run_under_the_same_key(
    broker: Mosquitto,
) -> None:
    component = Component()
    async with (
        proxied(broker) as proxy,
        Peer(broker.port) as peer,
        service(proxy.url, subscription(component)),
    ):
        proxy.hold_upstream()
        await peer.publish("in/a", b"1")
        await component.seen(1)
        await asyncio.sleep(0)  # the acknowledgement is written at the end of this turn
        proxy.cut()
        proxy.release()
        await eventually(lambda: acknowledged(broker) == 1)
        again = await component.seen(2)
    assert again[0].id == again[1].id


async def test_a_reply_that_was_not_confirmed_is_sent_again_without_another_run(
    broker: Mosquitto,
) -> None:
    component = Component(lambda _: Outcome(Status.DONE, reply=b"r"))
    wanted = subscription(component, reply_topic="out/x")
    async with proxied(broker) as proxy, Peer(broker.port) as peer:
        await peer.subscribe("out/#")
        async with service(proxy.url, wanted):
            proxy.hold_upstream()
            await peer.publish("in/a", b"1")
            await component.seen(1)
            assert acknowledged(broker) == 0
            proxy.cut()
            proxy.release()
            first = await peer.get()
            await eventually(lambda: acknowledged(broker) == 1)
    assert first.payload == b"r"
    assert len(component.events) == 1, "losing the broker is not the guest's failure"


async def test_a_broker_that_forgot_the_session_gets_the_subscriptions_and_replies_again(
    broker: Mosquitto, tmp_path: Path
) -> None:
    gate = Gate()
    wanted = subscription(gate.component, reply_topic="out/x")
    async with service(broker.url, wanted, state_dir=tmp_path) as running:
        async with Peer(broker.port) as peer:
            await peer.publish("in/a", b"1")
            await gate.component.seen(1)
        broker.stop(signal.SIGKILL)
        (broker.directory / "mosquitto.db").unlink(missing_ok=True)
        broker.start()
        async with Peer(broker.port) as peer:
            await peer.subscribe("out/#")
            await running.ready()
            gate.open.set()
            assert (await peer.get()).payload == b"r"
            await peer.publish("in/a", b"2")
            assert (await peer.get()).payload == b"r"
    assert gate.component.texts == ["1", "2"]
    assert len({event.id for event in gate.component.events}) == 2


async def test_a_large_message_that_waited_for_the_node_holds_up_nothing(
    broker: Mosquitto, tmp_path: Path
) -> None:
    component = Component()
    wanted = subscription(component, dead_letter="dead/x")
    options = {"state_dir": tmp_path, "protocol": "3.1.1", "max_packet": 4096}
    async with Peer(broker.port) as peer:
        await peer.subscribe("dead/#")
        async with service(broker.url, wanted, **options) as running:  # type: ignore[arg-type]
            await running.drain(1)
        await peer.publish("in/a", bytes(10_000))
        await peer.publish("in/a", b"small")
        async with service(broker.url, wanted, **options):  # type: ignore[arg-type]
            assert b"mqtt.max_packet allows 4096" in (await peer.get()).payload
            await component.seen(1)
            await eventually(lambda: acknowledged(broker) == 2)
    assert component.texts == ["small"]


async def test_draining_finishes_and_acknowledges_and_takes_no_more(broker: Mosquitto) -> None:
    gate = Gate()
    async with (
        Peer(broker.port) as peer,
        service(broker.url, subscription(gate.component)) as running,
    ):
        await peer.publish("in/a", b"1")
        await gate.component.seen(1)
        async with asyncio.TaskGroup() as group:
            group.create_task(running.drain(20))
            await asyncio.sleep(0)
            await peer.publish("in/a", b"2")
            gate.open.set()
        assert acknowledged(broker) == 1
    assert gate.component.texts == ["1"]


async def test_draining_ends_at_its_time(broker: Mosquitto) -> None:
    gate = Gate()
    async with (
        Peer(broker.port) as peer,
        service(broker.url, subscription(gate.component)) as running,
    ):
        await peer.publish("in/a", b"1")
        await gate.component.seen(1)
        await running.drain(0.1)
    assert acknowledged(broker) == 0


async def test_an_update_changes_the_subscriptions_and_keeps_what_is_under_way(
    broker: Mosquitto, tmp_path: Path
) -> None:
    gate, after = Gate(), Component()
    async with (
        Peer(broker.port) as peer,
        service(
            broker.url,
            subscription(gate.component, "in/+"),
            subscription(Component(), "old/+", "old"),
            state_dir=tmp_path,
        ) as running,
    ):
        await peer.publish("in/a", b"1")
        await gate.component.seen(1)
        await running.update([subscription(after, "in/+")])
        await running.ready()
        await peer.publish("in/a", b"2")
        await peer.publish("in/b", b"3")
        await after.seen(1)
        assert after.texts == ["3"], "the order within a topic outlives the swap"
        gate.open.set()
        await after.seen(2)
        assert "old/+" not in (tmp_path / "mqtt.json").read_text()
    assert after.texts == ["3", "2"]
    assert "Received UNSUBSCRIBE" in broker.log()


async def test_a_subscription_that_went_while_the_node_was_off_is_undone(
    broker: Mosquitto, tmp_path: Path
) -> None:
    component = Component()
    async with Peer(broker.port) as peer:
        for filter in ("old/+", "in/+"):
            wanted = subscription(component, filter)
            async with service(broker.url, wanted, state_dir=tmp_path):
                await peer.publish("old/a", filter.encode())
                await peer.publish("in/a", filter.encode())
                await component.seen(1)
                if filter == "in/+":
                    await component.seen(2)
    assert [e.subject for e in component.events] == ["old/a", "in/a"]
    assert "Received UNSUBSCRIBE" in broker.log()


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_retained_messages_come_with_a_new_subscription_and_not_with_a_new_connection(
    broker: Mosquitto, tmp_path: Path, protocol: str
) -> None:
    component = Component()
    wanted = subscription(component)
    async with Peer(broker.port) as peer:
        await peer.publish("in/a", b"kept", retain=True)
        for count in (2, 3):
            async with service(
                broker.url, wanted, state_dir=tmp_path, protocol=protocol
            ) as running:
                await component.seen(1)
                await peer.publish("in/b", b"new")
                await component.seen(count)
                await running.drain(5)
    assert component.texts == ["kept", "new", "new"]
    assert component.events[0].attributes[1] == ("mqttretained", "true")


async def test_groups_share_messages_over_a_connection_of_their_own(broker: Mosquitto) -> None:
    one, two = Component(), Component()
    async with (
        Peer(broker.port) as peer,
        service(broker.url, subscription(one, "$share/g/in/+"), status_topic=""),
        service(broker.url, subscription(two, "$share/g/in/+"), status_topic=""),
    ):
        for number in range(20):
            await peer.publish(f"in/{number}", str(number).encode())
        await eventually(lambda: len(one.events) + len(two.events) == 20)
    assert sorted(one.texts + two.texts, key=int) == [str(n) for n in range(20)]
    assert one.events
    assert two.events
    assert re.search(r"edge-[0-9a-f]+-share", broker.log())


async def test_many_filters_each_find_their_component(broker: Mosquitto) -> None:
    components = [Component() for _ in range(150)]
    wanted = [subscription(c, f"{n}/+", f"t{n}") for n, c in enumerate(components)]
    async with service(broker.url, *wanted), Peer(broker.port) as peer:
        for number in range(len(components)):
            await peer.publish(f"{number}/x", str(number).encode())
        for number, component in enumerate(components):
            assert [e.subject for e in await component.seen(1)] == [f"{number}/x"]


async def test_a_group_that_nobody_wants_any_more_is_left(
    broker: Mosquitto, tmp_path: Path
) -> None:
    async with service(
        broker.url, subscription(Component(), "$share/g/in/+"), state_dir=tmp_path, status_topic=""
    ) as running:
        await running.drain(1)
    async with service(
        broker.url, subscription(Component(), "x"), state_dir=tmp_path, status_topic=""
    ):
        assert broker.log().count("Received UNSUBSCRIBE") == 1
        assert "$share/g/in/+" not in (tmp_path / "mqtt.json").read_text()


async def test_a_state_that_can_not_be_written_is_said_and_no_reason_to_stop(
    broker: Mosquitto, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    component = Component()
    async with (
        Peer(broker.port) as peer,
        service(broker.url, subscription(component), state_dir=tmp_path / "file"),
    ):
        await peer.publish("in/a", b"1")
        await component.seen(1)
    assert "mqtt.json: not written: " in caplog.text


async def test_topics_that_a_stranger_makes_up_occupy_no_memory(broker: Mosquitto) -> None:
    component = Component(lambda event: component.events.clear() or DONE)
    wanted = subscription(component, "in/#", ordered="none", reply_topic="out/{topic.1}")
    async with Peer(broker.port) as peer, service(broker.url, wanted):
        name = "x" * 60_000
        for numbers in (range(400), range(400, 800)):
            before = resident()
            for number in numbers:
                await peer.publish(f"in/{number}/{name}", b"1", UserProperty=[(str(number), name)])
        assert resident() - before < 16 << 20


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def test_the_status_topic_says_whether_the_node_is_there(
    broker: Mosquitto, tmp_path: Path
) -> None:
    wanted = subscription(Component())
    async with proxied(broker) as proxy, Peer(broker.port) as peer:
        await peer.subscribe("edge/+/status")
        async with service(proxy.url, wanted, will_delay=0, client_id="board-7") as running:
            assert await status(peer) == ("edge/board-7/status", b"online")
            proxy.up = False
            proxy.cut()
            assert (await status(peer))[1] == b"offline"
            proxy.up = True
            assert (await status(peer))[1] == b"online"
            await running.drain(1)
            assert (await status(peer))[1] == b"offline"


async def status(peer: Peer) -> tuple[str, bytes]:
    message = await peer.get()
    return message.topic, message.payload


async def test_the_client_identifier_is_made_once_and_kept(
    broker: Mosquitto, tmp_path: Path
) -> None:
    names = []
    for _ in range(2):
        async with service(broker.url, subscription(Component()), state_dir=tmp_path):
            names.append(re.findall(r"as (edge-[0-9a-f]{12}) ", broker.log())[-1])
    assert names[0] == names[1]
    (tmp_path / "mqtt.json").write_text("not JSON")
    async with service(broker.url, subscription(Component()), state_dir=tmp_path):
        assert re.findall(r"as (edge-[0-9a-f]{12}) ", broker.log())[-1] != names[0]


async def test_more_messages_than_are_taken_at_once_wait_with_the_broker(
    broker: Mosquitto,
) -> None:
    gate = Gate()
    wanted = subscription(gate.component, ordered="none")
    async with Peer(broker.port) as peer, service(broker.url, wanted, receive_maximum=5):
        for number in range(20):
            await peer.publish("in/a", str(number).encode())
        await gate.component.seen(5)
        await peer.publish("marker")
        assert len(gate.component.events) == 5
        gate.open.set()
        await gate.component.seen(20)
    assert gate.component.texts == [str(n) for n in range(20)]


async def test_messages_of_qos_0_wait_in_the_connection_when_there_are_too_many(
    broker: Mosquitto,
) -> None:
    gate = Gate()
    wanted = subscription(gate.component, ordered="none")
    async with Peer(broker.port) as peer, service(broker.url, wanted, receive_maximum=5):
        for number in range(20):
            await peer.publish("in/a", str(number).encode(), 0)
        await gate.component.seen(5)
        await peer.publish("marker")
        assert len(gate.component.events) == 5
        gate.open.set()
        await gate.component.seen(20)
    assert gate.component.texts == [str(n) for n in range(20)]


def acknowledged(broker: Mosquitto) -> int:
    """How many messages the node has acknowledged; the log is the broker's."""
    return sum("Received PUBACK from edge-" in line for line in broker.log().splitlines())
