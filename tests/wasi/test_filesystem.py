from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edge.engine.host import Err
from edge.wasi.context import Context
from edge.wasi.descriptor import (
    CREATE,
    DIRECTORY,
    EXCLUSIVE,
    MUTATE_DIRECTORY,
    READ,
    TRUNCATE,
    WRITE,
    Descriptor,
)
from edge.wasi.files import FileSource
from edge.wasi.filesystem import PREOPENS, TYPES
from edge.wasi.io import READ_MAX, Error
from edge.wasi.scratch import ENTRIES_MAX, ENTRY_COST
from edge.wasi.tree import Tree

MEGABYTE = 1 << 20
NOW = 1_700_000_000_000_000_001


def code(call: Callable[[], object]) -> object:
    with pytest.raises(Err) as caught:
        call()
    return caught.value.payload


def preopened(context: Context) -> dict[str, Descriptor]:
    found = PREOPENS.functions["get-directories"].call(context)
    return {path: descriptor for descriptor, path in found}


def scratch(quota: int = MEGABYTE) -> Descriptor:
    return preopened(Context(scratch=quota, now=lambda: NOW))["/tmp"]


def readonly() -> Descriptor:
    tree = Tree.build([("a/x", b"xx"), ("a/b/y", b"yyy"), ("z", b"")])
    return preopened(Context(tree=tree))["/"]


def create(directory: Descriptor, path: str, data: bytes = b"") -> Descriptor:
    file = directory.open_at(0, path, CREATE, READ | WRITE)
    file.write(data, 0)
    return file


def names(directory: Descriptor) -> dict[str, str]:
    stream = directory.read_directory()
    found: dict[str, str] = {}
    while (entry := stream.read_directory_entry()) is not None:
        kind, name = entry
        found[name] = kind
    return found


# What is preopened


def test_only_what_is_granted_is_preopened() -> None:
    assert preopened(Context()) == {}
    both = preopened(Context(tree=Tree.build([]), scratch=1000))
    assert list(both) == ["/", "/tmp"]
    assert both["/"].get_flags() == READ
    assert both["/tmp"].get_flags() == READ | MUTATE_DIRECTORY


def test_scratch_files_are_one_invocations() -> None:
    context = Context(scratch=MEGABYTE)
    create(preopened(context)["/tmp"], "x").drop()
    assert names(preopened(context)["/tmp"]) == {"x": "regular-file"}
    context.close()
    assert names(preopened(context)["/tmp"]) == {}
    assert names(preopened(Context(scratch=MEGABYTE))["/tmp"]) == {}


# Read-only files


def test_files_are_read_at_any_offset() -> None:
    file = readonly().open_at(0, "a/b/y", 0, READ)
    assert file.read(100, 0) == (b"yyy", True)
    assert file.read(2, 0) == (b"yy", False)
    assert file.read(2, 2) == (b"y", True)
    assert file.read(2, 3) == (b"", True)
    assert file.read(2**64 - 1, 2**64 - 1) == (b"", True)


def test_host_files_are_read_at_any_offset(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(range(256)) * 1024)
    root = preopened(Context(tree=Tree.build([("/", tmp_path)])))["/"]
    file = root.open_at(0, "x", 0, READ)
    assert file.read(3, 257) == (b"\x01\x02\x03", False)
    assert len(file.read(2**64 - 1, 0)[0]) == READ_MAX
    assert file.read(10, 2**63) == (b"", True)
    assert file.read(10, 2**64 - 1) == (b"", True)
    assert file.stat() == root.stat_at(0, "x")
    assert file.stat().size == 256 * 1024
    file.drop()


def test_nothing_of_a_read_only_tree_changes() -> None:
    root = readonly()
    elsewhere = scratch()
    attempts: list[Callable[[], object]] = [
        lambda: root.open_at(0, "new", CREATE, READ),
        lambda: root.open_at(0, "a/x", TRUNCATE, READ),
        lambda: root.open_at(0, "a/x", 0, WRITE),
        lambda: root.open_at(0, "a", 0, MUTATE_DIRECTORY),
        lambda: root.create_directory_at("new"),
        lambda: root.remove_directory_at("a"),
        lambda: root.unlink_file_at("a/x"),
        lambda: root.rename_at("a/x", root, "a/y"),
        lambda: root.rename_at("a/x", elsewhere, "x"),
        lambda: root.link_at(0, "a/x", root, "y"),
        lambda: root.symlink_at("a/x", "new"),
        lambda: root.set_times(("now", None), ("now", None)),
        lambda: root.set_times_at(0, "a/x", ("now", None), ("now", None)),
    ]
    assert [code(attempt) for attempt in attempts] == ["read-only"] * len(attempts)
    file = root.open_at(0, "a/x", 0, READ)
    assert code(lambda: file.write(b"x", 0)) == "bad-descriptor"
    assert code(lambda: file.set_size(0)) == "bad-descriptor"
    assert code(lambda: file.write_via_stream(0)) == "bad-descriptor"
    assert code(file.append_via_stream) == "bad-descriptor"
    assert code(lambda: file.set_times(("now", None), ("now", None))) == "read-only"
    assert file.read(10, 0)[0] == b"xx"


