"""`edge import`: bundles of an OCI layout, from a stick or a file, without a registry."""

from __future__ import annotations

import argparse
import logging
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

from edge.cli.common import Verbs, argument
from edge.cli.node import ask, say, socket_argument
from edge.node.client import NodeClient
from edge.registry import layout
from edge.registry.blobs import in_thread
from edge.registry.reference import Reference
from edge.registry.store import ContentStore
from edge.registry.sweep import MakeRoom

_log = logging.getLogger("edge")


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser(
        "import",
        parents=[common],
        help="take bundles from an OCI layout, a directory or a tar file",
        description="Brings the bundles of an OCI layout to the node of this machine, all or none,"
        " as if they had been pulled: what follows one of them needs no network.",
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
        metavar="DIR",
        help="into this state directory, like that of `edge up` (default: the node that runs)",
    )
    socket_argument(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    names = _here(options) if options.state_dir else ask(options, partial(_there, options))
    for name in names:
        say(name)
    return 0


def _here(options: argparse.Namespace) -> list[str]:
    store = ContentStore(options.state_dir)
    room = MakeRoom(store, note=_log.info)
    found = layout.import_path(options.path, store, options.name, make_room=room)
    return [str(bundle.reference.at(bundle.digest)) for bundle in found]


async def _there(options: argparse.Namespace, client: NodeClient) -> list[str]:
    query = {"title": str(options.path)}
    if options.name is not None:
        query["name"] = str(options.name)
    pieces = layout.packed(options.path)
    first = await in_thread(next, pieces, b"")  # what cannot be read at all is told here
    body = _bytes(first, pieces)
    names: list[str] = await client.send(f"/v1/import?{urlencode(query)}", body)
    return names


async def _bytes(first: bytes, pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    piece = first
    while piece:
        yield piece
        piece = await in_thread(next, pieces, b"")
