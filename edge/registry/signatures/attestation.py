"""Sigstore bundles: cosign 3's format.

A bundle holds a DSSE envelope, the envelope an in-toto statement, the statement names what was
signed. Read are bundles 0.3 whose key is known beforehand: certificates and transparency logs prove
nothing here and are not looked at.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass

from edge.application.fields import (
    Reader,
    Table,
    Where,
    choice,
    items,
    mapping,
    parsed,
    string,
)
from edge.registry.digest import Digest
from edge.registry.manifest import Descriptor, read_json
from edge.registry.reference import Reference
from edge.registry.signatures.claims import Candidate, Claim, added, base64_bytes, expiry

__all__ = ["MEDIA_TYPE", "PREDICATE", "bundle", "candidate", "encode", "statement"]

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
# What cosign's `sign` says. Other attestations say other things than that it may be used.
PREDICATE = "https://sigstore.dev/cosign/sign/v1"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENTS = ("https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1")
# As other verifiers do; a signature has one.
_MAX_SUBJECTS = 1024


@dataclass(frozen=True, slots=True)
class _Envelope:
    payload: bytes
    signature: bytes


def encode(payload: bytes) -> bytes:
    """What is signed of a payload: DSSE's pre-authentication encoding."""
    kind = _PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def statement(reference: Reference, digest: Digest, more: Mapping[str, object]) -> bytes:
    """What is to be signed to say that the repository's `digest` may be used."""
    subject: dict[str, object] = {"name": reference.name, "digest": {"sha256": digest.hex}}
    if more:
        subject["annotations"] = dict(more)
    document = {
        "_type": _STATEMENTS[0],
        "subject": [subject],
        "predicateType": PREDICATE,
        "predicate": {},
    }
    return json.dumps(document, separators=(",", ":")).encode()


def bundle(payload: bytes, signature: bytes, hint: str) -> bytes:
    """A signed statement as a bundle. `hint` says which key made it."""
    document = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": hint}},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": _PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode()}],
        },
    }
    return json.dumps(document, separators=(",", ":")).encode()


def candidate(_: Descriptor, data: bytes, name: str) -> Candidate:
    """The signature of a bundle. Raises BundleError for another kind of bundle."""
    envelope = read_json(data, name, _bundle)
    payload = envelope.payload
    return Candidate(
        envelope.signature,
        encode(payload),
        lambda: read_json(payload, f"{name}: statement", _statement),
    )


def _bundle(value: object, where: Where) -> _Envelope:
    with Table(value, where) as table:
        table.need("mediaType", choice(MEDIA_TYPE))
        if "messageSignature" in table:
            raise where.error("signs the bare manifest", "sign it with cosign sign, or edge sign")
        envelope = table.need("dsseEnvelope", _envelope)
        table.rest()
    return envelope


def _envelope(value: object, where: Where) -> _Envelope:
    with Table(value, where) as table:
        table.need("payloadType", choice(_PAYLOAD_TYPE))
        payload: bytes = table.need("payload", _bytes)
        signatures = table.need("signatures", items(_signature))
    if len(signatures) != 1:
        raise where.key("signatures").error("must hold exactly one")
    return _Envelope(payload, signatures[0])


def _signature(value: object, where: Where) -> bytes:
    with Table(value, where) as table:
        table.optional("keyid", string)  # a hint that nobody has to believe
        return table.need("sig", _bytes)


def _statement(value: object, where: Where) -> Claim:
    with Table(value, where) as table:
        table.need("_type", choice(*_STATEMENTS))
        kind = table.need("predicateType", string)
        if kind != PREDICATE:
            raise where.error(f"is an attestation of {kind[:200]!a}, not a signature")
        subjects = table.need("subject", _subjects)
        table.rest()
    return subjects


def _subjects(value: object, where: Where) -> Claim:
    """One is what everybody writes; with several, what is said of one must be said of all."""
    if isinstance(value, list) and len(value) > _MAX_SUBJECTS:
        raise where.error(f"more than {_MAX_SUBJECTS} entries")
    found = items(_subject)(value, where)
    if not found:
        raise where.error("is empty")
    if len({(claim.identity, claim.expires) for claim in found}) > 1:
        raise where.error("differ in name or expiry")
    return Claim(
        frozenset().union(*(claim.digests for claim in found)), found[0].identity, found[0].expires
    )


def _subject(value: object, where: Where) -> Claim:
    with Table(value, where) as table:
        digests = table.need("digest", mapping(string))
        name = table.get("name", string, "")
        more = table.optional("annotations", added) or {}
        table.rest()
    try:
        signed = frozenset((Digest(digests["sha256"]),)) if "sha256" in digests else frozenset()
    except ValueError as error:
        raise where.key("digest").error(str(error)) from None
    return Claim(signed, name or None, expiry(more, where.key("annotations")))


_bytes: Reader[bytes] = parsed(base64_bytes)
