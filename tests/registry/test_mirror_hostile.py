"""Who does not want the best for a node's registry."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mirror_lab import Running, bundle, curl, running, until
from registry_lab import free_port

from edge.config import Address
from edge.config import Mirror as Settings
from edge.errors import ConfigError, EdgeError
from edge.registry.digest import Digest
from edge.registry.mirror import Mirror
from edge.registry.mirror.limits import MirrorLimits
from edge.registry.store import ContentStore

# More than the buffers between two sockets hold.
LARGE = bytes(range(256)) * 100_000
IMPATIENT = MirrorLimits(silence=0.3)


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "node")


@asynccontextmanager
async def connected(
    mirror: Running, *lines: str
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection that has sent these lines."""
    reader, writer = await asyncio.open_connection("127.0.0.1", mirror.port)
    writer.write("".join(f"{line}\r\n" for line in lines).encode("latin-1"))
    await writer.drain()
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def rest(reader: asyncio.StreamReader) -> bytes:
    """Until the other side ends, in whichever way."""
    found = b""
    with contextlib.suppress(OSError):
        while piece := await reader.read(1 << 20):
            found += piece
    return found


async def request(mirror: Running, target: str, method: str = "GET", *headers: str) -> bytes:
    """The whole answer to a request as it is written, by a client that corrects nothing."""
    lines = (f"{method} {target} HTTP/1.1", f"Host: {mirror.host}", "Connection: close", *headers)
    async with connected(mirror, *lines, "") as (reader, _):
        return await rest(reader)


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


async def alive(mirror: Running) -> None:
    assert status(await request(mirror, "/v2/")) == 200


# Those who take their time


async def test_who_does_not_read_is_cut_off(store: ContentStore) -> None:
    bundle(store, "registry.example/app:1", LARGE)
    async with running(store, limits=IMPATIENT) as mirror:
        target = f"GET /v2/app/blobs/{Digest.of(LARGE)} HTTP/1.1"
        async with connected(mirror, target, f"Host: {mirror.host}", "") as (reader, writer):
            await alive(mirror)
            # What the buffers hold may still come; all of it does not.
            transport = writer.transport
            transport.pause_reading()  # type: ignore[attr-defined]
            await asyncio.sleep(3 * IMPATIENT.silence)
            transport.resume_reading()  # type: ignore[attr-defined]
            assert len(await rest(reader)) < len(LARGE)
        await alive(mirror)


async def test_who_reads_drop_by_drop_is_cut_off(store: ContentStore) -> None:
    bundle(store, "registry.example/app:1", LARGE)
    limits = MirrorLimits(silence=0.3, rate=1 << 30)
    async with running(store, limits=limits) as mirror:
        target = f"GET /v2/app/blobs/{Digest.of(LARGE)} HTTP/1.1"
        async with connected(mirror, target, f"Host: {mirror.host}", "") as (reader, _):
            seen = 0
            with contextlib.suppress(OSError):
                while piece := await reader.read(64 << 10):
                    seen += len(piece)
                    await asyncio.sleep(0.01)
            assert 0 < seen < len(LARGE)


@pytest.mark.parametrize(
    "lines", [(), ("GET /v2/ HTTP/1.1",), ("GET /v2/ HTTP/1.1", "Host: localhost", "X: 1")]
)
async def test_who_does_not_finish_asking_is_cut_off(
    store: ContentStore, lines: tuple[str, ...]
) -> None:
    async with running(store, limits=IMPATIENT) as mirror:
        async with connected(mirror, *lines) as (reader, _):
            assert await rest(reader) == b""
        async with connected(mirror, "GET /v2/ HTTP/1.1", f"Host: {mirror.host}", "") as (
            reader,
            _,
        ):
            assert status(await rest(reader)) == 200, "answered, and closed when nothing came"


async def test_who_does_not_send_what_was_announced(store: ContentStore) -> None:
    async with running(store, accept_pushes=True, limits=IMPATIENT) as mirror:
        begun = await request(mirror, "/v2/app/blobs/uploads/", "POST", "Content-Length: 0")
        (location,) = [x for x in begun.decode().split("\r\n") if x.startswith("Location: ")]
        path = location.removeprefix("Location: ")
        answer = await request(mirror, path, "PATCH", "Content-Length: 1000")
        assert status(answer) == 408
        assert status(await request(mirror, path)) == 204, "it may go on"
        answer = await request(mirror, "/v2/app/manifests/1", "PUT", "Content-Length: 10")
        assert status(answer) == 408


