"""Where an application is on a node."""

from __future__ import annotations

import pytest

from edge.application.fields import Where
from edge.application.mounts import application_name, mount, mount_host, mount_path
from edge.config import Mount
from edge.errors import ConfigError

HERE = Where("edge.toml", "mount")


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("/", Mount()),
        ("/a", Mount("/a")),
        ("/a/b-c/d.e/~f_g/", Mount("/a/b-c/d.e/~f_g")),
        ("/...a", Mount("/...a")),
        ({}, Mount()),
        ({"path": "/a"}, Mount("/a")),
        ({"host": "Thermo.LOCAL"}, Mount("/", "thermo.local")),
        ({"path": "/a", "host": "bücher.example"}, Mount("/a", "xn--bcher-kva.example")),
        ({"host": "10.0.0.7"}, Mount("/", "10.0.0.7")),
        ({"host": "[FD00::7]"}, Mount("/", "fd00::7")),
    ],
)
def test_a_mount_is_a_path_or_a_path_and_a_host(value: object, found: Mount) -> None:
    assert mount(value, HERE) == found


@pytest.mark.parametrize(
    "text",
    ["", "a", "//", "/a//b", "/a//", "/.", "/..", "/a/../b", "/...", "/a b", "/a?", "/a#", "/%41",
     "/:id", "/*", "/ä", "/a\n", "/a\\b"],
)  # fmt: skip
def test_what_two_people_could_read_differently_is_no_mount(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        mount_path(text)


@pytest.mark.parametrize("text", ["", "a:80", "*.a", "a/b", "a b", "http://a", "a..b"])
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no port, no wildcard"):
        mount_host(text)


@pytest.mark.parametrize("value", [1, None, [], {"x": 1}, {"path": 1}, {"host": True}])
def test_another_type_is_a_mistake_with_its_place(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^edge\.toml: mount"):
        mount(value, HERE)


def test_a_name_is_safe_in_urls_files_and_the_journal() -> None:
    for text in ("a", "Thermo.v2", "0-1_2", "a" * 63):
        assert application_name(text) == text
    for text in ("", ".", "..", "-a", ".a", "a/b", "a b", "ä", "a\n", "a" * 64, "%41"):
        with pytest.raises(ValueError, match="is not a name"):
            application_name(text)
