"""A registry that lies, breaks off, or answers what it should not: refused or tried again, with the
reason, and the live version goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import tarfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aiohttp import web
from deploy_lab import Board, Load, board, build, load, write_release
from registry_lab import Answer, Liar, body, drops, endless, hangs, liar, status
from soak_lab import FULL, Guest, say

from edge.errors import EdgeError
from edge.registry.bundle import ARCHIVE
from edge.registry.digest import Digest
from edge.registry.manifest import IMAGE_INDEX, IMAGE_MANIFEST, MAX_MANIFEST
from edge.registry.store import ContentStore

CONFIG = '[sync]\ninterval = "1h"\nsoak = "0s"\n'


# --- bundles that are not what they should be -----------------------------------------------------


@dataclass(frozen=True)
class Bundle:
    """What a registry has of one: its manifest, and its blobs by their digests."""

    manifest: bytes
    blobs: dict[str, bytes]
    kind: str = IMAGE_MANIFEST

    @property
    def document(self) -> dict[str, Any]:
        return dict(json.loads(self.manifest))

    @property
    def wasm(self) -> str:
        """The digest of its largest blob."""
        return max(self.blobs, key=lambda digest: len(self.blobs[digest]))

    def with_blob(self, change: Callable[[bytes], bytes]) -> Bundle:
        """Another content under the same digest."""
        return replace(self, blobs={**self.blobs, self.wasm: change(self.blobs[self.wasm])})

    def with_layer(self, **changes: object) -> Bundle:
        """The descriptor of its Wasm says something else."""
        document = self.document
        for layer in document["layers"]:
            if layer["digest"] == self.wasm:
                layer.update(changes)
        return replace(self, manifest=json.dumps(document).encode())

    def with_archive(self, data: bytes) -> Bundle:
        document, digest = self.document, str(Digest.of(data))
        layer = {"mediaType": ARCHIVE, "digest": digest, "size": len(data)}
        document["layers"].append(layer)
        blobs = {**self.blobs, digest: data}
        return replace(self, manifest=json.dumps(document).encode(), blobs=blobs)

    def with_manifest(self, manifest: bytes, kind: str = IMAGE_MANIFEST) -> Bundle:
        return replace(self, manifest=manifest, kind=kind)


def archive(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.size = kind, link, size
        tar.addfile(member, io.BytesIO(bytes(size)))
    return out.getvalue()


def bomb(size: int) -> bytes:
    """Zeros between two members: kilobytes that become gigabytes."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.PAX_FORMAT) as out:
        out.addfile(tarfile.TarInfo("a" * 200))
    whole = io.BytesIO()
    with gzip.GzipFile(fileobj=whole, mode="wb") as zipped:
        for _ in range(size >> 20):
            zipped.write(bytes(1 << 20))
        zipped.write(tar.getvalue())
    return whole.getvalue()


