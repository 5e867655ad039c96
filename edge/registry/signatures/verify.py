"""Whether one of some signatures stands for a manifest. Pure: no network, no files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from edge.errors import BundleError
from edge.registry.digest import Digest
from edge.registry.manifest import Descriptor, Manifest
from edge.registry.reference import Reference
from edge.registry.signatures import attestation, simple
from edge.registry.signatures.claims import Candidate
from edge.registry.signatures.keys import PublicKey

__all__ = ["FOREIGN", "Attached", "Question", "line", "objections"]

FOREIGN = "is signed with another key"
# Reasons come from documents of strangers, too.
_MAX_REASON = 300

_READERS = {
    simple.MEDIA_TYPE: simple.candidate,
    attestation.MEDIA_TYPE: attestation.candidate,
}


@dataclass(frozen=True, slots=True)
class Question:
    """May `digest` be used as what `reference` stands for? `now`: trusted time."""

    reference: Reference
    digest: Digest
    keys: Sequence[PublicKey]
    now: float


@dataclass(frozen=True, slots=True)
class Attached:
    """What was found beside a manifest: a manifest that holds signatures, and its blobs."""

    descriptor: Descriptor
    data: bytes
    manifest: Manifest
    blobs: Mapping[Digest, bytes]

    def signatures(self) -> Iterator[tuple[Descriptor, str]]:
        """Layers that are signatures of a kind that is known here, each with a name."""
        for number, layer in enumerate(self.manifest.layers):
            if layer.media_type in _READERS:
                yield layer, f"signature {number + 1} of {self.descriptor.digest}"

    def candidate(self, layer: Descriptor, name: str) -> Candidate:
        """Raises BundleError when it is malformed."""
        return _READERS[layer.media_type](layer, self.blobs[layer.digest], name)


def objections(attached: Attached, question: Question) -> Sequence[str] | None:
    """Why none of its signatures counts; None: one does."""
    found = []
    for layer, name in attached.signatures():
        try:
            reason = _objection(attached.candidate(layer, name), question)
        except BundleError as error:
            reason = error.message
        if reason is None:
            return None
        found.append(line(reason))
    return found


def _objection(candidate: Candidate, question: Question) -> str | None:
    """The key first: what nobody trusted has signed is not read."""
    if not any(key.verifies(candidate.signature, candidate.message) for key in question.keys):
        return FOREIGN
    return candidate.claim().objection(question.reference, question.digest, question.now)


def line(text: str) -> str:
    """A reason as people may see it."""
    return "".join(c if c.isprintable() else "?" for c in text)[:_MAX_REASON]
