"""How guests' paths are followed, compared with what Linux does with the same ones."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.engine.host import Err
from edge.wasi.descriptor import CREATE, DIRECTORY, EXCLUSIVE, READ, WRITE, Descriptor
from edge.wasi.nodes import Directory, MemoryFile, Node, Place, locate
from edge.wasi.scratch import Quota, ScratchDirectory

COMPONENTS = st.sampled_from(["a", "b", "c", "..", "..", ".", "", "...", "a.b", "ä"])
PATHS = st.lists(COMPONENTS, max_size=8).map("/".join)

CODES = {
    errno.ENOENT: "no-entry",
    errno.ENOTDIR: "not-directory",
    errno.EEXIST: "exist",
    errno.EISDIR: "is-directory",
    errno.ENOTEMPTY: "not-empty",
    errno.EINVAL: "invalid",
    errno.EBUSY: "busy",
    errno.EPERM: "not-permitted",
}


def tree() -> tuple[Directory, Directory]:
    """A directory within another one, both with files: the inner one is where paths start."""
    outer, inner, sub = Directory(1), Directory(2), Directory(3)
    outer.entries = {"inner": inner, "secret": MemoryFile(4, b"secret"), "a": Directory(5)}
    inner.entries = {"a": sub, "b": MemoryFile(6, b"b")}
    sub.entries = {"b": Directory(7), "c": MemoryFile(8, b"c")}
    return outer, inner


def below(directory: Directory) -> list[Node]:
    found: list[Node] = [directory]
    for node in directory.entries.values():
        found += below(node) if isinstance(node, Directory) else [node]
    return found


@given(PATHS)
def test_no_path_leads_out_of_its_directory(path: str) -> None:
    _, inner = tree()
    inside = set(map(id, below(inner)))
    with suppress(Err):
        place = locate(inner, path)
        check_inside(place, inside)


def check_inside(place: Place, inside: set[int]) -> None:
    assert id(place.parent) in inside
    assert place.node is None or id(place.node) in inside
    assert place.name not in (".", "..")
    assert "/" not in place.name


@given(st.text(max_size=30) | st.text(alphabet="/.\0ab", max_size=40))
def test_any_text_is_a_path_or_an_error(path: str) -> None:
    _, inner = tree()
    with suppress(Err):
        assert locate(inner, path).parent in below(inner)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("", "no-entry"),
        ("/", "not-permitted"),
        ("/a", "not-permitted"),
        ("..", "not-permitted"),
        ("a/../..", "not-permitted"),
        ("a/../../inner/b", "not-permitted"),
        ("b/..", "not-directory"),
        ("b/c", "not-directory"),
        ("missing/..", "no-entry"),
        ("missing/x", "no-entry"),
        ("b\0", "invalid"),
        ("x" * 256, "name-too-long"),
        ("ä" * 128, "name-too-long"),
        ("a/" * 3000, "name-too-long"),
    ],
)
def test_a_path_that_leads_nowhere_says_why(path: str, code: str) -> None:
    with pytest.raises(Err) as caught:
        locate(tree()[1], path)
    assert caught.value.payload == code


@pytest.mark.parametrize("path", ["b", "./b", "a/../b", "a//..///./b", "a/b/../../b"])
def test_one_file_has_many_paths(path: str) -> None:
    _, inner = tree()
    assert locate(inner, path).existing() is inner.entries["b"]


@pytest.mark.parametrize("path", ["b/", "b/.", "b///"])
def test_a_file_is_no_directory(path: str) -> None:
    with pytest.raises(Err) as caught:
        locate(tree()[1], path).existing()
    assert caught.value.payload == "not-directory"


# Against Linux

NAMES = st.sampled_from(["a", "b", "c"])
LEADS = st.sampled_from(["", "", "./", "a/", "b/", "a/b/", "a/../", "b/../"])
ENDS = st.sampled_from(["", "", "", "/", "/.", "/.."])
SCRATCH_PATHS = st.builds(lambda lead, name, end: lead + name + end, LEADS, NAMES, ENDS)
OPERATIONS = st.one_of(
    st.tuples(st.sampled_from(["mkdir", "rmdir", "unlink", "create", "open", "opendir", "stat"]),
              SCRATCH_PATHS, st.none()),
    st.tuples(st.sampled_from(["rename", "link"]), SCRATCH_PATHS, SCRATCH_PATHS),
)  # fmt: skip


def outcome(call: Callable[[], object]) -> str:
    try:
        call()
    except Err as error:
        return str(error.payload)
    except OSError as error:
        return CODES[error.errno or 0]
    return "ok"


def ours(root: Descriptor, operation: str, path: str, other: str) -> object:
    match operation:
        case "mkdir":
            return root.create_directory_at(path)
        case "rmdir":
            return root.remove_directory_at(path)
        case "unlink":
            return root.unlink_file_at(path)
        case "create":
            return root.open_at(0, path, CREATE | EXCLUSIVE, READ | WRITE)
        case "open":
            return root.open_at(0, path, 0, READ | WRITE)
        case "opendir":
            return root.open_at(0, path, DIRECTORY, READ)
        case "stat":
            return root.stat_at(0, path)
        case "rename":
            return root.rename_at(path, root, other)
        case _:
            return root.link_at(0, path, root, other)


def theirs(root: str, operation: str, path: str, other: str) -> object:
    # Not by pathlib, which drops the slash at the end.
    path, other = f"{root}/{path}", f"{root}/{other}"
    match operation:
        case "mkdir":
            return os.mkdir(path)  # noqa: PTH102
        case "rmdir":
            return os.rmdir(path)  # noqa: PTH106
        case "unlink":
            return os.unlink(path)  # noqa: PTH108
        case "create":
            return os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL))
        case "open":
            return os.close(os.open(path, os.O_RDWR))
        case "opendir":
            return os.close(os.open(path, os.O_RDONLY | os.O_DIRECTORY))
        case "stat":
            return os.stat(path)  # noqa: PTH116
        case "rename":
            return os.rename(path, other)  # noqa: PTH104
        case _:
            return os.link(path, other)


def listing(directory: Directory, prefix: str = "") -> set[str]:
    found = set()
    for name, node in directory.entries.items():
        found.add(prefix + name)
        if isinstance(node, Directory):
            found |= listing(node, f"{prefix}{name}/")
    return found


# Where two errors are true at once, the order in which Linux looks is not promised to anybody.
BOTH_TRUE = {
    ("invalid", "not-empty"),
    ("exist", "is-directory"),
    ("is-directory", "not-empty"),
    ("is-directory", "not-directory"),
    ("no-entry", "busy"),
    ("no-entry", "not-directory"),
    ("not-directory", "is-directory"),
    ("not-directory", "no-entry"),
    ("not-permitted", "no-entry"),
}


@settings(max_examples=300)
@given(st.lists(OPERATIONS, max_size=25))
def test_scratch_files_behave_like_those_of_linux(
    operations: list[tuple[str, str, str | None]],
) -> None:
    root = ScratchDirectory(Quota(1 << 20, lambda: 0))
    descriptor = Descriptor.preopen(root)
    with tempfile.TemporaryDirectory() as real:
        for operation, path, other in operations:
            mine = outcome(lambda: ours(descriptor, operation, path, other or ""))  # noqa: B023
            linux = outcome(lambda: theirs(real, operation, path, other or ""))  # noqa: B023
            assert mine == linux or (mine, linux) in BOTH_TRUE, (operation, path, other)
            found = {str(p.relative_to(real)) for p in Path(real).rglob("*")}
            assert listing(root) == found
