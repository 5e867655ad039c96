"""The live table with real guests in this process: prepare, swap, watch, take back."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mqtt_lab import Mosquitto, Peer, mosquitto

from edge import config
from edge.config import ApplicationEntry, Mount
from edge.engine import _core
from edge.errors import BundleError, ConfigError, EdgeError, GuestError
from edge.node.applications import Applications, Version
from edge.node.node import open_node
from edge.node.services import Services, Settings
from edge.registry import local
from edge.registry.sync.wanted import Wanted
from edge.triggers.http.failure import describe
from edge.wasi.http.message import Handler, LocalReply, Request
from edge.wasi.pipe import BytesSource, read_all

Guest = Callable[[str], Path]

SYNC = config.Sync(minimum_events=5, error_rate=0.5, health_interval=0.05)


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("code")


@dataclass
class Front:
    """In the place of the HTTP server."""

    handler: Handler


@dataclass
class Told:
    """What a watch said."""

    failed: list[str] = field(default_factory=list)
    passed: int = 0
    said: asyncio.Event = field(default_factory=asyncio.Event)

    def fails(self, reason: str) -> None:
        self.failed.append(reason)
        self.said.set()

    def passes(self) -> None:
        self.passed += 1
        self.said.set()

    async def wait(self) -> None:
        async with asyncio.timeout(20):
            await self.said.wait()


class Lab:
    """Applications, and the files that they are made of."""

    def __init__(self, applications: Applications, folder: Path, guest: Guest) -> None:
        self.applications = applications
        self.folder = folder
        self.guest = guest
        self.front = Front(applications.handler)
        applications.serve(self.front)

    def manifest(self, name: str, *triggers: str, guest: str = "hello", own: str = "") -> Path:
        """A folder with an application of one component, `guest`."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        tables = "\n".join(triggers) or route("/...")
        (folder / "spin.toml").write_text(
            f'spin_manifest_version = 2\n[application]\nname = "bundle"\n{tables}\n'
            f'[component.guest]\nsource = "{self.guest(guest)}"\n{own}\n'
        )
        return folder

    async def prepare(
        self,
        name: str,
        *triggers: str,
        mount: Mount | None = None,
        check: bool = True,
        soak: float = 0.0,
        guest: str = "hello",
        own: str = "",
        **entry: Any,
    ) -> Version:
        """A version of the application `name` that serves nothing yet."""
        folder = self.manifest(name, *triggers, guest=guest, own=own)
        loaded = await local.load(folder, state_dir=self.folder, fetch=_nothing)
        wanted = ApplicationEntry(name, path=folder, mount=mount or Mount(), **entry)
        return await self.applications.prepare(
            Wanted(wanted, "file", soak), loaded, None, check=check
        )

    async def up(self, name: str, *triggers: str, **options: Any) -> Version:
        """… and makes it live."""
        version = await self.prepare(name, *triggers, **options)
        await self.applications.swap({name: version})
        return version

    async def ask(
        self, path: str = "/", host: str = "test", method: str = "GET"
    ) -> tuple[int, str]:
        """Status and body as a client sees them."""
        reply = LocalReply(method)
        request = Request(method, "http", host, path, [], BytesSource(), "127.0.0.1:1")
        try:
            work = self.front.handler(request, reply)
            if work is not None:
                await work
            status, _ = await reply.head()
        except EdgeError as error:
            status, _, body = describe(error)
            return status, body.decode()
        return status, (await read_all(reply.body, 1 << 20)).decode()

    def watch(self, name: str, seconds: float = 30.0) -> Told:
        told = Told()
        self.applications.watch(name, seconds, told.fails, told.passes)
        return told


async def _nothing(_url: str, _limit: int) -> bytes:
    raise AssertionError("nothing is fetched")


def route(pattern: str, **fields: str) -> str:
    more = "\n".join(f"{key} = {value}" for key, value in fields.items())
    return f'[[trigger.http]]\nroute = "{pattern}"\ncomponent = "guest"\n{more}'


def static(pattern: str, status: int = 200) -> str:
    text = f'{{ status_code = {status}, body = "static" }}'
    return f'[[trigger.http]]\nroute = "{pattern}"\nstatic_response = {text}'


def subscription(url: str, topic: str) -> str:
    return (
        f'[application.trigger.mqtt]\naddress = "{url}"\n'
        f'[[trigger.mqtt]]\nid = "in"\ntopic = "{topic}"\nqos = "1"\ncomponent = "guest"'
    )


def health(path: str) -> str:
    return f'[component.guest.tool.edge]\nhealth = "{path}"'


