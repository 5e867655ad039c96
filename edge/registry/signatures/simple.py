"""Simple signing: cosign 2's payload, which skopeo, podman and cosign read and write.

By cosign's SIGNATURE_SPEC and containers-signature(5): a layer is what was signed, its annotation
holds the signature.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypeVar

from edge.application.fields import Reader, Table, Where, choice, parsed, string
from edge.errors import BundleError
from edge.registry.digest import Digest
from edge.registry.manifest import Descriptor, read_json
from edge.registry.reference import Reference
from edge.registry.signatures.claims import Candidate, Claim, added, base64_bytes, expiry

__all__ = ["MEDIA_TYPE", "SIGNATURE", "candidate", "payload"]

MEDIA_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE = "dev.cosignproject.cosign/signature"
_TYPE = "cosign container image signature"

T = TypeVar("T")


def payload(reference: Reference, digest: Digest, more: Mapping[str, object]) -> bytes:
    """What is signed to say that `reference` may stand for `digest`."""
    # skopeo's default policy wants the tag or the digest that an image is asked for by.
    identity = reference.name + (f":{reference.tag}" if reference.tag else f"@{digest}")
    document = {
        "critical": {
            "identity": {"docker-reference": identity},
            "image": {"docker-manifest-digest": str(digest)},
            "type": _TYPE,
        },
        "optional": dict(more),
    }
    return json.dumps(document, separators=(",", ":")).encode()


def candidate(layer: Descriptor, data: bytes, name: str) -> Candidate:
    """The signature of a layer over its content. Raises BundleError."""
    text = layer.annotations.get(SIGNATURE)
    if text is None:
        raise BundleError(f"{name}: has no annotation {SIGNATURE}")
    try:
        signature = base64_bytes(text)
    except ValueError as error:
        raise BundleError(f"{name}: its signature {error}") from None
    return Candidate(signature, data, lambda: read_json(data, name, _claim))


def _claim(value: object, where: Where) -> Claim:
    with Table(value, where) as table:
        digest, identity = table.need("critical", _critical)
        optional = table.optional("optional", added) or {}
    # cosign names no image when it is told not to, and then says nothing about where.
    return Claim(frozenset((digest,)), identity or None, expiry(optional, where.key("optional")))


def _critical(value: object, where: Where) -> tuple[Digest, str]:
    with Table(value, where) as table:
        table.need("type", choice(_TYPE))
        digest: Digest = table.need("image", _only("docker-manifest-digest", _digest))
        return digest, table.need("identity", _only("docker-reference", string))


def _only(key: str, read: Reader[T]) -> Reader[T]:
    """A table of that one key: what is critical must be understood."""

    def reader(value: object, where: Where) -> T:
        with Table(value, where) as table:
            return table.need(key, read)

    return reader


_digest: Reader[Digest] = parsed(Digest.parse)
