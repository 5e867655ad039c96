from __future__ import annotations

import io
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import BundleError, EdgeError
from edge.registry.collect import Collected, collect
from edge.registry.digest import Digest
from edge.registry.manifest import Descriptor
from edge.registry.store import ContentStore

KIND = "application/octet-stream"
SOAK = os.environ.get("EDGE_SOAK") == "full"


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path)


def described(data: bytes) -> Descriptor:
    return Descriptor(KIND, Digest.of(data), len(data))


def files(store: ContentStore) -> set[str]:
    """Everything in the store but its locks and its reserve, by relative path."""
    found = (p for p in store.directory.rglob("*") if p.is_file())
    names = {p.relative_to(store.directory).as_posix() for p in found}
    return names - {"lock", "tags.lock", "reserve"}


def blobs(store: ContentStore) -> set[str]:
    return {name.removeprefix("sha256/") for name in files(store) if name.startswith("sha256/")}


def leads_to(**contents: bytes | Iterable[Digest]) -> Callable[[Digest], Iterable[Digest]]:
    """Bundles whose manifests are `name`: what each needs."""
    known = {Digest.of(name.encode()): found for name, found in contents.items()}

    def read(digest: Digest) -> Iterable[Digest]:
        if isinstance(found := known.get(digest, ()), bytes):
            raise BundleError(found.decode())
        return found

    return read


# Blobs


def test_a_blob_arrives_in_pieces(store: ContentStore) -> None:
    with store.writer(10) as writer:
        writer.write(b"01234")
        assert writer.written == 5
        writer.write(memoryview(b"56789"))
        writer.commit(described(b"0123456789"))
    found = described(b"0123456789")
    assert store.has(found)
    assert store.size(found.digest) == 10
    assert store.read(found.digest, 10) == b"0123456789"
    assert files(store) == {f"sha256/{found.digest.hex}"}
    assert store.path(found.digest).stat().st_mode & 0o777 == 0o444


def test_an_empty_blob(store: ContentStore) -> None:
    found = store.add(b"", KIND)
    assert found == described(b"")
    assert store.read(found.digest, 0) == b""


def test_a_blob_is_the_same_from_memory_and_from_a_file(
    store: ContentStore, tmp_path: Path
) -> None:
    data = random.Random(1).randbytes(3_000_000)
    path = tmp_path / "file"
    path.write_bytes(data)
    assert store.add_file(path, KIND) == store.add(data, KIND) == described(data)
    assert blobs(store) == {Digest.of(data).hex}


def test_a_download_that_begins_anew_forgets_what_came_before(store: ContentStore) -> None:
    with store.writer(3) as writer:
        writer.write(b"xyz")
        writer.restart()
        assert writer.written == 0
        writer.write(b"abc")
        writer.commit(described(b"abc"))
    assert store.read(Digest.of(b"abc"), 3) == b"abc"


def test_a_writer_that_is_left_leaves_nothing(store: ContentStore) -> None:
    with store.writer(3) as writer:
        writer.write(b"ab")
    assert files(store) == set()
    writer.abort()


def test_what_is_shorter_than_announced_is_no_blob(store: ContentStore) -> None:
    with store.writer(3) as writer:
        writer.write(b"ab")
        with pytest.raises(BundleError, match="has 2 bytes, not 3"):
            writer.commit(described(b"abc"))
    assert files(store) == set()


def test_what_is_longer_than_announced_is_stopped_at_once(store: ContentStore) -> None:
    with store.writer(3) as writer:
        writer.write(b"ab")
        with pytest.raises(BundleError, match="more than the 3 bytes"):
            writer.write(b"cd")
        assert writer.written == 2
    assert files(store) == set()


def test_other_content_than_the_digest_says_is_no_blob(store: ContentStore) -> None:
    with store.writer(3) as writer:
        writer.write(b"abd")
        with pytest.raises(BundleError, match=f"its digest is {Digest.of(b'abd')}") as caught:
            writer.commit(described(b"abc"))
    assert caught.value.hint
    assert files(store) == set()


