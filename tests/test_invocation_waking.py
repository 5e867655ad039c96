"""Components that sleep until their first event."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edge.errors import BundleError, EdgeError
from edge.invocation import waking
from edge.invocation.application import LiveApplication
from edge.invocation.event import Event, Status
from edge.invocation.sandbox import Sandboxes
from edge.node.node import Node, open_node
from edge.registry import local
from edge.wasi.http.message import LocalReply, Request
from edge.wasi.pipe import BytesSource, read_all

Guest = Callable[[str], Path]

MANIFEST = """
spin_manifest_version = 2

[application]
name = "sleepy"

[[trigger.http]]
route = "/hello"
component = "hello"

[[trigger.http]]
route = "/echo"
component = "echo"

[[trigger.mqtt]]
id = "told"
topic = "a/#"
qos = "1"
component = "hello"

[application.trigger.mqtt]
address = "mqtt://127.0.0.1"
username = ""
password = ""
keep_alive_interval = "30"

[component.hello]
source = "{hello}"

[component.echo]
source = "{echo}"
"""


@dataclass
class Loads:
    """Counts them, and holds or fails them."""

    of: list[str] = field(default_factory=list)
    before: Callable[[], Awaitable[None]] | None = None


@asynccontextmanager
async def asleep(tmp_path: Path, guest: Guest) -> AsyncIterator[tuple[LiveApplication, Loads]]:
    (tmp_path / "spin.toml").write_text(MANIFEST.format(hello=guest("hello"), echo=guest("echo")))
    loads = Loads()
    async with open_node(tmp_path / "code") as node:
        live = await _load(node, tmp_path)
        assert live._waking is not None
        inner = live._waking._load

        async def counted(id: str) -> Sandboxes:
            loads.of.append(id)
            if loads.before is not None:
                await loads.before()
            return await inner(id)

        live._waking = waking.Waking(counted)
        try:
            yield live, loads
        finally:
            live.close()


async def _load(node: Node, path: Path) -> LiveApplication:
    async def nowhere(_url: str, _limit: int) -> bytes:
        raise AssertionError("nothing is fetched")

    loaded = await local.load(path, state_dir=path / "state", fetch=nowhere)
    return await node.load(loaded, {}, asleep=True)


async def ask(live: LiveApplication, path: str, body: bytes = b"") -> tuple[int, bytes]:
    reply = LocalReply()
    request = Request(
        "POST", "http", "h", path, [(b"host", b"h")], BytesSource(body), "127.0.0.1:1"
    )
    work = live(request, reply)
    if work is not None:
        await work
    status, _ = await reply.head()
    return status, await read_all(reply.body, 1 << 20)


def run(work: Callable[[], Any]) -> None:
    asyncio.run(work())


def test_a_component_is_loaded_by_its_first_event_and_only_then(
    tmp_path: Path, guest: Guest
) -> None:
    async def main() -> None:
        async with asleep(tmp_path, guest) as (live, loads):
            assert (live.sandboxes, loads.of) == ({}, [])
            assert [route.text for route in live.routes] == ["/hello", "/echo"]
            status, said = await ask(live, "/hello")
            assert (status, loads.of) == (200, ["hello"])
            assert await ask(live, "/hello") == (status, said)
            assert loads.of == ["hello"]
            assert list(live.sandboxes) == ["hello"]
            assert await ask(live, "/echo", b"again") == (200, b"again")
            assert loads.of == ["hello", "echo"]

    run(main)


def test_an_awake_component_answers_at_once(tmp_path: Path, guest: Guest) -> None:
    async def main() -> None:
        async with asleep(tmp_path, guest) as (live, _):
            await ask(live, "/hello")
            reply = LocalReply()
            request = Request("GET", "http", "h", "/hello", [], BytesSource(), "127.0.0.1:1")
            assert live(request, reply) is None, "no coroutine, as for one loaded at the start"
            assert reply.finished

    run(main)


def test_events_that_come_together_wait_for_one_load(tmp_path: Path, guest: Guest) -> None:
    async def main() -> None:
        async with asleep(tmp_path, guest) as (live, loads):
            begun, gate = asyncio.Event(), asyncio.Event()

            async def held() -> None:
                begun.set()
                await gate.wait()

            loads.before = held
            async with asyncio.TaskGroup() as group:
                asking = [group.create_task(ask(live, "/hello")) for _ in range(20)]
                await begun.wait()
                asking[0].cancel()  # its client has left: the others still wait for the same load
                gate.set()
            assert asking[0].cancelled()
            assert [task.result()[0] for task in asking[1:]] == [200] * 19
            assert loads.of == ["hello"]

    run(main)


def test_a_load_that_fails_is_tried_again_by_the_next_event(tmp_path: Path, guest: Guest) -> None:
    async def main() -> None:
        async with asleep(tmp_path, guest) as (live, loads):

            async def broken() -> None:
                raise BundleError("blob: is damaged")

            loads.before = broken
            with pytest.raises(EdgeError, match="is damaged"):
                await ask(live, "/hello")
            told = live.events["told"](Event("mqtt", "1", "/a", "t", "a/b"))
            assert not hasattr(told, "status")
            outcome = await told  # type: ignore[misc]
            assert (outcome.status, outcome.reason) == (Status.FAILED, "blob: is damaged")
            loads.before = None
            assert (await ask(live, "/hello"))[0] == 200
            assert loads.of == ["hello"] * 3

    run(main)


def test_a_file_that_is_gone_is_an_error_that_names_it(tmp_path: Path, guest: Guest) -> None:
    async def main() -> None:
        async with asleep(tmp_path, guest) as (live, loads):

            async def gone() -> None:
                (tmp_path / "nothing").read_bytes()

            loads.before = gone
            with pytest.raises(EdgeError, match=r"component hello: .*nothing"):
                await ask(live, "/hello")

    run(main)


def test_events_wake_their_component(tmp_path: Path, guest: Guest) -> None:
    async def main() -> None:
        async with asleep(tmp_path, guest) as (live, loads):
            handle = live.events["told"]
            outcome = await handle(Event("mqtt", "1", "/a", "t", "a/b"))  # type: ignore[misc]
            assert outcome.status is Status.DONE
            outcome = await handle(Event("mqtt", "2", "/a", "t", "a/b"))  # type: ignore[misc]
            assert outcome.status is Status.DONE, "who holds the old handler is served by the new"
            assert loads.of == ["hello"]

    run(main)


def test_what_is_retired_loads_nothing_any_more(tmp_path: Path, guest: Guest) -> None:
    async def main() -> None:
        async with asleep(tmp_path, guest) as (live, loads):
            begun = asyncio.Event()

            async def held() -> None:
                begun.set()
                await asyncio.Event().wait()

            async def refused() -> None:
                with pytest.raises(EdgeError, match="not served any more"):
                    await ask(live, "/hello")

            loads.before = held
            async with asyncio.TaskGroup() as group:
                group.create_task(refused())
                await begun.wait()
                live.close()
            with pytest.raises(EdgeError, match="another version"):
                await ask(live, "/echo")

    run(main)


def test_another_component_is_woken_by_a_call_from_inside(tmp_path: Path, guest: Guest) -> None:
    async def main() -> None:
        async with asleep(tmp_path, guest) as (live, loads):
            handler = live.chained("hello")
            assert handler is not None
            reply = LocalReply()
            request = Request("GET", "http", "h", "/x", [], BytesSource(), "127.0.0.1:1")
            work = handler(request, reply)
            assert work is not None
            await work
            assert ((await reply.head())[0], loads.of) == (200, ["hello"])

    run(main)
