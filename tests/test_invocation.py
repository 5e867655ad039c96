"""Invocations within this process: deadlines, places, instances kept and made ahead, outcomes."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import make_application

from edge.config import Limits
from edge.engine import _core
from edge.engine._core import Instance
from edge.engine.guest import Component
from edge.errors import ConfigError, GuestError, GuestTimeout, Overloaded
from edge.invocation import sandbox
from edge.invocation.application import LiveApplication
from edge.invocation.once import run_once
from edge.invocation.sandbox import Sandboxes
from edge.node.node import Node, open_node
from edge.registry import local
from edge.wasi.http.message import LocalReply, Request
from edge.wasi.pipe import BytesSource, NullSink, Pipe, Source, read_all

MiB = 1 << 20
Guest = Callable[[str], Path]


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("code")


class Lab:
    """A node with one live application of one component."""

    def __init__(self, node: Node, live: LiveApplication) -> None:
        self.node, self.live = node, live
        self.budget = node.shared.budget

    @property
    def sandboxes(self) -> Sandboxes:
        return next(iter(self.live.sandboxes.values()))

    def start(
        self, path: str, body: Source | None = None, method: str = "GET"
    ) -> tuple[LocalReply, Any]:
        """The reply, and what is left to do for it."""
        reply = LocalReply()
        source = BytesSource() if body is None else body
        request = Request(method, "http", "test", path, [], source, "127.0.0.1:1")
        return reply, self.live(request, reply)

    async def ask(self, path: str = "/") -> tuple[int, bytes]:
        """Status and body. Raises what the reply was aborted with."""
        reply, work = self.start(path)
        if work is not None:
            await work
        status, _ = await reply.head()
        return status, await read_all(reply.body, 1 << 20)

    @property
    def taken(self) -> int:
        """How many places are not free."""
        return (self.budget.all[0] - self.budget.memory) // self.sandboxes.gate.memory


Up = Callable[..., Any]


@pytest.fixture
def up(guest: Guest, code: Path, tmp_path: Path) -> Up:
    """`async with up("hello", timeout="1s") as lab:`"""

    @asynccontextmanager
    async def serve(name: str, limits: Limits | None = None, **options: Any) -> AsyncIterator[Lab]:
        async with open_node(code, limits or Limits(memory=512 * MiB)) as node:
            application = make_application(tmp_path, guest(name), **options)
            loaded = await local.load(application, state_dir=tmp_path, fetch=_nothing)
            lab = Lab(node, await node.activate(loaded, {}))
            try:
                yield lab
            finally:
                lab.live.close()
            assert lab.budget.memory == lab.budget.all[0]
            assert lab.budget.slots == lab.budget.all[1]
        gc.collect()
        assert _core.counters() == {"stores": 0, "calls": 0}

    return serve


async def _nothing(url: str, limit: int) -> bytes:
    raise AssertionError(url)


# --- outcomes -----------------------------------------------------------------------------------


async def test_a_small_answer_needs_no_task(up: Up) -> None:
    async with up("hello") as lab:
        reply, work = lab.start("/x")
        assert work is None
        assert reply.finished
        assert await read_all(reply.body, 100) == b"hello /x"


@pytest.mark.parametrize(
    ("name", "path", "kind", "words"),
    [
        ("loop", "/", GuestTimeout, "did not end within"),
        ("sleeper", "/10000", GuestTimeout, "did not end within"),
        ("recursion", "/", GuestError, "stack"),
        ("silent", "/", GuestError, "without a response"),
        ("late_trap", "/quick/return", GuestError, "before the end of its response"),
        ("late_trap", "/quick/trap", GuestError, "unreachable"),
        ("exit", "/1", GuestError, "exit with status 1"),
        ("start_trap", "/", GuestError, "did not start"),
    ],
)
async def test_the_operator_reads_one_line_of_each_failure(
    name: str,
    path: str,
    kind: type[GuestError],
    words: str,
    up: Up,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with up(name, timeout="100ms") as lab:
        with pytest.raises(kind):
            await lab.ask(path)
    (record,) = [r for r in caplog.records if r.name == "edge.invocation"]
    assert words in record.getMessage()
    assert record.exc_info is None
    fields = vars(record)
    assert (fields["EDGE_APP"], fields["EDGE_COMPONENT"]) == ("test", "guest")
    assert bool(fields["EDGE_INVOCATION"]) is (name != "start_trap")


async def test_ten_thousand_failures_are_few_lines_and_none_is_untold(
    up: Up, caplog: pytest.LogCaptureFixture
) -> None:
    async with up("silent") as lab:
        for number in range(10_000):
            reply, work = lab.start("/")
            if work is not None:  # a machine that is busy interrupts its first slice
                await work
            assert reply.error is not None, number
    records = [r for r in caplog.records if r.name == "edge.invocation"]
    whole, last = records[:-1], records[-1]
    assert len(whole) < 30
    assert len({vars(r)["EDGE_INVOCATION"] for r in whole}) == len(whole)
    assert len(whole) + vars(last)["EDGE_COUNT"] == 10_000
    assert (vars(last)["EDGE_APP"], vars(last)["EDGE_COMPONENT"]) == ("test", "guest")
    assert " x returned without a response" in last.getMessage()


async def test_what_a_guest_prints_is_traced_with_its_names(up: Up, tmp_path: Path) -> None:
    async with up("output_flood", timeout="100ms") as lab:
        lines: list[tuple[str, ...]] = []
        object.__setattr__(lab.node.shared, "trace", lambda *line: lines.append(line))
        with pytest.raises(GuestTimeout):
            await lab.ask("/stderr")
    application, component, invocation, stream, text = lines[0]
    assert (application, component, stream) == ("test", "guest", "stderr")
    assert invocation
    assert text == "x" * 63
    assert "too much" in lines[-1][4]


async def test_a_command_is_told_no_length_that_is_none(
    up: Up, guest: Guest, tmp_path: Path
) -> None:
    async with open_node(tmp_path / "code") as node:
        loaded = await local.load(guest("cgi"), state_dir=tmp_path, fetch=_nothing)
        live = await node.activate(loaded, {})
        headers = [(b"content-length", b"much")]
        request = Request("GET", "http", "test", "/env", headers, BytesSource(), "127.0.0.1:1")
        reply = LocalReply()
        work = live(request, reply)
        assert work is not None
        await work
        assert b"CONTENT_LENGTH=0\n" in await read_all(reply.body, 1 << 20)
        live.close()


# --- deadlines ----------------------------------------------------------------------------------


async def test_an_answer_that_moves_outlives_the_timeout(up: Up) -> None:
    async with up("endless_body", timeout="200ms") as lab:
        reply, work = lab.start("/")
        task = asyncio.get_running_loop().create_task(work)
        end = asyncio.get_running_loop().time() + 1
        while asyncio.get_running_loop().time() < end:
            await reply.body.wait_readable()
            assert reply.body.read_nowait(10_000)
            await asyncio.sleep(0.01)
        assert not task.done()
        # Nobody reads any more.
        await task
        assert isinstance(reply.error, GuestTimeout)


async def test_a_client_that_leaves_ends_its_guest(up: Up) -> None:
    async with up("sleeper") as lab:
        reply, work = lab.start("/10000")
        task = asyncio.get_running_loop().create_task(work)
        await asyncio.sleep(0.01)
        assert _core.counters()["calls"] == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert _core.counters()["calls"] == 0
        assert reply.finished
        assert lab.taken == 0


async def test_work_that_is_never_begun_holds_nothing(up: Up) -> None:
    async with up("sleeper") as lab:
        _, work = lab.start("/10000")
        assert lab.taken == 1
        work.close()
        del work
        gc.collect()
        assert lab.taken == 0
        assert lab.sandboxes.gate.idle


async def test_one_that_waits_at_the_gate_may_leave(up: Up) -> None:
    async with up("sleeper", concurrency=1) as lab:
        loop = asyncio.get_running_loop()
        works = [lab.start("/10000")[1] for _ in range(3)]
        tasks = [loop.create_task(work) for work in works]
        await asyncio.sleep(0.01)
        for task in reversed(tasks):
            task.cancel()
        await asyncio.wait(tasks)
        assert lab.sandboxes.gate.idle
        assert lab.taken == 0


async def test_no_room_is_said_at_once(up: Up) -> None:
    async with up("sleeper", concurrency=1, queue=0) as lab:
        _, work = lab.start("/10000")
        with pytest.raises(Overloaded):
            lab.start("/1")
        work.close()


# --- instances that are kept --------------------------------------------------------------------


async def test_a_reused_instance_keeps_its_place(up: Up) -> None:
    async with up("counter", reuse=3, memory="1MiB") as lab:
        assert [(await lab.ask())[1] for _ in range(2)] == [b"1", b"2"]
        assert lab.taken == 1
        assert (await lab.ask())[1] == b"3"
        assert lab.taken == 0, "it has served all it may"


async def test_an_instance_that_keeps_its_requests_does_not_run_out_of_handles(up: Up) -> None:
    async with up("counter", reuse=100_000, memory="1MiB") as lab:
        counts = [int((await lab.ask("/keep"))[1]) for _ in range(1100)]
        assert counts == [*range(1, 1026), *range(1, 76)]


async def test_a_kept_instance_makes_room_for_who_needs_it(up: Up) -> None:
    async with up("counter", Limits(memory=2 * MiB), reuse=100, memory="1MiB") as lab:
        assert (await lab.ask())[1] == b"1"
        # Another component that takes all there is.
        other = lab.sandboxes.gate.__class__(
            lab.budget, "other", memory=2 * MiB, slots=1, concurrency=1, queue=1, timeout=1
        )
        assert other.enter()
        assert _core.counters()["stores"] == 0
        other.leave()
        assert (await lab.ask())[1] == b"1"


async def test_an_instance_that_is_kept_has_forgotten_its_event(up: Up) -> None:
    async with up("counter") as lab:
        for path in ["/"] * 8 + ["/leak", "/"]:
            assert (await lab.ask(path))[1] == b"1"
        assert lab.taken == _core.counters()["stores"] == 1, "which pages it writes is known by now"
        assert lab.sandboxes.kept == 1


class Counted:
    """A component whose instances are counted as they are made."""

    def __init__(self, component: Component) -> None:
        self._component = component
        self.made = 0

    def instantiate(self, context: Any, memory: int) -> Instance:
        self.made += 1
        return self._component.instantiate(context, memory)


@pytest.mark.parametrize("name", ["python", "javascript"])
async def test_guests_of_large_runtimes_are_renewed(
    name: str, up: Up, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they gain by it is nearly all of a request."""
    async with up(name) as lab:
        counted = Counted(lab.sandboxes.component)
        monkeypatch.setattr(lab.sandboxes, "component", counted)
        for _ in range(20):
            assert (await lab.ask())[0] == 200
        assert counted.made < 10, "those made ahead, and the first ones, of which it learns"