Open = Callable[..., Any]


@pytest.fixture
def opened(guest: Guest, code: Path, tmp_path: Path) -> Open:
    @asynccontextmanager
    async def open_lab(
        sync: config.Sync = SYNC, mqtt: config.Mqtt | None = None, **defaults: object
    ) -> AsyncIterator[Lab]:
        settings = config.Daemon(sync=sync, defaults=defaults)
        of_services = Settings(tmp_path, mqtt or config.Mqtt(), several=True)
        async with open_node(code, config.Limits(memory=512 << 20)) as node:
            budget = node.shared.budget
            async with (
                Services(of_services) as services,
                Applications(node, services, settings) as applications,
            ):
                yield Lab(applications, tmp_path, guest)
            assert (budget.memory, budget.slots) == budget.all
        gc.collect()
        assert _core.counters() == {"stores": 0, "calls": 0}

    return open_lab


@pytest.fixture
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Mosquitto]]:
    with contextlib.ExitStack() as stack:

        def start() -> Mosquitto:
            return stack.enter_context(mosquitto(tmp_path_factory.mktemp("broker")))

        yield start


# --- mounts and routes --------------------------------------------------------------------------


async def test_nothing_is_live_at_first_but_the_node_is_well(opened: Open) -> None:
    async with opened() as lab:
        assert await lab.ask("/") == (404, "no application is here\n")
        assert await lab.ask("/.well-known/spin/health") == (200, "OK")


async def test_one_application_on_the_root_is_the_handler_itself(opened: Open) -> None:
    async with opened() as lab:
        version = await lab.up("one")
        assert lab.front.handler is version.live
        await lab.up("other", mount=Mount("/other"))
        assert lab.front.handler is not version.live
        await lab.applications.swap({"other": None})
        assert lab.front.handler is version.live


async def test_a_mounted_guest_sees_what_is_below_its_mount(opened: Open) -> None:
    async with opened() as lab:
        await lab.up("root")
        await lab.up(
            "cgi", route("/hi/:name/...", executor='{ type = "wagi" }'),
            guest="cgi", mount=Mount("/deep/er"),
        )  # fmt: skip
        status, body = await lab.ask("/deep/er/hi/you/env?x=1", "thermo.local:80")
        told = dict(line.partition("=")[::2] for line in body.splitlines())
        assert status == 200, body
        assert told["SCRIPT_NAME"] == "/deep/er/hi/:name"
        assert told["PATH_INFO"] == "/env"
        assert told["X_FULL_URL"] == "http://thermo.local:80/deep/er/hi/you/env?x=1"
        assert told["X_BASE_PATH"] == "/deep/er"
        assert (await lab.ask("/deep/er/nothing"))[0] == 404, "the mount's own 404 is final"
        assert (await lab.ask("/deep/ernothing"))[0] == 200


async def test_health_below_a_mount_is_the_applications(opened: Open) -> None:
    async with opened() as lab:
        await lab.up("a", mount=Mount("/a"))
        assert await lab.ask("/a/.well-known/spin/info") == (200, '{"name": "a"}')
        assert await lab.ask("/a/.well-known/spin/health") == (200, "OK")
        assert (await lab.ask("/.well-known/spin/info"))[0] == 404


async def test_two_share_a_mount_and_a_conflict_refuses_the_second(opened: Open) -> None:
    async with opened() as lab:
        await lab.up("a", route("/a/..."))
        await lab.up("b", static("/b"))
        assert (await lab.ask("/a/x"))[0] == 200
        assert await lab.ask("/b") == (200, "static")
        third = await lab.prepare("c", static("/c"), static("/b"))
        with pytest.raises(
            ConfigError, match="application c: its route /b is that of application b"
        ):
            await lab.applications.swap({"c": third})
        assert (await lab.ask("/c"))[0] == 404, "nothing of it is live"
        lab.applications.discard(third)
        assert {v.name for v in lab.applications.versions()} == {"a", "b"}


async def test_many_changes_are_one_step_or_none(opened: Open) -> None:
    async with opened() as lab:
        await lab.up("a", static("/x"))
        new_a = await lab.prepare("a", static("/y"))
        b = await lab.prepare("b", static("/x"))
        clash = await lab.prepare("c", static("/y"))
        with pytest.raises(ConfigError):
            await lab.applications.swap({"a": new_a, "b": b, "c": clash})
        assert (await lab.ask("/y"))[0] == 404
        await lab.applications.swap({"a": new_a, "b": b})
        assert (await lab.ask("/y"))[0] == (await lab.ask("/x"))[0] == 200
        lab.applications.discard(clash)


