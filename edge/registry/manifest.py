"""OCI image manifests and indexes as values, read strictly: they come from strangers.

Knows nothing of what layers contain. What this does not know in a document is left alone: the
specification lets later versions add keys.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from edge.application.fields import Table, Where, integer, items, mapping, parsed, string
from edge.errors import BundleError, ConfigError
from edge.registry.digest import Digest

__all__ = [
    "ACCEPTED",
    "IMAGE_CONFIG",
    "IMAGE_INDEX",
    "IMAGE_MANIFEST",
    "MAX_LAYERS",
    "MAX_MANIFEST",
    "Descriptor",
    "Index",
    "Manifest",
    "Platform",
    "read",
    "read_json",
]

IMAGE_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
IMAGE_INDEX = "application/vnd.oci.image.index.v1+json"
IMAGE_CONFIG = "application/vnd.oci.image.config.v1+json"
_DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"

_MANIFESTS = (IMAGE_MANIFEST, _DOCKER_MANIFEST)
_INDEXES = (IMAGE_INDEX, _DOCKER_LIST)
# What to ask registries for, the preferred first.
ACCEPTED = (IMAGE_MANIFEST, IMAGE_INDEX, _DOCKER_MANIFEST, _DOCKER_LIST)

# Registries take manifests up to this size; the distribution specification recommends it.
MAX_MANIFEST = 4 << 20
# Spin packs files into archives above 499 layers; nothing in use is near it.
MAX_LAYERS = 2_000
# A petabyte: beyond it a size is nonsense, and sums stay far from any limit of a file's size.
_MAX_SIZE = 1 << 50

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Platform:
    """What an entry of an index runs on."""

    architecture: str
    os: str

    def __str__(self) -> str:
        return f"{self.os}/{self.architecture}"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Names content by its digest, and says how long it is and what it is."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: Platform | None = None
    artifact_type: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image manifest: a configuration and layers."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)
    artifact_type: str | None = None
    subject: Descriptor | None = None
    media_type: str = IMAGE_MANIFEST

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """What it needs to be complete, each once: the configuration first."""
        return tuple({blob.digest: blob for blob in (self.config, *self.layers)}.values())

    def to_bytes(self) -> bytes:
        """The same values always give the same bytes, and so the same digest."""
        return _canonical(
            {
                "schemaVersion": 2,
                "mediaType": self.media_type,
                "artifactType": self.artifact_type,
                "config": _descriptor_json(self.config),
                "layers": [_descriptor_json(layer) for layer in self.layers],
                "subject": _descriptor_json(self.subject) if self.subject else None,
                "annotations": dict(self.annotations) or None,
            }
        )


@dataclass(frozen=True, slots=True)
class Index:
    """An image index: manifests, usually of one thing for several platforms."""

    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)
    artifact_type: str | None = None
    subject: Descriptor | None = None
    media_type: str = IMAGE_INDEX

    def for_wasm(self, name: str) -> Descriptor:
        """The manifest of the entry that is WebAssembly; a BundleError about `name` without one."""
        fitting = [
            entry
            for entry in self.manifests
            if entry.media_type in _MANIFESTS
            and (entry.platform is None or entry.platform.architecture.startswith("wasm"))
        ]
        # An entry that says it is WebAssembly is preferred to one that says nothing.
        if fitting := sorted(fitting, key=lambda entry: entry.platform is None):
            return fitting[0]
        found = ", ".join(sorted({str(e.platform) for e in self.manifests if e.platform}))
        raise BundleError(
            f"{name}: holds no WebAssembly: {found or 'an index without manifests'}",
            hint="it is a container image for another kind of machine",
        )

    def to_bytes(self) -> bytes:
        """The same values always give the same bytes, and so the same digest."""
        return _canonical(
            {
                "schemaVersion": 2,
                "mediaType": self.media_type,
                "artifactType": self.artifact_type,
                "manifests": [_descriptor_json(entry) for entry in self.manifests],
                "subject": _descriptor_json(self.subject) if self.subject else None,
                "annotations": dict(self.annotations) or None,
            }
        )


def read(data: bytes, name: str, media_type: str | None = None) -> Manifest | Index:
    """What a document is; `media_type` is what its registry or descriptor called it.

    Malformed documents and documents of another kind are BundleErrors about `name`.
    """
    if len(data) > MAX_MANIFEST:
        raise BundleError(f"{name}: its manifest has more than {MAX_MANIFEST} bytes")
    return read_json(data, name, lambda value, where: _document(value, where, media_type))


def read_json(data: bytes, name: str, reader: Callable[[object, Where], T]) -> T:
    """JSON of a stranger by a reader; all that is wrong with it is a BundleError about `name`."""
    try:
        value = json.loads(data.decode(), object_pairs_hook=_object, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise BundleError(f"{name}: is not JSON: {_reason(error)}") from None
    try:
        return reader(value, Where(name))
    except ConfigError as error:
        raise BundleError(error.message, hint=error.hint) from None


def _reason(error: ValueError | RecursionError) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    # Two readers could understand it differently: one checks a signature, the other one runs it.
    if len(found) != len(pairs):
        raise ValueError("a key appears twice in one object")
    return found


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is not a number of JSON")


def _canonical(value: Mapping[str, object]) -> bytes:
    present = {key: item for key, item in value.items() if item is not None}
    return json.dumps(present, sort_keys=True, separators=(",", ":")).encode()


def _descriptor_json(descriptor: Descriptor) -> dict[str, object]:
    found: dict[str, object] = {
        "mediaType": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
    }
    if descriptor.annotations:
        found["annotations"] = dict(descriptor.annotations)
    if descriptor.platform:
        platform = descriptor.platform
        found["platform"] = {"architecture": platform.architecture, "os": platform.os}
    if descriptor.artifact_type:
        found["artifactType"] = descriptor.artifact_type
    return found


def _document(value: object, where: Where, media_type: str | None) -> Manifest | Index:
    with Table(value, where) as table:
        table.need("schemaVersion", _schema_version)
        found = _media_type(table, media_type)
        if found in _INDEXES:
            return _index(table, found)
        if found in _MANIFESTS:
            return _manifest(table, found)
        raise where.error(
            f"is neither an image manifest nor an index, but {found!a}",
            "images of Docker before 2017 need to be pushed again by a newer one",
        )


def _schema_version(value: object, where: Where) -> int:
    return integer(2, 2)(value, where)


def _media_type(table: Table, given: str | None) -> str:
    """Document and registry must agree; a document may leave it out (OCI only)."""
    own = table.optional("mediaType", string)
    known = given if given in ACCEPTED else None
    if own and known and own != known:
        raise table.where.error(f"says that it is {own!a}, its registry says {known!a}")
    if "layers" in table and "manifests" in table:
        raise table.where.error("is a manifest and an index at the same time")
    if own or known:
        return own or known or ""
    if given in (None, "application/json", "text/plain", "application/octet-stream"):
        return IMAGE_INDEX if "manifests" in table else IMAGE_MANIFEST
    return given or ""


def _manifest(table: Table, media_type: str) -> Manifest:
    manifest = Manifest(
        config=table.need("config", _descriptor),
        layers=table.need("layers", _layers),
        annotations=_annotations(table),
        artifact_type=table.optional("artifactType", string),
        subject=table.optional("subject", _descriptor),
        media_type=media_type,
    )
    table.rest()
    return manifest


def _index(table: Table, media_type: str) -> Index:
    index = Index(
        manifests=table.need("manifests", _layers),
        annotations=_annotations(table),
        artifact_type=table.optional("artifactType", string),
        subject=table.optional("subject", _descriptor),
        media_type=media_type,
    )
    table.rest()
    return index


def _layers(value: object, where: Where) -> tuple[Descriptor, ...]:
    if isinstance(value, list) and len(value) > MAX_LAYERS:
        raise where.error(f"more than {MAX_LAYERS} entries")
    return items(_descriptor)(value, where)


def _descriptor(value: object, where: Where) -> Descriptor:
    with Table(value, where) as table:
        descriptor = Descriptor(
            media_type=table.need("mediaType", string),
            digest=table.need("digest", parsed(Digest.parse)),
            size=table.need("size", integer(0, _MAX_SIZE)),
            annotations=_annotations(table),
            platform=table.optional("platform", _platform),
            artifact_type=table.optional("artifactType", string),
        )
        table.rest()
    return descriptor


def _platform(value: object, where: Where) -> Platform:
    with Table(value, where) as table:
        platform = Platform(table.need("architecture", string), table.need("os", string))
        table.rest()
    return platform


def _annotations(table: Table) -> Mapping[str, str]:
    # Some tools write `null` for none.
    return table.get("annotations", lambda v, w: {} if v is None else mapping(string)(v, w), {})
