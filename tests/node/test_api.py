"""The node API on its socket: what it answers, what it refuses, who may connect."""

from __future__ import annotations

import asyncio
import base64
import grp
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from edge import config
from edge.config import ApplicationEntry, Mount
from edge.errors import ConfigError, EdgeError, GuestError, PullError
from edge.invocation.application import LiveApplication
from edge.node.api import Api
from edge.node.client import NodeClient
from edge.node.control import Control, Facts
from edge.node.node import open_node
from edge.registry import local
from edge.registry.digest import Digest
from edge.registry.manifest import Manifest
from edge.registry.reference import Reference
from edge.registry.store import ContentStore
from edge.registry.sync.status import AppStatus

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
REF = "registry.example/team/hello:1.0"
DIGEST = Digest("1a" * 32)


@dataclass
class Running:
    """A daemon and its sync, as far as the API sees them: what was asked of them, what they say."""

    settings: config.Daemon
    applications: dict[str, LiveApplication] = field(default_factory=dict)
    entries: dict[str, ApplicationEntry] = field(default_factory=dict)
    statuses: dict[str, AppStatus] = field(default_factory=dict)
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    error: Exception | None = None
    needed: frozenset[Digest] = frozenset()
    quota: int | None = None
    gate: asyncio.Event | None = None
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def sync(self) -> Running:
        return self

    def live(self, name: str) -> LiveApplication | None:
        return self.applications.get(name)

    async def facts(self) -> Facts:
        return Facts(
            listening=("http://127.0.0.1:8080",), last_sync=60.0, stored=5 << 20, notes=("a note",)
        )

    async def reload(self) -> Sequence[str]:
        await self._work("reload")
        return ["[http] needs a restart"]

    def apps(self) -> Sequence[AppStatus]:
        return list(self.statuses.values())

    def kept(self) -> frozenset[Digest]:
        return self.needed

    def deployed(self, name: str) -> ApplicationEntry | None:
        return self.entries.get(name)

    async def deploy(self, entry: ApplicationEntry, progress: Callable[[str], None]) -> None:
        progress(f"pulling {entry.reference}")
        await self._work("deploy", entry.name)
        self.entries[entry.name] = entry
        self.add(entry.name, entry.reference or "", entry.mount)

    async def undeploy(self, name: str, *, purge: bool) -> None:
        await self._work("undeploy", name, purge)
        del self.statuses[name]

    async def rollback(self, name: str) -> None:
        await self._work("rollback", name)

    async def sync_now(self, name: str | None, *, retry: bool) -> None:
        await self._work("sync", name, retry)

    @property
    def store(self) -> ContentStore:
        return ContentStore(self.settings.node.state_dir, quota=self.quota)

    def pushed(self, reference: Reference, digest: Digest) -> None:
        self.asked.append(("pushed", str(reference), digest))

    def add(self, name: str, reference: str = REF, mount: Mount = Mount()) -> AppStatus:  # noqa: B008
        status = AppStatus(name, reference, "deploy", mount, DIGEST, None, "live", None, 1.7e9)
        self.statuses[name] = status
        return status

    async def _work(self, *asked: Any) -> None:
        self.begun.set()
        if self.gate is not None:
            await self.gate.wait()
        self.asked.append(asked)
        if self.error is not None:
            raise self.error


Open = Callable[..., Any]


@pytest.fixture
def node(tmp_path: Path) -> Open:
    """`async with node("hello") as (running, client):` with these examples live."""

    @asynccontextmanager
    async def opened(*names: str) -> AsyncIterator[tuple[Running, NodeClient]]:
        running = Running(config.Daemon(config.Node("pi", {"site": "lab"}, tmp_path)))
        path = tmp_path / "run" / "edge.sock"
        async with open_node(tmp_path / "code", config.Limits(memory=512 << 20)) as shared:
            for name in names:
                loaded = await local.load(EXAMPLES / name, state_dir=tmp_path, fetch=_nothing)
                running.applications[name] = await shared.activate(loaded, {})
                running.add(name)
            async with Api(Control(running), path), NodeClient(path) as client:
                yield running, client
            for live in running.applications.values():
                live.close()

    return opened


async def _nothing(url: str, limit: int) -> bytes:
    raise AssertionError(url)


