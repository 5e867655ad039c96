"""Bundles: made here and read here, made by others and read here, made to do harm."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from test_local import component_with, module_with

from edge.application.model import Component, PathSource, Wagi
from edge.application.routes import Route
from edge.errors import BundleError, ComponentError, PullError
from edge.registry import bundle
from edge.registry.collect import Collected, collect, contents
from edge.registry.digest import Digest
from edge.registry.local import LocalApplication, load
from edge.registry.manifest import (
    IMAGE_CONFIG,
    IMAGE_INDEX,
    IMAGE_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    Platform,
)
from edge.registry.manifest import read as read_manifest
from edge.registry.store import ContentStore

HTTP = component_with(b"wasi:http/incoming-handler@0.2.0")
COMMAND = module_with(b"_start")
NAME = "r.example/team/app:v1"
LAYER_TAR = "application/vnd.oci.image.layer.v1.tar"
WASM_CONFIG = "application/vnd.wasm.config.v0+json"


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "state")


async def nowhere(url: str, limit: int) -> bytes:
    raise PullError(f"{url}: not here")


def written(place: Path, toml: str, files: dict[str, bytes] | None = None) -> Path:
    for name, data in {"a.wasm": HTTP, **(files or {})}.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    head = 'spin_manifest_version = 2\napplication.name = "shop"\n'
    (place / "spin.toml").write_text(head + toml)
    return place


async def loaded(place: Path, toml: str, files: dict[str, bytes] | None = None) -> LocalApplication:
    return await load(written(place, toml, files), state_dir=place / "state", fetch=nowhere)


ONE = """
[[trigger.http]]
route = "/..."
component = "web"
[component.web]
source = "a.wasm"
"""
FILES = ONE + 'files = ["assets/**/*", { source = "conf", destination = "/etc" }]\n'


def manifest_of(store: ContentStore, digest: Digest) -> Manifest:
    found = read_manifest(store.read(digest, 1 << 22), "test")
    assert isinstance(found, Manifest)
    return found


def seen(local: LocalApplication, component: str = "web") -> dict[str, bytes]:
    return {file.guest: file.host.read_bytes() for file in local.files[component]}


# There and back


async def test_an_application_comes_back(store: ContentStore, tmp_path: Path) -> None:
    toml = """