async def test_a_javascript_guest_is_reused_though_it_drops_nothing(up: Up) -> None:
    async with up("javascript", reuse=100) as lab:
        for number in range(1, 5):
            body = BytesSource(b"%d" % number * 1000)
            reply, work = lab.start("/", body, "POST" if number % 2 else "GET")
            if work is not None:
                await work
            content = await read_all(reply.body, 1 << 20)
            assert content == (b"%d" % number * 1000 if number % 2 else b"hello /")
            assert [sandbox.uses for sandbox in lab.sandboxes._idle] == [number]


async def test_kept_instances_go_when_no_event_comes(
    up: Up, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "HOT", 0.05)
    async with up("counter", reuse=100) as lab:
        await lab.ask()
        assert lab.taken == 1
        await asyncio.sleep(0.2)
        assert lab.taken == 0
        assert _core.counters()["stores"] == 0


async def test_instances_are_made_ahead_where_that_pays(
    up: Up, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "WORTH_PREPARING", 0.0)
    async with up("counter") as lab:
        assert (await lab.ask())[1] == b"1"
        assert lab.taken == 0
        await asyncio.sleep(0.01)
        assert lab.taken == sandbox.AHEAD == _core.counters()["stores"]
        assert (await lab.ask())[1] == b"1", "it is fresh all the same"