async def test_the_name_on_the_node_is_the_applications_name(opened: Open) -> None:
    async with opened() as lab:
        version = await lab.up("mine")
        assert version.live.name == "mine"
        assert lab.applications.live("mine") is version.live
        assert lab.applications.live("bundle") is None


# --- prepare ------------------------------------------------------------------------------------


async def test_options_of_the_node_stand_over_and_under_the_bundles(opened: Open) -> None:
    async with opened(timeout=7.0, memory=1 << 20) as lab:
        own = '[component.guest.tool.edge]\nmemory = "2MiB"'
        version = await lab.prepare("a", own=own, options={"guest": {"concurrency": 3}})
        options = version.live.sandboxes["guest"].profile.options
        assert (options.timeout, options.memory, options.concurrency) == (7.0, 2 << 20, 3)
        lab.applications.discard(version)


async def test_variables_come_from_files_and_credentials(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "one").write_text("first\n")
    declared = '[variables]\na = { required = true }\nb = { default = "" }\n'
    async with opened() as lab:
        version = await lab.prepare(
            "a",
            declared,
            route("/..."),
            variables={"b": "x"},
            variables_files={"a": tmp_path / "one"},
        )
        lab.applications.discard(version)
        with pytest.raises(ConfigError, match="variable a: the node has no credentials"):
            await lab.prepare("a", declared, route("/..."), variables_credentials={"a": "token"})
        with pytest.raises(ConfigError, match=r"variable a: .*none: no such file"):
            await lab.prepare(
                "a", declared, route("/..."), variables_files={"a": tmp_path / "none"}
            )
        with pytest.raises(ConfigError, match="variable a: required"):
            await lab.prepare("a", declared, route("/..."))


@pytest.mark.parametrize(
    ("guest_name", "own", "reason"),
    [
        ("start_trap", "", "component guest: did not start"),
        ("late_trap", health("/quick/before"), "component guest: GET /quick/before: "),
        ("late_trap", health("/quick/head"), "component guest: GET /quick/head: "),
        ("silent", "", "component guest: GET /healthz: returned without a response"),
        ("status", health("/status/503"), "answers GET /status/503 with 503"),
        ("status", health("/status/404"), "answers GET /status/404 with 404"),
        ("loop", '[component.guest.tool.edge]\ntimeout = "100ms"', "GET /healthz: did not end"),
    ],
)
async def test_what_is_not_well_is_not_prepared(
    guest_name: str, own: str, reason: str, opened: Open
) -> None:
    async with opened() as lab:
        with pytest.raises(BundleError, match=reason):
            await lab.prepare("a", guest=guest_name, own=own)
        version = await lab.prepare("a", guest=guest_name, own=own, check=False)
        lab.applications.discard(version)


@pytest.mark.parametrize(
    ("guest_name", "own"),
    [
        ("status", health("/status/204")),
        ("status", health("/status/302")),
        ("status", ""),
        ("late_trap", health("")),
        ("endless_body", ""),
    ],
)
async def test_what_is_well_is_prepared(guest_name: str, own: str, opened: Open) -> None:
    async with opened() as lab:
        version = await lab.prepare("a", guest=guest_name, own=own)
        lab.applications.discard(version)


async def test_a_wrong_option_or_component_is_the_operators_mistake(opened: Open) -> None:
    async with opened() as lab:
        with pytest.raises(ConfigError, match='has no component "gest"'):
            await lab.prepare("a", options={"gest": {}})
        with pytest.raises(ConfigError, match="no such variable"):
            await lab.prepare("a", variables={"x": "y"})


# --- swap ---------------------------------------------------------------------------------------


async def test_a_request_stays_with_the_version_it_began_with(opened: Open) -> None:
    async with opened() as lab:
        await lab.up("a", guest="sleeper")
        slow = asyncio.ensure_future(lab.ask("/300"))  # noqa: TID251
        await asyncio.sleep(0.05)
        await lab.up("a", guest="status")
        assert (await lab.ask("/204"))[0] == 204
        assert await slow == (200, "slept")


async def test_requests_without_end_while_versions_are_swapped(opened: Open) -> None:
    async with opened() as lab:
        await lab.up("a")
        stop = False
        seen = 0

        async def client() -> None:
            nonlocal seen
            while not stop:
                assert (await lab.ask("/"))[0] == 200
                seen += 1
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            clients = [group.create_task(client()) for _ in range(8)]
            for number in range(50):
                await lab.up("a", guest="hello" if number % 2 else "status")
            stop = True
        assert seen > 50
        assert all(task.done() for task in clients)


