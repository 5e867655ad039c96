"""`edge up`: runs one application in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import ssl
import sys
from pathlib import Path

from edge.cli.common import Verbs, application_arguments, state_dir, variables
from edge.cli.watch import changes
from edge.config import Address, parse_address
from edge.errors import ConfigError, EdgeError
from edge.invocation.application import LiveApplication
from edge.node import Node, open_node
from edge.registry import local
from edge.registry.download import download
from edge.triggers.http import HttpServer

# Seconds that requests under way get after SIGTERM or Ctrl-C; a second signal ends them at once.
DRAIN = 30.0

_log = logging.getLogger("edge")


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser(
        "up",
        parents=[common],
        help="run one application in the foreground",
        description="Serves an application over HTTP: each request gets a fresh sandbox.",
        epilog="Prints `listening on http://HOST:PORT` when it serves; SIGTERM or Ctrl-C drains it.",
    )
    application_arguments(parser)
    parser.add_argument(
        "--listen",
        type=parse_address,
        default=Address(),
        metavar="HOST:PORT",
        help="default 127.0.0.1:3000; port 0 takes a free one",
    )
    parser.add_argument("--watch", action="store_true", help="swap the application when it changes")
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="serve HTTPS; PEM")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="the certificate's key; PEM")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    try:
        asyncio.run(_up(options))
    except OSError as exc:
        raise EdgeError(f"{options.listen}: {exc.strerror or exc}", hint=_hint(exc)) from exc
    return 0


async def _up(options: argparse.Namespace) -> None:
    stop = _stop_signals()
    async with open_node(state_dir(options)) as node:
        loaded, live = await _activate(node, options)
        listen = [(options.listen.host, options.listen.port)]
        async with HttpServer(live, listen=listen, tls=_tls(options)) as server:
            _announce(server, secure=options.tls_cert is not None)
            async with asyncio.TaskGroup() as group:
                watcher = group.create_task(_watch(node, options, loaded, server), name="watch")
                await stop.wait()
                watcher.cancel()
            stop.clear()
            await _drain(server, stop)
        server_live = server.handler
        if isinstance(server_live, LiveApplication):
            server_live.close()


async def _activate(
    node: Node, options: argparse.Namespace
) -> tuple[local.LocalApplication, LiveApplication]:
    loaded = await local.load(options.app, state_dir=state_dir(options), fetch=download)
    application = loaded.application
    for note in application.notes:
        _log.warning("note: %s", note)
    others = [type_ for type_ in application.trigger_types if type_ != "http"]
    if not application.http:
        raise ConfigError(
            f"{application.name}: has no HTTP trigger, and this version runs no other"
        )
    if others:
        _log.warning("note: triggers that this version does not run: %s", ", ".join(others))
    live = await node.activate(loaded, variables(options.variable))
    for route in live.unreachable:
        _log.warning("note: no request reaches the route %s", route)
    return loaded, live


async def _watch(
    node: Node, options: argparse.Namespace, loaded: local.LocalApplication, server: HttpServer
) -> None:
    """Swaps the application when its files change; a mistake keeps the old one."""
    if not options.watch:
        return
    while True:
        await changes(loaded.watched)
        try:
            loaded, live = await _activate(node, options)
        except EdgeError as exc:
            _log.error("not swapped: %s%s", exc.message, f" ({exc.hint})" if exc.hint else "")
            continue
        old, server.handler = server.handler, live
        if isinstance(old, LiveApplication):
            old.close()
        _log.info("swapped: %s", loaded.application.name)


async def _drain(server: HttpServer, stop: asyncio.Event) -> None:
    if not len(server.connections):
        return
    _log.info("draining; a second signal ends at once")
    async with asyncio.TaskGroup() as group:
        drain = group.create_task(server.drain(DRAIN), name="drain")
        second = group.create_task(stop.wait(), name="second-signal")
        await asyncio.wait((drain, second), return_when=asyncio.FIRST_COMPLETED)
        second.cancel()
        drain.cancel()


def _stop_signals() -> asyncio.Event:
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, event.set)
    return event


def _announce(server: HttpServer, *, secure: bool) -> None:
    scheme = "https" if secure else "http"
    for host, port, *_ in server.addresses:
        sys.stdout.write(f"listening on {scheme}://{Address(host, port)}\n")
    sys.stdout.flush()


def _tls(options: argparse.Namespace) -> ssl.SSLContext | None:
    if options.tls_cert is None and options.tls_key is None:
        return None
    if options.tls_cert is None or options.tls_key is None:
        raise ConfigError("--tls-cert and --tls-key need each other")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(options.tls_cert, options.tls_key)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(f"--tls-cert {options.tls_cert}: {exc}") from exc
    return context


def _hint(exc: OSError) -> str | None:
    if isinstance(exc, PermissionError):
        return "ports below 1024 need root; state needs a writable directory (--state-dir)"
    return None
