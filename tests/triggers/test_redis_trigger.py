"""The Redis trigger against a real server: what reaches handlers, and what happens when things go
wrong on either side."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis_lab import Server, certificate, free_port, redis_server, trusting

from edge.application.addresses import RedisAddress
from edge.application.channels import RedisTrigger
from edge.invocation.event import DONE, Event, EventHandler, Outcome, Status
from edge.triggers.redis import ChannelSubscription, RedisService


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(running: Server) -> Server:
    assert running.connections() == 0 or running.client.client_kill_filter(_type="pubsub") >= 0
    return running


class Guest:
    """Takes events; `hold` keeps those that begin from then on until `release`."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.events: list[Event] = []
        self.outcomes = list(outcomes)
        self.arrived = asyncio.Condition()
        self.held: list[asyncio.Future[Outcome]] | None = None
        self.cancelled = 0

    def __call__(self, event: Event) -> Outcome | Coroutine[Any, Any, Outcome]:
        self.events.append(event)
        if self.held is None:
            return self.outcomes.pop(0) if self.outcomes else DONE
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.held.append(future)
        return self.wait(future)

    async def wait(self, future: asyncio.Future[Outcome]) -> Outcome:
        try:
            return await future
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def hold(self) -> None:
        self.held = []

    def release(self) -> None:
        held, self.held = self.held or [], None
        for future in held:
            if not future.done():
                future.set_result(DONE)

    @property
    def data(self) -> list[bytes]:
        return [event.data for event in self.events]

    async def got(self, number: int) -> None:
        async with asyncio.timeout(20):
            while len(self.events) < number:  # noqa: ASYNC110
                await asyncio.sleep(0.002)  # a handler is called and has nobody to tell


def subscription(
    url: str, channel: str, handle: EventHandler, id: str = "t", application: str = "app"
) -> ChannelSubscription:
    trigger = RedisTrigger(id, "component", RedisAddress.parse(url), channel)
    return ChannelSubscription(trigger, application, handle)


@contextlib.asynccontextmanager
async def serving(*subscriptions: ChannelSubscription, **more: Any) -> AsyncIterator[RedisService]:
    async with RedisService(**more) as service:
        await service.update(subscriptions)
        await ready(service)
        yield service


async def ready(service: RedisService) -> None:
    async with asyncio.timeout(30):
        await service.ready()


def lines(caplog: pytest.LogCaptureFixture, word: str) -> list[str]:
    return [m for r in caplog.records if word in (m := r.getMessage())]


async def test_a_message_is_an_event(server: Server) -> None:
    guest = Guest()
    async with serving(subscription(server.url, "orders ü", guest)):
        server.client.publish("orders ü", b"\0\r\n\xff")
        server.client.publish("orders ü", b"")
        await guest.got(2)
    first, second = guest.events
    assert (first.kind, first.type, first.subject) == (
        "redis",
        "dev.edge.redis.message",
        "orders ü",
    )
    assert (first.source, first.data, second.data) == (server.url, b"\0\r\n\xff", b"")
    assert first.id != second.id
    assert re.fullmatch(r"[0-9a-f]{16}-[0-9a-f]+", first.id)


async def test_channels_of_one_server_share_a_connection(server: Server) -> None:
    one, two, three = Guest(), Guest(), Guest()
    async with serving(
        subscription(server.url, "a", one, "1"),
        subscription(server.url, "a", two, "2", "other"),
        subscription(server.url, "b", three, "3"),
    ):
        assert server.connections() == 1
        assert server.client.pubsub_numsub("a", "b") == [(b"a", 1), (b"b", 1)]
        server.client.publish("a", b"1")
        server.client.publish("b", b"2")
        await three.got(1)
    assert (one.data, two.data, three.data) == ([b"1"], [b"1"], [b"2"])
    assert one.events[0].id == two.events[0].id


async def test_a_channel_is_no_pattern(server: Server) -> None:
    guest = Guest()
    async with serving(subscription(server.url, "news.*", guest)):
        server.client.publish("news.art", b"wrong")
        server.client.publish("news.*", b"right")
        await guest.got(1)
    assert guest.data == [b"right"]


