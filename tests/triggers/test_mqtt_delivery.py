"""What becomes of messages: acknowledged when final, retried, replied to, or dead."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from mqtt_lab import Component, Mosquitto, Peer, eventually, mosquitto, service, subscription

from edge.invocation.event import DONE, Event, Outcome, Status

FAILED = Outcome(Status.FAILED, "no luck")
REJECTED = Outcome(Status.REJECTED, "not this one")
BUSY = Outcome(Status.BUSY, "full")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with mosquitto(tmp_path / "broker", "max_inflight_messages 100\nlog_type all") as running:
        yield running


def user(message: object) -> dict[str, str]:
    return dict(message.properties.UserProperty)  # type: ignore[attr-defined]


async def test_a_message_is_an_event_with_what_its_sender_said(broker: Mosquitto) -> None:
    component = Component()
    async with service(broker.url, subscription(component)), Peer(broker.port) as peer:
        await peer.publish(
            "in/a",
            b'{"t": 1}',
            ContentType="application/json",
            UserProperty=[("id", "m-1"), ("traceparent", "00-1-2-01"), ("secret", "x")],
        )
        (event,) = await component.seen(1)
    assert (event.kind, event.type, event.id) == ("mqtt", "dev.edge.mqtt.message", "m-1")
    assert (event.subject, event.data, event.source) == ("in/a", b'{"t": 1}', broker.url)
    assert event.content_type == "application/json"
    assert event.attributes == (("mqttqos", "1"), ("traceparent", "00-1-2-01"))


async def test_it_is_acknowledged_when_its_outcome_is_final_and_in_order(broker: Mosquitto) -> None:
    gates = {name: asyncio.get_running_loop().create_future() for name in ("0", "1", "2")}

    async def wait(event: Event) -> Outcome:
        await gates[event.data.decode()]
        return DONE

    component = Component(wait)
    options = subscription(component, ordered="none")
    async with service(broker.url, options), Peer(broker.port) as peer:
        for name in gates:
            await peer.publish("in/a", name.encode())
        await component.seen(3)
        gates["2"].set_result(None)
        gates["1"].set_result(None)
        await marker(broker, peer)
        assert acknowledged(broker) == 0, "the first is not final"
        gates["0"].set_result(None)
        await eventually(lambda: acknowledged(broker) == 3)
    order = [line.split("Mid: ")[1] for line in broker.log().splitlines() if "PUBACK from" in line]
    ours = [part.split(",")[0] for part in order if "RC:0" in part]
    assert ours[-3:] == sorted(ours[-3:], key=lambda mid: int(mid.rstrip(")")))


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_a_failure_is_tried_again_and_a_success_ends_it(
    broker: Mosquitto, protocol: str
) -> None:
    outcomes = [FAILED, BUSY, BUSY, FAILED, DONE]
    component = Component(lambda _: outcomes.pop(0))
    options = subscription(component, retries=2)
    async with service(broker.url, options, protocol=protocol), Peer(broker.port) as peer:
        await peer.publish("in/a", b"x")
        events = await component.seen(5)
    assert {event.id for event in events} == {events[0].id}
    assert not outcomes


async def test_after_the_retries_it_goes_to_the_dead_letters_with_the_reason(
    broker: Mosquitto,
) -> None:
    component = Component(lambda _: FAILED)
    options = subscription(component, retries=1, dead_letter="dead/{application}/{component}")
    async with Peer(broker.port) as peer:
        await peer.subscribe("dead/#")
        async with service(broker.url, options):
            await peer.publish(
                "in/a", b"\xff\x00", ContentType="image/x", UserProperty=[("k", "v")]
            )
            dead = await peer.get()
            await eventually(lambda: acknowledged(broker) == 1)
    assert (dead.topic, dead.payload, dead.qos) == ("dead/app/c", b"\xff\x00", 1)
    assert dead.properties.ContentType == "image/x"
    told = user(dead)
    assert told["reason"] == "no luck"
    assert (told["topic"], told["attempts"], told["k"]) == ("in/a", "2", "v")
    assert (told["application"], told["component"], told["trigger"]) == ("app", "c", "t")
    assert told["id"] == component.events[0].id
    assert len(component.events) == 2


async def test_before_version_5_a_dead_letter_is_a_cloud_event(broker: Mosquitto) -> None:
    component = Component(lambda _: REJECTED)
    options = subscription(component, dead_letter="dead/{topic.1}")
    async with Peer(broker.port) as peer:
        await peer.subscribe("dead/#")
        async with service(broker.url, options, protocol="3.1.1"):
            await peer.publish("in/a", b"text")
            text = json.loads((await peer.get()).payload)
            await peer.publish("in/b", b"\xff")
            binary = json.loads((await peer.get()).payload)
    assert (text["specversion"], text["subject"], text["data"]) == ("1.0", "in/a", "text")
    assert (text["reason"], text["id"]) == ("not this one", component.events[0].id)
    assert binary["data_base64"] == "/w=="
    assert len(component.events) == 2


async def test_a_rejected_message_is_not_tried_again(broker: Mosquitto) -> None:
    component = Component(lambda e: REJECTED if e.data == b"bad" else DONE)
    async with service(broker.url, subscription(component)), Peer(broker.port) as peer:
        await peer.publish("in/a", b"bad")
        await peer.publish("in/a", b"good")
        await component.seen(2)
    assert component.texts == ["bad", "good"]


async def test_retries_end_with_their_time(broker: Mosquitto) -> None:
    component = Component(lambda _: FAILED)
    options = subscription(component, retries=1000, retry_time=0.3, dead_letter="dead/x")
    async with Peer(broker.port) as peer:
        await peer.subscribe("dead/#")
        async with service(broker.url, options):
            await peer.publish("in/a")
            told = user(await peer.get())
    assert told["reason"].startswith("no luck (retried for ")
    assert 1 <= int(told["attempts"]) < 1000


async def test_a_message_of_qos_0_is_tried_once(broker: Mosquitto) -> None:
    component = Component(lambda e: FAILED if e.data == b"bad" else DONE)
    options = subscription(component, dead_letter="dead/x")
    async with Peer(broker.port) as peer:
        await peer.subscribe("dead/#")
        async with service(broker.url, options):
            await peer.publish("in/a", b"bad", 0)
            await peer.publish("in/a", b"good", 0)
            dead = await peer.get()
            await component.seen(2)
    assert component.texts == ["bad", "good"]
    assert dead.payload == b"bad"
    assert component.events[0].id != component.events[1].id


async def test_the_reply_goes_to_the_topic_of_the_template(broker: Mosquitto) -> None:
    def answer(event: Event) -> Outcome:
        return Outcome(Status.DONE, reply=event.data.upper(), content_type="text/plain")

    options = subscription(Component(answer), "in/+/t", reply_topic="out/{topic.1}")
    async with Peer(broker.port) as peer:
        await peer.subscribe("out/#")
        async with service(broker.url, options):
            await peer.publish("in/kitchen/t", b"warm")
            reply = await peer.get()
            await peer.publish("in/attic/t", b"cold", 0)
            quick = await peer.get()
    assert (reply.topic, reply.payload, reply.qos) == ("out/kitchen", b"WARM", 1)
    assert reply.properties.ContentType == "text/plain"
    assert (quick.topic, quick.payload, quick.qos) == ("out/attic", b"COLD", 0)


async def test_a_request_gets_its_reply_where_it_asks_for_it_if_that_is_allowed(
    broker: Mosquitto,
) -> None:
    component = Component(lambda e: Outcome(Status.DONE, reply=e.data[::-1]))
    options = subscription(
        component, responses=["replies/+"], reply_topic="else/x", dead_letter="dead/x"
    )
    async with Peer(broker.port) as peer:
        for topic in ("replies/#", "dead/#", "else/#", "edge/#", "$other/#"):
            await peer.subscribe(topic)
        async with service(broker.url, options, status_topic=""):
            await peer.publish(
                "in/a", b"abc", ResponseTopic="replies/me", CorrelationData=b"\x00\xff"
            )
            reply = await peer.get()
            dead = []
            for attack in ("edge/secret", "$other/x", "replies/a/b"):
                await peer.publish("in/a", attack.encode(), ResponseTopic=attack)
                dead.append(await peer.get())
            await peer.publish("in/a", b"xyz")
            usual = await peer.get()
    assert (reply.topic, reply.payload) == ("replies/me", b"cba")
    assert reply.properties.CorrelationData == b"\x00\xff"
    assert [one.topic for one in dead] == ["dead/x"] * 3
    where = "spin.toml: component.c.tool.edge.trigger.t.responses"
    assert user(dead[0])["reason"] == f'{where} does not allow "edge/secret"'
    assert component.texts == ["abc", "xyz"], "what asks for what is not allowed does not run"
    assert (usual.topic, usual.payload) == ("else/x", b"zyx")


async def test_without_an_allow_list_a_response_topic_is_ignored_and_said_once(
    broker: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    component = Component(lambda _: Outcome(Status.DONE, reply=b"r"))
    async with service(broker.url, subscription(component)), Peer(broker.port) as peer:
        await peer.subscribe("replies/#")
        for _ in range(3):
            await peer.publish("in/a", ResponseTopic="replies/me")
        await component.seen(3)
        await marker(broker, peer, "replies/marker")
        assert (await peer.get()).topic == "replies/marker"
    warnings = [r.message for r in caplog.records if "asks for its reply" in r.message]
    assert len(warnings) == 1
    assert "trigger.t.responses allows none" in warnings[0]


@pytest.mark.parametrize(
    ("ordered", "together"),
    [("topic", {"a1", "b1"}), ("all", {"a1"}), ("none", {"a1", "a2", "b1"})],
)
async def test_order_is_kept_within_a_topic_or_in_all_or_not(
    broker: Mosquitto, ordered: str, together: set[str]
) -> None:
    gate = asyncio.Event()

    async def wait(_: Event) -> Outcome:
        await gate.wait()
        return DONE

    component = Component(wait)
    options = subscription(component, ordered=ordered)
    async with service(broker.url, options), Peer(broker.port) as peer:
        for name in ("a1", "a2", "b1"):
            await peer.publish(f"in/{name[0]}", name.encode())
        await component.seen(len(together))
        await marker(broker, peer)
        assert set(component.texts) == together
        gate.set()
        await component.seen(3)
    assert component.texts.index("a1") < component.texts.index("a2")


async def test_a_failing_message_holds_up_those_after_it_in_its_topic_only(
    broker: Mosquitto,
) -> None:
    failures = 3

    def decide(event: Event) -> Outcome:
        nonlocal failures
        if event.data == b"a1" and failures:
            failures -= 1
            return FAILED
        return DONE

    component = Component(decide)
    async with service(broker.url, subscription(component)), Peer(broker.port) as peer:
        for name in ("a1", "a2", "b1"):
            await peer.publish(f"in/{name[0]}", name.encode())
        await component.seen(6)
    assert component.texts.index("b1") < component.texts.index("a2")
    assert [t for t in component.texts if t[0] == "a"] == ["a1"] * 4 + ["a2"]


async def test_one_message_for_several_components_is_acknowledged_when_all_are_done(
    broker: Mosquitto,
) -> None:
    gate = asyncio.get_running_loop().create_future()

    async def wait(_: Event) -> Outcome:
        await gate
        return DONE

    quick, slow, other = Component(), Component(wait), Component()
    wanted = (
        subscription(quick, "in/+", "quick"),
        subscription(slow, "in/+", "slow"),
        subscription(other, "#", "other"),
    )
    async with service(broker.url, *wanted, status_topic=""), Peer(broker.port) as peer:
        await peer.publish("in/a", b"x")
        for component in (quick, slow, other):
            await component.seen(1)
        gate.set_result(None)
        await peer.publish("in/a", b"y")
        for component in (quick, slow, other):
            await component.seen(2)
        await marker(broker, peer, "elsewhere")
    for component in (quick, slow):
        assert component.texts == ["x", "y"], "each once, however many subscriptions match"
    assert other.texts == ["x", "y", ""]
    assert quick.events[0].id == slow.events[0].id


async def test_a_message_that_expired_while_it_waited_does_not_run(broker: Mosquitto) -> None:
    gate = asyncio.get_running_loop().create_future()

    async def wait(_: Event) -> Outcome:
        await gate
        return DONE

    component = Component(wait)
    options = subscription(component, dead_letter="dead/x")
    async with Peer(broker.port) as peer:
        await peer.subscribe("dead/#")
        async with service(broker.url, options):
            await peer.publish("in/a", b"first")
            await peer.publish("in/a", b"stale", MessageExpiryInterval=1)
            await component.seen(1)
            asyncio.get_running_loop().call_later(1.5, gate.set_result, None)
            dead = await peer.get()
    assert component.texts == ["first"]
    assert dead.payload == b"stale"
    assert user(dead)["reason"] == "expired before it could be handled"


async def test_a_component_that_raises_is_a_failure(
    broker: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(event: Event) -> Outcome:
        if event.data == b"x":
            raise RuntimeError("a mistake of ours")
        return DONE

    component = Component(broken)
    options = subscription(component, retries=0, dead_letter="dead/x")
    async with Peer(broker.port) as peer:
        await peer.subscribe("dead/#")
        async with service(broker.url, options):
            await peer.publish("in/a", b"x")
            assert user(await peer.get())["reason"] == "failed within the node: RuntimeError"
            await peer.publish("in/a", b"y")
            await component.seen(2)
    assert "a mistake of ours" in caplog.text


def acknowledged(broker: Mosquitto) -> int:
    """How many messages the node has acknowledged; the log is the broker's."""
    return sum("Received PUBACK from edge-" in line for line in broker.log().splitlines())


async def marker(_broker: Mosquitto, peer: Peer, topic: str = "marker") -> None:
    """A round trip through the broker: what was sent before has been delivered."""
    await peer.publish(topic, b"")


async def test_a_flood_of_messages_given_up_is_few_lines(
    broker: Mosquitto, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.platform.sums.SHORT", 0.5)
    component = Component(lambda _: REJECTED)

    def lines(text: str) -> list[str]:
        return [r.getMessage() for r in caplog.records if text in r.getMessage()]

    async with service(broker.url, subscription(component)), Peer(broker.port) as peer:
        for number in range(300):
            await peer.publish("in/a", b"%d" % number)
        await eventually(lambda: lines("given up"))
    assert len(lines("; dropped")) < 100
    assert all("trigger " in line and " x not this one" in line for line in lines("given up"))