def index(found: Bundle, kind: str) -> Bundle:
    """Of something that is not there."""
    entry = {
        "mediaType": kind,
        "digest": str(Digest.of(b"{}")),
        "size": 2,
        "platform": {"architecture": "wasm", "os": "wasip1"},
    }
    document = {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": [entry]}
    return found.with_manifest(json.dumps(document).encode(), IMAGE_INDEX)


def flipped(data: bytes) -> bytes:
    return data[:1000] + bytes([data[1000] ^ 1]) + data[1001:]


def layers(found: Bundle, count: int) -> Bundle:
    document = found.document
    document["layers"] *= count
    return found.with_manifest(json.dumps(document).encode())


# What is wrong with it -> the bundle made of a good one, and what is said of it.
BAD: dict[str, tuple[Callable[[Bundle], Bundle], str]] = {
    "a tampered blob": (lambda b: b.with_blob(flipped), "its digest is"),
    "a truncated layer": (lambda b: b.with_blob(lambda d: d[:-100]), "its manifest says"),
    "a layer with more": (lambda b: b.with_blob(lambda d: d + b"x"), "its manifest says"),
    "a wrong size": (lambda b: b.with_layer(size=7), "its manifest says 7"),
    "a size beyond reason": (lambda b: b.with_layer(size=1 << 49), "more than 4GiB"),
    "a negative size": (lambda b: b.with_layer(size=-1), "size"),
    "a digest with ..": (
        lambda b: b.with_layer(digest="sha256:../../../../../../etc/passwd"),
        "digest",
    ),
    "another algorithm": (lambda b: b.with_layer(digest=f"md5:{'0' * 32}"), "digest"),
    "a manifest bomb": (
        lambda b: b.with_manifest(b" " * MAX_MANIFEST + b.manifest),
        f"more than {MAX_MANIFEST} bytes",
    ),
    "a deep manifest": (lambda b: b.with_manifest(b"[" * 100_000), "JSON"),
    "a wide manifest": (lambda b: layers(b, 2000), "layers"),
    "no JSON": (lambda b: b.with_manifest(b"<html>"), "JSON"),
    "an index that leads nowhere": (lambda b: index(b, IMAGE_MANIFEST), "not found"),
    "an index of indexes": (lambda b: index(b, IMAGE_INDEX), "holds no WebAssembly"),
    "a link": (
        lambda b: b.with_archive(archive("a", tarfile.SYMTYPE, "/etc/shadow")),
        "is a link to '/etc/shadow'",
    ),
    "a hard link": (
        lambda b: b.with_archive(archive("a", tarfile.LNKTYPE, "../b")),
        "is a link to '../b'",
    ),
    "a path with ..": (
        lambda b: b.with_archive(archive("../../../etc/cron.d/x", size=9)),
        "is not the path of a file within the archive",
    ),
    "an absolute path": (
        lambda b: b.with_archive(archive("/etc/cron.d/x", size=9)),
        "is not the path of a file within the archive",
    ),
    "a device": (
        lambda b: b.with_archive(archive("sda", tarfile.BLKTYPE)),
        "is neither a file nor a directory",
    ),
    "an archive bomb": (lambda b: b.with_archive(bomb(64 << 20)), "between two files"),
    "a broken archive": (
        lambda b: b.with_archive(archive("a", size=5000)[:-20]),
        "is not an archive that can be read",
    ),
}


def good(folder: Path, guest: Guest, version: str) -> Bundle:
    store = ContentStore(folder / f"{version}.store")
    release = write_release(folder / version, guest("release"), version, pad=9)
    manifest = store.read(asyncio.run(build(release, store)), MAX_MANIFEST)
    document = json.loads(manifest)
    named = (Digest.parse(d["digest"]) for d in (document["config"], *document["layers"]))
    return Bundle(manifest, {str(d): store.path(d).read_bytes() for d in named})


def publish(registry: Liar, tag: str, bundle: Bundle) -> str:
    """It has this bundle and no other, and tells no lies yet."""
    registry.faults.clear()
    for name in (tag, str(Digest.of(bundle.manifest))):
        registry.manifests[name] = (bundle.kind, bundle.manifest)
    registry.blobs = dict(bundle.blobs)
    return f"{registry.host}/team/release:{tag}"


@contextmanager
def served_liar() -> Iterator[Liar]:
    """In a thread of its own: what is asked here waits for what it answers."""
    ready: Future[tuple[Liar, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        async with liar() as registry:
            over = asyncio.Event()
            ready.set_result((registry, asyncio.get_running_loop(), over))
            await over.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    registry, loop, over = ready.result(20)
    try:
        yield registry
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()


def test_bad_bundles_are_refused_and_the_live_version_goes_on(guest: Guest, tmp_path: Path) -> None:
    old, new = good(tmp_path, guest, "old"), good(tmp_path, guest, "new")
    with served_liar() as registry, board(tmp_path / "node", CONFIG) as node:
        live = publish(registry, "live", old)
        node.deploy(live)
        digest = node.app()["digest"]
        with load(node, tmp_path, clients=2) as seen:
            for number, (name, (worsen, reason)) in enumerate(BAD.items()):
                bad = worsen(new)
                said = node.refuses(publish(registry, f"bad-{number}", bad))
                assert reason in said, (name, said)
                publish(registry, "live", bad)
                assert reason in followed(node), (name, node.app())
                assert node.app()["digest"] == digest, name
                assert not node.litter(), name
            publish(registry, "live", new)
            assert followed(node) == ""
            assert node.get() == (200, "new")
        harmless(seen)
        say(f"{len(BAD)} kinds of bad bundles, each refused twice, under {seen.total} requests")


def followed(node: Board) -> str:
    """Looks for what is new; why it is not live, if so."""
    with contextlib.suppress(EdgeError):
        node.ask("/v1/sync", name="release", retry=True)
    return str(node.app()["reason"])


def harmless(seen: Load) -> None:
    assert seen.errors == 0
    assert seen.failed() == {}
    assert set(seen.seen) == {"200 old", "200 new"}


# --- registries that do not do what they should ---------------------------------------------------


async def waits(request: web.Request) -> web.StreamResponse:
    """For a while, and then it goes."""
    await asyncio.sleep(3)
    return await drops(request)


# What a registry does, at its manifests and at its blobs, and recovers from.
PASSING: dict[str, tuple[Answer, ...]] = {
    "answers 500": (status(500), status(503)),
    "answers 429": (status(429, Retry_After="1"), status(429)),
    "breaks off": (drops, drops),
    "hangs": (waits,),
}
# What it does and goes on doing; what is said of it.
LASTING: dict[str, tuple[str, Answer, str]] = {
    "it is out of order": ("manifests", status(500), "answers 500"),
    "it has had enough": ("manifests", status(429, Retry_After="3600"), "come back in 3600 s"),
    "it lies about a digest": (
        "manifests",
        body(b"{}", Docker_Content_Digest=f"sha256:{'0' * 64}"),
        "which is not",
    ),
    "it never ends": ("blobs", endless(bytes(65536)), "bytes of its manifest"),
    "it has forgotten": ("blobs", status(404), "not found"),
    "it sends elsewhere": ("blobs", status(307, Location="file:///etc/shadow"), "not safe"),
    "it wants a login": ("manifests", status(401), "offers nothing to log in"),
    "it answers a page": ("manifests", body(b"<html>", Content_Type="text/html"), "is not JSON"),
}


def test_a_registry_at_fault_is_asked_again_and_the_live_version_goes_on(
    guest: Guest, tmp_path: Path
) -> None:
    with served_liar() as registry, board(tmp_path / "node", CONFIG) as node:
        node.deploy(publish(registry, "live", good(tmp_path, guest, "old")))
        digest = node.app()["digest"]
        with load(node, tmp_path, clients=2) as seen:
            for kind, fault, reason in LASTING.values():
                publish(registry, "live", good(tmp_path, guest, "new"))
                registry.faults[kind] = [fault] * 1000
                assert reason in followed(node), (reason, node.app())
                assert node.app()["digest"] == digest
                assert node.app()["state"] in ("live", "failed")
                assert not node.litter()
            if FULL:
                registry.faults.clear()
                registry.faults["manifests"] = [hangs] * 1000
                assert "the registry does not answer" in followed(node)
            publish(registry, "live", good(tmp_path, guest, "new"))
            for fault in PASSING.values():
                registry.faults["manifests"] += fault
                registry.faults["blobs"] += fault
                assert followed(node) == ""
                assert node.get() == (200, "new")
                publish(registry, "live", good(tmp_path, guest, "old"))
                assert followed(node) == ""
                publish(registry, "live", good(tmp_path, guest, "new"))
            assert followed(node) == ""
        harmless(seen)
        say(
            f"{len(LASTING)} faults that last, {len(PASSING)} that pass, "
            f"under {seen.total} requests"
        )
