"""Pushes to a node's own registry, for a first try: by our client, skopeo, and step by step."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest
from mirror_lab import Running, bundle, curl, running, until
from registry_lab import skopeo

from edge.errors import EdgeError, PullError
from edge.registry import transfer
from edge.registry.client import Patience, RegistryClient
from edge.registry.digest import Digest
from edge.registry.manifest import (
    IMAGE_CONFIG,
    IMAGE_INDEX,
    IMAGE_MANIFEST,
    Descriptor,
    Index,
    Manifest,
)
from edge.registry.mirror.limits import MirrorLimits
from edge.registry.reference import Reference
from edge.registry.store import ContentStore
from edge.registry.sweep import sweep

LARGE = bytes(range(256)) * 40_000
QUICK = Patience(total=5, attempts=2, first=0.01, silence=2, exchange=5)


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "node")


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> str:
        (found,) = json.loads(self.body)["errors"]
        return str(found["code"])

    @property
    def message(self) -> str:
        (found,) = json.loads(self.body)["errors"]
        return str(found["message"])


class Client:
    """Requests one by one."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session, self.url = session, url

    async def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        body = io.BytesIO(body) if isinstance(body, bytes) else body
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.request(
            method, f"{self.url}{path}", data=body, headers=named
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    async def begin(self, name: str = "app") -> str:
        """Where an upload goes to."""
        answer = await self.ask("POST", f"/v2/{name}/blobs/uploads/")
        assert (answer.status, answer.headers["Range"]) == (202, "0-0")
        return answer.headers["Location"]

    async def upload(self, data: bytes, name: str = "app") -> Digest:
        location, digest = await self.begin(name), Digest.of(data)
        answer = await self.ask("PUT", f"{location}?digest={digest}", data)
        assert answer.status == 201, answer
        return digest


@asynccontextmanager
async def pushing(
    store: ContentStore, limits: MirrorLimits | None = None
) -> AsyncIterator[tuple[Running, Client]]:
    async with (
        running(store, accept_pushes=True, limits=limits) as mirror,
        aiohttp.ClientSession() as session,
    ):
        yield mirror, Client(session, mirror.url)


def described(data: bytes, kind: str = IMAGE_CONFIG) -> Descriptor:
    return Descriptor(kind, Digest.of(data), len(data))


def left(store: ContentStore) -> list[Path]:
    folder = store.directory / "incoming"
    return list(folder.iterdir()) if folder.exists() else []


# Whole bundles


async def test_a_bundle_goes_in_and_comes_out(store: ContentStore, tmp_path: Path) -> None:
    ours, theirs = ContentStore(tmp_path / "ours"), ContentStore(tmp_path / "theirs")
    layers = [bytes([n]) * 100_000 for n in range(9)] + [LARGE, b""]
    digest = bundle(ours, "registry.example/team/app:1", *layers).digest
    async with pushing(store) as (mirror, _), RegistryClient() as client:
        reference = Reference.parse(f"{mirror.host}/team/app:1")
        for _ in range(2):
            await transfer.push(client, digest, ours, reference)
        assert mirror.pushed == [(reference, digest)] * 2
        assert mirror.notes == [f"{reference}: pushed, {digest}"] * 2
        assert await transfer.pull(client, reference, theirs) == digest
        assert transfer.complete(store, reference) == digest
        assert await transfer.pull(client, reference, store) == digest, "from itself"
    assert not left(store)


async def test_skopeo_pushes_and_pulls_by_any_name(store: ContentStore, tmp_path: Path) -> None:
    source = ContentStore(tmp_path / "source")
    digest = bundle(source, "registry.example/app:1", LARGE, b"x").digest
    async with running(source) as origin, pushing(store) as (mirror, _):
        plain = ("--src-tls-verify=false", "--dest-tls-verify=false")
        first, second = f"docker://{mirror.host}/a:1", f"docker://localhost:{mirror.port}/b:2"
        await asyncio.to_thread(skopeo, "copy", *plain, f"docker://{origin.host}/app:1", first)
        await asyncio.to_thread(skopeo, "copy", *plain, first, second)
        await asyncio.to_thread(skopeo, "copy", plain[0], second, f"oci:{tmp_path}/oci:2")
        assert [str(reference) for reference, _ in mirror.pushed] == [
            f"{mirror.host}/a:1",
            f"{mirror.host}/b:2",
        ]
    index = json.loads((tmp_path / "oci" / "index.json").read_text())
    assert index["manifests"][0]["digest"] == str(digest)
    shutil.rmtree(tmp_path / "oci")


async def test_a_new_version_counts_however_the_old_one_was_pulled(
    store: ContentStore, tmp_path: Path
) -> None:
    ours = ContentStore(tmp_path / "ours")
    old = bundle(ours, "registry.example/app:1", b"1").digest
    new = bundle(ours, "registry.example/app:1", b"2").digest
    async with pushing(store) as (mirror, _), RegistryClient() as client:
        names = [f"{mirror.host}/app", f"localhost:{mirror.port}/app"]
        latest = Reference.parse(f"{mirror.host}/app:latest")
        for digest in (old, new):
            await transfer.push(client, digest, ours, latest)
            for name in names:
                assert await transfer.pull(client, Reference.parse(name), store) == digest


async def test_an_index_and_what_is_about_it(store: ContentStore) -> None:
    async with pushing(store) as (mirror, client):
        await client.upload(b"{}")
        manifest = Manifest(described(b"{}"), ()).to_bytes()
        entry = described(manifest, IMAGE_MANIFEST)
        index = Index((entry,)).to_bytes()
        path = "/v2/app/manifests/"
        early = await client.ask("PUT", f"{path}1", index, Content_Type=IMAGE_INDEX)
        assert (early.status, early.code) == (400, "MANIFEST_BLOB_UNKNOWN")
        put = await client.ask("PUT", f"{path}{entry.digest}", manifest)
        assert put.status == 201
        put = await client.ask("PUT", f"{path}1", index, Content_Type=IMAGE_INDEX)
        assert (put.status, put.headers["Docker-Content-Digest"]) == (201, str(Digest.of(index)))
        assert (await client.ask("GET", put.headers["Location"])).body == index
        about = Manifest(described(b"{}"), (), {"a": "b"}, "a/note", entry).to_bytes()
        put = await client.ask("PUT", f"{path}{Digest.of(about)}", about)
        assert (put.status, put.headers["OCI-Subject"]) == (201, str(entry.digest))
        found = await client.ask("GET", f"/v2/app/referrers/{entry.digest}")
        (only,) = json.loads(found.body)["manifests"]
        assert (only["digest"], only["artifactType"]) == (str(Digest.of(about)), "a/note")
        assert [reference.digest for reference, _ in mirror.pushed] == [
            entry.digest,
            None,
            Digest.of(about),
        ]


async def test_a_subject_may_come_later(store: ContentStore) -> None:
    async with pushing(store) as (_, client):
        await client.upload(b"{}")
        about = Manifest(described(b"{}"), (), subject=described(b"later", IMAGE_MANIFEST))
        put = await client.ask("PUT", "/v2/app/manifests/about", about.to_bytes())
        assert put.status == 201


# Blobs


async def test_an_upload_in_chunks(store: ContentStore) -> None:
    async with pushing(store) as (_, client):
        location = await client.begin()
        for start in range(0, 30, 10):
            piece = bytes([start]) * 10
            sent = await client.ask("PATCH", location, piece, Content_Range=f"{start}-{start + 9}")
            assert (sent.status, sent.headers["Range"]) == (202, f"0-{start + 9}")
            location = sent.headers["Location"]
        wrong = await client.ask("PATCH", location, b"x" * 10, Content_Range="10-19")
        assert (wrong.status, wrong.headers["Range"]) == (416, "0-29")
        status = await client.ask("GET", location)
        assert (status.status, status.headers["Range"]) == (204, "0-29")
        data = bytes(10) + b"\n" * 10 + b"\x14" * 10 + b"end"
        url = f"{location}?digest={Digest.of(data)}"
        done = await client.ask("PUT", url, b"end", Content_Range="30-32")
        assert (done.status, done.headers["Docker-Content-Digest"]) == (201, str(Digest.of(data)))
        assert (await client.ask("GET", done.headers["Location"])).body == data
        assert (await client.ask("GET", location)).code == "BLOB_UPLOAD_UNKNOWN"


async def test_an_upload_whose_size_nobody_said(store: ContentStore) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield LARGE[:100_000]

    data = LARGE[:100_000] * 100
    async with pushing(store) as (_, client):
        location = await client.begin()
        sent = await client.ask("PATCH", location, pieces())
        assert sent.headers["Range"] == f"0-{len(data) - 1}"
        done = await client.ask("PUT", f"{location}?digest={Digest.of(data)}")
        assert done.status == 201
    assert store.size(Digest.of(data)) == len(data)
    assert not left(store)


async def test_an_upload_in_one_request(store: ContentStore) -> None:
    async with pushing(store) as (_, client):
        for data in (LARGE, b""):
            path = f"/v2/app/blobs/uploads/?digest={Digest.of(data)}"
            done = await client.ask("POST", path, data)
            assert done.status == 201
            assert (await client.ask("GET", done.headers["Location"])).body == data


async def test_a_mount_from_another_repository(store: ContentStore) -> None:
    async with pushing(store) as (_, client):
        digest = await client.upload(b"blob", "one")
        mount = f"/v2/two/blobs/uploads/?mount={digest}"
        assert (await client.ask("POST", f"{mount}&from=one")).status == 201
        assert (await client.ask("GET", f"/v2/two/blobs/{digest}")).body == b"blob"
        assert (await client.ask("POST", f"{mount}&from=nix")).status == 202
        assert (await client.ask("POST", mount)).status == 202
        assert (await client.ask("POST", f"{mount}&from=../..")).status == 202


async def test_a_blob_is_seen_by_who_pushes_it(store: ContentStore) -> None:
    async with pushing(store) as (_, client):
        digest = await client.upload(b"blob", "one")
        assert (await client.ask("HEAD", f"/v2/one/blobs/{digest}")).status == 200
        assert (await client.ask("HEAD", f"/v2/two/blobs/{digest}")).status == 404
        assert json.loads((await client.ask("GET", "/v2/_catalog")).body) == {"repositories": []}


async def test_what_waits_for_its_manifest_is_kept(store: ContentStore) -> None:
    async with pushing(store) as (_, client):
        digest = await client.upload(b"{}")
        assert sweep(store) is None, "somebody is pushing"
        put = await client.ask(
            "PUT", "/v2/app/manifests/1", Manifest(described(b"{}"), ()).to_bytes()
        )
        assert put.status == 201
        found = sweep(store)
        assert found is not None
        assert found.blobs == 0
    assert store.size(digest) == 2


async def test_what_waits_too_long_goes(store: ContentStore) -> None:
    limits = MirrorLimits(pending=0.05, upload_idle=0.05)
    async with pushing(store, limits) as (_, client):
        digest = await client.upload(b"never named")
        location = await client.begin()
        assert len(left(store)) == 1
        done = await until(lambda: asyncio.to_thread(sweep, store))
        assert done.blobs == 1
        assert store.size(digest) is None
        assert (await client.ask("PUT", f"{location}?digest={digest}")).status == 404
        assert not left(store)


# What is refused


async def test_content_that_is_not_its_digest(store: ContentStore) -> None:
    async with pushing(store) as (mirror, client):
        location = await client.begin()
        wrong = await client.ask("PUT", f"{location}?digest={Digest.of(b'other')}", b"this")
        assert (wrong.status, wrong.code) == (400, "DIGEST_INVALID")
        assert (await client.ask("GET", location)).status == 404, "it ended"
        location = await client.begin()
        for digest in ("", "?digest=sha256:../../x", f"?digest=md5:{'0' * 32}"):
            answer = await client.ask("PUT", f"{location}{digest}")
            assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
        manifest = Manifest(described(b"{}"), ()).to_bytes()
        other = Digest.of(b"other")
        answer = await client.ask("PUT", f"/v2/app/manifests/{other}", manifest)
        assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
        assert not mirror.pushed
    assert not list((store.directory / "sha256").iterdir())


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "MANIFEST_INVALID"),
        (b"[" * 100_000, 400, "MANIFEST_INVALID"),
        (b'{"schemaVersion":1}', 400, "MANIFEST_INVALID"),
        (Manifest(described(b"{}"), ()).to_bytes(), 400, "MANIFEST_BLOB_UNKNOWN"),
        (b" " * ((4 << 20) + 1), 413, "SIZE_INVALID"),
    ],
    ids=["empty", "deep", "old", "without its blobs", "large"],
)
async def test_manifests_that_are_none(
    store: ContentStore, body: bytes, status: int, code: str
) -> None:
    async with pushing(store) as (mirror, client):
        answer = await client.ask("PUT", "/v2/app/manifests/1", body)
        assert (answer.status, answer.code) == (status, code)
        assert not mirror.pushed
    assert store.tags.all() == {}


