"""What nobody who is trusted has signed does not go live, under load, with a network or without."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from deploy_lab import Board, Misfortune, Publisher, load, misfortune
from registry_lab import docker_registry
from soak_lab import Guest, say

from edge.registry.client import RegistryClient
from edge.registry.reference import Reference
from edge.registry.signatures.keys import SigningKey
from edge.registry.signatures.sign import Signer, subjects

CONFIG = '[sync]\ninterval = "1h"\nsoak = "0s"\n'
KEY, FOREIGN = SigningKey.generate(), SigningKey.generate()


def sign(reference: str, key: SigningKey, expires: float | None = None) -> None:
    async def run() -> None:
        named = Reference.parse(reference)
        async with RegistryClient() as client:
            signer = Signer(client, key, now(), expires)
            for subject in await subjects(client, named):
                await signer.sign(named, subject)

    asyncio.run(run())


def now() -> float:
    return time.time()  # noqa: TID251 - what signatures say


def test_what_is_not_signed_as_it_should_be_never_serves(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    (tmp_path / "trusted.pub").write_bytes(KEY.public.to_pem())
    with docker_registry(tmp_path / "registry") as host, misfortune(tmp_path / "fault") as fault:
        publisher = Publisher(host, tmp_path / "releases", guest("release"))
        trust = f'[registry."{host}"]\nsignatures = "required"\nkeys = ["../trusted.pub"]\n'
        with Board(tmp_path / "node", CONFIG + trust, fault.environ) as node:
            node.start()
            live = publisher.push("live", "old")
            sign(live, KEY)
            node.deploy(live)
            digest, reasons = node.app()["digest"], dict[str, str]()
            with load(node, tmp_path, clients=2) as seen:
                reasons["none"] = node.refuses(publisher.push("none", "none"))
                foreign = publisher.push("foreign", "foreign")
                sign(foreign, FOREIGN)
                reasons["foreign"] = node.refuses(foreign)
                expired = publisher.push("expired", "expired")
                sign(expired, KEY, now() - 1)
                reasons["expired"] = node.refuses(expired)
                # The tag that is followed moves to what nobody has signed.
                publisher.push("live", "moved")
                assert node.ask("/v1/sync", retry=False)
                reasons["moved"] = node.app()["reason"]
                assert node.app()["digest"] == digest
                sign(live, KEY)
                node.sync()
                assert node.get() == (200, "moved")
            assert seen.errors == 0
            assert seen.failed() == {}
            assert set(seen.seen) == {"200 old", "200 moved"}
            boots_without_a_network(node, fault)
    say("; ".join(f"{name}: {reason}" for name, reason in reasons.items()))
    assert "expired" in reasons["expired"]
    assert "key" in reasons["foreign"]
    assert all("sign" in reason for reason in reasons.values()), reasons


def boots_without_a_network(node: Board, fault: Misfortune) -> None:
    assert node.stop() == 0
    fault.offline(offline=True)
    node.start()
    assert node.get() == (200, "moved")
    assert node.stop() == 0
    assert "Traceback" not in node.log
