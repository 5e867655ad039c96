"""`edge run`: the daemon."""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import signal
import sys
from dataclasses import replace
from pathlib import Path

from edge import config
from edge.cli import mqtt
from edge.cli.common import Verbs, argument
from edge.config import Address, Mqtt, parse_address
from edge.node import configuration
from edge.platform import heap, openfiles, threads


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser(
        "run",
        parents=[common],
        help="run a node: what systemd starts",
        description="Runs the applications of edge.toml, of `edge deploy` and of a fleet.",
        epilog="SIGHUP reads edge.toml again; SIGTERM or Ctrl-C drain the node.",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"default {configuration.PATH}; without that file, a node with the defaults",
    )
    parser.add_argument(
        "--listen",
        action="append",
        type=argument(parse_address),
        metavar="HOST:PORT",
        help="instead of what the configuration says; may be repeated; port 0 takes a free one",
    )
    parser.add_argument("--state-dir", type=Path, metavar="DIR", help="where everything is kept")
    parser.add_argument("--socket", type=Path, metavar="PATH", help="where the node API answers")
    mqtt.add_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    mqtt.need_url(options)
    openfiles.allow_many()
    heap.keep_room()
    # Where each thread is, for who wonders (or a watchdog that gives up); then it ends.
    faulthandler.register(signal.SIGQUIT, chain=True)
    try:
        return asyncio.run(_run(options))
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM  # before it served


async def _run(options: argparse.Namespace) -> int:
    # The parts of a node that other verbs have no use for.
    from edge.node import daemon

    threads.share()
    async with mqtt.broker(options) as broker:
        return await daemon.run(lambda: _read(options, broker), _say)


def _read(options: argparse.Namespace, broker: Mqtt) -> tuple[config.Daemon, tuple[str, ...]]:
    """What the file says, and over it what the command line does."""
    found, notes = config.Daemon(), tuple[str, ...]()
    if options.config is not None or configuration.PATH.exists():
        found, notes = configuration.read(options.config or configuration.PATH)
    node = found.node
    if options.state_dir is not None:
        node = replace(node, state_dir=options.state_dir.absolute())
    if options.socket is not None:
        node = replace(node, socket=options.socket.absolute())
    listen: tuple[Address, ...] = tuple(options.listen or found.http.listen)
    return (
        replace(
            found,
            node=node,
            http=replace(found.http, listen=listen),
            mqtt=broker if broker.url else found.mqtt,
        ),
        notes,
    )


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
