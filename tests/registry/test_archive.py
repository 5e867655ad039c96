"""Archives of bundles, most of them made to do harm."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import BundleError, EdgeError
from edge.registry.archive import Bounds, pack, unpack
from edge.registry.collect import collect
from edge.registry.digest import Digest
from edge.registry.store import ContentStore

KIND = "application/vnd.wasm.content.bundle.v1.tar+gzip"


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "state")


def tar(*members: tuple[str, bytes] | tarfile.TarInfo, format: int = tarfile.GNU_FORMAT) -> bytes:
    found = io.BytesIO()
    with tarfile.open(fileobj=found, mode="w", format=format) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member, io.BytesIO(bytes(member.size)))
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return found.getvalue()


def special(name: str, type: bytes, **attributes: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = type
    for key, value in attributes.items():
        setattr(info, key, value)
    return info


def unpacked(store: ContentStore, data: bytes, bounds: Bounds | None = None) -> dict[str, bytes]:
    archive = store.add(data, KIND).digest
    found = unpack(store, archive, "layer", bounds)
    return {path: store.read(digest, 1 << 30) for path, digest in found.items()}


@pytest.mark.parametrize("pressed", [gzip.compress, bytes])
def test_files_become_blobs(store: ContentStore, pressed: Callable[[bytes], bytes]) -> None:
    large = bytes(range(256)) * 10_000
    data = pressed(
        tar(
            special(".", tarfile.DIRTYPE),
            special("./a", tarfile.DIRTYPE),
            ("./a/b.txt", b"one"),
            ("./large", large),
            ("empty", b""),
            ("long/" * 60 + "name", b"two"),
            ("ü/日本", b"three"),
        )
    )
    assert unpacked(store, data) == {
        "a/b.txt": b"one",
        "large": large,
        "empty": b"",
        "long/" * 60 + "name": b"two",
        "ü/日本": b"three",
    }


def test_the_later_of_two_members_counts(store: ContentStore) -> None:
    assert unpacked(store, tar(("a", b"1"), ("./a", b"2"))) == {"a": b"2"}


def test_an_archive_without_files(store: ContentStore) -> None:
    assert unpacked(store, tar()) == {}


def test_an_archive_is_unpacked_once_and_again_when_a_member_is_gone(store: ContentStore) -> None:
    archive = store.add(tar(("a", b"one")), KIND).digest
    member = unpack(store, archive, "layer")["a"]
    store.path(archive).unlink()
    assert unpack(store, archive, "layer") == {"a": member}
    store.path(member).unlink()
    with pytest.raises(BundleError, match="is not in"):
        unpack(store, archive, "layer")
    store.add(tar(("a", b"one")), KIND)
    assert unpack(store, archive, "layer") == {"a": member}
    assert store.read(member, 3) == b"one"


@pytest.mark.parametrize(
    ("member", "why"),
    [
        (("../x", b""), r"'\.\./x': is not the path"),
        (("a/../../x", b""), "is not the path"),
        (("/etc/passwd", b""), "'/etc/passwd': is not the path"),
        (("a//b", b""), "is not the path"),
        (("", b""), "is not the path"),
        (("./.", b""), "is not the path"),
        ((b"\xff".decode(errors="surrogateescape"), b""), "is not the path"),
        (special("..", tarfile.DIRTYPE), "is not the path"),
        (special("/x", tarfile.DIRTYPE), "is not the path"),
        (special("l", tarfile.SYMTYPE, linkname="/etc"), "'l': is a link to '/etc'"),
        (special("l", tarfile.LNKTYPE, linkname="x"), "'l': is a link to 'x'"),
        (special("d", tarfile.CHRTYPE), "'d': is neither a file nor a directory"),
        (special("d", tarfile.BLKTYPE), "'d': is neither"),
        (special("d", tarfile.FIFOTYPE), "'d': is neither"),
        (special("d", tarfile.CONTTYPE), "'d': is neither"),
        (special("d", tarfile.GNUTYPE_SPARSE), "'d': is"),
        (special("d", b"?"), "'d': is neither"),
    ],
)
def test_what_may_not_be_in_an_archive_is_named(
    store: ContentStore, member: tuple[str, bytes] | tarfile.TarInfo, why: str
) -> None:
    data = tar(("first", b"1"), member)
    with pytest.raises(BundleError, match=f"^layer: .*{why}"):
        unpacked(store, data)
    collect(store, lambda digest: ())
    assert not any((store.directory / "sha256").iterdir()), "what came before it is let go"


def test_a_path_of_a_pax_header_is_checked_too(store: ContentStore) -> None:
    info = special("harmless", tarfile.REGTYPE, pax_headers={"path": "../../x"})
    with pytest.raises(BundleError, match=r"'\.\./\.\./x': is not the path"):
        unpacked(store, tar(info, format=tarfile.PAX_FORMAT))


def test_a_sparse_file_of_a_pax_header_is_refused(store: ContentStore) -> None:
    headers = {"GNU.sparse.size": "1000000000000", "GNU.sparse.numblocks": "0"}
    info = special("s", tarfile.REGTYPE, pax_headers=headers)
    with pytest.raises(BundleError, match="layer: "):
        unpacked(store, tar(info, format=tarfile.PAX_FORMAT))


# Bombs


def test_too_many_files(store: ContentStore) -> None:
    data = tar(*((str(n), b"") for n in range(11)))
    assert len(unpacked(store, data, Bounds(members=11))) == 11
    again = tar(*((str(n), b"") for n in range(12)))
    with pytest.raises(BundleError, match="holds more than 11 files"):
        unpacked(store, again, Bounds(members=11))


def test_many_directories_are_too_many_files(store: ContentStore) -> None:
    data = tar(*(special(str(n), tarfile.DIRTYPE) for n in range(12)))
    with pytest.raises(BundleError, match="holds more than 11 files"):
        unpacked(store, data, Bounds(members=11))


def test_a_bomb_is_stopped_before_it_is_written(store: ContentStore) -> None:
    bomb = gzip.compress(tar(("small", b"x"), ("zeros", bytes(50_000_000))), 9)
    assert len(bomb) < 100_000
    with pytest.raises(BundleError, match="'zeros': its files would be more than 10MiB"):
        unpacked(store, bomb, Bounds(size=10 << 20))
    held = sum(p.stat().st_size for p in store.directory.rglob("*") if p.is_file())
    assert held < 200_000


def test_a_bomb_between_two_files_is_stopped(store: ContentStore) -> None:
    for bomb in (
        tar(special("p", tarfile.REGTYPE, pax_headers={"comment": "x" * 5_000_000}),
            format=tarfile.PAX_FORMAT),
        tar(("x" * 5_000_000, b"")),
        bytes(512 * 10_000)[:-512] + tar(("a", b""))[:512],
    ):  # fmt: skip
        with pytest.raises(BundleError, match="holds 256KiB between two files"):
            unpacked(store, gzip.compress(bomb, 1))


def test_a_size_that_lies_is_refused(store: ContentStore) -> None:
    for size in (1 << 62, (1 << 33) - 1):
        info = tarfile.TarInfo("a")
        info.size = size
        head = info.tobuf(tarfile.GNU_FORMAT)
        with pytest.raises(BundleError, match="its files would be more than 2GiB"):
            unpacked(store, head + bytes(1024))


def test_a_negative_size_is_refused(store: ContentStore) -> None:
    info = tarfile.TarInfo("a")
    head = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    head[124:136] = b"\xff" * 11 + b"\x00"  # base 256
    head[148:156] = b"%06o\0 " % (sum(head[:148]) + 8 * 32 + sum(head[156:512]))
    with pytest.raises(BundleError, match=r"layer: "):
        unpacked(store, bytes(head) + tar(("b", b"x")))


def test_the_quota_holds_for_what_is_unpacked(tmp_path: Path) -> None:
    store = ContentStore(tmp_path, quota=1 << 20)
    with pytest.raises(EdgeError, match="quota"):
        unpacked(store, gzip.compress(tar(("zeros", bytes(2 << 20)))))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no tar",
        b"\x1f\x8b",
        gzip.compress(b"no tar"),
        gzip.compress(tar(("a", b"x" * 10_000)))[:-20],
        tar(("a", b"x" * 10_000))[:2000],
        gzip.compress(tar(("a", b"x")))[:-4] + b"0000",
    ],
    ids=["empty", "text", "two bytes", "packed text", "cut gzip", "cut tar", "wrong length"],
)
def test_what_is_no_archive(store: ContentStore, data: bytes) -> None:
    with pytest.raises(BundleError, match=r"^layer: is not an archive"):
        unpacked(store, data)


@settings(max_examples=60)
@given(data=st.data())
def test_damage_is_noticed_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever is done to an archive, the only error is a BundleError; no path leaves it."""
    good = bytearray(tar(("a", b"one"), ("b/c", b"x" * 600), ("b/d", b"")))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, 4 * 512 - 1))] = data.draw(st.integers(0, 255))
    store = ContentStore(tmp_path_factory.mktemp("state"))
    try:
        found = unpack(store, store.add(bytes(good), KIND).digest, "layer")
    except BundleError:
        return
    for path, digest in found.items():
        assert not path.startswith("/")
        assert ".." not in path.split("/")
        store.verify(digest)


# Writing


def test_the_same_files_are_the_same_archive(tmp_path: Path) -> None:
    found = set()
    for name in ("one", "two"):
        place = tmp_path / name
        place.mkdir()
        for file in "ba" if name == "one" else "ab":
            (place / file).write_bytes(file.encode() * 1000)
            (place / file).chmod(0o600 if name == "one" else 0o755)
        store = ContentStore(tmp_path / f"state-{name}")
        files = [(file, place / file) for file in ("ab" if name == "one" else "ba")]
        archive = pack(files, store, KIND)
        assert archive.media_type == KIND
        assert archive.size == store.size(archive.digest)
        found.add(archive.digest)
        members = unpack(store, archive.digest, "layer")
        assert members == {file: Digest.of(file.encode() * 1000) for file in "ab"}
        assert not any((store.directory / "incoming").iterdir())
    assert len(found) == 1


def test_others_can_read_what_is_written(store: ContentStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    name = "deep/" * 50 + "ü"
    archive = pack([(name, tmp_path / "file")], store, KIND)
    with tarfile.open(store.path(archive.digest), "r:gz") as found:
        (member,) = found.getmembers()
        assert (member.name, member.mode, member.mtime, member.uid) == (name, 0o644, 0, 0)
