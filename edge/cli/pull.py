"""`edge pull`: a bundle of a registry into the state directory."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from edge.cli import remote
from edge.cli.common import Verbs, argument
from edge.registry.reference import Reference
from edge.registry.store import ContentStore


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser(
        "pull",
        parents=[common],
        help="fetch a bundle from a registry",
        description="Fetches what is missing of a bundle; `edge up REF` then needs no network.",
        epilog="Prints the reference with the digest of what it stands for now.",
    )
    parser.add_argument(
        "reference", type=argument(Reference.parse), metavar="REF", help="what to fetch"
    )
    parser.add_argument(
        "--state-dir",
        type=Path,
        default=Path(".edge"),
        metavar="DIR",
        help="where bundles are kept (default: .edge in this directory)",
    )
    remote.registry_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    reference: Reference = options.reference
    digest = asyncio.run(remote.pull(options, reference, ContentStore(options.state_dir)))
    sys.stdout.write(f"{reference.at(digest)}\n")
    return 0