async def test_nothing_is_made_ahead_where_there_is_no_room(
    up: Up, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "WORTH_PREPARING", 0.0)
    async with up("sleeper", Limits(memory=2 * MiB), memory="1MiB") as lab:
        assert (await lab.ask("/0"))[0] == 200
        _, work = lab.start("/10000")
        await asyncio.sleep(0.01)
        assert lab.taken == 2, "one that runs, one ahead"
        work.close()


async def test_an_application_that_was_replaced_keeps_nothing(up: Up) -> None:
    async with up("counter", reuse=100) as lab:
        await lab.ask()
        lab.node.retire(lab.live)
        assert lab.taken == 0
        assert (await lab.ask())[1] == b"1", "requests that began with it go on"
        assert lab.taken == 0


async def test_a_replaced_application_is_collected(up: Up) -> None:
    async with up("hello") as lab:
        await lab.ask()
        seen = weakref.ref(lab.live)
        lab.node.retire(lab.live)
        del lab.live
        gc.collect()
        assert seen() is None
        lab.live = _Closed()


class _Closed:
    def close(self) -> None:
        return


async def test_writable_files_are_memory(up: Up) -> None:
    with pytest.raises(ConfigError, match="an instance takes 65MiB"):
        async with up("hello", Limits(memory=64 * MiB), scratch="1MiB"):
            pass