def test_a_missing_blob_says_so(store: ContentStore) -> None:
    found = described(b"abc")
    assert not store.has(found)
    assert store.size(found.digest) is None
    for attempt in (lambda: store.read(found.digest, 3), lambda: store.verify(found.digest)):
        with pytest.raises(BundleError, match="is not in"):
            attempt()


@pytest.mark.parametrize("how", ["read", "verify"])
@pytest.mark.parametrize("data", [b"abX", b"ab", b"", b"abcd"])
def test_a_changed_blob_is_noticed_and_makes_room(
    store: ContentStore, how: str, data: bytes
) -> None:
    found = store.add(b"abc", KIND)
    store.verify(found.digest)
    store.path(found.digest).unlink()
    store.path(found.digest).write_bytes(data)
    with pytest.raises(BundleError, match="had changed on this disk") as caught:
        store.read(found.digest, 10) if how == "read" else store.verify(found.digest)
    assert caught.value.hint
    assert not store.has(found)
    store.add(b"abc", KIND)
    store.verify(found.digest)


def test_a_blob_of_another_length_is_written_again(store: ContentStore) -> None:
    found = store.add(b"abc", KIND)
    store.path(found.digest).chmod(0o644)
    store.path(found.digest).write_bytes(b"ab")
    assert not store.has(found)
    assert store.add(b"abc", KIND) == found
    assert store.read(found.digest, 3) == b"abc"


def test_a_blob_beyond_the_limit_is_not_read(store: ContentStore) -> None:
    found = store.add(b"abc", KIND)
    with pytest.raises(BundleError, match="more than 2B"):
        store.read(found.digest, 2)


def test_a_reader_keeps_its_blob(store: ContentStore) -> None:
    found = store.add(b"abc", KIND)
    with store.open(found.digest) as file:
        assert collect(store, leads_to()) == Collected(1, 3)
        assert file.read() == b"abc"
    assert not store.has(found)


def test_many_threads_write_the_same_blobs(store: ContentStore) -> None:
    data = [random.Random(n).randbytes(100_000) for n in range(4)]
    failed: list[BaseException] = []

    def write() -> None:
        try:
            for one in data:
                store.copy(io.BytesIO(one), described(one))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert files(store) == {f"sha256/{Digest.of(one).hex}" for one in data}


# Room


def test_the_quota_is_for_all_blobs_together(tmp_path: Path) -> None:
    store = ContentStore(tmp_path, quota=2500)
    store.add(bytes(1000), KIND)
    with store.writer(1000) as writer:
        with pytest.raises(EdgeError, match="quota") as caught, store.writer(1000):
            pass
        assert caught.value.hint
        assert not isinstance(caught.value, BundleError), "there may be room later"
        writer.abort()
        assert store.add(b"x" * 1000, KIND), "what was given up counts no more"
    with pytest.raises(EdgeError, match=r"1000B more .* 2000B of 2500B are used"):
        store.writer(1000)
    assert len(files(store)) == 2


def test_the_quota_counts_what_others_wrote(tmp_path: Path) -> None:
    store = ContentStore(tmp_path, quota=2500)
    store.add(b"a", KIND)
    ContentStore(tmp_path).add(bytes(2000), KIND)
    with pytest.raises(EdgeError, match="quota"):
        # seen at once when it matters: before a refusal the directory is added up
        [store.add(bytes([n]) * 300, KIND) for n in range(9)]
    collect(store, leads_to())
    store.add(bytes(2400), KIND)