async def lines(client: NodeClient, path: str, body: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [line async for line in client.lines(path, body)]


async def invoked(client: NodeClient, name: str, **call: Any) -> tuple[dict[str, Any], bytes]:
    """The head of the answer, and its body."""
    head, *rest = await lines(client, "/v1/invoke", {"name": name, **call})
    assert rest.pop()["seconds"] > 0
    return head, b"".join(base64.b64decode(part["data"]) for part in rest)


# --- reading and changing ------------------------------------------------------------------------


async def test_what_a_node_is_and_runs_is_json(node: Open) -> None:
    async with node() as (running, client):
        assert await client.get("/v1/apps") == []
        running.add("hello", mount=Mount("/hello", "pi.local"))
        shown = {
            "name": "hello",
            "mount": {"path": "/hello", "host": "pi.local"},
            "state": "live",
            "reason": None,
            "since": "2023-11-14T22:13:20Z",
            "source": "deploy",
            "reference": REF,
            "digest": f"sha256:{'1a' * 32}",
            "previous": None,
        }
        assert await client.get("/v1/apps") == [shown]
        nothing = {"version": None, "description": None, "components": [], "triggers": []}
        assert await client.get("/v1/apps/hello") == {**shown, **nothing}
        status = await client.get("/v1/status")
        assert status["uptime"] > 0
        assert status["version"]
        expected = {
            "name": "pi",
            "labels": {"site": "lab"},
            "applications": {"live": 1},
            "listening": ["http://127.0.0.1:8080"],
            "last_sync": "1970-01-01T00:01:00Z",
            "store": {"used": 5 << 20, "quota": 4 << 30},
            "notes": ["a note"],
        }
        assert expected.items() <= status.items()


async def test_a_deploy_tells_how_far_it_is_and_what_came_of_it(node: Open) -> None:
    async with node() as (running, client):
        body = {"reference": REF, "mount": "/h/", "variables": {"limit": "3"}}
        said = await lines(client, "/v1/deploy", body)
        assert said[0] == {"progress": f"pulling {REF}"}
        assert said[1]["result"]["mount"] == {"path": "/h", "host": None}
        assert len(said) == 2
        assert running.entries["hello"] == ApplicationEntry(
            "hello", REF, mount=Mount("/h"), variables={"limit": "3"}
        )


async def test_what_is_not_given_stays_as_it_was_deployed(node: Open) -> None:
    async with node() as (running, client):
        before = ApplicationEntry(
            "hello",
            REF,
            mount=Mount("/h", "pi.local"),
            variables={"a": "1", "b": "2"},
            variables_files={"c": Path("/c"), "d": Path("/d")},
            options={"hello": {"timeout": 1.0}},
        )
        running.entries["hello"] = before
        newer = REF.replace("1.0", "2.0")
        await client.result("/v1/deploy", {"reference": newer})
        assert running.entries["hello"] == replace(before, reference=newer)
        changes = {"variables": {"a": "9", "c": "3"}, "variables_files": {"b": "/b"}}
        await client.result("/v1/deploy", {"reference": newer, "mount": "/", **changes})
        assert running.entries["hello"] == replace(
            before,
            reference=newer,
            mount=Mount(),
            variables={"a": "9", "c": "3"},
            variables_files={"d": Path("/d"), "b": Path("/b")},
        )


async def test_the_other_verbs_ask_for_what_they_say(node: Open) -> None:
    async with node() as (running, client):
        running.add("a")
        running.add("b")
        assert (await client.result("/v1/rollback", {"name": "a"}))["name"] == "a"
        assert len(await client.result("/v1/sync", {})) == 2
        await client.result("/v1/sync", {"name": "a", "retry": True})
        await client.result("/v1/undeploy", {"name": "a"})
        await client.result("/v1/undeploy", {"name": "b", "purge": True})
        assert await client.result("/v1/reload", {}) == ["[http] needs a restart"]
        assert running.asked == [
            ("rollback", "a"),
            ("sync", None, False),
            ("sync", "a", True),
            ("undeploy", "a", False),
            ("undeploy", "b", True),
            ("reload",),
        ]


@pytest.mark.parametrize(
    ("path", "body", "message", "hint"),
    [
        ("/v1/deploy", {}, 'deploy: missing key "reference"', None),
        ("/v1/deploy", {"reference": "hello"}, "names no registry", "registry.example"),
        ("/v1/deploy", {"reference": REF, "nmae": "x"}, "unknown key", '"name"'),
        ("/v1/deploy", {"reference": REF, "name": "../x"}, "is not a name", None),
        ("/v1/deploy", {"reference": REF, "mount": "x"}, "must begin with", None),
        ("/v1/deploy", {"reference": REF, "variables_files": {"a": "b"}}, "an absolute path", None),
        ("/v1/deploy", [], "must be a table", None),
        ("/v1/undeploy", {"name": "helo"}, "helo: is not on this node", '"hello"'),
        ("/v1/rollback", {"name": "x"}, "x: is not on this node", "`edge apps`"),
        ("/v1/sync", {"name": "x"}, "x: is not on this node", "`edge apps`"),
        ("/v1/invoke", {"name": "x"}, "x: is not on this node", "`edge apps`"),
        ("/v1/invoke", {"name": "hello", "data": "?"}, "must be base64", None),
        ("/v1/invoke", {"name": "hello", "headers": [["a"]]}, "a name and a value", None),
        ("/v1/invoke", {"name": "hello", "headers": [["a b", ""]]}, "not a token", None),
        ("/v1/invoke", {"name": "hello", "headers": [["a", "x\r\ny: z"]]}, "control", None),
        ("/v1/invoke", {"name": "hello", "path": "x"}, "is not a path", None),
        ("/v1/invoke", {"name": "hello", "method": "GET /"}, "not a token", None),
        ("/v1/nothing", {}, "POST /v1/nothing: Not Found", None),
        ("/v1/apps", {}, "POST /v1/apps: Method Not Allowed", None),
    ],
)
async def test_a_mistake_is_told_with_its_place(
    path: str, body: Any, message: str, hint: str | None, node: Open
) -> None:
    async with node() as (running, client):
        running.add("hello")
        with pytest.raises(EdgeError) as caught:
            await lines(client, path, body)
        assert message in caught.value.message
        assert hint is None or hint in (caught.value.hint or "")
        assert not running.asked


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ConfigError("route /a is taken", hint="mount it"), ConfigError, "route /a is taken"),
        (PullError("it does not answer", hint="mount it"), EdgeError, "it does not answer"),
    ],
)
async def test_what_a_node_refuses_is_raised_as_there(
    error: EdgeError, kind: type[EdgeError], message: str, node: Open
) -> None:
    async with node() as (running, client):
        running.error = error
        with pytest.raises(EdgeError) as caught:
            await client.result("/v1/deploy", {"reference": REF})
        assert type(caught.value) is kind
        assert (caught.value.message, caught.value.hint) == (message, "mount it")


