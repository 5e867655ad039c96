"""Signing what a registry has, in the formats of cosign 2 and cosign 3."""

from __future__ import annotations

import asyncio
import base64
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from edge.errors import BundleError
from edge.registry import transfer
from edge.registry.client import RegistryClient
from edge.registry.digest import Digest
from edge.registry.manifest import IMAGE_CONFIG, Descriptor, Index, Manifest, read
from edge.registry.reference import Reference
from edge.registry.signatures import attached, attestation, simple
from edge.registry.signatures.claims import EXPIRES
from edge.registry.signatures.keys import SigningKey
from edge.registry.signatures.verify import Attached
from edge.registry.store import ContentStore

__all__ = ["Format", "Signer", "subjects"]

# Tags of cosign 2, bundles of cosign 3, or both: each is read by tools that do not read the other.
Format = Literal["tag", "bundle", "both"]


async def subjects(client: RegistryClient, reference: Reference) -> Sequence[Descriptor]:
    """What to sign: the manifest that nodes run, and before it the index that leads to it."""
    resolved = await client.resolve(reference)
    assert resolved.data is not None
    found = read(resolved.data, str(reference), resolved.descriptor.media_type)
    if isinstance(found, Index):
        return resolved.descriptor, found.for_wasm(str(reference))
    return (resolved.descriptor,)


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs with a key. `now` and `expires`: in seconds since 1970; None: for ever."""

    client: RegistryClient
    key: SigningKey
    now: float
    expires: float | None = None

    async def sign(self, reference: Reference, subject: Descriptor, kind: Format = "both") -> None:
        """Puts a signature of `subject` beside it. Raises PullError, BundleError.

        It takes the place of earlier ones by the same key where they are listed in a tag.
        """
        if kind != "bundle":
            await self._tag(reference, subject.digest)
        if kind != "tag":
            await self._bundle(reference, subject)

    async def _tag(self, reference: Reference, digest: Digest) -> None:
        """As a layer of the one manifest that holds all signatures."""
        place = attached.signature_tag(reference, digest)
        payload = simple.payload(reference, digest, self._said())
        layer = Descriptor(
            simple.MEDIA_TYPE,
            Digest.of(payload),
            len(payload),
            {simple.SIGNATURE: base64.b64encode(self.key.sign(payload)).decode()},
        )
        layers = (*await self._others(place, layer, payload), layer)
        diff_ids = [str(layer.digest) for layer in layers]
        config = {"architecture": "", "os": "", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
        await self._push(place, layers, _json(config), IMAGE_CONFIG, {layer.digest: payload})

    async def _others(
        self, place: Reference, layer: Descriptor, payload: bytes
    ) -> tuple[Descriptor, ...]:
        """Layers that are there and that the new one does not replace."""
        found = await attached.fetch(self.client, place)
        if isinstance(found, BundleError):
            raise found
        if found is None:
            return ()
        identity = simple.candidate(layer, payload, "new signature").claim().identity
        return tuple(
            layer for layer in found.manifest.layers if not self._made(found, layer, identity)
        )

    async def _bundle(self, reference: Reference, subject: Descriptor) -> None:
        """As a manifest of its own that refers to the subject."""
        said = self._said()
        payload = attestation.statement(reference, subject.digest, said)
        signature = self.key.sign(attestation.encode(payload))
        bundle = attestation.bundle(payload, signature, self.key.public.hint)
        layer = Descriptor(attestation.MEDIA_TYPE, Digest.of(bundle), len(bundle))
        manifest = await self._push(
            reference,
            (layer,),
            b"{}",
            attached.EMPTY,
            {layer.digest: bundle},
            artifact_type=attestation.MEDIA_TYPE,
            subject=Descriptor(subject.media_type, subject.digest, subject.size),
            annotations={
                attached.CREATED: _rfc3339(self.now),
                "dev.sigstore.bundle.content": "dsse-envelope",
                "dev.sigstore.bundle.predicateType": attestation.PREDICATE,
            },
        )
        kind = attestation.MEDIA_TYPE
        if await self.client.referrers(reference, subject.digest, kind) is None:
            await self._list(reference, subject.digest, manifest)

    async def _list(self, reference: Reference, subject: Digest, new: Descriptor) -> None:
        """Does what the registry does not: lists who refers to the subject."""
        place = attached.referrers_tag(reference, subject)
        entries = [
            entry
            for entry in await attached.listed(self.client, reference, subject)
            if entry.digest != new.digest and not await self._replaced(reference, entry)
        ]
        index = Index(manifests=(*entries, new))
        await self.client.push_manifest(place, index.to_bytes(), index.media_type)

    async def _replaced(self, reference: Reference, entry: Descriptor) -> bool:
        """Whether it is an earlier bundle of this key."""
        if entry.artifact_type not in (attestation.MEDIA_TYPE, attached.EMPTY, None):
            return False
        found = await attached.fetch(self.client, reference.at(entry.digest))
        if found is None or isinstance(found, BundleError):
            return False
        layers = found.manifest.layers
        return bool(layers) and all(self._made(found, e, reference.name) for e in layers)

    def _made(self, found: Attached, layer: Descriptor, identity: str | None) -> bool:
        """Whether this key has signed that layer, as the same thing."""
        if layer not in (known for known, _ in found.signatures()):
            return False
        try:
            candidate = found.candidate(layer, "earlier signature")
            own = self.key.public.verifies(candidate.signature, candidate.message)
            return own and candidate.claim().identity == identity
        except BundleError:
            return False

    def _said(self) -> Mapping[str, object]:
        """What a signature says beside what it is of."""
        said: dict[str, object] = {"creator": "edge", "timestamp": int(self.now)}
        return said if self.expires is None else said | {EXPIRES: _rfc3339(self.expires)}

    async def _push(
        self,
        place: Reference,
        layers: tuple[Descriptor, ...],
        config: bytes,
        config_type: str,
        blobs: Mapping[Digest, bytes],
        **more: Any,
    ) -> Descriptor:
        """A manifest, and those of its blobs that are new; at its digest if `place` has no tag of
        signatures.
        """
        with tempfile.TemporaryDirectory(prefix="edge-sign-") as directory:
            store = ContentStore(Path(directory))
            for data in blobs.values():
                await asyncio.to_thread(store.add, data, "")
            manifest = Manifest(store.add(config, config_type), layers, **more)
            added = store.add(manifest.to_bytes(), manifest.media_type)
            target = place.at(added.digest) if manifest.subject else place
            await transfer.push(self.client, added.digest, store, target)
        annotations = manifest.annotations
        return replace(added, annotations=annotations, artifact_type=manifest.artifact_type)


def _json(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _rfc3339(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
