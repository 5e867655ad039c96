"""A fleet without its registry: its document, signatures and bundles come from neighbours, and
count for what they prove.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from lan_lab import HASTY, Board, Counted, Fleet, counted, fleet, noise, push, together
from registry_lab import docker_registry

from edge.config import ApplicationEntry, Node, Registry
from edge.errors import BundleError, PullError
from edge.registry import transfer
from edge.registry.client import Patience, RegistryClient
from edge.registry.digest import Digest
from edge.registry.fleetdoc import artifact
from edge.registry.fleetdoc.document import Document, Target
from edge.registry.fleetdoc.follow import Follower
from edge.registry.reference import Reference
from edge.registry.signatures.keys import SigningKey
from edge.registry.signatures.sign import Format, Signer, subjects
from edge.registry.signatures.trust import Trust
from edge.registry.source import Source

NOW = 1_800_000_000.0
KEY, OTHER = SigningKey.generate(), SigningKey.generate()


class Fed:
    """A node that follows a signed document and takes what it names, if that is signed, too."""

    def __init__(self, board: Board, document: Reference, *, signed: bool) -> None:
        self.board = board
        key = board.store.directory.parent / "trusted.pub"
        key.parent.mkdir(exist_ok=True)
        key.write_bytes(KEY.public.to_pem())
        policy = "required" if signed else "off"
        entry = Registry(document.registry, signatures=policy, keys=(key,))  # type: ignore[arg-type]
        self.trust = Trust([entry], lambda: NOW, board.store)
        self.follower = Follower(
            document,
            Node(name="pi", state_dir=board.store.directory.parent),
            board.store,
            client=self.source,
            verify=self.verify,
            now=lambda: NOW,
            soak=60.0,
            signed=signed,
        )

    async def source(self, _: Reference) -> Source:
        return self.board.lan.source(self.board.client)

    async def verify(self, reference: Reference, digest: Digest) -> str | None:
        return await self.trust.check(await self.source(reference), reference, digest)

    async def take(self) -> Digest:
        """What a round of sync does."""
        await self.follower.poll()
        (wanted,) = self.follower.wanted
        reference = Reference.parse(wanted.entry.reference or "")
        source = await self.source(reference)
        resolved = await transfer.resolve(source, reference, self.board.store)
        await self.verify(reference, resolved.descriptor.digest)
        return await transfer.pull(source, reference, self.board.store, resolved=resolved)


@dataclass
class Site:
    """A registry behind a wire, nodes on one LAN, and who writes for them."""

    uplink: Counted
    nodes: Fleet
    scratch: Path
    fed: list[Fed] = field(default_factory=list)

    @property
    def document(self) -> Reference:
        return Reference.parse(f"{self.uplink.host}/fleet/site-a:stable")

    async def publish(
        self, generation: int, key: SigningKey | None = KEY, kind: Format = "both", seed: int = 1
    ) -> None:
        """A bundle, and a document that names it; both signed."""
        host = self.uplink.host
        digest = await push(host, self.scratch / f"{seed}", f"thermo:{seed}", noise(3 << 20, seed))
        exact = Reference.parse(f"{host}/thermo:{seed}@{digest}")
        target = Target(ApplicationEntry("thermo", str(exact)))
        found = artifact.build(Document("site-a", generation, (target,)))
        async with RegistryClient() as client:
            await artifact.push(client, self.document, found)
            for reference in (exact, self.document) if key else ():
                for subject in await subjects(client, reference):
                    await Signer(client, key or KEY, NOW).sign(reference, subject, kind)


@asynccontextmanager
async def site(
    tmp_path: Path, count: int, *, signed: bool = True, patience: Patience = HASTY
) -> AsyncIterator[Site]:
    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry") as host:
        async with counted(host) as uplink:
            document = f"{uplink.host}/fleet/site-a:stable"
            async with fleet(tmp_path, count, document=document, patience=patience) as nodes:
                found = Site(uplink, nodes, tmp_path)
                found.fed = [Fed(b, found.document, signed=signed) for b in nodes.boards]
                yield found


@pytest.mark.parametrize("kind", ["tag", "bundle"])
async def test_all_nodes_get_what_the_first_one_has(tmp_path: Path, kind: Format) -> None:
    async with site(tmp_path, 5) as it:
        await it.publish(1, kind=kind)
        expected = await it.fed[0].take()
        it.uplink.cut()
        async with asyncio.timeout(40):
            assert set(await together(node.take() for node in it.fed[1:])) == {expected}
        assert [node.follower.status().generation for node in it.fed] == [1] * 5


async def test_a_registry_that_hangs_is_waited_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.registry.source.SOON", 0.3)
    monkeypatch.setattr("edge.registry.lan.source.SOON", 0.3)
    async with site(tmp_path, 3, patience=Patience(total=60.0, silence=60.0)) as it:
        await it.publish(1)
        expected = await it.fed[0].take()
        it.uplink.is_mute = True
        async with asyncio.timeout(15):  # it alone would take minutes
            assert set(await together(node.take() for node in it.fed[1:])) == {expected}


async def test_the_newest_generation_of_several_neighbours_counts(tmp_path: Path) -> None:
    async with site(tmp_path, 4) as it:
        for number in range(3):
            await it.publish(number + 1, seed=number + 1)
            await it.fed[number].follower.poll()
        it.uplink.cut()
        assert await it.fed[3].follower.poll()
        assert it.fed[3].follower.status().generation == 3
        assert await it.fed[0].follower.poll()
        assert it.fed[0].follower.status().generation == 3
        with pytest.raises(PullError):  # nobody has a newer one, and the registry is away
            await it.fed[2].follower.poll()


async def test_a_document_by_another_key_is_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "edge.fleet")
    async with site(tmp_path, 2) as it:
        await it.publish(1, OTHER)
        bad = it.fed[0]
        bad.follower._verify = None  # a member that was broken into gives what it likes
        assert await bad.follower.poll()
        it.uplink.cut()
        with pytest.raises(PullError):
            await it.fed[1].follower.poll()
        assert it.fed[1].follower.wanted == ()
        assert "of a neighbour" in caplog.text


async def test_without_a_signature_neighbours_have_no_say(tmp_path: Path) -> None:
    async with site(tmp_path, 2, signed=False) as it:
        await it.publish(1, None)
        assert await it.fed[0].follower.poll()
        it.uplink.cut()
        with pytest.raises(PullError):
            await it.fed[1].follower.poll()
        assert it.nodes[1].asked("/manifests/") == []


async def test_a_bundle_that_nobody_signed_is_refused_of_neighbours_too(tmp_path: Path) -> None:
    async with site(tmp_path, 2) as it:
        digest = await push(it.uplink.host, tmp_path, "bare:1", noise(100_000))
        exact = f"{it.uplink.host}/bare@{digest}"
        await it.nodes[0].pull(exact)
        it.uplink.cut()
        await it.nodes[1].pull(exact)  # its bytes are what the digest says
        with pytest.raises((BundleError, PullError)):
            await it.fed[1].verify(Reference.parse(exact), digest)


async def test_a_tag_is_given_to_nobody(tmp_path: Path) -> None:
    async with site(tmp_path, 2) as it:
        await it.publish(1)
        await it.fed[0].take()
        source = await it.fed[1].source(it.document)
        tag = Reference.parse(f"{it.uplink.host}/thermo:1")
        await it.nodes[0].pull(str(tag))
        assert list(await source.hearsay(tag)) == []
        (found,) = await source.hearsay(it.document)
        assert found.descriptor.digest == it.fed[0].follower.status().digest