async def test_a_name_that_is_too_long_with_its_registry(store: ContentStore) -> None:
    async with pushing(store) as (_, client):
        await client.upload(b"{}", name := "a" * 250)
        manifest = Manifest(described(b"{}"), ()).to_bytes()
        answer = await client.ask("PUT", f"/v2/{name}/manifests/1", manifest)
        assert (answer.status, answer.code) == (400, "NAME_INVALID")
    assert store.tags.all() == {}


async def test_a_blob_of_another_size_than_the_manifest_says(store: ContentStore) -> None:
    async with pushing(store) as (_, client):
        digest = await client.upload(b"{}")
        manifest = Manifest(Descriptor(IMAGE_CONFIG, digest, 3), ())
        answer = await client.ask("PUT", "/v2/app/manifests/1", manifest.to_bytes())
        assert (answer.status, answer.code) == (400, "MANIFEST_BLOB_UNKNOWN")


async def test_no_more_than_the_quota(tmp_path: Path) -> None:
    store = ContentStore(tmp_path, quota=100_000)
    ours = ContentStore(tmp_path / "ours")
    digest = bundle(ours, "registry.example/app:1", LARGE).digest
    async with pushing(store) as (mirror, client), RegistryClient(patience=QUICK) as registry:
        with pytest.raises(EdgeError, match="beyond its quota"):
            await transfer.push(registry, digest, ours, Reference.parse(f"{mirror.host}/app:1"))
        (tmp_path / "large").write_bytes(LARGE)
        send = ("-X", "PATCH", "-T", tmp_path / "large", "-w", "%{http_code}")
        for more in ((), ("-H", "Transfer-Encoding: chunked")):
            answer = await curl(*send, *more, f"{mirror.url}{await client.begin()}")
            assert b"beyond its quota" in answer
            assert answer.endswith(b"507")
        await client.upload(LARGE[:90_000])
    assert not left(store)


