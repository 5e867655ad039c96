from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge.engine.host import Err
from edge.errors import BundleError
from edge.wasi import tree as tree_module
from edge.wasi.descriptor import READ, Descriptor
from edge.wasi.tree import Tree


def contents(tree: Tree, path: str) -> bytes:
    file = Descriptor.preopen(tree.root).open_at(0, path, 0, READ)
    try:
        return file.read(1 << 20, 0)[0]
    finally:
        file.drop()


def refused(*entries: tuple[str, Path | bytes], root: Path | None = None) -> str:
    with pytest.raises(BundleError) as caught:
        Tree.build(entries, root=root)
    return caught.value.message


def test_a_tree_has_bytes_files_and_directories(tmp_path: Path) -> None:
    (tmp_path / "assets" / "deep").mkdir(parents=True)
    (tmp_path / "assets" / "deep" / "x.txt").write_bytes(b"x")
    (tmp_path / "one.txt").write_bytes(b"one")
    tree = Tree.build(
        [("/static", tmp_path / "assets"), ("one", tmp_path / "one.txt"), ("a/b/c", b"bytes")]
    )
    assert contents(tree, "static/deep/x.txt") == b"x"
    assert contents(tree, "one") == b"one"
    assert contents(tree, "a/b/c") == b"bytes"


def test_a_directory_can_be_the_root(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    assert contents(Tree.build([("/", tmp_path)]), "x") == b"x"


def test_directories_merge_and_a_later_file_replaces(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    tree = Tree.build([("/d", tmp_path), ("/d/y", b"y"), ("/d/x", b"new")])
    assert (contents(tree, "d/x"), contents(tree, "d/y")) == (b"new", b"y")


def test_an_empty_tree_is_an_empty_directory() -> None:
    stream = Descriptor.preopen(Tree.build([]).root).read_directory()
    assert stream.read_directory_entry() is None


def test_a_file_cannot_be_a_directory_too() -> None:
    assert "/a: is a file and a directory" in refused(("a", b""), ("a/b", b""))
    assert "/a: is a file and a directory" in refused(("a/b", b""), ("a", b""))
    refused(("/", b""))


@pytest.mark.parametrize("destination", ["../x", "a/../../x", "a\0b"])
def test_a_destination_stays_in_the_guest(destination: str) -> None:
    refused((destination, b""))


def test_a_link_within_the_source_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x").write_bytes(b"x")
    (tmp_path / "file").symlink_to("real/x")
    (tmp_path / "directory").symlink_to("real")
    tree = Tree.build([("/", tmp_path)])
    assert contents(tree, "file") == contents(tree, "directory/x") == b"x"
    assert contents(Tree.build([("f", tmp_path / "file")]), "f") == b"x"


def test_a_link_out_of_the_source_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "source-too").mkdir()
    for target in ("../secret", "/etc/passwd", "../source-too", ".."):
        (source / "link").symlink_to(target)
        assert "leads out of" in refused(("/", source))
        assert "leads out of" in refused(("/x", source / "link"), root=source)
        (source / "link").unlink()
    (source / "link").symlink_to("../secret")
    assert contents(Tree.build([("/", source)], root=tmp_path), "link") == b"secret"


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "up").symlink_to("..")
    assert "directories deep" in refused(("/", tmp_path))
    (tmp_path / "a" / "up").unlink()
    (tmp_path / "a" / "self").symlink_to("self")
    refused(("/", tmp_path))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "neither a file nor a directory" in refused(("/", tmp_path))
    assert "No such file" in refused(("/", tmp_path / "missing"))


def test_a_name_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff")).write_bytes(b"")
    assert "not UTF-8" in refused(("/", tmp_path))


def test_a_tree_has_its_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_module, "ENTRIES_MAX", 3)
    refused(("a/b/c", b""))


# What happens to the host's files afterwards


def test_a_file_replaced_by_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    descriptor = Descriptor.preopen(Tree.build([("/", tmp_path)]).root)
    (tmp_path / "x").unlink()
    (tmp_path / "x").symlink_to("/etc/passwd")
    for call in (lambda: descriptor.open_at(0, "x", 0, READ), lambda: descriptor.stat_at(0, "x")):
        with pytest.raises(Err) as caught:
            call()
        assert caught.value.payload == "not-permitted"


def test_a_file_replaced_by_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    descriptor = Descriptor.preopen(Tree.build([("/", tmp_path)]).root)
    (tmp_path / "x").unlink()
    os.mkfifo(tmp_path / "x")
    with pytest.raises(Err) as caught:
        descriptor.open_at(0, "x", 0, READ)
    assert caught.value.payload == "not-permitted"


def test_a_file_that_went_away_is_no_entry(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    descriptor = Descriptor.preopen(Tree.build([("/", tmp_path)]).root)
    (tmp_path / "x").unlink()
    with pytest.raises(Err) as caught:
        descriptor.open_at(0, "x", 0, READ)
    assert caught.value.payload == "no-entry"


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_file_open_a_thousand_times_is_one_file_of_the_process(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"xyz")
    descriptor = Descriptor.preopen(Tree.build([("/", tmp_path)]).root)
    before = open_files()
    opened = [descriptor.open_at(0, "x", 0, READ) for _ in range(1000)]
    stream = opened[0].read_via_stream(1)
    assert open_files() == before + 1
    for each in opened:
        each.drop()
    assert stream.read(10) == b"yz"
    stream.drop()
    assert open_files() == before
