"""OCI layouts into a content store: those that skopeo writes, and those of somebody hostile."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from mirror_lab import bundle
from registry_lab import docker_registry, skopeo

from edge.errors import BundleError, ConfigError, EdgeError
from edge.registry import transfer
from edge.registry.client import RegistryClient
from edge.registry.digest import Digest
from edge.registry.layout import Imported, import_file, import_path, packed
from edge.registry.manifest import (
    IMAGE_CONFIG,
    IMAGE_INDEX,
    IMAGE_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    Platform,
)
from edge.registry.reference import Reference
from edge.registry.store import ContentStore
from edge.registry.sweep import MakeRoom

NAME = "org.opencontainers.image.ref.name"
VERSION = b'{"imageLayoutVersion":"1.0.0"}'
APP = Reference.parse("registry.example/team/app:1")
LARGE = bytes(range(256)) * 5000

Files = dict[str, bytes]


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "state")


def described(data: bytes, kind: str = IMAGE_CONFIG, **more: object) -> Descriptor:
    return Descriptor(kind, Digest.of(data), len(data), **more)  # type: ignore[arg-type]


def path_of(data: bytes) -> str:
    return f"blobs/sha256/{Digest.of(data).hex}"


def manifest_of(*layers: bytes, subject: Descriptor | None = None) -> bytes:
    return Manifest(described(b"{}"), tuple(map(described, layers)), subject=subject).to_bytes()


def layout(bundles: Mapping[str, tuple[bytes, ...]]) -> Files:
    """By name: the layers of each; "" is nobody's name."""
    files: Files = {"oci-layout": VERSION, path_of(b"{}"): b"{}"}
    entries = []
    for name, layers in bundles.items():
        manifest = manifest_of(*layers)
        files |= {path_of(data): data for data in (manifest, *layers)}
        entries.append(
            described(manifest, IMAGE_MANIFEST, annotations={NAME: name} if name else {})
        )
    return files | {"index.json": Index(tuple(entries)).to_bytes()}