async def test_a_mistake_of_ours_is_in_the_log_and_the_node_goes_on(
    node: Open, caplog: pytest.LogCaptureFixture
) -> None:
    async with node() as (running, client):
        running.error = ValueError("secret")
        with pytest.raises(EdgeError, match="the node made a mistake") as caught:
            await client.result("/v1/reload", {})
        assert "secret" not in str(caught.value)
        assert "secret" in caplog.text
        running.error = None
        assert await client.result("/v1/reload", {})


async def test_a_deploy_goes_on_when_who_asked_has_gone(node: Open, tmp_path: Path) -> None:
    async with node() as (running, client):
        running.gate = asyncio.Event()
        async with NodeClient(tmp_path / "run" / "edge.sock") as other:
            async for _progress in other.lines("/v1/deploy", {"reference": REF}):
                break
        await running.begun.wait()
        running.gate.set()
        await client.result("/v1/reload", {})
        assert running.asked[0] == ("deploy", "hello")


async def test_an_import_takes_no_more_than_the_store_may_hold(node: Open) -> None:
    async with node() as (running, client):
        running.quota = 8 << 20
        needed, other = (running.store.add(bytes([n]) * (3 << 20), "") for n in range(2))
        bundle = Manifest(running.store.add(b"{}", "application/json"), (needed,))
        running.needed = frozenset((running.store.add(bundle.to_bytes(), "").digest,))
        sent = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal sent
            while sent < 1 << 30:
                sent += 1 << 20
                yield bytes(1 << 20)

        with pytest.raises(EdgeError, match="beyond its quota"):
            await client.send("/v1/import?title=stick.tar", endless())
        assert sent < 64 << 20
        # What nothing needs made room, but what serves has no other name than that it does.
        assert running.store.has(needed)
        assert not running.store.has(other)
        await _refused(client, "is not an")