def test_a_directory_lists_its_names() -> None:
    root = readonly()
    assert names(root) == {"a": "directory", "z": "regular-file"}
    inner = root.open_at(0, "a", DIRECTORY, READ)
    assert names(inner) == {"x": "regular-file", "b": "directory"}
    assert code(lambda: inner.open_at(0, "../z", 0, READ)) == "not-permitted"


def test_a_file_is_no_directory_and_a_directory_no_file() -> None:
    root = readonly()
    file = root.open_at(0, "z", 0, READ)
    directory = root.open_at(0, "a", 0, READ)
    assert code(file.read_directory) == "not-directory"
    assert code(lambda: file.open_at(0, "x", 0, READ)) == "not-directory"
    assert code(lambda: file.stat_at(0, "x")) == "not-directory"
    assert code(lambda: root.open_at(0, "z", DIRECTORY, READ)) == "not-directory"
    assert code(lambda: root.open_at(0, "z/", 0, READ)) == "not-directory"
    assert code(lambda: directory.read(1, 0)) == "bad-descriptor"
    assert code(lambda: directory.read_via_stream(0)) == "bad-descriptor"
    assert code(lambda: directory.advise(0, 0, "normal")) == "bad-descriptor"
    file.advise(0, 2**64 - 1, "will-need")
    file.sync()
    file.sync_data()


def test_types_and_identity() -> None:
    root = readonly()
    first, second, other = (root.open_at(0, path, 0, READ) for path in ("z", "./z", "a"))
    assert (first.get_type(), other.get_type()) == ("regular-file", "directory")
    assert first.is_same_object(second)
    assert not first.is_same_object(other)
    assert first.metadata_hash() == root.metadata_hash_at(0, "z") == second.metadata_hash()
    assert first.metadata_hash() != other.metadata_hash()
    assert all(0 <= half < 2**64 for half in first.metadata_hash())


def test_there_are_no_links_to_read_or_make() -> None:
    assert code(lambda: readonly().readlink_at("z")) == "invalid"
    assert code(lambda: readonly().readlink_at("missing")) == "no-entry"
    assert code(lambda: scratch().symlink_at("/etc", "x")) == "not-permitted"
    assert code(lambda: scratch().symlink_at("y", "x")) == "unsupported"


# Scratch files


def test_what_is_written_is_read_again() -> None:
    directory = scratch()
    file = create(directory, "x", b"hello")
    assert file.write(b"J", 0) == 1
    assert file.append(b"!") == 6
    assert directory.open_at(0, "x", 0, READ).read(100, 0) == (b"Jello!", True)
    file.write(b"end", 10)
    assert file.read(100, 0)[0] == b"Jello!\0\0\0\0end"


def test_a_file_has_pages_but_one_content() -> None:
    file = create(scratch(), "x")
    file.write(b"ab", 65_535)
    file.write(b"c", 200_000)
    assert file.read(2, 65_535)[0] == b"ab"
    assert file.read(4, 65_534)[0] == b"\0ab\0"
    assert file.read(READ_MAX, 150_000)[0] == bytes(50_000) + b"c"
    file.set_size(65_536)
    file.set_size(70_000)
    assert file.read(READ_MAX, 65_535)[0] == b"a" + bytes(70_000 - 65_536)