async def test_a_flood_of_failures_is_few_lines(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.platform.sums.SHORT", 0.1)

    def reject(_: Event) -> Outcome:
        return Outcome(Status.REJECTED, "answered 400")

    told = asyncio.Event()
    caplog.handler.addFilter(
        lambda record: (
            "trigger one: messages were lost" not in record.getMessage() or told.set() or True
        )
    )
    async with serving(subscription(server.url, "c", reject, "one")):
        for number in range(300):
            server.client.publish("c", b"%d" % number)
        await told.wait()
    assert len(lines(caplog, "on c lost: answered 400")) < 200


async def test_a_failure_is_told_and_not_repeated(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    guest = Guest(Outcome(Status.FAILED, "trap"), Outcome(Status.REJECTED, "answered 400"))

    def broken(event: Event) -> Outcome:
        raise KeyError(event.subject)

    async with serving(
        subscription(server.url, "c", guest, "one"), subscription(server.url, "c", broken, "two")
    ):
        for number in range(3):
            server.client.publish("c", b"%d" % number)
        await guest.got(3)
    assert guest.data == [b"0", b"1", b"2"]
    assert lines(caplog, "trigger one") == [
        "app: trigger one: message on c lost: trap",
        "app: trigger one: message on c lost: answered 400",
    ]
    assert len(lines(caplog, "lost: failed within the node: KeyError")) == 3


async def test_a_node_without_room_is_asked_again(server: Server) -> None:
    busy = Outcome(Status.BUSY, "full")
    guest = Guest(busy, busy, busy)
    async with serving(subscription(server.url, "c", guest)):
        server.client.publish("c", b"x")
        await guest.got(4)
        assert len({event.id for event in guest.events}) == 1
        server.client.publish("c", b"y")
        await guest.got(5)
    assert guest.data == [b"x"] * 4 + [b"y"]


async def test_more_messages_than_guests_wait_outside(server: Server) -> None:
    guest = Guest()
    guest.hold()
    async with serving(subscription(server.url, "c", guest)):
        with server.client.pipeline(transaction=False) as pipeline:
            for number in range(1000):
                pipeline.publish("c", b"%d" % number)
            pipeline.execute()
        await guest.got(64)
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(guest.events) == 64
        guest.release()
        await guest.got(1000)
    assert guest.data == [b"%d" % number for number in range(1000)]


async def test_large_messages_are_limited_by_their_bytes(server: Server) -> None:
    guest = Guest()
    guest.hold()
    async with serving(subscription(server.url, "c", guest)):
        for number in range(3):  # the third begins below 32 MiB
            server.client.publish("c", bytes(11 << 20))
            await guest.got(number + 1)
        server.client.publish("c", b"small")
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(guest.events) == 3
        guest.release()
        await guest.got(4)


async def test_a_message_beyond_the_limit_is_told(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    guest = Guest()
    async with serving(subscription(server.url, "c", guest)):
        server.client.publish("c", bytes(17 << 20))
        server.client.publish("c", b"after")
        await guest.got(1)
    assert guest.data == [b"after"]
    assert len(lines(caplog, "message lost: larger than 16777216 bytes")) == 1


async def test_a_flood_leaves_others_their_turn(server: Server) -> None:
    guest, total = Guest(), 20_000
    most = 0  # messages between two turns of somebody else

    async def others() -> None:
        nonlocal most
        seen = 0
        while seen < total:
            await asyncio.sleep(0)
            most = max(most, len(guest.events) - seen)
            seen = len(guest.events)

    async with serving(subscription(server.url, "c", guest)), asyncio.TaskGroup() as group:
        group.create_task(others())
        with server.client.pipeline(transaction=False) as pipeline:
            for _ in range(total):
                pipeline.publish("c", b"x" * 20)
            await asyncio.to_thread(pipeline.execute)
        await guest.got(total)
    assert 0 < most < total // 4


async def test_a_server_that_comes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "edge.redis")
    guest = Guest()
    with redis_server(tmp_path) as server:
        async with serving(subscription(server.url, "c", guest)) as service:
            server.client.publish("c", b"before")
            await guest.got(1)
            server.stop()
            async with asyncio.timeout(30):
                while not lines(caplog, "until it is back"):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            server.start()
            await ready(service)
            server.client.publish("c", b"after")
            await guest.got(2)
        assert guest.data == [b"before", b"after"]
        told = [r.getMessage() for r in caplog.records if r.name == "edge.redis"]
        assert told == [
            f"{server.url}: subscribed to c",
            f"{server.url}: the connection was lost; messages are lost until it is back",
            f"{server.url}: subscribed to c",
        ]


async def test_a_server_that_is_not_there_yet(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    guest, port = Guest(), free_port()
    async with RedisService() as service:
        await service.update([subscription(f"redis://127.0.0.1:{port}", "c", guest)])
        async with asyncio.timeout(30):
            while not lines(caplog, "connection refused"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        server = Server(tmp_path, port=port)
        try:
            server.start()
            await ready(service)
            server.client.publish("c", b"x")
            await guest.got(1)
        finally:
            server.stop()
    assert len(lines(caplog, "connection refused")) == 1


async def test_a_subscriber_that_the_server_drops_subscribes_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    guest = Guest()
    guest.hold()
    with redis_server(tmp_path, "--client-output-buffer-limit", "pubsub 1mb 0 0") as server:
        async with serving(subscription(server.url, "c", guest)) as service:
            for _ in range(200):
                server.client.publish("c", bytes(200_000))
            guest.release()
            async with asyncio.timeout(30):
                while not lines(caplog, "until it is back"):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await ready(service)
            server.client.publish("c", b"after")
            async with asyncio.timeout(30):
                while b"after" not in guest.data:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)


async def test_a_swap_changes_channels_and_handlers(server: Server) -> None:
    old, new = Guest(), Guest()
    old.hold()
    async with serving(
        subscription(server.url, "stays", old), subscription(server.url, "goes", old, "2")
    ) as service:
        server.client.publish("stays", b"1")
        await old.got(1)
        await service.update(
            [subscription(server.url, "stays", new), subscription(server.url, "comes", new, "3")]
        )
        await ready(service)
        counted = server.client.pubsub_numsub("stays", "goes", "comes")
        assert counted == [(b"stays", 1), (b"goes", 0), (b"comes", 1)]
        assert server.connections() == 1
        server.client.publish("stays", b"2")
        server.client.publish("comes", b"3")
        await new.got(2)
        old.release()
        await service.update([])
        assert server.client.pubsub_numsub("stays") == [(b"stays", 0)] or server.connections() <= 1
    assert (old.data, new.data, old.cancelled) == ([b"1"], [b"2", b"3"], 0)


async def test_draining_ends_what_has_begun(server: Server) -> None:
    guest = Guest()
    guest.hold()
    async with serving(subscription(server.url, "c", guest)) as service:
        server.client.publish("c", b"1")
        await guest.got(1)
        draining = asyncio.get_running_loop().create_task(service.drain(20))
        await asyncio.sleep(0.01)
        assert not draining.done()
        guest.release()
        await draining
        server.client.publish("c", b"2")
    assert (guest.data, guest.cancelled) == ([b"1"], 0)


async def test_draining_has_an_end(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    guest = Guest()
    guest.hold()
    async with serving(subscription(server.url, "c", guest)) as service:
        server.client.publish("c", b"1")
        await guest.got(1)
        await service.drain(0.01)
        assert lines(caplog, "1 messages were not finished")
        assert guest.cancelled == 0
    assert guest.cancelled == 1


async def test_a_message_that_begins_as_the_node_ends(server: Server) -> None:
    guest = Guest()
    guest.hold()
    async with serving(subscription(server.url, "c", guest)) as service:
        server.client.publish("c", b"1")
        # The handler's coroutine is cancelled before its first step, as often as not.
        while not guest.events:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await service.drain(0)


async def test_passwords_are_used_and_never_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "edge")
    guest = Guest()
    with redis_server(tmp_path, password="s3cret") as server:
        at = f"127.0.0.1:{server.port}"
        async with serving(subscription(f"redis://:s3cret@{at}", "c", guest)):
            server.client.publish("c", b"x")
            await guest.got(1)
        assert guest.events[0].source == f"redis://{at}"
        async with RedisService() as service:
            await service.update([subscription(f"redis://:wr0ng@{at}", "c", guest)])
            async with asyncio.timeout(30):
                while not lines(caplog, "password is wrong"):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
    assert "s3cret" not in caplog.text
    assert "wr0ng" not in caplog.text


async def test_a_channel_that_is_refused_is_no_other_channels_affair(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    guest = Guest()
    with redis_server(tmp_path) as server:
        rights = {"passwords": ["+pw"], "keys": ["*"], "categories": ["+@all"]}
        server.client.acl_setuser("limited", enabled=True, channels=["good"], **rights)
        url = f"redis://limited:pw@127.0.0.1:{server.port}"
        async with serving(
            subscription(url, "bad", guest, "1"), subscription(url, "good", guest, "2")
        ):
            server.client.publish("bad", b"1")
            server.client.publish("good", b"2")
            await guest.got(1)
    assert guest.data == [b"2"]
    assert len(lines(caplog, "channel bad: NOPERM")) == 1


async def test_tls(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    port = free_port()
    options = ("--tls-port", str(port), "--tls-cert-file", str(cert), "--tls-key-file", str(key))
    guest = Guest()
    with redis_server(tmp_path, *options, "--tls-auth-clients", "no") as server:
        url = f"rediss://localhost:{port}"
        async with serving(subscription(url, "c", guest), tls=trusting(cert)):
            server.client.publish("c", b"x")
            await guest.got(1)


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (b"+PONG\r\n", "does not speak the protocol"),
        (b"-LOADING not yet\r\n", "LOADING"),
        (b"HTTP/1.1 400\r\n\r\n", "does not speak the protocol"),
        (b"", "the connection was lost"),
    ],
)
async def test_a_server_of_another_kind(
    caplog: pytest.LogCaptureFixture, reply: bytes, told: str
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(reply)
        if reply:
            await reader.read()  # until the other side has had enough
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as other, RedisService() as s:
        url = f"redis://127.0.0.1:{other.sockets[0].getsockname()[1]}"
        await s.update([subscription(url, "c", Guest())])
        async with asyncio.timeout(30):
            while not lines(caplog, told):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_a_server_that_does_not_answer_holds_nobody_up() -> None:
    arrived, held = asyncio.Event(), asyncio.Event()

    async def hold(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await held.wait()
        writer.close()

    async with await asyncio.start_server(hold, "127.0.0.1", 0) as silent:
        url = f"redis://:password@127.0.0.1:{silent.sockets[0].getsockname()[1]}"
        async with RedisService() as service:
            await service.update([subscription(url, "c", Guest())])
            await arrived.wait()
        held.set()