async def test_so_many_connections(store: ContentStore) -> None:
    async with running(store, limits=MirrorLimits(connections=3)) as mirror:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(3):
                await stack.enter_async_context(connected(mirror, "GET /v2/ HTTP/1.1"))
            answers = await asyncio.gather(*(refused(mirror) for _ in range(50)))  # noqa: TID251
            assert all(b"503" in answer and b"Retry-After" in answer for answer in answers)

        async def room() -> bool | None:
            answer = await request(mirror, "/v2/")
            return True if answer and status(answer) == 200 else None

        assert await until(room)


async def refused(mirror: Running) -> bytes:
    async with connected(mirror) as (reader, _):
        return await rest(reader)


async def test_uploads_that_are_never_finished_leave_nothing(store: ContentStore) -> None:
    async with running(store, accept_pushes=True) as mirror:
        for _ in range(5):
            await request(mirror, "/v2/app/blobs/uploads/", "POST", "Content-Length: 0")
        assert len(list((store.directory / "incoming").iterdir())) == 5
    assert not list((store.directory / "incoming").iterdir())


async def test_it_ends_while_somebody_reads(store: ContentStore) -> None:
    bundle(store, "registry.example/app:1", LARGE)
    async with running(store) as mirror:
        target = f"GET /v2/app/blobs/{Digest.of(LARGE)} HTTP/1.1"
        stack = contextlib.AsyncExitStack()
        reader, _ = await stack.enter_async_context(
            connected(mirror, target, f"Host: {mirror.host}", "")
        )
        assert await reader.readline()
    async with stack:
        assert len(await rest(reader)) < len(LARGE)


async def test_a_disk_that_fails_ends_the_answer(store: ContentStore) -> None:
    bundle(store, "registry.example/app:1", LARGE)
    async with running(store) as mirror:
        target = f"GET /v2/app/blobs/{Digest.of(LARGE)} HTTP/1.1"
        async with connected(mirror, target, f"Host: {mirror.host}", "") as (reader, _):
            assert await reader.readline()
            path = store.path(Digest.of(LARGE))
            path.chmod(0o644)
            os.truncate(path, 1000)
            answer = await rest(reader)
            assert len(answer) < len(LARGE)
            assert b"errors" not in answer, "no second answer within the first"
        assert status(await request(mirror, target.split()[1])) == 404
        tags = store.directory / "tags.json"
        tags.unlink()
        tags.mkdir()
        answer = await request(mirror, "/v2/_catalog")
        assert status(answer) == 500
        assert b"cannot read its disk" in answer


# Those who ask for something else

TRICKS = [
    "/v2/app/blobs/sha256:../../../../etc/passwd",
    "/v2/app/blobs/sha256:..%2f..%2f..%2fetc%2fpasswd",
    "/v2/app/blobs/../../../../etc/passwd",
    "/v2/../blobs/tags.json",
    "/v2/app/manifests/../../tags.json",
    "/v2/app/manifests/..%2f..%2ftags.json",
    "/v2/app/manifests/%00",
    "/v2/app%2f..%2f../manifests/1",
    "/v2/app/../app/manifests/1",
    "/v2//app/manifests/1",
    "/v2/App/manifests/1",
    "/v2/app/manifests/" + "a" * 129,
    "/v2/" + "a/" * 2000 + "manifests/1",
    "/v2/" + "a" * 300 + "/manifests/1",
    "/v2/app/blobs/sha256:" + "A" * 64,
    "/v2/app/blobs/sha512:" + "0" * 128,
    "/v2/app/blobs/sha256:" + "0" * 63 + "\xb2",
    "/v2/app/manifests/1?ns=" + "%0d%0aX:1",
    "/v2/app/manifests/1?ns=..%2f..",
    "/v2/app/tags/list?n=" + "9" * 40,
    "/v2/app/tags/list?n=1&last=%00",
    "/v2/app/blobs/uploads/",
    "/v2/app/blobs/uploads/..%2f..",
    "/etc/passwd",
    "//etc/passwd",
    "/v2/app/manifests/1/",
    "http://evil.example/v2/app/manifests/1",
    "*",
]