def test_open_flags() -> None:
    directory = scratch()
    assert code(lambda: directory.open_at(0, "x", 0, READ)) == "no-entry"
    create(directory, "x", b"data").drop()
    assert directory.open_at(0, "x", CREATE, READ).read(9, 0)[0] == b"data"
    assert code(lambda: directory.open_at(0, "x", CREATE | EXCLUSIVE, READ)) == "exist"
    directory.open_at(0, "x", TRUNCATE, WRITE).drop()
    assert directory.stat_at(0, "x").size == 0
    assert code(lambda: directory.open_at(0, "d", CREATE | DIRECTORY, READ)) == "invalid"
    directory.create_directory_at("d")
    assert code(lambda: directory.open_at(0, "d", 0, WRITE)) == "is-directory"
    assert code(lambda: directory.open_at(0, "d", TRUNCATE, READ)) == "is-directory"
    assert code(lambda: directory.create_directory_at("d")) == "exist"
    assert code(lambda: directory.open_at(0, "new/", CREATE, WRITE)) == "is-directory"


def test_a_file_opened_for_one_thing_does_not_do_the_other() -> None:
    directory = scratch()
    create(directory, "x", b"data").drop()
    writer = directory.open_at(0, "x", 0, WRITE)
    reader = directory.open_at(0, "x", 0, READ)
    assert code(lambda: writer.read(1, 0)) == "bad-descriptor"
    assert code(lambda: reader.write(b"x", 0)) == "bad-descriptor"
    assert directory.open_at(0, "x", 0, 0).read(1, 0)[0] == b"d"


def test_a_directory_opened_from_a_writable_one_is_writable() -> None:
    directory = scratch()
    directory.create_directory_at("d")
    inner = directory.open_at(0, "d", DIRECTORY, READ)
    create(inner, "x")
    assert code(lambda: inner.open_at(0, "../y", CREATE, WRITE)) == "not-permitted"


def test_removing() -> None:
    directory = scratch()
    directory.create_directory_at("d")
    create(directory, "d/x")
    assert code(lambda: directory.remove_directory_at("d")) == "not-empty"
    assert code(lambda: directory.remove_directory_at("d/x")) == "not-directory"
    assert code(lambda: directory.unlink_file_at("d")) == "is-directory"
    assert code(lambda: directory.unlink_file_at("d/x/")) == "not-directory"
    assert code(lambda: directory.remove_directory_at(".")) == "invalid"
    directory.unlink_file_at("d/x")
    directory.remove_directory_at("d/")
    assert names(directory) == {}


def test_a_directory_does_not_move_into_itself() -> None:
    directory = scratch()
    directory.create_directory_at("a")
    directory.create_directory_at("a/b")
    inner = directory.open_at(0, "a/b", DIRECTORY, READ)
    assert code(lambda: directory.rename_at("a", directory, "a/b/c")) == "invalid"
    assert code(lambda: directory.rename_at("a", inner, "c")) == "invalid"
    directory.rename_at("a", directory, "a")
    assert names(directory) == {"a": "directory"}


def test_nothing_moves_between_two_scratch_directories() -> None:
    first, second = scratch(), scratch()
    create(first, "x")
    assert code(lambda: first.rename_at("x", second, "x")) == "cross-device"
    assert code(lambda: first.link_at(0, "x", second, "x")) == "cross-device"


def test_hard_links_share_their_file() -> None:
    directory = scratch()
    file = create(directory, "x", b"old")
    directory.link_at(0, "x", directory, "y")
    file.write(b"new", 0)
    assert directory.open_at(0, "y", 0, READ).read(9, 0)[0] == b"new"
    assert file.stat().link_count == 2
    directory.unlink_file_at("x")
    assert directory.stat_at(0, "y").link_count == 1
    directory.create_directory_at("d")
    assert code(lambda: directory.link_at(0, "d", directory, "e")) == "not-permitted"
    assert code(lambda: directory.link_at(0, "no", directory, "e")) == "no-entry"
    assert code(lambda: directory.link_at(0, "y", directory, "d")) == "exist"