async def test_so_many_uploads_at_a_time(store: ContentStore) -> None:
    async with pushing(store, MirrorLimits(uploads=2)) as (_, client):
        locations = [await client.begin(), await client.begin()]
        answer = await client.ask("POST", "/v2/app/blobs/uploads/")
        assert (answer.status, answer.code) == (429, "TOOMANYREQUESTS")
        assert answer.headers["Retry-After"]
        assert (await client.ask("DELETE", locations[0])).status == 204
        assert (await client.ask("DELETE", locations[0])).status == 404
        await client.upload(b"x")
    assert not left(store)


async def test_so_many_blobs_without_a_manifest(store: ContentStore) -> None:
    async with pushing(store, MirrorLimits(pending_blobs=1)) as (_, client):
        await client.upload(b"1")
        path = f"/v2/app/blobs/uploads/?digest={Digest.of(b'2')}"
        answer = await client.ask("POST", path, b"2")
        assert (answer.status, answer.code) == (429, "TOOMANYREQUESTS")
    assert not left(store)


async def test_one_request_at_a_time_writes_to_an_upload(store: ContentStore) -> None:
    sending, going_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b"a"
        sending.set()
        await going_on.wait()
        yield b"b"

    async with pushing(store) as (_, client):
        location = await client.begin()

        async def refused() -> Answer | None:
            answer = await client.ask("PATCH", location)
            return None if answer.status == 202 else answer

        async with asyncio.TaskGroup() as group:
            first = group.create_task(client.ask("PATCH", location, slowly()))
            await sending.wait()
            second = await until(lambda: refused())  # the first one may not be there yet
            assert (second.status, second.code) == (409, "BLOB_UPLOAD_INVALID")
            going_on.set()
        assert first.result().headers["Range"] == "0-1"