# --- watch --------------------------------------------------------------------------------------


async def test_a_version_that_fails_is_taken_back_by_its_own_request(opened: Open) -> None:
    async with opened() as lab:
        good = await lab.up("a", guest="hello")
        await lab.up("a", guest="status", soak=30)
        told = lab.watch("a")
        statuses = [(await lab.ask("/500"))[0] for _ in range(10)]
        assert statuses == [500] * 5 + [200] * 5, "as many as the least that says anything"
        assert lab.front.handler is good.live, "nothing counts any more"
        await told.wait()
        assert told.failed == ["5 of 5 events failed"]
        assert not told.passed


async def test_those_under_way_end_with_the_version_that_failed(opened: Open) -> None:
    async with opened() as lab:
        await lab.up("a", guest="hello")
        await lab.up("a", guest="late_trap", own=health(""), soak=30)
        told = lab.watch("a")
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(_attempt(lab, "/slow")) for _ in range(12)]
        assert all(isinstance(task.result(), GuestError) for task in asked)
        await told.wait()
        assert len(told.failed) == 1
        assert (await lab.ask("/slow"))[0] == 200


async def _attempt(lab: Lab, path: str) -> Any:
    try:
        return await lab.ask(path)
    except GuestError as error:
        return error


@pytest.mark.parametrize("path", ["/quick/before", "/quick/head", "/quick/return", "/quick/exit"])
async def test_traps_and_unfinished_answers_count(path: str, opened: Open) -> None:
    async with opened() as lab:
        await lab.up("a", guest="hello")
        await lab.up("a", guest="late_trap", own=health(""), soak=30)
        told = lab.watch("a")
        for _ in range(5):
            await _attempt(lab, path)
        assert (await lab.ask("/"))[0] == 200
        await told.wait()
        assert told.failed == ["5 of 5 events failed"]


async def test_a_timeout_counts(opened: Open) -> None:
    async with opened(config.Sync(minimum_events=2)) as lab:
        await lab.up("a", guest="hello")
        own = '[component.guest.tool.edge]\ntimeout = "50ms"\nhealth = ""'
        await lab.up("a", guest="loop", own=own, soak=30)
        told = lab.watch("a")
        assert [(await lab.ask())[0] for _ in range(3)] == [504, 504, 200]
        await told.wait()
        assert told.failed == ["2 of 2 events failed"]


async def test_what_the_node_refuses_says_nothing_about_a_version(opened: Open) -> None:
    async with opened() as lab:
        await lab.up("a", guest="hello")
        own = '[component.guest.tool.edge]\nconcurrency = 1\nqueue = 0\nhealth = ""'
        await lab.up("a", guest="sleeper", own=own, soak=30)
        told = lab.watch("a")
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(lab.ask("/200")) for _ in range(12)]
        assert sorted(task.result()[0] for task in asked) == [200] + [503] * 11
        assert not told.failed


async def test_a_rate_above_the_limit_counts_and_one_below_does_not(opened: Open) -> None:
    async with opened() as lab:
        await lab.up("a", guest="hello")
        await lab.up("a", guest="status", soak=30)
        told = lab.watch("a")
        for _ in range(10):
            await lab.ask("/200")
            await lab.ask("/500")
        assert not told.failed, "half of them is not more than half"
        await lab.ask("/500")
        await told.wait()
        assert told.failed == ["11 of 21 events failed"]


async def test_many_good_events_do_not_hide_that_it_fails_now(opened: Open) -> None:
    async with opened() as lab:
        await lab.up("a", guest="hello")
        await lab.up("a", guest="status", soak=30)
        told = lab.watch("a")
        for _ in range(100):
            await lab.ask("/200")
        statuses = [(await lab.ask("/500"))[0] for _ in range(6)]
        assert statuses == [500] * 5 + [200]
        await told.wait()
        assert told.failed == ["the last 5 events failed"]


async def test_health_that_fails_twice_takes_it_back(opened: Open) -> None:
    async with opened() as lab:
        good = await lab.up("a", guest="hello")
        await lab.up("a", guest="status", own=health("/status/500"), check=False, soak=30)
        told = lab.watch("a")
        await told.wait()
        assert told.failed == ["health: component guest: answers GET /status/500 with 500"]
        assert lab.applications.live("a") is good.live
        assert lab.front.handler is good.live


