"""Events other than HTTP requests, in real guests within this process: by a trigger's own handler
and by CloudEvents over wasi:http.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from edge.config import Limits
from edge.engine import _core
from edge.engine.guest import Component
from edge.errors import ComponentError, ConfigError
from edge.invocation.application import LiveApplication
from edge.invocation.event import Event, EventHandler, Kind, Outcome, Status
from edge.node.node import Node, open_node
from edge.registry import local

MiB = 1 << 20
Guest = Callable[[str], Path]

MANIFEST = """
spin_manifest_version = 2

[application]
name = "the plant"

[application.trigger.redis]
address = "redis://localhost"

[[trigger.{kind}]]
id = "event"
component = "guest"
{fields}

[component.guest]
source = "{wasm}"

[component.guest.tool.edge]
{own}
"""
FIELDS: dict[str, str] = {
    "mqtt": 'topic = "t/#"\nqos = "1"',
    "redis": 'channel = "c"',
    "cron": 'cron_expression = "0 0 3 * * *"',
}


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("code")


class Lab:
    """A node with one application whose only trigger has the id `event`."""

    def __init__(self, node: Node, live: LiveApplication, kind: Kind) -> None:
        self.node, self.live, self.kind = node, live, kind
        self.handle: EventHandler = live.events["event"]
        self.printed: list[str] = []

    async def run(self, subject: str = "t/x", data: bytes = b"", **more: Any) -> Outcome:
        outcome = self.handle(self.event(subject, data, **more))
        return outcome if isinstance(outcome, Outcome) else await outcome

    def event(self, subject: str = "t/x", data: bytes = b"", **more: Any) -> Event:
        return Event(self.kind, "id 1", "/broker", "dev.edge.test", subject, data, **more)


Up = Callable[..., AbstractAsyncContextManager[Lab]]


@pytest.fixture
def up(guest: Guest, code: Path, tmp_path: Path) -> Up:
    """`async with up("mqtt", "on_message", timeout="1s") as lab:`"""

    @asynccontextmanager
    async def serve(
        kind: Kind, name: str, *, core: bool = False, limits: Limits | None = None, **options: Any
    ) -> AsyncIterator[Lab]:
        wasm = guest(name)
        wasm = wasm.with_suffix(".core.wasm") if core else wasm
        own = "\n".join(f"{k} = {v!r}" for k, v in options.items())
        manifest = MANIFEST.format(kind=kind, fields=FIELDS[kind], wasm=wasm, own=own)
        (tmp_path / "spin.toml").write_text(manifest)
        printed: list[str] = []

        def trace(_app: str, _component: str, _invocation: str, _stream: str, line: str) -> None:
            printed.append(line)

        async with open_node(code, limits or Limits(memory=512 * MiB), trace) as node:
            loaded = await local.load(tmp_path, state_dir=tmp_path, fetch=_nothing)
            lab = Lab(node, await node.activate(loaded, {}), kind)
            lab.printed = printed
            budget = node.shared.budget
            try:
                yield lab
            finally:
                lab.live.close()
            assert (budget.memory, budget.slots) == budget.all
        gc.collect()
        assert _core.counters() == {"stores": 0, "calls": 0}

    return serve


async def _nothing(url: str, limit: int) -> bytes:
    raise AssertionError(url)


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "edge.invocation"]


# --- a trigger's own handler ----------------------------------------------------------------------


@pytest.mark.parametrize("core", [False, True], ids=["component", "module"])
@pytest.mark.parametrize(
    ("kind", "name", "printed"),
    [
        ("mqtt", "on_message", "t/x: 21 °C"),
        ("redis", "on_redis", "21 °C"),
        ("cron", "on_tick", "tick 1700000000"),
    ],
)
async def test_a_component_gets_events_by_its_own_handler(
    kind: Kind, name: str, printed: str, core: bool, up: Up
) -> None:
    async with up(kind, name, core=core) as lab:
        event = lab.event("t/x", "21 °C".encode(), time=1_700_000_000.7)
        outcome = lab.handle(event)
        assert outcome == Outcome(Status.DONE), "a small guest needs no coroutine"
        assert lab.printed == [printed]


async def test_a_tick_before_the_clock_is_set_is_at_0(up: Up) -> None:
    async with up("cron", "on_tick") as lab:
        assert (await lab.run()).status is Status.DONE
        assert lab.printed == ["tick 0"]


@pytest.mark.parametrize("core", [False, True], ids=["component", "module"])
@pytest.mark.parametrize(
    ("kind", "name", "subject", "data", "reason"),
    [
        ("mqtt", "on_message", "t/fail", b"", "its handler failed: this reading is"),
        ("mqtt", "on_message", "t/trap", b"", "unreachable"),
        ("mqtt", "on_message", "t/loop", b"", "did not end within its timeout"),
        ("redis", "on_redis", "c", b"fail", "its handler failed: error"),
        ("redis", "on_redis", "c", b"trap", "unreachable"),
    ],
)
async def test_a_handler_that_fails_is_tried_again_and_the_operator_reads_one_line(
    kind: Kind,
    name: str,
    subject: str,
    data: bytes,
    reason: str,
    core: bool,
    up: Up,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with up(kind, name, core=core, timeout="200ms") as lab:
        outcome = await lab.run(subject, data)
        assert outcome.status is Status.FAILED
        assert reason in outcome.reason
        assert "\n" not in outcome.reason
    (record,) = [r for r in caplog.records if r.name == "edge.invocation"]
    assert reason in record.getMessage()
    fields = vars(record)
    assert (fields["EDGE_APP"], fields["EDGE_COMPONENT"]) == ("the plant", "guest")
    assert fields["EDGE_INVOCATION"]


async def test_a_handler_that_waits_is_awaited(up: Up) -> None:
    async with up("mqtt", "on_message") as lab:
        rest = lab.handle(lab.event("t/sleep", b"on"))
        assert not isinstance(rest, Outcome)
        assert (await rest).status is Status.DONE
        assert lab.printed == ["t/sleep: on"]


async def test_a_cancelled_event_leaves_nothing(up: Up) -> None:
    async with up("mqtt", "on_message") as lab:
        rest = lab.handle(lab.event("t/loop"))
        assert not isinstance(rest, Outcome)
        task = asyncio.get_running_loop().create_task(rest)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        never_begun = lab.handle(lab.event("t/sleep"))
        assert not isinstance(never_begun, Outcome)
        never_begun.close()


# --- CloudEvents ----------------------------------------------------------------------------------


async def test_any_http_component_gets_events_as_cloudevents(up: Up) -> None:
    async with up("mqtt", "cloudevent") as lab:
        outcome = lab.handle(
            lab.event(
                "sensors/köln/a %",
                b"21.5",
                content_type="text/x-reading; unit=C",
                time=1_700_000_000.25,
                attributes=(("mqttqos", "1"), ("traceparent", "00-ab-cd-01")),
            )
        )
        assert isinstance(outcome, Outcome), "a small answer needs no coroutine"
        assert outcome.status is Status.DONE
        assert outcome.content_type == "text/x-reading; unit=C"
        assert outcome.reply is not None
        first, *lines = outcome.reply.decode().splitlines()
        assert first == "POST /"
        assert lines[-1] == "21.5"
        headers = dict(line.split(": ", 1) for line in lines[:-1])
        assert {k: v for k, v in headers.items() if not k.startswith("spin-")} == {
            "content-length": "4",
            "content-type": "text/x-reading; unit=C",
            "ce-specversion": "1.0",
            "ce-id": "id%201",
            "ce-source": "/broker",
            "ce-type": "dev.edge.test",
            "ce-subject": "sensors/k%C3%B6ln/a%20%25",
            "ce-time": "2023-11-14T22:13:20.250Z",
            "ce-mqttqos": "1",
            "ce-traceparent": "00-ab-cd-01",
        }
        assert headers["spin-full-url"] == "http://the%20plant/"


async def test_what_is_not_known_is_not_said(up: Up) -> None:
    async with up("cron", "cloudevent") as lab:
        outcome = await lab.run("", content_type='text/plain\r\nce-id: "forged"')
        assert outcome.reply is not None
        names = {line.partition(":")[0] for line in outcome.reply.decode().splitlines()}
        assert "ce-id" in names
        assert not names & {"ce-time", "ce-subject", "content-type"}


@pytest.mark.parametrize(
    ("subject", "status", "reason"),
    [
        ("204", Status.DONE, ""),
        ("200", Status.DONE, ""),
        ("301", Status.FAILED, "answered 301: because of the reading"),
        ("400", Status.REJECTED, "answered 400: because of the reading"),
        ("404", Status.REJECTED, "answered 404: because of the reading"),
        ("408", Status.FAILED, "answered 408: because of the reading"),
        ("429", Status.FAILED, "answered 429: because of the reading"),
        ("503", Status.FAILED, "answered 503: because of the reading"),
        ("trap", Status.FAILED, "unreachable"),
        ("late", Status.FAILED, "unreachable"),
        ("silent", Status.FAILED, "returned without a response"),
        ("loop", Status.FAILED, "did not end within its timeout"),
        ("flood", Status.REJECTED, "response body: larger than 1048576 bytes"),
    ],
)
async def test_the_status_of_the_answer_is_the_outcome(
    subject: str, status: Status, reason: str, up: Up, caplog: pytest.LogCaptureFixture
) -> None:
    async with up("mqtt", "cloudevent", timeout="300ms") as lab:
        outcome = await lab.run(f"t/{subject}")
        assert outcome.status is status
        assert reason in outcome.reason
        assert outcome.reply is None
    lines = logged(caplog)
    assert len(lines) == (status is not Status.DONE)
    assert all(reason in line for line in lines)


async def test_an_answer_that_waits_is_awaited(up: Up) -> None:
    async with up("redis", "cloudevent") as lab:
        rest = lab.handle(lab.event("sleep", b"on"))
        assert not isinstance(rest, Outcome)
        outcome = await rest
        assert outcome.status is Status.DONE
        assert outcome.reply is not None
        assert outcome.reply.endswith(b"\non")


# --- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["on_message", "cloudevent"])
async def test_a_node_without_room_says_so(name: str, up: Up) -> None:
    async with up("mqtt", name, concurrency=1, queue=1, queue_timeout="50ms") as lab:
        first = lab.handle(lab.event("t/loop"))
        second = lab.handle(lab.event("t/x"))
        assert not isinstance(first, Outcome)
        assert not isinstance(second, Outcome)
        waiting = asyncio.get_running_loop().create_task(second)
        await asyncio.sleep(0)
        third = lab.handle(lab.event("t/x"))
        assert isinstance(third, Outcome), "the queue is full: known at once"
        assert third.status is Status.BUSY
        assert (await waiting).status is Status.BUSY
        first.close()


@pytest.mark.parametrize("name", ["on_message", "cloudevent"])
async def test_an_event_that_waited_for_its_place_runs(name: str, up: Up) -> None:
    async with up("mqtt", name, concurrency=1) as lab:
        async with asyncio.TaskGroup() as group:
            tasks = []
            for _ in range(5):
                rest = lab.handle(lab.event("t/sleep"))
                assert not isinstance(rest, Outcome)
                tasks.append(group.create_task(rest))
        assert {task.result().status for task in tasks} == {Status.DONE}


class WithoutFibers:
    """A component whose instances find no place for a stack when they are called."""

    broken, handles = True, 0

    def __init__(self, component: Component) -> None:
        self._component = component

    def instantiate(self, context: Any, memory: int) -> WithoutFibers:
        self.close = self._component.instantiate(context, memory).close
        return self

    def renew(self, _context: object) -> bool:
        return False

    def call(self, _export: int, _arguments: object) -> None:
        raise MemoryError("the pool is full: maximum concurrent fiber limit of 1 reached")


@pytest.mark.parametrize("name", ["on_message", "cloudevent"])
async def test_a_node_without_fibers_is_busy_and_no_guest_failed(
    name: str, up: Up, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with up("mqtt", name) as lab:
        (sandboxes,) = lab.live.sandboxes.values()
        with monkeypatch.context() as patch:
            patch.setattr(sandboxes, "component", WithoutFibers(sandboxes.component))
            outcome = await lab.run()
        assert outcome.status is Status.BUSY
        assert "the pool is full" in outcome.reason
        assert (await lab.run()).status is Status.DONE
    assert not logged(caplog)


@pytest.mark.parametrize("name", ["on_message", "cloudevent"])
async def test_a_component_limits_what_it_takes(name: str, up: Up) -> None:
    async with up("mqtt", name, request_size="10B") as lab:
        assert (await lab.run(data=b"x" * 10)).status is Status.DONE
        outcome = await lab.run(data=b"x" * 11)
        assert outcome == Outcome(
            Status.REJECTED, "larger than 10 bytes, the component's request_size"
        )


async def test_a_component_limits_what_it_answers(up: Up) -> None:
    async with up("mqtt", "cloudevent", response_size="1KiB") as lab:
        outcome = await lab.run("t/flood")
        assert outcome == Outcome(Status.REJECTED, "response body: larger than 1024 bytes")


@pytest.mark.parametrize("name", ["on_message", "cloudevent"])
async def test_a_message_larger_than_the_guest_fails_alone(name: str, up: Up) -> None:
    async with up("mqtt", name) as lab:
        outcome = await lab.run(data=b"x" * (8 * MiB))
        assert outcome.status in (Status.FAILED, Status.REJECTED)
        assert (await lab.run()).status is Status.DONE


# --- what is refused at load ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        (
            "mqtt",
            "on_tick",
            "component guest: exports handle-cron-event, "
            "where handle-message or wasi:http/incoming-handler@0.2 is needed",
        ),
        (
            "redis",
            "on_message",
            "component guest: exports handle-message, where "
            "fermyon:spin/inbound-redis#handle-message or wasi:http/incoming-handler@0.2 is needed",
        ),
        ("cron", "cgi", "where handle-cron-event or wasi:http/incoming-handler@0.2 is needed"),
        (
            "mqtt",
            "on_nothing",
            "component guest: exports handle-message: func(message: string) -> result<_, _>, "
            "where func(message: list<u8>, metadata: record {topic: string})",
        ),
    ],
)
async def test_a_component_that_cannot_serve_its_trigger_is_refused_at_load(
    kind: Kind, name: str, words: str, up: Up
) -> None:
    with pytest.raises(ComponentError, match="is needed") as caught:
        async with up(kind, name):
            pass
    assert words in str(caught.value)


async def test_a_store_that_is_not_there_is_refused_at_load(
    guest: Guest, code: Path, tmp_path: Path
) -> None:
    manifest = MANIFEST.format(
        kind="mqtt", fields=FIELDS["mqtt"], wasm=guest("on_message"), own=""
    ).replace("[component.guest]", '[component.guest]\nkey_value_stores = ["nowhere"]')
    (tmp_path / "spin.toml").write_text(manifest)
    async with open_node(code) as node:
        loaded = await local.load(tmp_path, state_dir=tmp_path, fetch=_nothing)
        with pytest.raises(ConfigError, match=r"component\.guest\.key_value_stores: .*nowhere"):
            await node.activate(loaded, {})