def test_a_full_disk_is_told_before_the_first_byte(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as place:
        store = ContentStore(place)
        kept = store.add(b"kept" * 1000, KIND)
        with pytest.raises(EdgeError, match=r"no room for 4MiB: .*are free") as caught:
            store.writer(4 << 20)
        assert caught.value.hint
        store.verify(kept.digest)
        assert len(files(store)) == 1
        assert store.add(bytes(2 << 20), KIND), "what fits still does"


def test_on_a_full_disk_names_can_still_be_changed(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as place:
        store = ContentStore(place)
        first, second = store.add(b"1", KIND).digest, store.add(bytes(100_000), KIND).digest
        store.tags.set("app", first)
        store.tags.set("other", second)
        fill(place)
        with pytest.raises(EdgeError, match="no room"):
            store.writer(1)
        for _ in range(3):
            store.tags.remove("other")
            assert store.tags.all() == {"app": (first,)}
            fill(place)
            store.tags.set("other", second)
            fill(place)
        (store.directory / "reserve").unlink(missing_ok=True)
        fill(place)
        with pytest.raises(EdgeError, match="no room"):
            store.tags.remove("other")
        assert store.tags.all() == {"app": (first,), "other": (second,)}, "the old ones"
        (place / "filler").unlink()
        store.tags.remove("other")
        assert collect(store, leads_to()) == Collected(1, 100_000)
        assert files(store) == {"tags.json", f"sha256/{first.hex}"}


def fill(place: Path) -> None:
    with (place / "filler").open("ab", buffering=0) as file:
        for size in (65536, 512, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """A disk of 4 MiB."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting needs root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_limit_on_files_is_told_as_a_full_disk(store: ContentStore) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(EdgeError, match="no room for"):
            store.writer(200_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(store) == set()


# Tags


def test_a_tag_moves_and_remembers(store: ContentStore) -> None:
    one, two, three = (store.add(data, KIND).digest for data in (b"1", b"2", b"3"))
    assert store.tags.all() == {}
    assert store.tags.get("r.example/app:v1") is None
    for digest in (one, two, two, three):
        store.tags.set("r.example/app:v1", digest)
    assert store.tags.get("r.example/app:v1") == three
    assert store.tags.all() == {"r.example/app:v1": (three, two, one)}
    store.tags.set("r.example/app:v1", two)
    assert store.tags.all() == {"r.example/app:v1": (two, three, one)}
    store.tags.remove("r.example/app:v1")
    store.tags.remove("unknown")
    assert store.tags.all() == {}


def test_a_tag_stands_for_what_is_here(store: ContentStore) -> None:
    with pytest.raises(BundleError, match=r"app: sha256:.* is not in"):
        store.tags.set("app", Digest.of(b"missing"))


def test_the_memory_of_a_tag_has_an_end(store: ContentStore) -> None:
    digests = [store.add(bytes([n]), KIND).digest for n in range(20)]
    for digest in digests:
        store.tags.set("app", digest)
    assert store.tags.all()["app"] == tuple(reversed(digests[-8:]))


def test_tags_of_a_newer_version_are_left_alone(store: ContentStore) -> None:
    digest = store.add(b"1", KIND).digest
    path = store.directory / "tags.json"
    path.write_text('{"schema": 2, "tags": {}, "more": 1}')
    for attempt in (store.tags.all, lambda: store.tags.set("app", digest)):
        with pytest.raises(EdgeError, match="has schema 2, this version knows 1") as caught:
            attempt()
        assert caught.value.hint
    with pytest.raises(EdgeError):
        collect(store, leads_to())
    assert '"more"' in path.read_text()
    assert store.read(digest, 1) == b"1"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1, "tags": {"a": ["sha256:../x"]}}'])
def test_damaged_tags_are_an_error_and_nothing_is_collected(store: ContentStore, text: str) -> None:
    store.add(b"1", KIND)
    (store.directory / "tags.json").write_text(text)
    with pytest.raises(EdgeError, match=r"tags\.json"):
        collect(store, leads_to())
    assert len(blobs(store)) == 1


def test_two_processes_tag_without_losing_a_name(tmp_path: Path) -> None:
    store = ContentStore(tmp_path)
    digest = store.add(b"1", KIND).digest
    script = f"""
import sys
from pathlib import Path
from edge.registry.digest import Digest
from edge.registry.store import ContentStore
store = ContentStore(Path({str(tmp_path)!r}))
for n in range(25):
    store.tags.set(f"{{sys.argv[1]}}-{{n}}", Digest({digest.hex!r}))
"""
    running = [subprocess.Popen([sys.executable, "-c", script, name]) for name in "abc"]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert len(store.tags.all()) == 75


# Collection


def test_what_a_tag_leads_to_stays(store: ContentStore) -> None:
    app, layer, other = (store.add(data, KIND).digest for data in (b"app", b"layer", b"other"))
    store.tags.set("name", app)
    assert collect(store, leads_to(app=[layer])) == Collected(1, 5)
    assert blobs(store) == {app.hex, layer.hex}
    store.tags.remove("name")
    assert collect(store, leads_to(app=[layer]), keep=[other, layer]) == Collected(1, 3)
    assert collect(store, leads_to()) == Collected(1, 5)
    assert blobs(store) == set()


@pytest.mark.parametrize("floor", [0, 1, 2, 7])
def test_the_floor_keeps_versions_to_go_back_to(store: ContentStore, floor: int) -> None:
    for n in range(5):
        store.tags.set("name", store.add(b"v%d" % n, KIND).digest)
    newest_first = [Digest.of(b"v%d" % n) for n in (4, 3, 2, 1, 0)]
    collect(store, leads_to(), floor=floor)
    assert list(store.tags.all()["name"]) == newest_first[: floor + 1]
    assert blobs(store) == {digest.hex for digest in newest_first[: floor + 1]}


def test_nothing_is_collected_while_somebody_writes(store: ContentStore) -> None:
    with store.lease():
        digest = store.add(b"not yet tagged", KIND).digest
        assert collect(store, leads_to()) is None
        store.tags.set("name", digest)
    with store.writer(3):
        assert collect(store, leads_to()) is None
    assert collect(store, leads_to()) == Collected(0, 0)
    assert blobs(store) == {digest.hex}


def test_a_bundle_that_cannot_be_read_protects_everything(store: ContentStore) -> None:
    app = store.add(b"app", KIND).digest
    store.add(b"perhaps its layer", KIND)
    store.tags.set("name", app)
    (store.directory / "incoming" / "leftover").write_bytes(b"x")
    found = collect(store, leads_to(app=b"is not JSON"))
    assert found == Collected(0, 0, ("name: is not JSON",))
    assert len(blobs(store)) == 2
    assert not (store.directory / "incoming" / "leftover").exists()


def test_what_was_unpacked_stays_with_its_archive(store: ContentStore) -> None:
    archive, member = store.add(b"archive", KIND).digest, store.add(b"member", KIND).digest
    assert store.unpacked(archive) is None
    store.set_unpacked(archive, {"a/b": member})
    assert store.unpacked(archive) == {"a/b": member}
    store.tags.set("name", archive)
    assert collect(store, leads_to()) == Collected(0, 0)
    store.path(member).unlink()
    assert store.unpacked(archive) is None, "it needs to be unpacked again"
    store.tags.remove("name")
    collect(store, leads_to())
    assert files(store) == {"tags.json"}


def test_a_damaged_record_of_an_archive_is_none(store: ContentStore) -> None:
    archive = store.add(b"archive", KIND).digest
    store.set_unpacked(archive, {})
    assert store.unpacked(archive) == {}
    (store.directory / "unpacked" / f"{archive.hex}.json").write_text('{"schema": 1, "memb')
    assert store.unpacked(archive) is None


@settings(max_examples=30)
@given(st.data())
def test_a_collection_keeps_just_what_can_be_reached(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    store = ContentStore(tmp_path_factory.mktemp("store"))
    digests = [store.add(bytes([n]), KIND).digest for n in range(8)]
    some = st.lists(st.sampled_from(digests), max_size=4)
    needs = data.draw(st.dictionaries(st.sampled_from(digests), some))
    moves = data.draw(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(digests))))
    floor = data.draw(st.integers(0, 3))
    for name, digest in moves:
        store.tags.set(name, digest)
    expected = set()
    for name in "abc":
        own = [digest for n, digest in reversed(moves) if n == name]
        for digest in list(dict.fromkeys(own))[: floor + 1]:
            expected |= {digest, *needs.get(digest, ())}
    collect(store, lambda digest: needs.get(digest, ()), floor=floor)
    assert blobs(store) == {digest.hex for digest in expected}


# Killed

CHANGES = ("write", "fsync", "replace", "unlink", "ftruncate", "fchmod", "posix_fallocate")


def work(place: Path) -> None:
    """Three times a bundle of two blobs and an unpacked archive under one tag; a collection."""
    store, needs = ContentStore(place), {}
    for version in (b"1", b"2", b"3"):
        with store.lease():
            layer = store.add(b"layer" * 1000 + version, KIND).digest
            store.set_unpacked(layer, {"m": store.add(b"member" + version, KIND).digest})
            app = store.add(b"app" + version, KIND).digest
            store.tags.set("name", app)
        needs[app] = [layer]
    collect(store, lambda digest: needs[digest], floor=0)


def killed(place: Path, left: int) -> bool:
    """Whether `work` was ended by SIGKILL: before or after one of the calls that change a disk."""
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, -signal.SIGKILL)
        return code != 0
    try:
        counter = [left]
        for name in CHANGES:
            setattr(os, name, mortal(getattr(os, name), counter))
        work(place)
        os._exit(0)
    finally:
        os._exit(1)


def mortal(real: Callable[..., object], left: list[int]) -> Callable[..., object]:
    def step() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def call(*args: object, **kwargs: object) -> object:
        step()
        result = real(*args, **kwargs)
        step()
        return result

    return call


VERSIONS = {Digest.of(b"app" + v): (b"layer" * 1000 + v, b"member" + v) for v in (b"1", b"2", b"3")}


def check_after_death(store: ContentStore) -> None:
    """What is there is whole, the tag's bundle is complete, and a collection leaves only that."""
    for name in blobs(store):
        if not name.startswith("."):
            store.verify(Digest(name))
    tagged = store.tags.all().get("name", ())
    for digest in tagged[:1]:
        layer, member = VERSIONS[digest]
        assert store.read(Digest.of(layer), 10_000) == layer
        assert store.unpacked(Digest.of(layer)) == {"m": Digest.of(member)}
        assert store.read(Digest.of(member), 100) == member
    found = collect(store, lambda d: [Digest.of(VERSIONS[d][0])], floor=0)
    assert found is not None, "the lock of a dead process is free"
    assert not found.unreadable
    expected = set()
    for digest in tagged[:1]:
        layer, member = VERSIONS[digest]
        expected = {f"sha256/{d.hex}" for d in (digest, Digest.of(layer), Digest.of(member))}
        expected |= {f"unpacked/{Digest.of(layer).hex}.json", "tags.json"}
    assert files(store) - {"tags.json"} == expected - {"tags.json"}


def test_killed_at_every_step_it_is_whole(tmp_path: Path) -> None:
    step = 1
    while killed(place := tmp_path / str(step), step):
        check_after_death(ContentStore(place))
        step += 1 if SOAK else 3
    check_after_death(ContentStore(place))
    assert step > 100, "the faults were reached"


def test_killed_at_random_nothing_grows(tmp_path: Path) -> None:
    dice = random.Random(7)
    died = 0
    for _ in range(1000 if SOAK else 50):
        died += killed(tmp_path, dice.randrange(1, 300))
        check_after_death(ContentStore(tmp_path))
    assert died > 10


def test_other_users_can_neither_read_nor_lock_it(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        for number, use in enumerate((ContentStore.lease, lambda s: s.writer(1), _tagged)):
            store = ContentStore(tmp_path / str(number))
            with use(store):
                pass
            assert stat.S_IMODE(store.directory.stat().st_mode) == 0o750
            locks = [path for path in store.directory.iterdir() if "lock" in path.name]
            assert locks
            assert {stat.S_IMODE(path.stat().st_mode) for path in locks} == {0o600}
    finally:
        os.umask(old)


@contextmanager
def _tagged(store: ContentStore) -> Iterator[None]:
    store.tags.set("name", store.add(b"content", "").digest)
    yield
