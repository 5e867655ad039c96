"""Image manifests and indexes: what others write, and what nobody should."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import BundleError
from edge.registry import manifest
from edge.registry.digest import Digest
from edge.registry.manifest import (
    IMAGE_INDEX,
    IMAGE_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    Platform,
)

CONFIG = Descriptor("application/vnd.oci.image.config.v1+json", Digest.of(b"{}"), 2)
LAYER = Descriptor(
    "application/wasm", Digest.of(b"w"), 1, {"org.opencontainers.image.title": "ü.wasm"}
)
DOCKER = "application/vnd.docker.distribution.manifest.v2+json"


def document(**changes: Any) -> dict[str, Any]:
    value = json.loads(Manifest(CONFIG, (LAYER,)).to_bytes()) | changes
    return {key: item for key, item in value.items() if item is not ...}


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()


def entry(**changes: Any) -> dict[str, Any]:
    value = {"mediaType": "x", "digest": str(CONFIG.digest), "size": 2} | changes
    return {key: item for key, item in value.items() if item is not ...}


digests = st.binary(max_size=4).map(Digest.of)
annotations = st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3)
descriptors = st.builds(
    Descriptor,
    media_type=st.text(max_size=20),
    digest=digests,
    size=st.integers(0, 1 << 50),
    annotations=annotations,
    platform=st.none() | st.builds(Platform, st.text(max_size=5), st.text(max_size=5)),
    artifact_type=st.none() | st.text(min_size=1, max_size=9),
)
layers = st.lists(descriptors, max_size=4).map(tuple)
subjects = st.none() | descriptors


@given(
    st.builds(Manifest, config=descriptors, layers=layers, annotations=annotations)
    | st.builds(Manifest, config=descriptors, layers=layers, subject=subjects)
    | st.builds(Index, manifests=layers, annotations=annotations, subject=subjects)
)
def test_what_is_written_is_read_as_the_same(value: Manifest | Index) -> None:
    data = value.to_bytes()
    assert manifest.read(data, "x", value.media_type) == value
    assert manifest.read(data, "x") == value
    assert value.to_bytes() == data


def test_the_blobs_of_a_manifest_are_named_once_in_order() -> None:
    other = Descriptor("application/wasm", Digest.of(b"o"), 1)
    found = Manifest(CONFIG, (LAYER, other, LAYER)).blobs
    assert [blob.digest for blob in found] == [CONFIG.digest, LAYER.digest, other.digest]


def test_docker_manifests_and_documents_without_a_media_type_are_read() -> None:
    read = manifest.read(encoded(document(mediaType=DOCKER)), "x", DOCKER)
    assert isinstance(read, Manifest)
    assert read.media_type == DOCKER
    bare = encoded(document(mediaType=...))
    assert manifest.read(bare, "x", IMAGE_MANIFEST) == Manifest(CONFIG, (LAYER,))
    assert manifest.read(bare, "x", "application/json") == Manifest(CONFIG, (LAYER,))
    index = encoded({"schemaVersion": 2, "manifests": [entry()]})
    assert isinstance(manifest.read(index, "x"), Index)


def test_unknown_keys_and_annotations_of_null_are_left_alone() -> None:
    read = manifest.read(encoded(document(annotations=None, future={"a": 1})), "x")
    assert read == Manifest(CONFIG, (LAYER,))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "x: must be a table"),
        (document(schemaVersion=1), "x: schemaVersion: must be between 2 and 2"),
        (document(schemaVersion=...), 'missing key "schemaVersion"'),
        (document(mediaType="application/x"), "its registry says"),
        (document(mediaType=IMAGE_INDEX), "its registry says"),
        (document(manifests=[]), "a manifest and an index at the same time"),
        (document(layers=...), 'missing key "layers"'),
        (document(layers={}), "x: layers: must be a list"),
        (document(layers=[entry()] * 2001), "x: layers: more than 2000 entries"),
        (document(config=entry(size=-1)), "x: config.size: must be between 0"),
        (document(config=entry(size=1 << 60)), "x: config.size: must be between 0"),
        (document(config=entry(size=1.5)), "x: config.size: must be an integer"),
        (document(config=entry(size=True)), "x: config.size: must be an integer"),
        (document(config=entry(digest="sha256:../../x")), "x: config.digest: "),
        (document(layers=[entry(digest="md5:00")]), "x: layers[0].digest: "),
        (document(layers=[entry(mediaType=...)]), 'x: layers[0]: missing key "mediaType"'),
        (document(annotations={"a": 1}), "x: annotations.a: must be a string"),
    ],
)
def test_malformed_documents_are_refused_with_the_place(value: object, message: str) -> None:
    with pytest.raises(BundleError) as caught:
        manifest.read(encoded(value), "x", IMAGE_MANIFEST)
    assert message in str(caught.value)


def test_documents_of_another_kind_are_refused() -> None:
    for value, given_type in (
        (document(mediaType="application/x"), None),
        (document(mediaType=...), "application/x"),
    ):
        with pytest.raises(BundleError, match="neither an image manifest nor an index, but 'app"):
            manifest.read(encoded(value), "x", given_type)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"schemaVersion":2,"schemaVersion":2}', "a key appears twice"),
        (b'{"schemaVersion":NaN}', "is not a number of JSON"),
        (b'{"schemaVersion":' + b"9" * 5000 + b"}", "is not JSON"),
        (b" " * (4 << 20) + b"{}", "has more than 4194304 bytes"),
    ],
    ids=["empty", "not utf-8", "deep", "twice", "nan", "digits", "large"],
)
def test_bytes_that_are_no_document_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        manifest.read(data, "x")


@given(st.binary(max_size=80) | st.recursive(st.none() | st.text(), st.lists).map(encoded))
def test_any_bytes_are_a_document_or_refused(data: bytes) -> None:
    with pytest.raises(BundleError):
        manifest.read(data, "x")


def platform(architecture: str, digest: Digest) -> Descriptor:
    return Descriptor(IMAGE_MANIFEST, digest, 1, platform=Platform(architecture, "wasip1"))


def test_the_entry_for_webassembly_is_taken_from_an_index() -> None:
    plain = Descriptor(IMAGE_MANIFEST, Digest.of(b"p"), 1)
    wasm, arm = platform("wasm", Digest.of(b"w")), platform("arm64", Digest.of(b"a"))
    assert Index((arm, plain, wasm)).for_wasm("x") is wasm
    assert Index((arm, plain)).for_wasm("x") is plain
    with pytest.raises(BundleError, match="x: holds no WebAssembly: wasip1/arm64"):
        Index((arm,)).for_wasm("x")
    with pytest.raises(BundleError, match="an index without manifests"):
        Index(()).for_wasm("x")
