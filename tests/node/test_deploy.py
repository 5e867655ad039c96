"""A node and its registries: what is deployed, what is refused, and what a failure leaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from node_lab import EDGE, Node, node
from registry_lab import (
    PASSWORD,
    USER,
    Answer,
    Authority,
    Liar,
    body,
    docker_registry,
    drops,
    hangs,
    liar,
    status,
)
from sync_lab import offer, until

from edge.registry import bundle, local
from edge.registry.digest import Digest
from edge.registry.store import ContentStore

Guest = Callable[[str], Path]
Make = Callable[..., Path]

MANIFEST = """
spin_manifest_version = 2
[application]
name = "thermo"
version = "{version}"
[variables]
greeting = {{ default = "none" }}
[[trigger.http]]
route = "/..."
component = "guest"
[component.guest]
source = "{wasm}"
key_value_stores = ["default"]
environment = {{ VERSION = "{version}" }}
"""


@pytest.fixture
def make(guest: Guest, tmp_path: Path) -> Make:
    """`make("1", "store")`: the folder of a version, which only its manifest tells from others."""

    def made(version: str, wasm: str = "store") -> Path:
        folder = tmp_path / f"version-{version}"
        folder.mkdir(exist_ok=True)
        (folder / "spin.toml").write_text(MANIFEST.format(version=version, wasm=guest(wasm)))
        return folder

    return made


@pytest.fixture(params=["plain", "guarded"])
def registry(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str, list[str]]]:
    """Debian's; where it is, what edge.toml says of it, and the options of a push."""
    folder = tmp_path_factory.mktemp("registry")
    if request.param == "plain":
        with docker_registry(folder) as host:
            yield host, "", []
        return
    authority = Authority.make(tmp_path_factory.mktemp("authority"))
    secret = tmp_path_factory.mktemp("secrets") / "password"
    secret.write_text(PASSWORD)
    with docker_registry(folder, users=True, authority=authority) as host:
        table = f'[registry."{host}"]\nca_file = "{authority.ca}"\nusername = "{USER}"\n'
        options = ["--registry-ca", str(authority.ca), "--username", USER]
        yield (
            host,
            f'{table}password_file = "{secret}"\n',
            [*options, "--password-file", str(secret)],
        )


