"""Whom a node believes, also after its configuration was read again."""

from __future__ import annotations

from pathlib import Path

from registry_lab import liar

from edge import config
from edge.node.trusting import Trusting
from edge.registry.fleetdoc import artifact
from edge.registry.fleetdoc.document import Document
from edge.registry.signatures.keys import SigningKey
from edge.registry.store import ContentStore
from edge.registry.sync.registries import Registries


async def test_a_reload_does_not_let_a_stranger_write_the_fleets_document(tmp_path: Path) -> None:
    """[fleet] waits for a restart, [registry] does not: what signed its document must go on."""
    key = tmp_path / "edge.pub"
    key.write_bytes(SigningKey.generate().public.to_pem())
    async with liar() as registry, Registries() as registries:
        found = artifact.build(Document("site", 1))
        manifest = found.named.manifest
        registry.manifests["stable"] = (manifest.media_type, found.named.data)
        for blob, data in ((manifest.config, found.config), (manifest.layers[0], found.layer)):
            registry.blobs[str(blob.digest)] = data
        signed = config.Registry(registry.host, signatures="required", keys=(key,))
        settings = config.Daemon(
            node=config.Node("a", {}, tmp_path),
            fleet=config.Fleet(f"{registry.host}/fleet:stable"),
            registries=(signed,),
        )
        trusting = Trusting(settings, ContentStore(tmp_path), registries, lambda: 1.8e9)
        for registries_now in ((signed,), (), (config.Registry(registry.host),)):
            trusting.update(registries_now)
            assert await trusting.follow() is None
            assert trusting.follower is not None
            assert "is not signed" in (trusting.follower.status().reason or "")
