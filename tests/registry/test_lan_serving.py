"""What neighbours may have of a node: asked as somebody else's client would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from lan_lab import Board, fleet, name, noise, push
from registry_lab import docker_registry

from edge.registry.digest import Digest
from edge.registry.lan.talk import BLOBS
from edge.registry.manifest import Descriptor
from edge.registry.reference import Reference

LAYER = noise(700_000)
DIGEST = Digest.of(LAYER)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


class Asker:
    """A member of the fleet that asks what it likes."""

    def __init__(self, board: Board, session: aiohttp.ClientSession, host: str) -> None:
        self.board, self._session = board, session
        self.ns = f"?ns={host}"

    async def __call__(
        self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes, Mapping[str, str]]:
        url = f"http://127.0.0.1:{self.board.neighbours.ports[self.board.id]}{path}"
        sent = {"Peer": name(50), **(headers or {})}
        async with self._session.request(method, url, headers=sent) as response:
            return response.status, await response.read(), response.headers


@asynccontextmanager
async def asking(registry: str, tmp_path: Path) -> AsyncIterator[tuple[Asker, Digest]]:
    """Of a node that has pulled one bundle."""
    digest = await push(registry, tmp_path, "team/app:1", LAYER)
    async with fleet(tmp_path, 1) as nodes, aiohttp.ClientSession() as session:
        await nodes[0].pull(f"{registry}/team/app:1")
        yield Asker(nodes[0], session, registry), digest


async def test_what_a_digest_names_is_given(registry: str, tmp_path: Path) -> None:
    async with asking(registry, tmp_path) as (ask, digest):
        status, data, headers = await ask(f"/v2/team/app/manifests/{digest}{ask.ns}")
        assert (status, Digest.of(data)) == (200, digest)
        assert headers["Docker-Content-Digest"] == str(digest)
        blob = f"/v2/team/app/blobs/{DIGEST}{ask.ns}"
        assert (await ask(blob))[:2] == (200, LAYER)
        status, data, headers = await ask(blob, headers={"Range": "bytes=10-19"})
        assert (status, data) == (206, LAYER[10:20])
        assert headers["Content-Range"] == f"bytes 10-19/{len(LAYER)}"
        assert (await ask(blob, "HEAD"))[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/_catalog", 404),
        ("GET", "/v2/team/app/tags/list?ns=HOST", 404),
        ("GET", "/v2/team/app/manifests/1?ns=HOST", 404),
        ("GET", "/v2/team/app/manifests/latest?ns=HOST", 404),
        ("GET", f"/v2/team/app/manifests/sha256-{'0' * 64}.sig?ns=HOST", 404),
        ("GET", f"/v2/team/app/manifests/sha256:{'0' * 64}?ns=HOST", 404),
        ("GET", "/v2/team/app/manifests/sha256:short?ns=HOST", 400),
        ("GET", f"/v2/team/app/blobs/sha256:{'0' * 64}?ns=HOST", 404),
        ("GET", "/v2/team/app/blobs/sha256:..%2f..%2fetc?ns=HOST", 400),
        ("POST", "/v2/team/app/blobs/uploads/", 404),
        ("PUT", "/v2/team/app/manifests/1", 405),
        ("DELETE", f"/v2/team/app/blobs/{DIGEST}", 405),
        ("DELETE", f"{BLOBS}/{DIGEST}", 405),
        ("GET", f"{BLOBS}/nonsense", 400),
        ("GET", f"{BLOBS}/sha256:{'0' * 64}?wait=-1", 400),
        ("GET", f"{BLOBS}/sha256:{'0' * 64}?wait=1e9", 400),
        ("POST", f"{BLOBS}/sha256:{'0' * 64}?lost=../../x", 400),
        ("POST", f"{BLOBS}/nonsense", 400),
        ("PUT", f"{BLOBS}/nonsense", 400),
    ],
)
async def test_nothing_else_is(
    registry: str, tmp_path: Path, method: str, path: str, status: int
) -> None:
    async with asking(registry, tmp_path) as (ask, _):
        assert (await ask(path.replace("HOST", registry), method))[0] == status


async def test_what_no_bundle_names_is_nobodys_business(registry: str, tmp_path: Path) -> None:
    async with asking(registry, tmp_path) as (ask, _):
        secret = ask.board.store.add(b"a file of an application of this machine", "x").digest
        assert (await ask(f"/v2/team/app/blobs/{secret}{ask.ns}"))[0] == 404
        assert (await ask(f"{BLOBS}/{secret}"))[1] == b"{}"


async def test_what_just_came_is_given_before_its_bundle_is_whole(
    registry: str, tmp_path: Path
) -> None:
    async with fleet(tmp_path, 2) as nodes:
        await push(registry, tmp_path, "half:1", LAYER)
        await nodes[0].pull(f"{registry}/half:1")
        store = nodes[1].store
        writer = store.writer(len(LAYER))
        source = nodes[1].lan.source(nodes[1].client)
        reference = Reference.parse(f"{registry}/half:1")
        with writer:
            await source.pull_blob(reference, Descriptor("x", DIGEST, len(LAYER)), writer)
        async with aiohttp.ClientSession() as session:
            ask = Asker(nodes[1], session, registry)
            assert (await ask(f"/v2/half/blobs/{DIGEST}{ask.ns}"))[:2] == (200, LAYER)
            store.path(DIGEST).unlink()  # collected: no name led to it
            assert (await ask(f"/v2/half/blobs/{DIGEST}{ask.ns}"))[0] == 404


async def test_a_long_question_is_answered_in_time(registry: str, tmp_path: Path) -> None:
    async with asking(registry, tmp_path) as (ask, _), asyncio.timeout(8):
        absent = f"{BLOBS}/sha256:{'0' * 64}"
        assert (await ask(f"{absent}?wait=999"))[1] == b"{}", "nobody fetches it"
        assert (await ask(f"{absent}"))[:2] == (200, b"{}")


async def test_who_claims_is_told_and_who_has_it_is_named(registry: str, tmp_path: Path) -> None:
    async with asking(registry, tmp_path) as (ask, _):
        absent = f"{BLOBS}/sha256:{'0' * 64}"
        for _ in range(2):
            assert (await ask(absent, "POST"))[1] == b'{"fetcher": "%s"}' % name(50).encode()
        assert (await ask(absent, "PUT"))[0] == 204
        assert (await ask(absent))[1] == b"{}", "one that is not alive is not named"
        assert (await ask(f"{BLOBS}/{DIGEST}", "POST"))[1].startswith(b'{"here": true')