def test_times() -> None:
    directory = scratch()
    file = create(directory, "x")
    at = (NOW // 10**9, 1)
    assert file.stat()[3:] == (at, at, at)
    file.set_times(("no-change", None), ("timestamp", (5, 6)))
    assert file.stat()[3:] == (at, (5, 6), at)
    directory.set_times_at(0, "x", ("timestamp", (2**64 - 1, 0)), ("now", None))
    assert directory.stat_at(0, "x")[3:] == ((2**64 - 1, 0), at, at)
    before = file.metadata_hash()
    file.write(b"x", 0)
    assert file.metadata_hash() != before


# The quota


def test_the_quota_is_of_bytes() -> None:
    directory = scratch(ENTRY_COST + 1000)
    file = create(directory, "x", bytes(1000))
    assert code(lambda: file.append(b"x")) == "insufficient-space"
    assert code(lambda: file.set_size(2**64 - 1)) == "insufficient-space"
    assert code(lambda: file.write(b"x", 2**64 - 1)) == "insufficient-space"
    assert file.stat().size == 1000
    file.set_size(0)
    assert file.append(bytes(1000)) == 1000


def test_names_cost_too() -> None:
    directory = scratch(3 * ENTRY_COST)
    create(directory, "a")
    directory.create_directory_at("b")
    directory.link_at(0, "a", directory, "c")
    assert code(lambda: directory.create_directory_at("d")) == "insufficient-space"
    assert code(lambda: create(directory, "d")) == "insufficient-space"
    assert code(lambda: directory.link_at(0, "a", directory, "d")) == "insufficient-space"
    directory.unlink_file_at("c")
    directory.create_directory_at("d")


def test_the_bytes_of_a_removed_file_count_while_it_is_open() -> None:
    directory = scratch(ENTRY_COST + 1000)
    file = create(directory, "x", bytes(1000))
    stream = file.write_via_stream(0)
    directory.unlink_file_at("x")
    other = create(directory, "y")
    assert code(lambda: other.write(b"x", 0)) == "insufficient-space"
    file.drop()
    del file
    assert code(lambda: other.write(b"x", 0)) == "insufficient-space"
    stream.drop()
    del stream
    assert other.write(bytes(1000), 0) == 1000


def test_replacing_a_file_gives_its_bytes_back() -> None:
    directory = scratch(2 * ENTRY_COST + 1000)
    create(directory, "x", bytes(1000)).drop()
    create(directory, "y").drop()
    directory.rename_at("y", directory, "x")
    create(directory, "z", bytes(1000)).drop()


def test_names_have_a_limit_and_deep_directories_can_be_freed() -> None:
    context = Context(scratch=1 << 30)
    directory = preopened(context)["/tmp"]
    for _ in range(ENTRIES_MAX):
        directory.create_directory_at("d")
        directory = directory.open_at(0, "d", DIRECTORY, READ)
    assert code(lambda: directory.create_directory_at("d")) == "insufficient-space"
    context.close()


# Streams


def test_a_file_reads_as_a_stream_from_any_offset() -> None:
    file = readonly().open_at(0, "a/b/y", 0, READ)
    stream = file.read_via_stream(1)
    assert stream.subscribe().ready()
    assert stream.read(100) == b"yy"
    assert code(lambda: stream.read(100)) == "closed"
    assert stream.subscribe().ready()
    assert code(lambda: file.read_via_stream(2**64 - 1).read(1)) == "closed"


def test_nothing_of_a_file_is_kept_in_memory_for_a_pollable() -> None:
    stream = readonly().open_at(0, "a/b/y", 0, READ).read_via_stream(0)
    assert stream.subscribe().ready()
    assert isinstance(stream._source, FileSource)


def test_a_directory_can_change_while_it_is_read() -> None:
    directory = scratch()
    for name in "abcdefgh":
        create(directory, name).drop()
    stream = directory.read_directory()
    found = []
    while (entry := stream.read_directory_entry()) is not None:
        found.append(entry[1])
        directory.unlink_file_at(entry[1])
        if entry[1] == "c":
            directory.rename_at("d", directory, "new")
            create(directory, "late").drop()
    assert found == ["a", "b", "c", "e", "f", "g", "h", "new", "late"]
    assert names(directory) == {}


def test_streams_of_one_file_do_not_interfere() -> None:
    directory = scratch()
    file = create(directory, "x", b"0123456789")
    reader = file.read_via_stream(5)
    writer, appender = file.write_via_stream(2), file.append_via_stream()
    file.drop()
    writer.blocking_write_and_flush(b"ab")
    appender.blocking_write_and_flush(b"yz")
    writer.blocking_write_and_flush(b"cd")
    assert reader.read(100) == b"d6789yz"
    assert directory.open_at(0, "x", 0, READ).read(99, 0)[0] == b"01abcd6789yz"


def test_a_full_disk_fails_the_write_and_closes_the_stream() -> None:
    file = create(scratch(ENTRY_COST + 10), "x")
    stream = file.append_via_stream()
    stream.blocking_write_and_flush(bytes(10))
    case, error = code(lambda: stream.blocking_write_and_flush(b"x"))  # type: ignore[misc]
    assert case == "last-operation-failed"
    downcast = TYPES.functions["filesystem-error-code"].call
    assert downcast(Context(), error) == "insufficient-space"
    assert downcast(Context(), Error(ValueError())) is None
    assert code(stream.check_write) == "closed"