async def test_an_upload_of_another_repository(store: ContentStore) -> None:
    async with pushing(store) as (_, client):
        location = await client.begin("one")
        answer = await client.ask("PATCH", location.replace("/one/", "/two/"), b"x")
        assert (answer.status, answer.code) == (404, "BLOB_UPLOAD_UNKNOWN")


async def test_an_upload_that_breaks_off_goes_on(store: ContentStore) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"1234"
        raise ZeroDivisionError

    async with pushing(store) as (_, client):
        location = await client.begin()
        with contextlib.suppress(aiohttp.ClientError, ZeroDivisionError):
            await client.ask("PATCH", location, broken())

        async def known() -> Answer | None:
            answer = await client.ask("GET", location)
            return None if answer.status == 409 else answer

        status = await until(known)
        written = int(status.headers["Range"].partition("-")[2])
        rest = b"1234567"[written + 1 if written else 0 :]
        done = await client.ask("PUT", f"{location}?digest={Digest.of(b'1234567')}", rest)
        assert done.status in (201, 400)
        assert done.status == 201 or written == 0


async def test_a_page_of_the_web_cannot_push(store: ContentStore) -> None:
    async with pushing(store) as (_, client):
        answer = await client.ask("POST", "/v2/app/blobs/uploads/", Origin="http://evil.example")
        assert (answer.status, answer.code) == (403, "DENIED")
        answer = await client.ask("GET", "/v2/_catalog", Host="evil.example")
        assert (answer.status, answer.code) == (421, "DENIED")


async def test_a_push_needs_a_registry_that_is_there(store: ContentStore, tmp_path: Path) -> None:
    ours = ContentStore(tmp_path / "ours")
    digest = bundle(ours, "registry.example/app:1", b"x").digest
    async with pushing(store) as (mirror, _):
        host = mirror.host
    async with RegistryClient(patience=QUICK) as client:
        with pytest.raises(PullError, match="refused"):
            await transfer.push(client, digest, ours, Reference.parse(f"{host}/app:1"))
