"""References and digests: strict, because both become URLs and paths."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import ConfigError
from edge.registry.digest import Digest
from edge.registry.reference import Reference, looks_like_reference

DIGEST = Digest.of(b"content")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.example/app", Reference("a.example", "app")),
        ("A.example:5000/app:1.0", Reference("a.example:5000", "app", "1.0")),
        ("localhost/x", Reference("localhost", "x")),
        ("[::1]:5000/x/y", Reference("[::1]:5000", "x/y")),
        ("10.0.0.7:7465/team/a__b/c-d:V_1", Reference("10.0.0.7:7465", "team/a__b/c-d", "V_1")),
        (f"a.example/x@{DIGEST}", Reference("a.example", "x", None, DIGEST)),
        (f"a.example/x:1@{DIGEST}", Reference("a.example", "x", "1", DIGEST)),
    ],
)
def test_a_reference_is_read_and_written(text: str, expected: Reference) -> None:
    assert Reference.parse(text) == expected
    assert Reference.parse(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "names no registry", "registry.example/team/app"),
        ("app:1", "names no registry", "registry.example/team/app"),
        ("team/app", "names no registry", "docker.io/team/app"),
        ("docker.io/alpine", "has no such repository", "docker.io/library/alpine"),
        ("https://a.example/x", "is a URL", "leave the scheme out"),
        ("a.example/", "is not the name of a repository", None),
        ("a.example/App", "is not the name of a repository", "lower case"),
        ("a.example/a//b", "is not the name of a repository", None),
        ("a.example/../b", "is not the name of a repository", None),
        ("a.example/a/..", "is not the name of a repository", None),
        ("a.example/x\n", "is not the name of a repository", None),
        ("a.example/x?y", "is not the name of a repository", None),
        ("a.example/x%2e", "is not the name of a repository", None),
        ("a.example/" + "x" * 250, "more than 255 characters", None),
        ("a..example/x", "is not a registry", None),
        ("user@a.example/x", "names no registry", None),
        ("a.example:0/x", "is not a registry", None),
        ("a.example:65536/x", "is not a registry", None),
        ("[::g]:1/x", "is not a registry", None),
        ("[:::]/x", "is not a registry", None),
        ("a.example/x:", "is not a tag", "letters"),
        ("a.example/x:..", "is not a tag", None),
        ("a.example/x:" + "y" * 129, "is not a tag", None),
        ("a.example/x@", "is not a digest", None),
        ("a.example/x@sha256:../../etc", "is not a digest", None),
        (f"a.example/x@{str(DIGEST).upper()}", "is not a digest", None),
        (f"a.example/x@{DIGEST}0", "is not a digest", None),
        (f"a.example/x@{DIGEST}\n", "is not a digest", None),
        ("a.example/x@sha512:" + "0" * 128, "is not a digest", None),
    ],
)
def test_what_is_not_a_reference_is_refused(text: str, message: str, hint: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        Reference.parse(text)
    assert message in caught.value.message
    assert caught.value.message.isprintable()
    assert hint is None or hint in (caught.value.hint or "")


@given(st.text(alphabet="aZ09.-_/:@[]%\n ", max_size=40) | st.text(max_size=40))
def test_any_text_is_a_reference_that_stays_the_same_or_is_refused(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except ConfigError:
        return
    assert Reference.parse(str(reference)) == reference
    for part in (reference.repository, reference.wanted):
        assert ".." not in part.split("/")
        assert not set(part) & set("\\?#% \n")


def test_what_is_wanted_is_the_digest_or_the_tag_or_the_latest() -> None:
    reference = Reference.parse("a.example/x:1")
    assert reference.wanted == "1"
    assert Reference.parse("a.example/x").wanted == "latest"
    assert Reference.parse(f"a.example/x:1@{DIGEST}").wanted == str(DIGEST)
    assert str(reference.at(DIGEST)) == f"a.example/x@{DIGEST}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.example/x:1", True),
        ("localhost:5000/x", True),
        ("127.0.0.1:5000/x", True),
        ("examples/hello", False),
        ("./hello", False),
        ("../hello.d/x", False),
        ("/srv/app", False),
        ("hello", False),
        ("build.d/app.wasm", False),
        ("app.d/spin.toml", False),
        ("a.example/x@sha256:123", True),
    ],
)
def test_references_are_told_from_paths(text: str, expected: bool) -> None:
    assert looks_like_reference(text) is expected


def test_a_digest_is_of_bytes() -> None:
    assert str(Digest.of(b"")) == (
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )
    assert Digest.parse(str(DIGEST)) == DIGEST
    with pytest.raises(ValueError, match="hexadecimal"):
        Digest("../" + "0" * 61)
