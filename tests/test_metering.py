"""What is counted of invocations: each by its outcome, once, with the time that it took."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import make_application

from edge.config import Limits
from edge.errors import EdgeError, Overloaded
from edge.invocation.application import LiveApplication
from edge.invocation.event import Event, Outcome
from edge.invocation.meter import BOUNDS, Histogram, Meter, Meters
from edge.node import health
from edge.node.node import Node, open_node
from edge.registry import local
from edge.wasi.http.message import Headers, LocalReply, Request
from edge.wasi.pipe import BytesSource, read_all

Guest = Callable[[str], Path]
Work = Any

EVENTS = """
spin_manifest_version = 2
[application]
name = "test"
[[trigger.mqtt]]
id = "event"
component = "guest"
topic = "t/#"
[component.guest]
source = "%s"
"""


class Lab:
    """A node with one live application of one component."""

    def __init__(self, node: Node, live: LiveApplication) -> None:
        self.node, self.live = node, live

    @property
    def meter(self) -> Meter:
        ((application, component, meter),) = self.node.meters
        assert (application, component) == ("test", "guest")
        return meter

    @property
    def counted(self) -> dict[str, int]:
        """Outcomes that there were."""
        counts = {"ok": self.meter.ok, **self.meter.outcomes}
        return {outcome: count for outcome, count in counts.items() if count}

    def start(self, path: str = "/", headers: Headers | None = None) -> Work:
        request = Request("GET", "http", "h", path, headers or [], BytesSource(), "127.0.0.1:1")
        return self.live(request, LocalReply())

    async def ask(self, path: str = "/") -> None:
        request = Request("GET", "http", "h", path, [], BytesSource(), "127.0.0.1:1")
        reply = LocalReply()
        work = self.live(request, reply)
        task = asyncio.get_running_loop().create_task(_done(work))
        with suppress(EdgeError, OSError):
            await reply.head()
            await read_all(reply.body, 1 << 20)
        await task

    async def tell(self, subject: str) -> None:
        event = Event("mqtt", "1", "/broker", "dev.edge.test", subject, b"x")
        outcome = self.live.events["event"](event)
        if not isinstance(outcome, Outcome):
            await outcome


async def _done(work: Work) -> None:
    if work is not None:
        await work


Up = Callable[..., AbstractAsyncContextManager[Lab]]


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("code")


@pytest.fixture
def up(guest: Guest, code: Path, tmp_path: Path) -> Up:
    """`async with up("hello", timeout="1s") as lab:`; `events`: without a route, by MQTT."""

    @asynccontextmanager
    async def serve(name: str, *, events: bool = False, **options: Any) -> AsyncIterator[Lab]:
        async with open_node(code, Limits(memory=512 << 20)) as node:
            make_application(tmp_path, guest(name), **options)
            if events:
                (tmp_path / "spin.toml").write_text(EVENTS % guest(name))
            loaded = await local.load(tmp_path, state_dir=tmp_path, fetch=_nothing)
            lab = Lab(node, await node.activate(loaded, {}))
            yield lab
            lab.live.close()

    return serve


async def _nothing(url: str, limit: int) -> bytes:
    raise AssertionError(url)


@pytest.mark.parametrize(
    ("name", "path", "outcome"),
    [
        ("hello", "/", "ok"),
        ("sleeper", "/1", "ok"),  # not within its first slice
        ("status", "/404", "ok"),
        ("status", "/503", "failed"),
        ("silent", "/", "failed"),
        ("late_trap", "/quick/trap", "failed"),
        ("start_trap", "/", "failed"),
        ("loop", "/", "timeout"),
        ("sleeper", "/10000", "timeout"),
        ("endless_body", "/", "limit"),
    ],
)
async def test_each_outcome_of_a_request(name: str, path: str, outcome: str, up: Up) -> None:
    limits = {"response_size": "64KiB"} if outcome == "limit" else {}
    async with up(name, timeout="100ms", **limits) as lab:
        for count in (1, 2):
            await lab.ask(path)
            assert lab.counted == {outcome: count}
            assert sum(lab.meter.latency.counts) == count
        (place,) = lab.meter.places
        assert (place.in_flight, place.queued) == (0, 0)


@pytest.mark.parametrize(
    ("name", "subject", "outcome"),
    [
        ("on_message", "t/x", "ok"),
        ("on_message", "t/fail", "failed"),
        ("on_message", "t/trap", "failed"),
        ("cloudevent", "t/x", "ok"),
        ("cloudevent", "t/404", "failed"),
        ("cloudevent", "t/500", "failed"),
    ],
)
async def test_each_outcome_of_an_event(name: str, subject: str, outcome: str, up: Up) -> None:
    async with up(name, events=True) as lab:
        await lab.tell(subject)
        assert lab.counted == {outcome: 1}
        assert sum(lab.meter.latency.counts) == 1


@pytest.mark.parametrize(
    ("path", "outcome"),
    [("/env", "ok"), ("/exit/0", "failed"), ("/exit/3", "failed"), ("/abort", "failed")],
)
async def test_each_outcome_of_a_command(
    path: str, outcome: str, guest: Guest, code: Path, tmp_path: Path
) -> None:
    async with open_node(code) as node:
        loaded = await local.load(guest("cgi"), state_dir=tmp_path, fetch=_nothing)
        live = await node.activate(loaded, {})
        await Lab(node, live).ask(path)
        ((_, _, meter),) = node.meters
        assert {"ok": meter.ok, **meter.outcomes}[outcome] == 1
        assert meter.ok + sum(meter.outcomes.values()) == 1
        live.close()


async def test_a_client_that_leaves_is_no_failure(up: Up) -> None:
    async with up("sleeper", concurrency=2) as lab:
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(lab.start("/10000")) for _ in range(3)]
        await asyncio.sleep(0)
        (place,) = lab.meter.places
        assert (place.in_flight, place.queued) == (2, 1)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        lab.start("/10000").close()  # before its first step
        assert lab.counted == {"cancelled": 4}
        assert sum(lab.meter.latency.counts) == 3, "one of them never ran"


async def test_who_finds_no_room_is_counted_and_has_no_latency(up: Up) -> None:
    async with up("sleeper", concurrency=1, queue=0) as lab:
        work = lab.start("/10000")
        for _ in range(2):
            with pytest.raises(Overloaded):
                lab.start("/1")
        work.close()
        assert lab.counted == {"cancelled": 1, "overloaded": 2}
        assert sum(lab.meter.latency.counts) == 1


async def test_who_waits_too_long_for_room_is_counted(up: Up) -> None:
    async with up("sleeper", concurrency=1, queue_timeout="10ms") as lab:
        work = lab.start("/10000")
        with pytest.raises(Overloaded):
            await lab.start("/1")
        work.close()
        assert lab.counted == {"cancelled": 1, "overloaded": 1}


async def test_what_is_too_large_is_counted(up: Up) -> None:
    async with up("hello", request_size="1KiB") as lab:
        with pytest.raises(EdgeError):
            lab.start("/", [(b"content-length", b"2000")])
        assert lab.counted == {"too_large": 1}


async def test_the_wait_for_room_is_measured_apart(up: Up) -> None:
    async with up("sleeper", concurrency=1) as lab:
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(lab.ask("/50"))
        assert lab.counted == {"ok": 3}
        assert sum(lab.meter.waits.counts) == 2
        assert lab.meter.waits.sum >= 0.15, "the third waited for two"
        assert lab.meter.latency.sum >= 0.15


async def test_a_new_version_counts_on(up: Up, tmp_path: Path) -> None:
    async with up("hello") as lab:
        await lab.ask()
        before = lab.live
        loaded = await local.load(tmp_path, state_dir=tmp_path, fetch=_nothing)
        lab.live = await lab.node.activate(loaded, {})
        before.close()
        await lab.ask()
        assert lab.counted == {"ok": 2}


async def test_the_nodes_own_questions_are_not_counted(up: Up) -> None:
    async with up("hello", health="/x") as lab:
        await health.check(lab.live)
        assert lab.counted == {}


def test_a_bucket_holds_its_bound() -> None:
    histogram = Histogram()
    for seconds in (0.0, BOUNDS[0], BOUNDS[0] + 1e-9, BOUNDS[-1], BOUNDS[-1] + 1):
        histogram.add(seconds)
    assert histogram.counts == [2, 1, *[0] * (len(BOUNDS) - 3), 1, 1]


def test_what_is_gone_is_forgotten() -> None:
    meters = Meters()
    kept, gone = meters.of("b", "x"), meters.of("a", "x")
    assert meters.of("a", "x") is gone
    meters.drop("a")
    assert [names for *names, _ in meters] == [["b", "x"]]
    assert meters.of("b", "x") is kept