@pytest.mark.parametrize("target", TRICKS)
@pytest.mark.parametrize("accept_pushes", [False, True])
async def test_paths_that_lead_nowhere(
    store: ContentStore, target: str, accept_pushes: bool
) -> None:
    bundle(store, "registry.example/app:1")
    async with running(store, accept_pushes=accept_pushes) as mirror:
        for method in ("GET", "PUT"):
            answer = await request(mirror, target, method, "Content-Length: 0")
            if target == "/v2/app/tags/list?n=1&last=%00" and method == "GET":
                assert status(answer) == 200, "a name before all others"
                continue
            assert 400 <= status(answer) < 500, answer
            assert b"root:" not in answer
        await alive(mirror)
    assert set(store.tags.all()) == {"registry.example/app:1"}


@given(st.text(st.characters(min_codepoint=33, max_codepoint=255), max_size=80))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_target_is_a_mistake_of_ours(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    store = ContentStore(tmp_path_factory.mktemp("node"))

    async def body() -> None:
        async with running(store, accept_pushes=True) as mirror:
            for target in (f"/v2/{text}", f"/v2/app/blobs/{text}", f"/v2/{text}/manifests/1"):
                answer = await request(mirror, target)
                assert status(answer) < 500, answer

    with asyncio.Runner() as runner:
        runner.run(body())


@pytest.mark.parametrize(
    "headers",
    [
        ("Range: bytes=" + "9" * 30 + "-",),
        ("Range: bytes=-" + "9" * 30,),
        ("Range: bytes=--1",),
        ("Range: bytes=0-0,0-0" + ",0-0" * 1000,),
        ("Range: lines=1-2",),
        ("If-None-Match: " + '"x",' * 1500,),
        ("Accept: " + "a/b," * 1500,),
        ("Content-Length: 5",),
    ],
)
async def test_headers_of_all_kinds(store: ContentStore, headers: tuple[str, ...]) -> None:
    bundle(store, "registry.example/app:1", b"content")
    async with running(store, limits=IMPATIENT) as mirror:
        for path in (f"/v2/app/blobs/{Digest.of(b'content')}", "/v2/app/manifests/1"):
            assert status(await request(mirror, path, "GET", *headers)) < 500
        await alive(mirror)


async def test_headers_without_end(store: ContentStore) -> None:
    async with running(store) as mirror:
        answer = await request(mirror, "/v2/", "GET", *(f"X{n}: {'x' * 8000}" for n in range(200)))
        assert answer == b"" or 400 <= status(answer) < 500
        await alive(mirror)


async def test_what_is_not_http(store: ContentStore) -> None:
    async with running(store) as mirror:
        async with connected(mirror, "\x16\x03\x01\x02\x00\x01\x00", "") as (reader, _):
            answer = await rest(reader)
            assert answer == b"" or status(answer) == 400
        await alive(mirror)


async def test_compressed_bodies_are_not_unpacked(store: ContentStore) -> None:
    async with running(store, accept_pushes=True) as mirror:
        answer = await curl(
            *("-X", "PUT", "-H", "Content-Encoding: gzip", "--data-binary", "x"),
            f"{mirror.url}/v2/app/manifests/1",
        )
        (error,) = json.loads(answer)["errors"]
        assert error["code"] == "UNSUPPORTED"


async def test_an_announcement_beyond_all_disks(store: ContentStore) -> None:
    async with running(store, accept_pushes=True, limits=IMPATIENT) as mirror:
        for size in (1 << 50, 10**25):
            path = f"/v2/app/blobs/uploads/?digest={Digest.of(b'')}"
            answer = await request(mirror, path, "POST", f"Content-Length: {size}")
            assert 400 <= status(answer) < 500
            answer = await request(mirror, "/v2/app/manifests/1", "PUT", f"Content-Length: {size}")
            assert 400 <= status(answer) < 500
        await alive(mirror)
    assert not list((store.directory / "incoming").iterdir())


# Where it listens


@pytest.mark.parametrize("host", ["0.0.0.0", "", "192.0.2.1", "::"])
async def test_only_this_machine(store: ContentStore, host: str) -> None:
    with pytest.raises(ConfigError, match=r"mirror\.listen: .* can be reached from other machines"):
        async with Mirror(Settings(Address(host, 0)), store):
            pass


async def test_an_address_that_is_taken(store: ContentStore) -> None:
    async with running(store) as mirror:
        settings = Settings(Address("127.0.0.1", mirror.port))
        with pytest.raises(EdgeError, match="address already in use"):
            async with Mirror(settings, store):
                pass


async def test_a_name_that_nobody_knows(store: ContentStore) -> None:
    with pytest.raises(ConfigError, match=r"mirror\.listen: nix\.invalid"):
        async with Mirror(Settings(Address("nix.invalid", free_port())), store):
            pass