async def test_one_import_at_a_time(node: Open) -> None:
    async with node() as (_, client):
        begun, end = asyncio.Event(), asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield b"x"
            begun.set()
            await end.wait()

        async with asyncio.TaskGroup() as group:
            waits = group.create_task(_refused(client, "is not an", slow()))
            await begun.wait()
            await _refused(client, "another import is under way")
            end.set()
            await waits
        await _refused(client, "is not an")


async def _body() -> AsyncIterator[bytes]:
    yield b"x" * 1024


async def _refused(client: NodeClient, why: str, body: AsyncIterator[bytes] | None = None) -> None:
    with pytest.raises(EdgeError, match=why):
        await client.send("/v1/import", body or _body())


async def test_what_is_asked_is_one_line_of_the_log(
    node: Open, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with node() as (_, client):
        with pytest.raises(ConfigError):
            await client.result("/v1/undeploy", {"name": "x\nroot did it"})
    assert f"undeploy of x?root did it, asked by user {os.geteuid()}" in caplog.messages


async def test_work_under_way_ends_with_the_node(node: Open) -> None:
    async with asyncio.TaskGroup() as group, node() as (running, client):
        running.gate = asyncio.Event()

        async def deploy() -> None:
            with pytest.raises(EdgeError):
                await client.result("/v1/deploy", {"reference": REF})

        group.create_task(deploy())
        await running.begun.wait()


# --- invoking ------------------------------------------------------------------------------------


async def test_a_request_is_answered_as_by_the_routes(node: Open) -> None:
    async with node("hello", "echo") as (_, client):
        head, body = await invoked(client, "hello", path="/world?x=1")
        assert (head["status"], body) == (200, b"hello /world?x=1")
        assert ["content-type", "text/plain"] in head["headers"]
        big = os.urandom(1 << 20)
        data = base64.b64encode(big).decode()
        head, body = await invoked(client, "echo", method="POST", data=data, component="echo")
        assert (head["status"], body) == (200, big)


async def test_an_event_runs_its_trigger(node: Open) -> None:
    async with node("thermostat", "timer") as (_, client):
        reading = {"trigger": "readings", "subject": "sensors/attic/temperature"}
        head, body = await invoked(client, "thermostat", **reading, data="MzEuNQ==")
        assert (head["outcome"], body) == ("done", b"attic: 31.5 is above 25")
        head, _ = await invoked(client, "thermostat", **reading, data="aG90")
        assert head["outcome"] == "rejected"
        assert (await invoked(client, "thermostat"))[1] == b"attic 31.5\n"
        head, _ = await invoked(client, "timer", trigger="ticks")
        assert head["outcome"] == "done"
        assert b"1 ticks" in (await invoked(client, "timer"))[1]


@pytest.mark.parametrize(
    ("name", "call", "message", "hint"),
    [
        ("thermostat", {"component": "thermo"}, "nothing runs a component thermo", '"thermostat"'),
        ("thermostat", {"trigger": "reading"}, "has no trigger reading", '"readings"'),
        ("thermostat", {"trigger": "readings"}, "stands for many topics", "--subject"),
        ("hello", {"trigger": "x"}, "has no trigger x", "none"),
    ],
)
async def test_a_call_that_cannot_be_says_what_can(
    name: str, call: dict[str, str], message: str, hint: str, node: Open
) -> None:
    async with node("thermostat", "hello") as (_, client):
        with pytest.raises(ConfigError, match=message) as caught:
            await invoked(client, name, **call)
        assert hint in (caught.value.hint or "")


async def test_what_does_not_serve_cannot_be_invoked(node: Open) -> None:
    async with node() as (running, client):
        status = replace(running.add("hello"), state="failed", reason="no route to host")
        running.statuses["hello"] = status
        with pytest.raises(EdgeError, match="hello: is failed, and nothing serves: no route"):
            await invoked(client, "hello")


async def test_the_operator_reads_why_a_guest_failed(
    node: Open, guest: Callable[[str], Path], tmp_path: Path
) -> None:
    async with node() as (running, client), open_node(tmp_path / "code2") as shared:
        loaded = await local.load(guest("late_trap"), state_dir=tmp_path, fetch=_nothing)
        running.applications["trap"] = live = await shared.activate(loaded, {})
        running.add("trap")
        with pytest.raises(EdgeError, match="unreachable") as caught:
            await invoked(client, "trap", path="/quick/trap")
        assert not isinstance(caught.value, GuestError)
        live.close()


# --- the socket ----------------------------------------------------------------------------------


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_the_socket_is_for_its_owner_and_group(node: Open, tmp_path: Path) -> None:
    path = tmp_path / "run" / "edge.sock"
    async with node():
        assert mode(path) == 0o660
        assert [p.name for p in path.parent.iterdir()] == ["edge.sock"]
    assert not path.exists()


async def test_what_a_dead_node_left_is_replaced(node: Open, tmp_path: Path) -> None:
    path = tmp_path / "run" / "edge.sock"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with node() as (_, client):
        assert await client.get("/v1/apps") == []


async def test_a_second_node_is_refused(node: Open, tmp_path: Path) -> None:
    async with node() as (_, client):
        path = tmp_path / "run" / "edge.sock"
        with pytest.raises(EdgeError, match="another node answers there"):
            async with Api(Control(Running(config.Daemon())), path):
                pass
        assert await client.get("/v1/apps") == []


async def test_a_socket_that_cannot_be_is_told(tmp_path: Path) -> None:
    control = Control(Running(config.Daemon()))
    there = tmp_path / "file"
    there.write_text("mine")
    with pytest.raises(EdgeError, match="is there and is no socket"):
        await Api(control, there).__aenter__()
    assert there.read_text() == "mine"
    with pytest.raises(ConfigError, match=r"file/edge\.sock: file exists"):
        await Api(control, there / "edge.sock").__aenter__()
    with pytest.raises(ConfigError, match="too long for a UNIX socket"):
        await Api(control, tmp_path / ("x" * 108)).__aenter__()
    with pytest.raises(ConfigError, match="there is no group nobody-of-that-name"):
        await Api(control, tmp_path / "s", "nobody-of-that-name").__aenter__()
    assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
async def test_the_group_is_the_one_that_was_named(tmp_path: Path) -> None:
    path = tmp_path / "edge.sock"
    async with Api(Control(Running(config.Daemon())), path, "daemon"):
        assert path.stat().st_gid == grp.getgrnam("daemon").gr_gid


async def test_without_a_node_the_reason_is_told(tmp_path: Path) -> None:
    async with NodeClient(tmp_path / "edge.sock") as client:
        with pytest.raises(EdgeError, match=r"no node answers at .*no such file") as caught:
            await client.get("/v1/apps")
        assert "edge run" in (caught.value.hint or "")


async def test_a_server_that_is_no_node_is_told(tmp_path: Path) -> None:
    async def nonsense(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail\r\n")
        writer.close()

    server = await asyncio.start_unix_server(nonsense, tmp_path / "s")
    async with server, NodeClient(tmp_path / "s") as client:
        with pytest.raises(EdgeError, match="the connection broke"):
            await client.get("/v1/apps")


async def test_a_node_that_dies_while_it_works_is_told_in_words(tmp_path: Path) -> None:
    async def dying(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b'15\r\n{"progress": "going"}\r\n')
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(dying, tmp_path / "s")
    async with server, NodeClient(tmp_path / "s") as client:
        with pytest.raises(EdgeError, match=r"it ended before it had answered$") as caught:
            await client.result("/v1/deploy", {})
    assert "edge apps" in (caught.value.hint or "")


async def test_a_list_that_was_damaged_is_noted_until_it_is_removed(
    tmp_path: Path, node: Open
) -> None:
    async with node() as (_, client):
        (tmp_path / "apps.json.damaged-1").write_text("{")
        _, note = (await client.get("/v1/status"))["notes"]
        assert note.startswith("apps.json.damaged-1 was damaged: deploy again")
