"""`edge import`: bundles of an OCI layout, from a stick or a file, without a registry."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from edge.cli.common import Verbs, argument
from edge.registry import layout
from edge.registry.reference import Reference
from edge.registry.store import ContentStore
from edge.registry.sweep import MakeRoom

_log = logging.getLogger("edge")


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser(
        "import",
        parents=[common],
        help="take bundles from an OCI layout, a directory or a tar file",
        description="Brings the bundles of an OCI layout into a state directory, all or none, as"
        " if they had been pulled; `edge up REF` then needs no network.",
        epilog="Prints a reference with its digest for each. A layout is what"
        " `skopeo copy docker://REF oci-archive:FILE.tar:REF` writes.",
    )
    parser.add_argument("path", type=Path, metavar="DIR|FILE.tar", help="the layout")
    parser.add_argument(
        "--name",
        type=argument(Reference.parse),
        metavar="REF",
        help="what to call it, where the layout has only a tag or nothing; without a tag: the"
        " repository of all that it holds",
    )
    parser.add_argument(
        "--state-dir",
        type=Path,
        default=Path(".edge"),
        metavar="DIR",
        help="where bundles are kept (default: .edge in this directory)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    store = ContentStore(options.state_dir)
    room = MakeRoom(store, note=_log.info)
    for found in layout.import_path(options.path, store, options.name, make_room=room):
        sys.stdout.write(f"{found.reference.at(found.digest)}\n")
    return 0
