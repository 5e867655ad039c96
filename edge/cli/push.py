"""`edge push`: an application into a registry, in Spin's format."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from edge.cli.common import Verbs, argument, state_dir
from edge.cli.remote import Progress, registry_arguments, registry_client
from edge.errors import ConfigError
from edge.registry import bundle, local, transfer
from edge.registry.download import download
from edge.registry.reference import Reference
from edge.registry.store import ContentStore
from edge.spin.runtime_config import RuntimeConfig


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser(
        "push",
        parents=[common],
        help="put an application into a registry",
        description="Pushes an application in Spin's format; what the registry has is not sent.",
        epilog="Prints the reference with the digest: it means this version for ever.",
    )
    parser.add_argument(
        "app",
        type=Path,
        metavar="APP",
        help="a directory with a spin.toml, a spin.toml, or a .wasm file",
    )
    parser.add_argument(
        "reference",
        type=argument(_target),
        metavar="REF",
        help="where to, like registry.example/team/app:1.0",
    )
    parser.add_argument(
        "--state-dir",
        type=Path,
        metavar="DIR",
        help="where components from the web are kept (default: .edge beside the application)",
    )
    registry_arguments(parser)
    parser.set_defaults(run=run)


def _target(text: str) -> Reference:
    reference = Reference.parse(text)
    if reference.digest is not None:
        raise ConfigError(
            f"{text}: a push goes to a tag", hint="its digest follows from its content"
        )
    return reference


def run(options: argparse.Namespace) -> int:
    digest = asyncio.run(_push(options))
    sys.stdout.write(f"{digest}\n")
    return 0


async def _push(options: argparse.Namespace) -> Reference:
    reference: Reference = options.reference
    state = state_dir(options, RuntimeConfig())
    loaded = await local.load(options.app, state_dir=state, fetch=download)
    with tempfile.TemporaryDirectory(prefix="edge-push-") as directory:
        store = ContentStore(Path(directory))
        with Progress("pushing", reference) as progress:
            digest = await asyncio.to_thread(bundle.build, loaded, store)
            async with registry_client(options, reference) as client:
                await transfer.push(client, digest, store, reference, progress)
    return reference.at(digest)