def push(folder: Path, reference: str, *options: str) -> str:
    """Its digest."""
    command = [EDGE, "push", str(folder), reference, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().rpartition("@")[2]


def app(running: Node, name: str = "thermo") -> dict[str, Any]:
    return running.apps()[name]


# --- a registry that works ------------------------------------------------------------------------


def test_the_life_of_an_application(
    registry: tuple[str, str, list[str]], make: Make, tmp_path: Path
) -> None:
    host, table, options = registry
    reference = f"{host}/team/thermo:live"
    first = push(make("1"), reference, *options)
    with node(tmp_path, f'{table}[sync]\nsoak = "0s"\ninterval = "10m"\n') as running:
        running.tell("deploy", reference, "--mount", "/t")
        assert (app(running)["digest"], app(running)["state"]) == (first, "live")
        assert running.get("/t/set/key/value")[0] == 200
        second = push(make("2"), reference, *options)
        running.tell("sync", "thermo")
        assert app(running)["digest"] == second
        assert running.get("/t/get/key")[1].strip().endswith(b"value")
        running.tell("rollback", "thermo")
        assert (app(running)["digest"], app(running)["state"]) == (first, "rolled back")
        running.tell("sync", "thermo")
        assert app(running)["digest"] == first
        running.tell("sync", "--retry", "thermo")
        assert app(running)["digest"] == second
        running.tell("undeploy", "thermo")
        assert running.apps() == {}
        assert running.get("/t/get/key")[0] == 404
        running.tell("deploy", reference, "--mount", "/t")
        assert running.get("/t/get/key")[1].strip().endswith(b"value"), "its data stayed"
        running.tell("undeploy", "thermo", "--purge")
        running.tell("deploy", reference, "--mount", "/t")
        assert b"value" not in running.get("/t/get/key")[1]


def test_a_node_starts_again_without_its_registry(
    make: Make, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        reference = f"{host}/thermo:live"
        digest = push(make("1"), reference)
        with node(tmp_path) as running:
            running.tell("deploy", reference)
    with node(tmp_path, '[sync]\ninterval = "1s"\n') as running:
        assert running.get("/set/a/b")[0] == 200
        running.until(lambda: app(running)["reason"])
        assert (app(running)["digest"], app(running)["state"]) == (digest, "live")
        refused = running.edge("deploy", f"{host}/other:1")
        assert refused.returncode == 1
        assert "Traceback" not in refused.stderr
        running.tell("undeploy", "thermo")
        assert running.get("/")[0] == 404
    with node(tmp_path) as running:
        assert running.apps() == {}


# --- a registry that does not ---------------------------------------------------------------------


@asynccontextmanager
async def board(
    folder: Path, registry: Liar, make: Make, more: str = ""
) -> AsyncIterator[tuple[Node, Digest]]:
    """With version 1 deployed from a registry that does what it is told."""
    first = await offered(registry, make("1"), "1", "live")
    running = node(folder, f'[sync]\nsoak = "0s"\ninterval = "10m"\ntimeout = "5s"\n{more}')
    at_work = await asyncio.to_thread(running.__enter__)
    try:
        await asyncio.to_thread(at_work.tell, "deploy", f"{registry.host}/thermo:live")
        yield at_work, first
    finally:
        await asyncio.to_thread(running.__exit__, None, None, None)


async def offered(registry: Liar, folder: Path, *tags: str) -> Digest:
    store = ContentStore(folder.with_suffix(".store"))
    found = await local.load(folder, state_dir=folder, fetch=_nothing)
    digest = await asyncio.to_thread(bundle.build, found, store)
    offer(registry, store, digest, *tags)
    return digest


async def _nothing(url: str, limit: int) -> bytes:
    raise AssertionError(url)


def short(data: bytes) -> Answer:
    """Fewer bytes than it says."""

    async def answer(request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse()
        stream.content_length = len(data) + 1000
        await stream.prepare(request)
        await stream.write(data)
        assert request.transport is not None
        request.transport.abort()
        return stream

    return answer


FAULTS: dict[str, tuple[str, Answer, str]] = {
    "it answers 500": ("manifests", status(500), "500"),
    "it answers 429": ("manifests", status(429, Retry_After="3600"), "429"),
    "it cuts the connection": ("manifests", drops, "thermo:live"),
    "it lies about its content": (
        "manifests",
        body(b'{"schemaVersion": 2}', Content_Type="application/vnd.oci.image.manifest.v1+json"),
        "thermo:live",
    ),
    "a tampered blob": ("blobs", body(b"x" * 400), ""),
    "a truncated layer": ("blobs", short(b"\0asm"), ""),
    "a blob that is missing": ("blobs", status(404), "not found"),
}


async def test_whatever_a_registry_does_the_live_version_serves(make: Make, tmp_path: Path) -> None:
    async with liar() as registry, board(tmp_path, registry, make) as (running, first):
        for number, (what, (kind, fault, reason)) in enumerate(FAULTS.items(), 2):
            await offered(registry, make(f"{number}"), "live")
            registry.faults[kind] = [fault] * 10_000
            done = await asyncio.to_thread(running.edge, "sync", "thermo")
            assert done.returncode == 1, what
            assert "Traceback" not in done.stderr
            assert reason in done.stderr, what
            found = (await asyncio.to_thread(running.apps))["thermo"]
            assert found["digest"] == str(first), what
            assert found["reason"], what
            assert (await asyncio.to_thread(running.get, "/keys"))[0] == 200
            registry.faults.clear()
        last = await offered(registry, make("last"), "live")
        await asyncio.to_thread(running.tell, "sync", "thermo")
        assert (await asyncio.to_thread(running.apps))["thermo"]["digest"] == str(last)
        blobs = tmp_path / "state" / "blobs"
        assert not list((blobs / "incoming").iterdir())
        for path in (blobs / "sha256").iterdir():
            assert Digest.of(path.read_bytes()).hex == path.name


async def test_a_registry_that_hangs_does_not_stop_the_others(make: Make, tmp_path: Path) -> None:
    async with (
        liar() as hanging,
        liar() as registry,
        board(tmp_path, registry, make) as (running, first),
    ):
        hanging.faults["manifests"] = [hangs] * 10_000
        stuck = asyncio.get_running_loop().create_task(
            asyncio.to_thread(running.edge, "deploy", f"{hanging.host}/stuck:1", "--mount", "/x")
        )
        await until(lambda: bool(hanging.requests))
        second = await offered(registry, make("2"), "live")
        await asyncio.to_thread(running.tell, "sync", "thermo")
        found = await asyncio.to_thread(running.apps)
        assert found["thermo"]["digest"] == str(second) != str(first)
        done = await stuck
        assert done.returncode == 1
        assert "does not answer" in done.stderr
        assert set(await asyncio.to_thread(running.apps)) == {"thermo"}


async def test_a_deploy_that_is_refused_leaves_nothing(make: Make, tmp_path: Path) -> None:
    async with liar() as registry, board(tmp_path, registry, make) as (running, first):
        await offered(registry, make("2"), "2")
        state = json.loads((tmp_path / "state" / "apps.json").read_text())
        deploy = ("deploy", f"{registry.host}/thermo:2", "--name", "b", "--mount", "/b")
        done = await asyncio.to_thread(running.edge, *deploy, "--variable", "unknown=1")
        assert done.returncode != 0
        assert "unknown" in done.stderr
        after = json.loads((tmp_path / "state" / "apps.json").read_text())
        assert after["applications"] == state["applications"]
        assert after["deployed"] == state["deployed"]
        assert set(await asyncio.to_thread(running.apps)) == {"thermo"}
        assert (await asyncio.to_thread(running.apps))["thermo"]["digest"] == str(first)


# --- a disk that is full --------------------------------------------------------------------------


def fill(file: Path) -> None:
    """To the last byte."""
    with file.open("wb", buffering=0) as rest, contextlib.suppress(OSError):
        while True:
            rest.write(bytes(4096))


@contextmanager
def small_disk(place: Path) -> Iterator[None]:
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


async def test_a_full_disk_refuses_what_is_new_and_gives_room_again(
    make: Make, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    with small_disk(state):
        async with liar() as registry, board(tmp_path, registry, make) as (running, first):
            second = await offered(registry, make("2"), "live")
            filler = state / "filler"
            fill(filler)
            done = await asyncio.to_thread(running.edge, "sync", "thermo")
            assert done.returncode == 1
            assert "no room" in done.stderr.lower(), done.stderr
            assert (await asyncio.to_thread(running.get, "/keys"))[0] == 200
            found = (await asyncio.to_thread(running.apps))["thermo"]
            assert found["digest"] == str(first)
            filler.unlink()
            await asyncio.to_thread(running.tell, "sync", "thermo")
            found = (await asyncio.to_thread(running.apps))["thermo"]
            assert found["digest"] == str(second)
            fill(filler)
            await asyncio.to_thread(running.tell, "undeploy", "thermo")
            assert await asyncio.to_thread(running.apps) == {}
            filler.unlink()
