"""Which files a guest sees."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge.application.fields import Where
from edge.application.model import Component, FilePattern, FilePlacement, PathSource
from edge.errors import ConfigError
from edge.registry.files import mounted_files, watched_places

TREE = [
    "a.txt",
    "b.txt",
    ".hidden",
    "static/index.html",
    "static/img/a.png",
    "static/img/deep/b.png",
    "static/img/deep/secret",
    "static/[odd].txt",
    "other/x.js",
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "app"
    for name in TREE:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "key").write_text("private")
    return root


Entries = tuple[str | tuple[str, str], ...]


def component(entries: Entries, exclude: tuple[str, ...] = ()) -> Component:
    return Component(
        "x",
        PathSource("x.wasm"),
        files=tuple(FilePattern(e) if isinstance(e, str) else FilePlacement(*e) for e in entries),
        exclude_files=exclude,
    )


def seen(root: Path, *entries: str | tuple[str, str], exclude: tuple[str, ...] = ()) -> list[str]:
    files = mounted_files(component(entries, exclude), root, Where("spin.toml").key("x"))
    for file in files:
        assert file.host.is_file()
        assert file.host.is_relative_to(root.resolve())
    assert [f.guest for f in files] == sorted(f.guest for f in files)
    return [f.guest for f in files]


STATIC = [f"/{name}" for name in sorted(TREE) if name.startswith("static/")]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a.txt", ["/a.txt"]),
        ("./a.txt", ["/a.txt"]),
        ("*.txt", ["/a.txt", "/b.txt"]),
        ("*", ["/.hidden", "/a.txt", "/b.txt"]),
        ("?.txt", ["/a.txt", "/b.txt"]),
        ("[ac].txt", ["/a.txt"]),
        ("[!a].txt", ["/b.txt"]),
        ("static", STATIC),
        ("static/", STATIC),
        ("static/**/*", STATIC),
        ("static/**", STATIC),
        ("static/*", ["/static/[odd].txt", "/static/index.html"]),
        ("static/[odd].txt", ["/static/[odd].txt"]),
        ("static/**/*.png", ["/static/img/a.png", "/static/img/deep/b.png"]),
        ("**/deep/*.png", ["/static/img/deep/b.png"]),
        ("*/*.js", ["/other/x.js"]),
        ("static/none*", []),
        ("**/*", [f"/{name}" for name in sorted(TREE)]),
    ],
)
def test_a_pattern_keeps_files_where_they_are(
    root: Path, pattern: str, expected: list[str]
) -> None:
    assert seen(root, pattern) == expected


@pytest.mark.parametrize(
    ("source", "destination", "expected"),
    [
        ("static/img", "/", ["/a.png", "/deep/b.png", "/deep/secret"]),
        ("static/img", "/x/y", ["/x/y/a.png", "/x/y/deep/b.png", "/x/y/deep/secret"]),
        ("static/img/", "//x/", ["/x/a.png", "/x/deep/b.png", "/x/deep/secret"]),
        ("a.txt", "/etc/name", ["/etc/name"]),
    ],
)
def test_a_placement_moves_them(
    root: Path, source: str, destination: str, expected: list[str]
) -> None:
    assert seen(root, (source, destination)) == expected


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        (("**/secret",), ["/static/img/a.png", "/static/img/deep/b.png"]),
        (("static/img/*",), []),
        (("static/img/deep/*",), ["/static/img/a.png"]),
        (("*.png",), ["/static/img/deep/secret"]),
        (("**/*.png", "**/secret"), []),
        (("secret",), ["/static/img/a.png", "/static/img/deep/b.png", "/static/img/deep/secret"]),
    ],
)
def test_excluded_files_are_not_there(
    root: Path, exclude: tuple[str, ...], left: list[str]
) -> None:
    assert seen(root, "static/img", exclude=exclude) == left


def test_exclusion_is_about_the_place_in_the_application(root: Path) -> None:
    assert seen(root, ("static/img", "/"), exclude=("static/img/deep/*",)) == ["/a.png"]
    assert seen(root, "a.txt", exclude=("a.txt",)) == []


def test_a_later_entry_replaces_an_earlier_one(root: Path) -> None:
    files = mounted_files(component(("a.txt", ("b.txt", "/a.txt"))), root, Where("spin.toml"))
    assert [(f.guest, f.host.name) for f in files] == [("/a.txt", "b.txt")]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("none.txt", r'x\.files\[0\]: "none.txt" does not exist'),
        ("none/*", '"none" is not a directory'),
        (("none", "/"), '"none" does not exist'),
        (("../outside", "/"), r'"\.\./outside" is outside of the application\'s directory'),
        (("..", "/"), "is outside"),
        (("a.txt", "/x/"), "is not a path for a file"),
        ("[z-a].txt", "is not a pattern"),
    ],
)
def test_what_cannot_be_mounted_is_refused(
    root: Path, entry: str | tuple[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        seen(root, entry)


@pytest.mark.parametrize(
    "entry", ["static", "static/*", "static/**/*", ("static", "/"), "static/l"]
)
@pytest.mark.parametrize("target", ["../../outside/key", "/etc/hostname"])
def test_a_link_that_leaves_the_application_is_refused(
    root: Path, entry: str | tuple[str, str], target: str
) -> None:
    (root / "static" / "l").symlink_to(target)
    with pytest.raises(ConfigError, match=r'"static/l" is outside of'):
        seen(root, entry)


@pytest.mark.parametrize("entry", ["static", "static/**/*", ("static", "/"), "static/l/*"])
def test_a_linked_directory_that_leaves_is_refused_unread(
    root: Path, entry: str | tuple[str, str]
) -> None:
    (root / "static" / "l").symlink_to("/")
    with pytest.raises(ConfigError, match=r'"static/l" is outside of'):
        seen(root, entry)


def test_links_within_are_followed_and_circles_end(root: Path) -> None:
    (root / "static" / "again").symlink_to("../other")
    (root / "static" / "file").symlink_to("../a.txt")
    (root / "static" / "self").symlink_to(".")
    (root / "static" / "broken").symlink_to("nowhere")
    os.mkfifo(root / "static" / "pipe")
    assert seen(root, "static") == sorted([*STATIC, "/static/again/x.js", "/static/file"])


def test_a_file_is_no_directory(root: Path) -> None:
    with pytest.raises(ConfigError, match=r'"/a\.txt" would be both'):
        seen(root, "a.txt", ("b.txt", "/a.txt/b"))


def test_the_places_to_watch(root: Path) -> None:
    entries = component(("a.txt", "static/**/*.png", "*.js", ("other", "/")))
    assert watched_places(entries, root) == (root / "a.txt", root / "static", root, root / "other")