def write(files: Files, folder: Path) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def tar(files: Files, *more: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for member, data in more:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    file.seek(0)
    return file


def imported(files: Files, store: ContentStore, name: Reference | None = None) -> list[str]:
    return [str(found.reference) for found in import_file(tar(files), "x.tar", store, name)]


def nothing(store: ContentStore) -> None:
    """No name moved, and what may have come is garbage."""
    assert store.tags.all() == {}
    incoming = store.directory / "incoming"
    assert not incoming.exists() or not list(incoming.iterdir())


# What skopeo writes


@pytest.mark.parametrize("kind", ["oci", "oci-archive"])
async def test_a_bundle_travels_by_skopeo(store: ContentStore, tmp_path: Path, kind: str) -> None:
    source = ContentStore(tmp_path / "source")
    digest = bundle(source, "registry.example/app:1", LARGE, b"x").digest
    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry") as host:
        async with RegistryClient() as client:
            await transfer.push(client, digest, source, Reference.parse(f"{host}/app:1"))
        plain, target = "--src-tls-verify=false", tmp_path / "stick"
        skopeo("copy", plain, f"docker://{host}/app:1", f"{kind}:{target}:{APP}")
        assert import_path(target, store) == (Imported(APP, digest),)
        assert transfer.complete(store, APP) == digest
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        skopeo("copy", plain, f"docker://{host}/app:1", f"{kind}:{target}:2.0")
        with pytest.raises(ConfigError, match=r"'2\.0' names no registry") as refused:
            import_path(target, store)
        assert refused.value.hint == "say what it is: --name registry.example/team/app"
        repository = Reference.parse("registry.example/other")
        (found,) = import_path(target, store, repository)
        assert str(found.reference) == "registry.example/other:2.0"
        (found,) = import_path(target, store, APP)
        assert found == Imported(APP, digest)


def test_a_directory(store: ContentStore, tmp_path: Path) -> None:
    folder = write(layout({str(APP): (b"layer",)}), tmp_path / "stick")
    (found,) = import_path(folder, store)
    assert found == Imported(APP, Digest.of(manifest_of(b"layer")))
    assert import_path(folder, store) == (found,), "once more changes nothing"
    assert store.read(Digest.of(b"layer"), 100) == b"layer"


def test_a_directory_travels_as_an_archive(store: ContentStore, tmp_path: Path) -> None:
    folder = write(GOOD | {"README": b"x"}, tmp_path / "stick")
    for source in (folder, tmp_path / "stick.tar"):
        data = b"".join(packed(source))
        (found,) = import_file(io.BytesIO(data), "x.tar", store)
        assert found.reference == APP
        (tmp_path / "stick.tar").write_bytes(data)
    with tarfile.open(tmp_path / "stick.tar") as archive:
        assert {member.name for member in archive} == set(GOOD)
    with pytest.raises(EdgeError, match="nix: no such file"):
        list(packed(tmp_path / "nix"))
    replaced(folder, path_of(LARGE), os.mkfifo)
    with pytest.raises(EdgeError, match="is not a file"):
        list(packed(folder))


# What to call it


def test_several_bundles(store: ContentStore) -> None:
    other = "registry.example/other:2"
    assert imported(layout({str(APP): (b"1",), other: (b"2",)}), store) == [str(APP), other]
    both = layout({"1": (b"1",), "2": (b"2",)})
    with pytest.raises(ConfigError, match="holds 2 bundles: 1, 2"):
        imported(both, store, APP)
    repository = Reference.parse("registry.example/new")
    assert imported(both, store, repository) == [f"{repository}:1", f"{repository}:2"]


def test_a_bundle_without_a_name(store: ContentStore) -> None:
    files = layout({"": (b"1",)})
    with pytest.raises(ConfigError, match="has no name"):
        imported(files, store)
    assert imported(files, store, Reference.parse("registry.example/app")) == [
        "registry.example/app"
    ]


def test_the_name_that_docker_and_containerd_give(store: ContentStore) -> None:
    files = layout({"1": (b"1",)})
    index = json.loads(files["index.json"])
    index["manifests"][0]["annotations"]["io.containerd.image.name"] = str(APP)
    assert imported(files | {"index.json": json.dumps(index).encode()}, store) == [str(APP)]


def test_a_digest_must_be_the_bundles(store: ContentStore) -> None:
    files = layout({"1": (b"1",)})
    pinned = APP.at(Digest.of(manifest_of(b"1")))
    assert imported(files, store, pinned) == [str(pinned)]
    with pytest.raises(BundleError, match="its digest is"):
        imported(files, store, APP.at(Digest.of(b"other")))


def test_two_bundles_of_one_name(store: ContentStore) -> None:
    files = layout({str(APP): (b"1",), "x": (b"2",)})
    index = json.loads(files["index.json"])
    index["manifests"][1]["annotations"] = {NAME: str(APP)}
    with pytest.raises(BundleError, match="two bundles called"):
        imported(files | {"index.json": json.dumps(index).encode()}, store)


def test_an_index_for_several_platforms(store: ContentStore) -> None:
    files = layout({str(APP): (b"1",)})
    entry = described(manifest_of(b"1"), IMAGE_MANIFEST, platform=Platform("wasm", "wasip1"))
    foreign = described(b"not here", IMAGE_MANIFEST, platform=Platform("amd64", "linux"))
    inner = Index((foreign, entry)).to_bytes()
    outer = Index((described(inner, IMAGE_INDEX, annotations={NAME: str(APP)}),)).to_bytes()
    files |= {path_of(inner): inner, "index.json": outer}
    assert imported(files, store) == [str(APP)]
    assert store.tags.get(str(APP)) == entry.digest
    lone = Index((foreign,)).to_bytes()
    outer = Index((described(lone, IMAGE_INDEX, annotations={NAME: str(APP)}),)).to_bytes()
    with pytest.raises(BundleError, match="holds no WebAssembly: linux/amd64"):
        imported(files | {path_of(lone): lone, "index.json": outer}, store)


def test_what_is_about_a_bundle_comes_along(store: ContentStore) -> None:
    files = layout({str(APP): (b"1",)})
    app = described(manifest_of(b"1"), IMAGE_MANIFEST, annotations={NAME: str(APP)})
    about = manifest_of(b"1", subject=app)
    files |= {
        path_of(about): about,
        "index.json": Index((described(about, IMAGE_MANIFEST), app)).to_bytes(),
    }
    digest = Digest.of(about)
    assert imported(files, store) == [str(APP), str(APP.at(digest))]
    assert store.tags.get(str(APP.at(digest))) == digest


# What is none, or not whole


def without(files: Files, path: str) -> Files:
    return {name: data for name, data in files.items() if name != path}


GOOD = layout({str(APP): (b"layer", LARGE)})
MANIFEST = path_of(manifest_of(b"layer", LARGE))
INDEX = json.loads(GOOD["index.json"])


def index_with(**changed: object) -> Files:
    entry = INDEX["manifests"][0] | changed
    return GOOD | {"index.json": json.dumps(INDEX | {"manifests": [entry]}).encode()}


BAD: list[tuple[str, Files, str]] = [
    ("empty", {"x": b""}, "is not an OCI layout: has no oci-layout"),
    ("docker", {"manifest.json": b"[]", "repositories": b"{}"}, "before version 25"),
    ("version", GOOD | {"oci-layout": b'{"imageLayoutVersion":"2.0.0"}'}, "version '2.0.0'"),
    ("version?", GOOD | {"oci-layout": b"{}"}, "imageLayoutVersion"),
    ("version!", GOOD | {"oci-layout": b"\xff"}, "is not JSON"),
    ("no index", without(GOOD, "index.json"), "has no index.json"),
    ("bad index", GOOD | {"index.json": b"{"}, "is not JSON"),
    ("deep", GOOD | {"index.json": b"[" * 200_000}, "nested too deeply"),
    ("bomb", GOOD | {"index.json": b" " * (5 << 20)}, "has more than 4MiB"),
    ("manifest", GOOD | {"index.json": manifest_of(b"layer")}, "is not an index"),
    ("nothing", GOOD | {"index.json": Index(()).to_bytes()}, "holds no bundle"),
    ("no manifest", without(GOOD, MANIFEST), "has no blobs/sha256/"),
    ("no layer", without(GOOD, path_of(LARGE)), "has no blobs/sha256/"),
    ("truncated", GOOD | {path_of(LARGE): LARGE[:-1]}, "has 1279999 bytes, not 1280000"),
    ("longer", GOOD | {path_of(LARGE): LARGE + b"x"}, "more than the 1280000 bytes"),
    ("tampered", GOOD | {path_of(LARGE): b"X" + LARGE[1:]}, "its digest is"),
    ("tampered manifest", GOOD | {MANIFEST: GOOD[MANIFEST] + b" "}, "not what its name says"),
    ("digest", index_with(digest="sha256:../../../etc/passwd"), "is not a digest"),
    ("size", index_with(size=1), "not what its name says"),
    ("huge", index_with(size=1 << 60), "size"),
    ("kind", index_with(mediaType=IMAGE_INDEX), "says that it is"),
]


@pytest.mark.parametrize(("files", "why"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_what_is_not_whole_changes_nothing(
    store: ContentStore, tmp_path: Path, files: Files, why: str
) -> None:
    with pytest.raises(BundleError, match=why):
        imported(files, store)
    with pytest.raises(BundleError, match=why):
        import_path(write(files, tmp_path / "stick"), store)
    nothing(store)


def test_all_of_it_or_nothing(store: ContentStore) -> None:
    files = layout({str(APP): (b"good",), "registry.example/other:1": (b"bad",)})
    with pytest.raises(BundleError):
        imported(files | {path_of(b"bad"): b"BAD"}, store)
    nothing(store)


def test_a_name_is_only_moved_by_a_whole_bundle(store: ContentStore) -> None:
    old = bundle(store, str(APP), b"old").digest
    with pytest.raises(BundleError):
        imported(without(GOOD, path_of(LARGE)), store)
    assert transfer.complete(store, APP) == old


def test_a_blob_that_a_bad_disk_changed_is_healed(store: ContentStore) -> None:
    imported(GOOD, store)
    path = store.path(Digest.of(LARGE))
    path.chmod(0o644)
    path.write_bytes(b"X" + LARGE[1:])
    imported(GOOD, store)
    store.verify(Digest.of(LARGE))


def test_no_more_than_the_quota(tmp_path: Path) -> None:
    store = ContentStore(tmp_path, quota=len(LARGE) + 1000)
    with pytest.raises(EdgeError, match="beyond its quota"):
        imported(layout({str(APP): (LARGE, b"x" * 1000)}), store)
    nothing(store)
    store.add(b"garbage" * 500, "x/y")
    said: list[str] = []
    room = MakeRoom(store, note=said.append)
    (found,) = import_file(tar(layout({str(APP): (LARGE[1:],)})), "x", store, make_room=room)
    assert transfer.complete(store, APP) == found.digest
    assert said == ["no room: removed 1 blob that nothing needs, 3500B"]


# Archives of somebody hostile


def link(name: str, target: str, kind: bytes) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, b""


def special(name: str, kind: bytes) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type = kind
    return member, b""


def outside(name: str) -> tuple[tarfile.TarInfo, bytes]:
    return tarfile.TarInfo(name), b"content"


def test_members_that_are_no_files_are_not_looked_at(store: ContentStore, tmp_path: Path) -> None:
    more = (
        link("a", "/etc/passwd", tarfile.SYMTYPE),
        link("b", "../../x", tarfile.LNKTYPE),
        special("c", tarfile.CHRTYPE),
        special("d", tarfile.FIFOTYPE),
        outside("../../../../tmp/evil"),
        outside("/tmp/evil"),
    )
    import_file(tar(GOOD, *more), "x.tar", store)
    assert transfer.complete(store, APP)
    assert {p.name for p in tmp_path.iterdir()} == {"state"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_link_in_a_blobs_place(store: ContentStore, kind: bytes) -> None:
    files = without(GOOD, path_of(LARGE))
    with pytest.raises(BundleError, match="has no blobs/sha256/"):
        import_file(tar(files, link(path_of(LARGE), "/dev/zero", kind)), "x.tar", store)
    nothing(store)


def test_a_member_twice(store: ContentStore) -> None:
    again = tarfile.TarInfo("./index.json")
    with pytest.raises(BundleError, match=r"'index\.json': is in it twice"):
        import_file(tar(GOOD, (again, b"{}")), "x.tar", store)


def test_what_members_say_of_themselves_is_not_remembered(store: ContentStore) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number in range(100):
            member = tarfile.TarInfo(f"blobs/sha256/{number}")
            member.pax_headers = {"comment": "x" * (200 << 10)}
            tar.addfile(member)
    file.seek(0)
    tracemalloc.start()
    try:
        with pytest.raises(BundleError, match="has no oci-layout"):
            import_file(file, "bomb", store)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_headers_without_end(store: ContentStore) -> None:
    member = tarfile.TarInfo("x")
    member.pax_headers = {"comment": "x" * 1_000_000}
    with pytest.raises(BundleError, match="between two files"):
        import_file(tar(GOOD, (member, b"")), "x.tar", store)


@pytest.mark.parametrize("cut", [1, 100, 512, 700, 1024, 5000])
def test_an_archive_that_ends_early(store: ContentStore, cut: int) -> None:
    whole = tar(GOOD).getvalue().rstrip(b"\0")
    with pytest.raises(BundleError):
        import_file(io.BytesIO(whole[:-cut]), "x.tar", store)
    nothing(store)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "cannot|empty|not an archive"),
        (b"x" * 5000, "is not an archive"),
        (b"\x1f\x8b" + b"x" * 100, "is compressed"),
        (b"\0" * 1024, "is not an OCI layout"),
    ],
)
def test_what_is_no_archive(store: ContentStore, data: bytes, why: str) -> None:
    with pytest.raises(BundleError, match=why):
        import_file(io.BytesIO(data), "x.tar", store)


def test_a_damaged_archive_is_never_a_mistake_of_ours(store: ContentStore) -> None:
    whole = bytearray(tar(layout({str(APP): (b"layer",)})).getvalue())
    for place in range(0, 6 * 1024, 7):
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        try:
            import_file(io.BytesIO(damaged), "x.tar", store)
        except EdgeError:
            continue
        assert transfer.complete(store, APP)


# Directories of somebody hostile


def replaced(folder: Path, path: str, make: Callable[[Path], None]) -> Path:
    (folder / path).unlink()
    make(folder / path)
    return folder


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: os.mkfifo(path), "is not a file"),
        (lambda path: path.symlink_to("/dev/zero"), "is not a file"),
        (lambda path: path.symlink_to("/etc/passwd"), "has .* bytes|its digest is"),
        (lambda path: path.symlink_to("nowhere"), "has no blobs/sha256/"),
        (lambda path: path.mkdir(), "is not a file|is a directory"),
    ],
    ids=["pipe", "device", "link", "nowhere", "directory"],
)
def test_what_stands_in_a_blobs_place(
    store: ContentStore, tmp_path: Path, make: Callable[[Path], None], why: str
) -> None:
    folder = replaced(write(GOOD, tmp_path / "stick"), path_of(LARGE), make)
    with pytest.raises(EdgeError, match=why):
        import_path(folder, store)
    nothing(store)


def test_a_path_that_is_not_there(store: ContentStore, tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="nix: no such file or directory"):
        import_path(tmp_path / "nix", store)