async def test_a_version_that_does_well_passes(opened: Open) -> None:
    async with opened() as lab:
        await lab.up("a", guest="hello")
        newer = await lab.up("a", guest="status", soak=1)
        told = lab.watch("a", 0.2)
        assert lab.front.handler is not newer.live
        await lab.ask("/500")
        await told.wait()
        assert lab.front.handler is newer.live, "nothing counts any more"
        assert [(await lab.ask("/500"))[0] for _ in range(10)] == [500] * 10
        assert (told.passed, told.failed) == (1, [])


async def test_another_swap_ends_a_watch_without_a_word(opened: Open) -> None:
    async with opened() as lab:
        await lab.up("a", guest="hello")
        second = await lab.up("a", guest="status", soak=30)
        told = lab.watch("a", 0.2)
        third = await lab.up("a", guest="status", soak=30)
        later = lab.watch("a")
        for _ in range(5):
            await lab.ask("/500")
        await asyncio.sleep(0.3)
        assert (told.passed, told.failed) == (0, [])
        assert len(later.failed) == 1
        assert lab.applications.live("a") is second.live is not third.live


async def test_the_first_version_has_nothing_to_return_to(opened: Open) -> None:
    async with opened() as lab:
        only = await lab.up("a", guest="status", soak=30)
        told = lab.watch("a")
        assert [(await lab.ask("/500"))[0] for _ in range(7)] == [500] * 7
        await told.wait()
        assert len(told.failed) == 1
        assert lab.front.handler is only.live


async def test_the_way_back_stays_free_while_a_version_is_watched(opened: Open) -> None:
    async with opened() as lab:
        await lab.up("a", static("/old"), static("/both"))
        await lab.up("a", static("/both", 500), soak=30)
        told = lab.watch("a")
        other = await lab.prepare("b", static("/old"))
        with pytest.raises(ConfigError, match="/old"):
            await lab.applications.swap({"b": other})
        for _ in range(5):
            await lab.ask("/both")
        assert (await lab.ask("/old"))[0] == 200
        await told.wait()
        assert len(told.failed) == 1
        lab.applications.discard(other)


async def test_ten_times_taken_back_shows_only_what_the_bad_ones_gave(opened: Open) -> None:
    async with opened() as lab:
        good = await lab.up("a", guest="hello")
        bad = 0
        for _ in range(10):
            await lab.up("a", guest="status", soak=30)
            told = lab.watch("a")
            while not told.failed:
                bad += (await lab.ask("/500"))[0] == 500
                await asyncio.sleep(0)
            assert lab.front.handler is good.live, "nothing counts any more"
        assert bad == 10 * SYNC.minimum_events


# --- events -------------------------------------------------------------------------------------


async def test_applications_with_brokers_of_their_own(
    opened: Open, broker: Callable[[], Mosquitto], tmp_path: Path
) -> None:
    one, two = broker(), broker()
    async with opened() as lab:
        await lab.up("a", subscription(one.url, "a/#"), guest="on_message")
        await lab.up("b", subscription(two.url, "b/#"), guest="on_message")
        await lab.up("c", subscription(two.url, "c/#"), guest="on_message")
        async with asyncio.timeout(20):
            await lab.applications._services.ready()
        assert len(lab.applications._services._running) == 2, "two share one connection"
        names = await asyncio.to_thread(lambda: [*tmp_path.glob("mqtt/*/mqtt.json")])
        assert len(names) == 2, "sessions of different brokers are different files"
        await lab.applications.swap({"a": None})
        assert len(lab.applications._services._running) == 1
        await lab.applications.swap({"b": None, "c": None})
        assert not lab.applications._services._running


async def test_events_of_a_watched_version_count_and_go_back(
    opened: Open, broker: Callable[[], Mosquitto]
) -> None:
    one = broker()
    trigger = subscription(one.url, "t/#")
    async with opened() as lab:
        good = await lab.up("a", trigger, guest="on_message")
        await lab.up("a", trigger, guest="late_trap", own=health(""), soak=30)
        told = lab.watch("a")
        async with asyncio.timeout(20):
            await lab.applications._services.ready()
        async with Peer(one.port) as peer:
            for number in range(5):
                await peer.publish(f"t/{number}", b"x", qos=1)
            await told.wait()
        assert lab.applications.live("a") is good.live
        await told.wait()
        assert told.failed == ["5 of 5 events failed"]


async def test_an_application_without_a_broker_is_refused_alone(opened: Open) -> None:
    async with opened() as lab:
        trigger = '[[trigger.mqtt]]\nid = "in"\ntopic = "t"\nqos = "1"\ncomponent = "guest"'
        with pytest.raises(ConfigError, match="no broker is named"):
            await lab.prepare("a", trigger, guest="on_message")