application.version = "1.2.3"
application.description = "sells"
application.authors = ["A", "B"]
[variables]
region = { default = "eu" }
token = { required = true, secret = true }
[[trigger.http]]
route = "/api/..."
component = "web"
[[trigger.http]]
route = "/ping"
static_response = { status_code = 201, body = "pong" }
[[trigger.mqtt]]
id = "orders"
topic = "orders/+"
qos = "1"
component = "worker"
[component.web]
source = "a.wasm"
environment = { MODE = "fast" }
variables = { where = "{{ region }}" }
allowed_outbound_hosts = ["http://worker.spin.internal"]
key_value_stores = ["default"]
files = ["assets/**/*"]
exclude_files = ["assets/secret"]
[component.web.tool.edge]
timeout = "3s"
[component.worker]
source = "b.wasm"
sqlite_databases = ["default"]
[component.worker.tool.edge.trigger.orders]
retries = 2
"""
    files = {
        "b.wasm": COMMAND,
        "assets/index.html": b"<p>" * 1000,
        "assets/deep/small": b"small",
        "assets/secret": b"secret",
    }
    local = await loaded(tmp_path / "app", toml, files)
    digest = bundle.build(local, store)
    back = bundle.read(store, digest, name=NAME)

    assert back.watched == ()
    assert {id: p.read_bytes() for id, p in back.sources.items()} == {
        "web": HTTP,
        "worker": COMMAND,
    }
    assert seen(back) == {"/assets/index.html": b"<p>" * 1000, "/assets/deep/small": b"small"}
    assert back.files["worker"] == ()
    before, after = local.application, back.application
    for name in ("name", "version", "description", "authors", "variables", "http", "triggers"):
        assert getattr(after, name) == getattr(before, name)
    for id, component in after.components.items():
        old = before.components[id]
        assert component.source == PathSource(str(Digest.of(back.sources[id].read_bytes())))
        for name in ("environment", "variables", "allowed_outbound_hosts", "options",
                     "key_value_stores", "sqlite_databases"):  # fmt: skip
            assert getattr(component, name) == getattr(old, name)


async def test_the_form_is_spins(store: ContentStore, tmp_path: Path) -> None:
    small, limit, large = b"x", b"y" * 128, b"z" * 129
    files = {"assets/s": small, "assets/l": limit, "assets/b": large, "conf/b": large}
    local = await loaded(tmp_path / "app", FILES, files)
    found = manifest_of(store, bundle.build(local, store))

    locked = Descriptor(bundle.LOCKED, *digest_and_size(store, found.layers[-1]))
    assert found.media_type == IMAGE_MANIFEST
    assert found.annotations == {"org.opencontainers.image.title": "shop"}
    assert found.layers == (
        Descriptor("application/vnd.wasm.content.layer.v1+wasm", Digest.of(HTTP), len(HTTP)),
        Descriptor("application/vnd.wasm.content.layer.v1+data", Digest.of(large), 129),
        locked,
    ), "each content is one layer, small files are none, the application is the last"
    config = json.loads(store.read(found.config.digest, 10_000))
    assert found.config.media_type == IMAGE_CONFIG
    assert (config["architecture"], config["os"]) == ("wasm", "Wasip1")
    assert config["config"]["Labels"] == {"com.fermyon.spin.lockedAppDigest": str(locked.digest)}
    app = json.loads(store.read(locked.digest, 10_000))
    (component,) = app["components"]
    assert component["source"] == {
        "content_type": "application/wasm",
        "digest": str(Digest.of(HTTP)),
    }
    assert component["files"] == [
        {"path": "assets/b", "digest": str(Digest.of(large))},
        {"path": "assets/l", "inline": b64(limit), "digest": str(Digest.of(limit))},
        {"path": "assets/s", "inline": b64(small), "digest": str(Digest.of(small))},
        {"path": "etc/b", "digest": str(Digest.of(large))},
    ]


def digest_and_size(store: ContentStore, layer: Descriptor) -> tuple[Digest, int]:
    assert store.size(layer.digest) == layer.size
    return layer.digest, layer.size


def b64(data: bytes) -> str:
    """As Spin writes and reads it, which is without padding."""
    return base64.b64encode(data).decode().rstrip("=")


async def test_the_same_application_is_the_same_bundle(tmp_path: Path) -> None:
    found = set()
    for name in ("one", "two"):
        local = await loaded(tmp_path / name, FILES, {"assets/a": b"a", "conf/b": bytes(1000)})
        found.add(bundle.build(local, ContentStore(tmp_path / f"state-{name}")))
    assert len(found) == 1


async def test_a_single_binary_is_a_bundle_too(store: ContentStore, tmp_path: Path) -> None:
    (tmp_path / "tool.wasm").write_bytes(COMMAND)
    local = await load(tmp_path / "tool.wasm", state_dir=tmp_path, fetch=nowhere)
    back = bundle.read(store, bundle.build(local, store), name=NAME).application
    assert back.name == "tool"
    assert back.http[0].wagi == Wagi()
    assert back.http[0].route == Route.parse("/...")


async def test_many_files_travel_as_an_archive(store: ContentStore, tmp_path: Path) -> None:
    files = {f"assets/{n}": str(n).encode() * 200 for n in range(498)} | {"conf/small": b"s"}
    local = await loaded(tmp_path / "app", FILES, files)
    assert len(manifest_of(store, bundle.build(local, store)).layers) == 500
    (tmp_path / "app" / "assets" / "one-more").write_bytes(b"m" * 200)
    local = await loaded(tmp_path / "app", FILES)
    digest = bundle.build(local, store)
    kinds = [layer.media_type for layer in manifest_of(store, digest).layers]
    assert kinds == [bundle.WASM, bundle.ARCHIVE, bundle.LOCKED]

    other = transferred(store, digest, tmp_path / "other")
    back = bundle.read(other, digest, name=NAME)
    assert seen(back) == seen(local)
    other.tags.set("name", digest)
    assert collect(other, contents(other)) == Collected(0, 0), "what was unpacked belongs to it"
    assert bundle.read(other, digest, name=NAME) == back


def transferred(store: ContentStore, digest: Digest, place: Path) -> ContentStore:
    """Another store with what a registry would hand on: the manifest and what it names."""
    other = ContentStore(place)
    for one in (digest, *contents(store)(digest)):
        assert other.add(store.read(one, 1 << 30), "").digest == one
    return other


async def test_what_is_read_stays_until_its_tag_goes(store: ContentStore, tmp_path: Path) -> None:
    local = await loaded(tmp_path / "app", FILES, {"assets/a": b"small", "conf/b": bytes(1000)})
    digest = bundle.build(local, store)
    bundle.read(store, digest, name=NAME)
    store.tags.set(NAME, digest)
    assert collect(store, contents(store)) == Collected(0, 0)
    assert seen(bundle.read(store, digest, name=NAME)) == {
        "/assets/a": b"small",
        "/etc/b": bytes(1000),
    }
    store.tags.remove(NAME)
    found = collect(store, contents(store))
    assert found is not None
    assert found.blobs == 6
    assert not list((store.directory / "sha256").iterdir())
    assert not list((store.directory / "unpacked").iterdir())


async def test_a_blob_that_is_gone_or_changed_is_noticed(
    store: ContentStore, tmp_path: Path
) -> None:
    local = await loaded(tmp_path / "app", FILES, {"assets/a": bytes(1000), "conf/b": b"b" * 999})
    digest = bundle.build(local, store)
    for blob in (digest, *contents(store)(digest)):
        path = store.path(blob)
        data = path.read_bytes()
        path.unlink()
        for verify in (True, False):
            with pytest.raises(BundleError, match=f"{blob}: is not in"):
                bundle.read(store, digest, name=NAME, verify=verify)
        path.write_bytes(data[:-1])
        with pytest.raises(BundleError, match=f"{blob}: "):
            bundle.read(store, digest, name=NAME, verify=False)
        path.unlink(missing_ok=True)
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(BundleError, match=f"{blob}: its content had changed") as caught:
            bundle.read(store, digest, name=NAME)
        assert caught.value.hint
        path.write_bytes(data)
    assert bundle.read(store, digest, name=NAME)


# What others make


class Artifact:
    """An artifact put together by hand, as another tool would."""

    def __init__(self, store: ContentStore) -> None:
        self.store = store
        self.layers: list[Descriptor] = []
        self.config = store.add(b"{}", WASM_CONFIG)
        self.annotations: dict[str, str] = {}

    def layer(self, data: bytes, kind: str) -> Digest:
        self.layers.append(self.store.add(data, kind))
        return self.layers[-1].digest

    def app(self, *components: dict[str, Any], **more: object) -> bytes:
        document = {
            "spin_lock_version": 0,
            "metadata": {"name": "made", "triggers": {"http": {}}, "trigger": {"type": "http"}},
            "triggers": [
                {
                    "id": "t",
                    "trigger_type": "http",
                    "trigger_config": {"component": "web", "route": "/...", "executor": None},
                }
            ],
            "components": list(components) or [self.component()],
            **more,
        }
        return json.dumps(document).encode()

    def component(self, source: Digest | None = None, **more: object) -> dict[str, Any]:
        digest = source or self.layer(HTTP, "application/vnd.wasm.content.layer.v1+wasm")
        return {
            "id": "web",
            "source": {"content_type": "application/wasm", "digest": str(digest)},
            **more,
        }

    def done(self) -> Digest:
        manifest = Manifest(self.config, tuple(self.layers), self.annotations)
        return self.store.add(manifest.to_bytes(), IMAGE_MANIFEST).digest

    def read(self) -> LocalApplication:
        return bundle.read(self.store, self.done(), name=NAME)


@pytest.fixture
def made(store: ContentStore) -> Artifact:
    return Artifact(store)


def archived(**files: bytes | None) -> bytes:
    found = io.BytesIO()
    with tarfile.open(fileobj=found, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data or b"")
            archive.addfile(info, io.BytesIO(data or b""))
    return found.getvalue()


def test_the_application_as_a_layer(made: Artifact) -> None:
    made.layer(made.app(), bundle.LOCKED)
    found = made.read()
    assert found.application.name == "made"
    assert found.sources["web"].read_bytes() == HTTP


def test_the_application_as_configuration(made: Artifact) -> None:
    made.config = made.store.add(made.app(), bundle.LOCKED)
    assert made.read().application.name == "made"


def test_binaries_as_other_tools_call_them(made: Artifact) -> None:
    source = made.layer(HTTP, "application/wasm")
    made.layer(made.app(made.component(source)), bundle.LOCKED)
    assert made.read().sources["web"].read_bytes() == HTTP


def test_a_label_says_which_application_is_meant(made: Artifact) -> None:
    first = made.layer(made.app(), bundle.LOCKED)
    component = made.component(made.layers[0].digest)
    second = made.layer(made.app(component, metadata={"name": "other"}), bundle.LOCKED)
    for wanted, name in ((first, "made"), (second, "other")):
        config = {"config": {"Labels": {"com.fermyon.spin.lockedAppDigest": str(wanted)}}}
        made.config = made.store.add(json.dumps(config).encode(), IMAGE_CONFIG)
        assert made.read().application.name == name
    made.config = made.store.add(b'{"config": {"Labels": null}}', IMAGE_CONFIG)
    with pytest.raises(BundleError, match="has 2 applications, and no label says"):
        made.read()


def test_files_of_every_kind(made: Artifact) -> None:
    layer = made.layer(b"layer", "application/vnd.wasm.content.layer.v1+data")
    made.layer(archived(**{"./in/archive": b"packed", "other": b"o"}), bundle.ARCHIVE)
    files = [
        {"path": "layer", "digest": str(layer)},
        {"path": "inline", "inline": b64(b"tiny"), "digest": str(Digest.of(b"tiny"))},
        {"path": "in/archive", "digest": str(Digest.of(b"packed"))},
        {"path": "twice", "digest": str(layer)},
        {"path": "/twice", "digest": str(Digest.of(b"packed"))},
    ]
    made.layer(made.app(made.component(files=files)), bundle.LOCKED)
    assert seen(made.read()) == {
        "/in/archive": b"packed",
        "/inline": b"tiny",
        "/layer": b"layer",
        "/twice": b"packed",
    }
    assert seen(made.read()), "and again, from what is unpacked"


def test_an_inline_binary(made: Artifact) -> None:
    source = {"content_type": "application/wasm", "inline": b64(HTTP)}
    made.layer(made.app({"id": "web", "source": source}), bundle.LOCKED)
    assert made.read().sources["web"].read_bytes() == HTTP


def test_content_that_no_layer_holds(made: Artifact) -> None:
    elsewhere = made.store.add(HTTP + b"\0\0", "").digest
    made.layer(made.app(made.component(elsewhere)), bundle.LOCKED)
    error = r"app:v1: locked\.json: components\[0\]\.source\.digest: the bundle holds no sha256:"
    with pytest.raises(BundleError, match=error):
        made.read()


def test_a_file_that_no_layer_holds(made: Artifact) -> None:
    elsewhere = made.store.add(b"another bundle's", "").digest
    files = [{"path": "a", "digest": str(elsewhere)}]
    made.layer(made.app(made.component(files=files)), bundle.LOCKED)
    error = r"components\[0\]\.files\[0\]\.digest: the bundle holds no sha256:"
    with pytest.raises(BundleError, match=error):
        made.read()


def test_a_source_that_is_no_binary(made: Artifact) -> None:
    source = made.layer(b"(module)", "application/wasm")
    made.layer(made.app(made.component(source)), bundle.LOCKED)
    with pytest.raises(ComponentError, match=r"components\[0\]\.source: is WebAssembly text"):
        made.read()


def test_a_mistake_in_the_application_is_named_with_its_bundle(made: Artifact) -> None:
    made.layer(made.app(must_understand=["moods"]), bundle.LOCKED)
    with pytest.raises(BundleError, match=r"app:v1: locked\.json: must_understand\[0\]: "):
        made.read()


def test_a_bad_archive_is_named_with_its_bundle(made: Artifact) -> None:
    made.layer(archived(**{"../x": b""}), bundle.ARCHIVE)
    made.layer(made.app(), bundle.LOCKED)
    with pytest.raises(BundleError, match=r"app:v1: sha256:\w+: '\.\./x': is not the path"):
        made.read()


# Wasm artifacts


@pytest.mark.parametrize("kind", ["application/wasm", "application/vnd.wasm.content.layer.v1+wasm"])
@pytest.mark.parametrize("config", [WASM_CONFIG, "application/vnd.wasm.config.v1+json"])
def test_a_wasm_artifact_is_served_on_every_path(made: Artifact, kind: str, config: str) -> None:
    made.config = made.store.add(b"{}", config)
    digest = made.layer(HTTP, kind)
    found = made.read()
    assert found.application.name == "app", "by its repository: every version has its data"
    assert found.application.components == {"app": Component("app", PathSource(str(digest)))}
    assert found.application.http[0].route == Route.parse("/...")
    assert found.application.http[0].wagi is None
    assert found.sources["app"].read_bytes() == HTTP
    assert found.files == {"app": ()}


def test_a_wasm_artifact_of_a_command(made: Artifact) -> None:
    made.annotations = {"org.opencontainers.image.title": "space:tool"}
    made.layer(COMMAND, "application/wasm")
    found = made.read().application
    assert found.name == "space:tool"
    assert found.http[0].wagi == Wagi()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("r.example:5000/a/b:v1", "b"),
        ("r.example/b@sha256:" + "0" * 64, "b"),
        ("localhost:5000/b", "b"),
    ],
)
def test_an_artifact_without_a_name_has_its_repositorys(
    made: Artifact, name: str, expected: str
) -> None:
    made.layer(HTTP, "application/wasm")
    assert bundle.read(made.store, made.done(), name=name).application.name == expected


def test_two_binaries_are_no_application(made: Artifact) -> None:
    made.layer(HTTP, "application/wasm")
    made.layer(COMMAND, "application/wasm")
    with pytest.raises(BundleError, match="app:v1: has 2 Wasm binaries, not one"):
        made.read()


def test_a_library_is_no_application(made: Artifact) -> None:
    made.layer(component_with(b"space:name/interface"), "application/wasm")
    with pytest.raises(BundleError, match="app:v1: exports neither"):
        made.read()


def test_something_else_is_no_application(made: Artifact) -> None:
    made.layer(b"{}", "application/vnd.cncf.helm.chart.content.v1.tar+gzip")
    with pytest.raises(BundleError, match="is no application: it has application/vnd") as e:
        made.read()
    assert e.value.hint
    made.layers.clear()
    with pytest.raises(BundleError, match="is no application: it has no layers"):
        made.read()


# Images


def image(made: Artifact, config: dict[str, Any], *layers: bytes, os: str = "wasi") -> None:
    document = {"architecture": "wasm", "os": os, "config": config}
    made.config = made.store.add(json.dumps(document).encode(), IMAGE_CONFIG)
    for layer in layers:
        made.layer(layer, f"{LAYER_TAR}+gzip" if layer[:2] == b"\x1f\x8b" else LAYER_TAR)


@pytest.mark.parametrize("os", ["wasi", "wasip1", "wasip2", "Wasip1"])
def test_an_image(made: Artifact, os: str) -> None:
    config = {"Entrypoint": ["/app.wasm"], "Cmd": ["serve", "-v"], "Env": ["A=1", "B=x=y", "C="]}
    image(made, config, archived(**{"app.wasm": COMMAND, "etc/conf": b"c"}), os=os)
    found = made.read()
    (component,) = found.application.components.values()
    assert component.id == "app"
    assert component.environment == {"A": "1", "B": "x=y", "C": ""}
    assert found.application.http[0].wagi == Wagi("${SCRIPT_NAME} serve -v ${ARGS}")
    assert found.sources["app"].read_bytes() == COMMAND
    assert seen(found, "app") == {"/etc/conf": b"c"}


def test_an_image_of_a_component(made: Artifact) -> None:
    image(
        made, {"Entrypoint": ["app.wasm"], "WorkingDir": "/srv"}, archived(**{"srv/app.wasm": HTTP})
    )
    found = made.read()
    assert found.application.http[0].wagi is None
    assert found.sources["app"].read_bytes() == HTTP


def test_an_image_without_a_command(made: Artifact) -> None:
    image(made, {"Entrypoint": None}, gzip.decompress(archived(**{"x/the.wasm": HTTP})))
    assert made.read().sources["app"].read_bytes() == HTTP
    image(made, {}, archived(**{"x/another.wasm": HTTP}))
    with pytest.raises(BundleError, match="has no command, and 2 files"):
        made.read()


def test_layers_lie_upon_each_other(made: Artifact) -> None:
    image(
        made,
        {"Cmd": ["a.wasm"]},
        archived(**{"a.wasm": b"old", "gone": b"1", "dir/x": b"2", "dir/y": b"3", "file": b"4",
                    "opaque/a": b"5", "opaque/sub/b": b"6", "tree/leaf": b"7"}),
        archived(**{"a.wasm": HTTP, ".wh.gone": None, "dir/.wh.x": None, "file/below": b"8",
                    "opaque/.wh..wh..opq": None, "opaque/c": b"9", "tree": b"10"}),
    )  # fmt: skip
    assert seen(made.read(), "app") == {
        "/dir/y": b"3",
        "/file/below": b"8",
        "/opaque/c": b"9",
        "/tree": b"10",
    }
    image(made, {"Cmd": ["a.wasm"]}, archived(**{".wh..wh..opq": None, ".wh.x": None, "b": b""}))
    with pytest.raises(BundleError, match=r"its command 'a\.wasm' is not in the image"):
        made.read()


def test_an_image_for_another_machine(made: Artifact) -> None:
    image(made, {}, archived(x=b""), os="linux")
    with pytest.raises(BundleError, match="is a container image for linux/wasm") as caught:
        made.read()
    assert caught.value.hint


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({"Entrypoint": "x"}, r"config: config\.Entrypoint: must be a list"),
        ({"Env": ["A"]}, r"config: config\.Env: 'A': not a name"),
        ({"Env": ["=A"]}, r"config: config\.Env: '=A': not the name"),
        ({"Cmd": ["/a.wasm", "a b"]}, "arguments with spaces"),
        ({"Cmd": ["/a.wasm", "$X"]}, "arguments with spaces or \\$"),
        ({"Cmd": ["/../a"]}, "is not in the image"),
        ({"Cmd": ["/bin/sh"]}, "command '/bin/sh' is not in the image"),
    ],
)
def test_an_image_that_cannot_be_run(made: Artifact, config: dict[str, Any], error: str) -> None:
    image(made, config, archived(**{"a.wasm": COMMAND}))
    with pytest.raises(BundleError, match=error):
        made.read()


def test_an_index_leads_to_what_is_webassembly(made: Artifact) -> None:
    image(made, {"Cmd": ["a.wasm"]}, archived(**{"a.wasm": HTTP}))
    digest = made.done()
    size = made.store.size(digest) or 0
    entries = (
        Descriptor(IMAGE_MANIFEST, Digest.of(b"absent"), 1, platform=Platform("arm64", "linux")),
        Descriptor(IMAGE_MANIFEST, digest, size, platform=Platform("wasm", "wasi")),
    )
    index = made.store.add(Index(entries).to_bytes(), IMAGE_INDEX).digest
    assert bundle.read(made.store, index, name=NAME).sources["app"].read_bytes() == HTTP
    made.store.tags.set(NAME, index)
    assert collect(made.store, contents(made.store)) == Collected(1, 2), "only the unused {}"
    assert bundle.read(made.store, index, name=NAME)


def test_digests_are_those_of_other_implementations(store: ContentStore) -> None:
    assert str(store.add(b"abc", "").digest) == f"sha256:{hashlib.sha256(b'abc').hexdigest()}"
