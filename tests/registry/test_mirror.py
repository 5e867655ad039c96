"""The node as a registry: what it holds, for our own client, skopeo and curl."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from mirror_lab import Running, bundle, curl, running
from registry_lab import docker_registry, skopeo

from edge.config import Mirror as Settings
from edge.errors import Refused
from edge.registry import transfer
from edge.registry.client import RegistryClient
from edge.registry.digest import Digest
from edge.registry.manifest import IMAGE_INDEX, IMAGE_MANIFEST, Descriptor, Index, Platform
from edge.registry.mirror import Mirror
from edge.registry.reference import Reference
from edge.registry.store import ContentStore

LARGE = bytes(range(256)) * 4000


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "node")


async def answer(
    mirror: Running, path: str, method: str = "GET", **options: Any
) -> tuple[int, Any, bytes]:
    """Status, headers and body."""
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"{mirror.url}{path}", **options) as response,
    ):
        return response.status, response.headers, await response.read()


def error(body: bytes) -> tuple[str, str]:
    (found,) = json.loads(body)["errors"]
    return found["code"], found["message"]


# Pulls


async def test_another_node_pulls_from_a_node(store: ContentStore, tmp_path: Path) -> None:
    digest = bundle(store, "registry.example/team/app:1", LARGE, b"x").digest
    other = ContentStore(tmp_path / "other")
    async with running(store) as mirror, RegistryClient() as client:
        reference = Reference.parse(f"{mirror.host}/team/app:1")
        assert await transfer.pull(client, reference, other) == digest
        assert await transfer.pull(client, reference, other) == digest, "asked with If-None-Match"
        assert await transfer.pull(client, reference.at(digest), other) == digest
    assert transfer.complete(other, reference) == digest


async def test_skopeo_pulls_from_a_node(store: ContentStore, tmp_path: Path) -> None:
    digest = bundle(store, "registry.example/team/app:1", LARGE, b"x").digest
    async with running(store) as mirror:
        source = f"docker://{mirror.host}/team/app:1"
        plain = "--src-tls-verify=false"
        await asyncio.to_thread(skopeo, "copy", plain, source, f"oci:{tmp_path}/oci:1")
        seen = await asyncio.to_thread(skopeo, "inspect", "--tls-verify=false", source)
        assert json.loads(seen)["Digest"] == str(digest)
        assert json.loads(seen)["RepoTags"] == ["1"]
        pinned = f"docker://{mirror.host}/registry.example/team/app@{digest}"
        await asyncio.to_thread(skopeo, "inspect", "--tls-verify=false", pinned)
    blobs = {path.name for path in (tmp_path / "oci" / "blobs" / "sha256").iterdir()}
    assert blobs == {path.name for path in (store.directory / "sha256").iterdir()}


async def test_what_a_registry_gave_a_node_gives_on(store: ContentStore, tmp_path: Path) -> None:
    source = ContentStore(tmp_path / "source")
    digest = bundle(source, "x.example/app:1", LARGE).digest
    (tmp_path / "registry").mkdir()
    other = ContentStore(tmp_path / "other")
    with docker_registry(tmp_path / "registry") as host:
        async with RegistryClient() as client:
            reference = Reference.parse(f"{host}/team/app:1")
            await transfer.push(client, digest, source, reference)
            await transfer.pull(client, reference, store)
    async with running(store) as mirror, RegistryClient() as client:
        pulled = await transfer.pull(client, Reference.parse(f"{mirror.host}/team/app:1"), other)
    assert pulled == digest


# Manifests


async def test_a_manifest_by_tag_and_digest(store: ContentStore) -> None:
    found = bundle(store, "registry.example/app:1")
    data = store.read(found.digest, 1 << 20)
    async with running(store) as mirror:
        for name in ("1", str(found.digest)):
            path = f"/v2/app/manifests/{name}"
            status, headers, body = await answer(mirror, path)
            assert (status, body) == (200, data)
            assert headers["Content-Type"] == IMAGE_MANIFEST
            assert headers["Docker-Content-Digest"] == str(found.digest)
            status, headers, body = await answer(mirror, path, "HEAD")
            assert (status, headers["Content-Length"], body) == (200, str(len(data)), b"")
        known = {"If-None-Match": headers["ETag"]}
        assert (await answer(mirror, path, headers=known))[0] == 304
        known = {"If-None-Match": '"sha256:other"'}
        assert (await answer(mirror, path, headers=known))[0] == 200


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        (IMAGE_MANIFEST, 200),
        (f"{IMAGE_INDEX}, {IMAGE_MANIFEST};q=0.5", 200),
        ("*/*", 200),
        ("application/*", 200),
        (IMAGE_INDEX, 404),
        ("text/html", 404),
    ],
)
async def test_a_manifest_for_who_understands_it(
    store: ContentStore, accept: str, status: int
) -> None:
    bundle(store, "registry.example/app:1")
    async with running(store) as mirror:
        got, _, _ = await answer(mirror, "/v2/app/manifests/1", headers={"Accept": accept})
    assert got == status


async def test_an_index_and_its_manifests(store: ContentStore) -> None:
    entry = bundle(store, "registry.example/other:1", b"x")
    wasm = Descriptor(entry.media_type, entry.digest, entry.size, {}, Platform("wasm", "wasi"))
    index = store.add(Index((wasm,)).to_bytes(), IMAGE_INDEX)
    store.tags.set("registry.example/app:1", index.digest)
    async with running(store) as mirror:
        status, headers, _ = await answer(mirror, "/v2/app/manifests/1")
        assert (status, headers["Content-Type"]) == (200, IMAGE_INDEX)
        assert (await answer(mirror, f"/v2/app/manifests/{entry.digest}"))[0] == 200
        assert (await answer(mirror, f"/v2/app/blobs/{Digest.of(b'x')}"))[0] == 200
        store.path(Digest.of(b"x")).unlink()
        assert (await answer(mirror, "/v2/app/manifests/1"))[0] == 404


async def test_only_what_is_whole(store: ContentStore) -> None:
    found = bundle(store, "registry.example/app:1", LARGE)
    async with running(store) as mirror:
        path = store.path(Digest.of(LARGE))
        path.unlink()
        for name in ("1", str(found.digest)):
            status, _, body = await answer(mirror, f"/v2/app/manifests/{name}")
            assert (status, error(body)[0]) == (404, "MANIFEST_UNKNOWN")
        status, _, body = await answer(mirror, f"/v2/app/blobs/{Digest.of(LARGE)}")
        assert (status, error(body)[0]) == (404, "BLOB_UNKNOWN")


async def test_a_damaged_manifest_is_not_served(store: ContentStore) -> None:
    found = bundle(store, "registry.example/app:1")
    path = store.path(found.digest)
    data = path.read_bytes()
    path.chmod(0o644)
    async with running(store) as mirror:
        assert (await answer(mirror, "/v2/app/manifests/1"))[0] == 200
        path.write_bytes(data.replace(b"schemaVersion", b"SchemaVersion"))
        os.utime(path)
        status, _, body = await answer(mirror, "/v2/app/manifests/1")
        assert (status, error(body)[0]) == (404, "MANIFEST_UNKNOWN")


# Blobs


async def test_parts_of_a_blob(store: ContentStore) -> None:
    bundle(store, "registry.example/app:1", LARGE)
    size = len(LARGE)
    async with running(store) as mirror:
        url = f"{mirror.url}/v2/app/blobs/{Digest.of(LARGE)}"
        assert await curl(url) == LARGE
        assert await curl("-r", "0-0", url) == LARGE[:1]
        assert await curl("-r", "1000-1999", url) == LARGE[1000:2000]
        assert await curl("-r", f"{size - 5}-", url) == LARGE[-5:]
        assert await curl("-r", "-7", url) == LARGE[-7:]
        assert await curl("-r", f"5-{size * 2}", url) == LARGE[5:]
        assert await curl("-r", f"-{size * 2}", url) == LARGE
        head = await curl("-I", "-r", "10-19", url)
        assert b"206" in head
        assert f"Content-Range: bytes 10-19/{size}".encode() in head
        assert b"Content-Length: 10\r\n" in head
        beyond = await curl("-i", "-r", f"{size}-", url)
        assert b"416" in beyond
        assert f"Content-Range: bytes */{size}".encode() in beyond
        assert await curl("-r", "0-1,5-6", url) == LARGE, "several ranges may be ignored"
        assert await curl("-H", "Range: bytes=9-3", url) == LARGE
        assert await curl("-H", 'If-Range: "other"', "-r", "0-1", url) == LARGE
        assert (
            await curl("-w", "%{http_code}", "-H", f'If-None-Match: "{Digest.of(LARGE)}"', url)
            == b"304"
        )


async def test_an_empty_blob(store: ContentStore) -> None:
    bundle(store, "registry.example/app:1", b"")
    async with running(store) as mirror:
        path = f"/v2/app/blobs/{Digest.of(b'')}"
        status, headers, body = await answer(mirror, path)
        assert (status, headers["Content-Length"], body) == (200, "0", b"")


async def test_a_pull_goes_on_where_it_broke(store: ContentStore, tmp_path: Path) -> None:
    bundle(store, "registry.example/app:1", LARGE)
    target = tmp_path / "blob"
    target.write_bytes(LARGE[:777])
    async with running(store) as mirror:
        await curl("-C", "-", "-o", target, f"{mirror.url}/v2/app/blobs/{Digest.of(LARGE)}")
    assert target.read_bytes() == LARGE


async def test_blobs_that_no_bundle_has_stay_here(store: ContentStore) -> None:
    bundle(store, "registry.example/app:1")
    bundle(store, "registry.example/other:1", b"other's")
    store.add(b"a member of an archive", "x/y")
    async with running(store) as mirror:
        for data in (b"a member of an archive", b"other's"):
            status, _, body = await answer(mirror, f"/v2/app/blobs/{Digest.of(data)}")
            assert (status, error(body)[0]) == (404, "BLOB_UNKNOWN")
        path = f"/v2/app/manifests/{Digest.of(b'a member of an archive')}"
        assert (await answer(mirror, path))[0] == 404


# What there is


async def test_tags_and_repositories_in_pages(store: ContentStore) -> None:
    for tag in ("b", "a", "C", "1"):
        bundle(store, f"registry.example/app:{tag}", tag.encode())
    bundle(store, "registry.example/zoo/app")
    bundle(store, "registry.example/app@DIGEST", b"only by its digest")
    store.tags.set("application/app", store.add(b"no reference", "x/y").digest)
    async with running(store) as mirror:
        _, _, body = await answer(mirror, "/v2/app/tags/list")
        assert json.loads(body) == {"name": "app", "tags": ["1", "C", "a", "b"]}
        _, headers, body = await answer(mirror, "/v2/app/tags/list?n=2")
        assert json.loads(body)["tags"] == ["1", "C"]
        assert headers["Link"] == '</v2/app/tags/list?n=2&last=C>; rel="next"'
        _, headers, body = await answer(mirror, "/v2/app/tags/list?n=2&last=C")
        assert json.loads(body)["tags"] == ["a", "b"]
        assert "Link" not in headers
        _, headers, body = await answer(mirror, "/v2/app/tags/list?n=0")
        assert (json.loads(body)["tags"], "Link" in headers) == ([], False)
        assert (await answer(mirror, "/v2/app/tags/list?n=-1"))[0] == 400
        _, _, body = await answer(mirror, "/v2/_catalog")
        assert json.loads(body) == {"repositories": ["app", "zoo/app"]}
        _, headers, body = await answer(mirror, "/v2/_catalog?n=1")
        assert headers["Link"] == '</v2/_catalog?n=1&last=app>; rel="next"'
        _, _, body = await answer(mirror, "/v2/zoo/app/tags/list")
        assert json.loads(body)["tags"] == ["latest"]
        status, _, body = await answer(mirror, "/v2/nix/tags/list")
        assert (status, error(body)[0]) == (404, "NAME_UNKNOWN")


async def test_what_changes_is_seen(store: ContentStore) -> None:
    async with running(store) as mirror:
        assert json.loads((await answer(mirror, "/v2/_catalog"))[2]) == {"repositories": []}
        first = bundle(store, "registry.example/app:1", b"1")
        assert (await answer(mirror, "/v2/app/manifests/1"))[0] == 200
        second = bundle(store, "registry.example/app:1", b"2")
        _, headers, _ = await answer(mirror, "/v2/app/manifests/1")
        assert headers["Docker-Content-Digest"] == str(second.digest)
        _, headers, _ = await answer(mirror, f"/v2/app/manifests/{first.digest}")
        assert headers["Docker-Content-Digest"] == str(first.digest), "to go back to"


async def test_referrers(store: ContentStore) -> None:
    image = bundle(store, "registry.example/app:1", b"app")
    note = {"who": "ada"}
    one = bundle(store, "registry.example/app@DIGEST", b"1", subject=image, annotations=note)
    two = bundle(store, "registry.example/app:about", b"2", subject=image, kind="a/signature")
    bundle(store, "registry.example/other@DIGEST", b"3", subject=image)
    async with running(store) as mirror:
        path = f"/v2/app/referrers/{image.digest}"
        status, headers, body = await answer(mirror, path)
        assert (status, headers["Content-Type"]) == (200, IMAGE_INDEX)
        found = {entry["digest"]: entry for entry in json.loads(body)["manifests"]}
        assert set(found) == {str(one.digest), str(two.digest)}
        assert found[str(one.digest)]["annotations"] == note
        assert found[str(one.digest)]["artifactType"] == "application/vnd.oci.image.config.v1+json"
        assert found[str(two.digest)]["size"] == two.size
        _, headers, body = await answer(mirror, f"{path}?artifactType=a/signature")
        assert [e["digest"] for e in json.loads(body)["manifests"]] == [str(two.digest)]
        assert headers["OCI-Filters-Applied"] == "artifactType"
        status, _, body = await answer(mirror, f"/v2/app/referrers/{two.digest}")
        assert (status, json.loads(body)["manifests"]) == (200, [])
        assert (await answer(mirror, "/v2/app/referrers/sha256:x"))[0] == 400


# Several registries


async def test_a_name_that_two_registries_have(store: ContentStore) -> None:
    ours = bundle(store, "a.example/app:1", b"a")
    theirs = bundle(store, "b.example:5000/app:1", b"b")
    for registry in ("a.example", "b.example:5000"):
        bundle(store, f"{registry}/app:same", b"same")
    async with running(store) as mirror:
        path = "/v2/app/manifests/1"
        status, _, body = await answer(mirror, path)
        assert (status, error(body)[0]) == (400, "NAME_INVALID")
        assert "a.example and b.example:5000" in error(body)[1]
        assert "?ns=a.example" in error(body)[1]
        for registry, found in (("a.example", ours), ("b.example:5000", theirs)):
            status, headers, _ = await answer(mirror, f"{path}?ns={registry}")
            assert (status, headers["OCI-Namespace"]) == (200, registry)
            assert headers["Docker-Content-Digest"] == str(found.digest)
            assert (await answer(mirror, f"/v2/app/manifests/{found.digest}"))[0] == 200
        _, headers, _ = await answer(mirror, "/v2/a.example/app/manifests/1")
        assert headers["Docker-Content-Digest"] == str(ours.digest)
        assert (await answer(mirror, "/v2/app/manifests/same"))[0] == 200
        status, _, body = await answer(mirror, f"{path}?ns=c.example")
        assert (status, error(body)[0]) == (404, "NAME_UNKNOWN")
        path = f"/v2/app/blobs/{Digest.of(b'b')}"
        assert (await answer(mirror, f"{path}?ns=a.example"))[0] == 404
        assert (await answer(mirror, path))[0] == 200


# What it is not


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_it_is_read_only(store: ContentStore, method: str) -> None:
    bundle(store, "registry.example/app:1")
    async with running(store) as mirror:
        for path in ("/v2/app/blobs/uploads/", "/v2/app/manifests/1"):
            status, headers, body = await answer(mirror, path, method, data=b"x")
            assert (status, headers["Allow"], error(body)[0]) == (405, "GET, HEAD", "UNSUPPORTED")
            assert "accept_pushes" in error(body)[1]


async def test_a_push_to_it_is_refused_in_words(store: ContentStore, tmp_path: Path) -> None:
    other = ContentStore(tmp_path / "other")
    digest = bundle(other, "registry.example/app:1", LARGE).digest
    async with running(store) as mirror, RegistryClient() as client:
        with pytest.raises(Refused, match="read-only"):
            await transfer.push(client, digest, other, Reference.parse(f"{mirror.host}/app:1"))


async def test_it_does_nothing_without_an_address(store: ContentStore) -> None:
    async with Mirror(Settings(None), store) as mirror:
        assert mirror.addresses == ()


async def test_it_also_speaks_the_longer_addresses(store: ContentStore) -> None:
    bundle(store, "registry.example/app:1")
    async with running(store, host="::1") as mirror:
        assert mirror.host.startswith("[::1]:")
        assert (await answer(mirror, "/v2/app/manifests/1"))[0] == 200