async def test_a_component_larger_than_the_node_is_a_mistake(up: Up) -> None:
    with pytest.raises(ConfigError, match="an instance takes 64MiB"):
        async with up("hello", Limits(memory=32 * MiB)):
            pass


# --- fairness -----------------------------------------------------------------------------------


async def test_guests_that_compute_share_and_let_others_pass(up: Up) -> None:
    async with up("loop", timeout="1s") as lab:
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(lab.ask()) for _ in range(8)]
        await asyncio.sleep(0.1)
        started, turns = loop.time(), 0
        while loop.time() - started < 0.5:
            await asyncio.sleep(0)
            turns += 1
        # One slice of one of them for each turn of the loop, not one of each.
        assert turns > 40
        await asyncio.wait(tasks)
        assert all(isinstance(task.exception(), GuestTimeout) for task in tasks)


# --- a command for its own sake -----------------------------------------------------------------


async def test_run_once_returns_the_status(
    up: Up, guest: Guest, code: Path, tmp_path: Path
) -> None:
    async with open_node(code) as node:
        loaded = await local.load(guest("cgi"), state_dir=tmp_path, fetch=_nothing)
        live = await node.activate(loaded, {})
        sandboxes, export = live.command()

        async def run(*arguments: str, stdin: bytes = b"") -> tuple[int, bytes]:
            output = Pipe(1 << 20)
            names = ("cgi", *arguments)
            streams = (BytesSource(stdin), output, NullSink())
            status = await run_once(sandboxes, export, names, *streams)
            output.finish()
            return status, await read_all(output, 1 << 20)

        assert (await run("/exit/3"))[0] == 3
        status, output = await run("/body", stdin=b"input")
        assert (status, output.endswith(b"\n\ninput")) == (0, True)
        with pytest.raises(GuestError, match="unreachable"):
            await run("/abort")
        assert sandboxes.gate.idle
        live.close()
