"""The client against a registry that hangs, lies, breaks off, and answers 429 and 500."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from aiohttp import web
from registry_lab import (
    Answer,
    Authority,
    Liar,
    body,
    drops,
    endless,
    hangs,
    liar,
    served,
    status,
)

from edge.errors import BundleError, ConfigError, EdgeError, PullError, Refused
from edge.registry.client import Patience, RegistryClient, RegistrySettings
from edge.registry.digest import Digest
from edge.registry.manifest import IMAGE_CONFIG, IMAGE_INDEX, IMAGE_MANIFEST, Descriptor, Manifest
from edge.registry.reference import Reference
from edge.registry.store import ContentStore

# Waits for little, tries often.
QUICK = Patience(total=20, attempts=4, first=0.01, silence=1, exchange=10)

LAYER = bytes(range(256)) * 4096  # 1 MiB
DESCRIPTOR = Descriptor("application/wasm", Digest.of(LAYER), len(LAYER))
MANIFEST = Manifest(Descriptor(IMAGE_CONFIG, Digest.of(b"{}"), 2), (DESCRIPTOR,)).to_bytes()


def fill(registry: Liar) -> Reference:
    registry.manifests["1"] = registry.manifests[str(Digest.of(MANIFEST))] = (
        IMAGE_MANIFEST,
        MANIFEST,
    )
    registry.blobs[str(DESCRIPTOR.digest)] = LAYER
    return Reference.parse(f"{registry.host}/app:1")


def client(registry: Liar, patience: Patience = QUICK, **settings: object) -> RegistryClient:
    login = RegistrySettings(username="ada", password="secret", **settings)  # type: ignore[arg-type]
    return RegistryClient({registry.host: login}, patience=patience)


async def pull(registry: Liar, state: Path, patience: Patience = QUICK) -> bytes:
    """The layer as the store has it afterwards. Nothing is left behind when it fails."""
    reference = fill(registry)
    store = ContentStore(state)
    try:
        async with client(registry, patience) as found:
            with store.writer(DESCRIPTOR.size) as writer:
                await found.pull_blob(reference, DESCRIPTOR, writer, received=registry.count)
    except EdgeError:
        assert not store.has(DESCRIPTOR)
        assert not list((state / "blobs" / "incoming").iterdir())
        raise
    return store.path(DESCRIPTOR.digest).read_bytes()


PASSING: list[Answer] = [
    status(500),
    status(502, "<html>bad gateway</html>"),
    status(429, Retry_After="0"),
    drops,
    hangs,
]


@pytest.mark.parametrize("fault", PASSING)
async def test_what_passes_is_tried_again(fault: Answer, tmp_path: Path) -> None:
    async with liar() as registry:
        registry.faults["manifests"] = [fault, fault]
        registry.faults[str(DESCRIPTOR.digest)] = []
        registry.faults["blobs"] = [fault, fault]
        reference = fill(registry)
        async with client(registry) as found:
            assert (await found.resolve(reference)).data == MANIFEST
        assert await pull(registry, tmp_path) == LAYER
        assert len(registry.seen("manifests")) == len(registry.seen("blobs")) == 3


async def test_patience_ends() -> None:
    async with liar() as registry:
        registry.faults["manifests"] = [
            status(503, '{"errors":[{"message":"sleepy\\u001b[2J"}]}')
        ] * 9
        async with client(registry) as found:
            with pytest.raises(
                PullError, match="answers 503 Service Unavailable: sleepy"
            ) as caught:
                await found.resolve(fill(registry))
        assert caught.value.message.isprintable()
        assert len(registry.requests) == QUICK.attempts


async def test_a_pause_that_is_asked_for_is_kept_or_not_begun() -> None:
    async with liar() as registry:
        clock = asyncio.get_running_loop().time
        registry.faults["manifests"] = [status(429, Retry_After="1"), status(429, Retry_After="60")]
        async with client(registry) as found:
            started = clock()
            with pytest.raises(PullError, match="it asks to come back in 60 s"):
                await found.resolve(fill(registry))
            assert 1 <= clock() - started < 15
        date = {"Date": "Thu, 01 Jan 1970 00:00:00 GMT"}
        late = status(429, Retry_After="Thu, 01 Jan 1970 00:00:42 GMT", **date)
        registry.faults["manifests"] = [late]
        async with client(registry) as found:
            with pytest.raises(PullError, match="it asks to come back in 42 s"):
                await found.resolve(fill(registry))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (status(403, '{"errors":[{"message":"no"},{"message":"never"}]}'), "denied: no; never"),
        (status(404, "{"), "app:1: not found"),
        (status(418, "tea\n\n\tonly"), "the registry answers 418 I'm a Teapot: tea only"),
        (status(204), "the registry answers 204"),
        (status(302, Location="http://[/"), "sends to 'http://[/', not a URL"),
        (status(302, Location="http://192.0.2.1/x?secret=1"), "sends to http://192.0.2.1/x, which"),
        (status(302, Location="http://user:pw@127.0.0.1/x"), "which is not safe"),
        (status(302, Location="file:///etc/passwd"), "which is not safe"),
        (status(401), "offers nothing to log in"),
        (status(401, WWW_Authenticate="Negotiate"), "offers negotiate to log in"),
    ],
)
async def test_what_does_not_pass_is_not_tried_again(fault: Answer, message: str) -> None:
    async with liar() as registry:
        registry.faults["manifests"] = [fault]
        async with client(registry) as found:
            with pytest.raises(Refused) as caught:
                await found.resolve(fill(registry))
        assert message in caught.value.message
        assert len(registry.requests) == 1


async def test_redirects_end() -> None:
    async with liar() as registry:
        again = status(307, Location="/v2/app/manifests/1")
        registry.faults["manifests"] = [again] * 9
        async with client(registry) as found:
            with pytest.raises(Refused, match="more than 5 redirects"):
                await found.resolve(fill(registry))


OTHER = json.dumps({"schemaVersion": 2}).encode()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (body(MANIFEST, Docker_Content_Digest=f"sha256:{'0' * 64}"), "which is not"),
        (body(OTHER, Content_Type=IMAGE_MANIFEST), "missing key"),
        (body(b"<html>", Content_Type="text/html"), "is not JSON"),
        (body(MANIFEST, Content_Type=IMAGE_INDEX), "its registry says"),
        (endless(b" " * 65536), "more than 4194304 bytes"),
    ],
)
async def test_manifests_that_lie_are_refused(fault: Answer, message: str) -> None:
    async with liar() as registry:
        registry.faults["manifests"] = [fault]
        async with client(registry) as found:
            with pytest.raises(BundleError) as caught:
                await found.resolve(fill(registry))
        assert message in caught.value.message
        assert len(registry.requests) == 1


async def test_a_manifest_that_is_not_the_one_named_is_refused() -> None:
    async with liar() as registry:
        reference = fill(registry).at(Digest.of(b"another"))
        registry.faults["manifests"] = [body(MANIFEST, Content_Type=IMAGE_MANIFEST)]
        async with client(registry) as found:
            with pytest.raises(BundleError, match="sends content of the digest sha256:"):
                await found.resolve(reference)


async def test_a_registry_that_does_not_say_digests_is_asked_for_the_manifest() -> None:
    async with liar() as registry:
        reference = fill(registry)
        async with client(registry) as found:
            known = (await found.resolve(reference)).descriptor
            registry.requests.clear()
            assert (await found.resolve(reference, known)).descriptor == known
            assert [r.method for r in registry.requests] == ["HEAD", "GET"]
            registry.faults["manifests"] = [status(304)]
            assert await found.resolve(reference, known) == (known, None)


async def test_a_download_goes_on_where_it_broke(tmp_path: Path) -> None:
    async with liar() as registry:
        registry.faults["blobs"] = [registry.cut(LAYER[:300_000], len(LAYER)), status(500)]
        assert await pull(registry, tmp_path) == LAYER
        asked = [request.headers.get("Range") for request in registry.seen("blobs")]
        assert asked[0] is None
        assert asked[1] == asked[2] == "bytes=300000-"


async def test_progress_is_rewarded_with_patience(tmp_path: Path) -> None:
    """More breaks than attempts: each brings a piece."""
    async with liar() as registry:
        starts = range(0, 1_000_000, 100_000)
        registry.faults["blobs"] = [
            registry.cut(LAYER[start : start + 100_000], len(LAYER) - start) for start in starts
        ]
        assert len(starts) > QUICK.attempts
        assert await pull(registry, tmp_path) == LAYER
        assert len(registry.seen("blobs")) == len(starts) + 1


async def test_a_registry_that_cannot_resume_sends_all_again(tmp_path: Path) -> None:
    async with liar() as registry:
        registry.faults["blobs"] = [registry.cut(LAYER[:5000], len(LAYER)), body(LAYER)]
        assert await pull(registry, tmp_path) == LAYER
        assert registry.seen("blobs")[1].headers["Range"] == "bytes=5000-"


WRONG = b"\1" + LAYER[1:]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (body(WRONG), f"its digest is {Digest.of(WRONG)}"),
        (body(LAYER[:-1]), "has 1048575 bytes, its manifest says 1048576"),
        (body(LAYER + b"x"), "has 1048577 bytes, its manifest says 1048576"),
        (endless(LAYER), "has more than the 1048576 bytes of its manifest"),
        (body(LAYER, 206), "sends another part"),
    ],
    ids=["tampered", "short", "long", "endless", "a part"],
)
async def test_blobs_that_lie_are_refused_at_once(
    fault: Answer, message: str, tmp_path: Path
) -> None:
    async with liar() as registry:
        registry.faults["blobs"] = [fault]
        with pytest.raises((BundleError, Refused), match=message):
            await pull(registry, tmp_path)
        assert len(registry.seen("blobs")) == 1


LAST = len(LAYER) - 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (body(b"x", 206, Content_Range="bytes 8-8/9"), "sends another part"),
        (body(b"x", 206), "sends another part"),
        (status(416), "answers 416"),
        (body(LAYER[9:-1] + b"\0", 206, Content_Range=f"bytes 9-{LAST}/*"), "its digest is"),
        (body(LAYER[9:] + b"\0", 206, Content_Range=f"bytes 9-{LAST}/*"), "has more than"),
    ],
    ids=["elsewhere", "nowhere", "refused", "tampered", "long"],
)
async def test_lies_about_the_rest_are_refused_at_once(
    fault: Answer, message: str, tmp_path: Path
) -> None:
    async with liar() as registry:
        registry.faults["blobs"] = [registry.cut(LAYER[:9], len(LAYER)), fault]
        with pytest.raises((BundleError, Refused), match=message):
            await pull(registry, tmp_path)
        assert len(registry.seen("blobs")) == 2


async def test_a_short_body_without_an_end_is_tried_again(tmp_path: Path) -> None:
    async def short(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()  # chunked, and properly ended
        await response.prepare(request)
        await response.write(LAYER[:7])
        return response

    async with liar() as registry:
        registry.faults["blobs"] = [short]
        assert await pull(registry, tmp_path) == LAYER
        assert registry.seen("blobs")[1].headers["Range"] == "bytes=7-"


async def test_a_trickle_has_a_deadline() -> None:
    async def trickle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.05)

    patience = Patience(total=20, attempts=2, first=0.01, silence=5, exchange=0.3, slowest=1 << 30)
    async with liar() as registry:
        registry.faults["manifests"] = [trickle] * 2
        async with client(registry, patience) as found:
            with pytest.raises(PullError, match="does not answer in time"):
                await found.resolve(fill(registry))


async def test_a_cancelled_pull_leaves_nothing(tmp_path: Path) -> None:
    reached = asyncio.Event()

    async def stalls(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = len(LAYER)
        await response.prepare(request)
        await response.write(LAYER[:500_000])
        reached.set()
        return await hangs(request)

    async with liar() as registry:
        registry.faults["blobs"] = [stalls]
        task = asyncio.get_running_loop().create_task(
            pull(registry, tmp_path, Patience(silence=60))
        )
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not list((tmp_path / "blobs" / "incoming").iterdir())


async def test_who_we_are_stays_with_the_registry(tmp_path: Path) -> None:
    elsewhere: list[web.Request] = []

    async def store(request: web.Request) -> web.StreamResponse:
        elsewhere.append(request)
        return web.Response(body=LAYER)

    basic = status(401, WWW_Authenticate='Basic realm="x"')
    async with liar() as registry, served(store) as other:
        # The exact text of the query matters to the signatures of object stores.
        target = f"{other}/bucket/a%2Fb?X-Signature=a%2Bb%3D%3d/c"
        registry.faults["blobs"] = [basic, status(307, Location=target)]
        assert await pull(registry, tmp_path) == LAYER
        first, second = registry.seen("blobs")
        assert "Authorization" not in first.headers
        assert second.headers["Authorization"].startswith("Basic ")
    assert "Authorization" not in elsewhere[0].headers
    assert elsewhere[0].raw_path == "/bucket/a%2Fb?X-Signature=a%2Bb%3D%3d/c"


async def test_another_host_cannot_ask_who_we_are(tmp_path: Path) -> None:
    asked: list[web.Request] = []

    async def curious(request: web.Request) -> web.StreamResponse:
        asked.append(request)
        return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})

    async with liar() as registry, served(curious) as other:
        registry.faults["blobs"] = [status(307, Location=f"{other}/blob")]
        with pytest.raises(Refused, match="access denied"):
            await pull(registry, tmp_path)
    assert len(asked) == 1
    assert "Authorization" not in asked[0].headers


async def test_encryption_is_not_given_up(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path)
    asked: list[web.Request] = []

    async def plain(request: web.Request) -> web.StreamResponse:
        asked.append(request)
        return web.Response(body=MANIFEST)

    async with liar(authority.context()) as registry, served(plain) as other:
        location = status(302, Location=f"{other}/x")
        token = status(401, WWW_Authenticate=f'Bearer realm="{other}/token"')
        registry.faults["manifests"] = [location, token]
        async with client(registry, ca_file=authority.ca) as found:
            for _ in range(2):
                with pytest.raises(Refused, match="not safe"):
                    await found.resolve(fill(registry))
        async with client(registry, ca_file=authority.ca) as found:
            assert (await found.resolve(fill(registry))).data == MANIFEST
    assert not asked


@pytest.mark.parametrize(
    "realm",
    [
        "http://192.0.2.1/token",
        "http://localhost:1/token",
        "//127.0.0.1/token",
        "ftp://127.0.0.1/",
        "https://u:p@a.example/token",
        "http://[/",
        "",
    ],
)
async def test_a_password_goes_to_no_odd_token_server(realm: str) -> None:
    async with liar() as registry:
        registry.faults["manifests"] = [status(401, WWW_Authenticate=f'Bearer realm="{realm}"')]
        async with client(registry) as found:
            with pytest.raises(Refused, match="is not one to trust"):
                await found.resolve(fill(registry))


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (body(b"{}"), Refused, "token: its server answers without a usable one"),
        (body(b'{"token": "a b"}'), Refused, "without a usable one"),
        (body(b'{"token": "a\\r\\nX: y"}'), Refused, "without a usable one"),
        (body(b'{"token": 7}'), Refused, "token: token: must be a string"),
        (body(b"<html>"), Refused, "is not JSON"),
        (endless(b"[" * 65536), Refused, "is not JSON"),
        (status(302, Location="http://127.0.0.1:1/"), Refused, "answers 302"),
        (status(403), Refused, "token: access denied"),
    ],
)
async def test_a_token_server_that_lies_is_refused(
    answer: Answer, error: type[EdgeError], message: str
) -> None:
    async with liar() as registry:
        realm = f"http://{registry.host}/token"
        registry.faults["manifests"] = [status(401, WWW_Authenticate=f'Bearer realm="{realm}"')]
        registry.faults["token"] = [answer]
        async with client(registry) as found:
            with pytest.raises(error) as caught:
                await found.resolve(fill(registry))
        assert message in caught.value.message


async def test_a_token_server_that_is_busy_is_asked_again() -> None:
    async with liar() as registry:
        realm = f"http://{registry.host}/token"
        challenge = status(401, WWW_Authenticate=f'Bearer realm="{realm}",scope="x"')
        registry.faults["manifests"] = [challenge]
        registry.faults["token"] = [status(503), hangs, body(b'{"access_token": "t0k"}')]
        async with client(registry) as found:
            assert (await found.resolve(fill(registry))).data == MANIFEST
        assert registry.requests[-1].headers["Authorization"] == "Bearer t0k"


def uploads(registry: Liar, *answers: Answer) -> list[bytes]:
    """HEAD finds nothing; uploads begin; each PUT is answered by the next one."""
    received: list[bytes] = []
    left = list(answers)

    async def begin(request: web.Request) -> web.StreamResponse:
        return web.Response(status=202, headers={"Location": "/put?_state=a%3D%3D+b/c"})

    async def put(request: web.Request) -> web.StreamResponse:
        received.append(await request.read())
        assert request.raw_path.startswith("/put?_state=a%3D%3D+b/c&digest=sha256:")
        return await left.pop(0)(request)

    registry.faults["uploads"] = []
    original = registry.honest

    async def honest(request: web.Request, kind: str, name: str) -> web.StreamResponse:
        if request.method == "POST":
            return await begin(request)
        if request.method == "PUT" and name == "put":
            return await put(request)
        return await original(request, kind, name)

    registry.honest = honest  # type: ignore[method-assign]
    return received


async def test_an_upload_begins_anew_after_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "layer"
    path.write_bytes(LAYER)
    counted: list[int] = []
    async with liar() as registry:
        received = uploads(registry, status(500), drops, status(201))
        reference = Reference.parse(f"{registry.host}/app:1")
        async with client(registry) as found:
            assert await found.push_blob(reference, DESCRIPTOR, path, sent=counted.append)
        assert received == [LAYER] * 3
        assert sum(counted) == len(LAYER)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (status(413, "too large"), "answers 413 Request Entity Too Large: too large"),
        (status(200), "answers 200"),
        (status(307, Location="http://127.0.0.1:1/"), "answers 307"),
    ],
)
async def test_an_upload_that_is_refused_is_not_repeated(
    answer: Answer, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "layer"
    path.write_bytes(LAYER)
    async with liar() as registry:
        received = uploads(registry, answer)
        async with client(registry) as found:
            with pytest.raises(Refused, match=message):
                await found.push_blob(Reference.parse(f"{registry.host}/app:1"), DESCRIPTOR, path)
        assert len(received) == 1


async def test_a_manifest_that_a_registry_changes_is_noticed() -> None:
    async with liar() as registry:
        lies = status(201, Docker_Content_Digest=f"sha256:{'0' * 64}")
        registry.faults["manifests"] = [lies]
        reference = Reference.parse(f"{registry.host}/app:1")
        async with client(registry) as found:
            with pytest.raises(BundleError, match="the registry has 'sha256:0"):
                await found.push_manifest(reference, MANIFEST, IMAGE_MANIFEST)
            other = reference.at(Digest.of(b"x"))
            with pytest.raises(BundleError, match="has another digest"):
                await found.push_manifest(other, MANIFEST, IMAGE_MANIFEST)


async def test_an_authority_that_is_no_file_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("no")
    for name, reason in (("none.pem", "No such file"), ("no.pem", "PEM|NO_CERTIFICATE")):
        settings = {"127.0.0.1:1": RegistrySettings(ca_file=tmp_path / name)}
        async with RegistryClient(settings, patience=QUICK) as found:
            with pytest.raises(ConfigError, match=f"{name}: .*({reason})"):
                await found.resolve(Reference.parse("127.0.0.1:1/x"))
