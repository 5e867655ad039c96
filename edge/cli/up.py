"""`edge up`: runs one application in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import errno
import logging
import os
import signal
import ssl
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from edge.application import units
from edge.cli import mqtt, once, remote
from edge.cli.common import (
    Verbs,
    application_arguments,
    argument,
    code_dir,
    runtime_config,
    state_dir,
    variables,
)
from edge.cli.rebuild import Sources
from edge.cli.serving import Serving
from edge.cli.watch import Snapshot, changes, snapshot
from edge.config import Address, Limits, parse_address
from edge.errors import ConfigError, EdgeError
from edge.invocation.application import LiveApplication
from edge.node.node import Node, open_node
from edge.node.services import Settings, type_notes
from edge.platform import heap, openfiles, threads
from edge.platform.credentials import credentials_directory
from edge.platform.tls import server_tls
from edge.registry import local
from edge.registry.reference import Reference
from edge.spin.platform import Stores
from edge.spin.runtime_config import RuntimeConfig

T = TypeVar("T")

_log = logging.getLogger("edge")


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser(
        "up",
        parents=[common],
        help="run one application in the foreground",
        description="Serves an application: each request, message or tick gets a fresh sandbox.",
        epilog="Prints `listening on http://HOST:PORT` when it serves; SIGTERM or Ctrl-C drain it.",
    )
    application_arguments(parser)
    parser.add_argument(
        "--listen",
        type=argument(parse_address),
        default=Address(),
        metavar="HOST:PORT",
        help="default 127.0.0.1:3000; port 0 takes a free one",
    )
    parser.add_argument(
        "--watch",
        action="store_true",
        help="build what changes in its sources, and swap the application when it changes",
    )
    parser.add_argument(
        "--memory",
        type=argument(units.size),
        metavar="SIZE",
        help="memory for all guests together, like 512MiB (default: half of the machine's)",
    )
    parser.add_argument(
        "--once",
        action="store_true",
        help="run a WASI command here, with its arguments after --, without a timeout",
    )
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="serve HTTPS; PEM")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="the certificate's key; PEM")
    mqtt.add_arguments(parser)
    remote.registry_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    if options.watch and isinstance(options.app, Reference):
        raise ConfigError("--watch: looks at files, not at a registry")
    openfiles.allow_many()
    heap.keep_room()
    try:
        return asyncio.run(_once(options) if options.once else _up(options))
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM  # before it served
    except OSError as exc:
        raise _explained(exc, options) from exc


async def _once(options: argparse.Namespace) -> int:
    setting = _Setting.of(options)
    async with setting.open_node() as node:
        loaded = await setting.load()
        values = variables(options, setting.runtime, loaded.application)
        return await once.run(node, loaded, values, options.arguments)


async def _up(options: argparse.Namespace) -> int:
    _cancel_on_sigterm()
    threads.share()
    tls = _tls(options)
    setting = _Setting.of(options)
    for note in setting.runtime.notes:
        _log.warning("note: %s", note)
    async with mqtt.broker(options) as broker, setting.open_node() as node:
        if options.watch:
            await setting.sources.begin()
        version = await _activate(node, setting)
        settings = Settings(setting.state_dir, broker, credentials_directory())
        in_use = remote.in_use(options.app, setting.state_dir)
        async with in_use, Serving(settings, options.listen, tls) as serving:
            await serving.show(version.live)
            stop = _stop_signals()
            await _watch(node, setting, version, serving, stop)
            stop.clear()
            await serving.drain(stop)
    return 0


@dataclass(frozen=True, slots=True)
class _Setting:
    """What does not change while it runs."""

    options: argparse.Namespace
    runtime: RuntimeConfig
    state_dir: Path
    sources: Sources

    @classmethod
    def of(cls, options: argparse.Namespace) -> _Setting:
        runtime = runtime_config(options)
        return cls(options, runtime, state_dir(options, runtime), Sources(options.app))

    def open_node(self) -> AbstractAsyncContextManager[Node]:
        options = self.options
        limits = Limits() if options.memory is None else Limits(memory=options.memory)
        stores = Stores(self.state_dir, self.runtime.stores)
        return open_node(code_dir(options), limits, stores=stores, blocked=self.runtime.blocked)

    async def load(self) -> local.LocalApplication:
        return await remote.load(self.options.app, self.options, self.state_dir)


@dataclass(frozen=True, slots=True)
class _Version:
    """An application as its files were when it was loaded."""

    local: local.LocalApplication
    seen: Snapshot
    live: LiveApplication


async def _activate(node: Node, setting: _Setting) -> _Version:
    loaded = await setting.load()
    # What changes while a component is compiled is a change to this version.
    seen = {**await snapshot(lambda: loaded.watched), **setting.sources.seen}
    application = loaded.application
    for note in (*application.notes, *type_notes(application)):
        _log.warning("note: %s", note)
    live = await node.activate(loaded, variables(setting.options, setting.runtime, application))
    for route in live.unreachable:
        _log.warning("note: no request reaches the route %s", route)
    return _Version(loaded, seen, live)


async def _watch(
    node: Node,
    setting: _Setting,
    version: _Version,
    serving: Serving,
    stop: asyncio.Event,
) -> None:
    """Until `stop` is set: swaps the application when its files change; a mistake keeps the old
    one.
    """
    while not stop.is_set():
        changed = await _until(stop, _next(node, setting, version))
        if changed is None:
            continue
        old = serving.live
        try:
            await serving.show(changed.live)
        except (EdgeError, OSError) as exc:
            _not_swapped(exc, setting.options)
            node.retire(changed.live)
            version = replace(version, seen=changed.seen)
            continue
        if old is not None:
            node.retire(old)
        version = changed
        _log.info("swapped: %s", version.local.application.name)


async def _until(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What `work` returns; None when `stop` was set first."""
    async with asyncio.TaskGroup() as group:
        working = group.create_task(work, name="watch")
        stopping = group.create_task(stop.wait(), name="stop")
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        working.cancel()
        stopping.cancel()
    return None if working.cancelled() else working.result()


async def _next(node: Node, setting: _Setting, version: _Version) -> _Version:
    """The next version that can be loaded."""
    watched, sources, seen = version.local.watched, setting.sources, version.seen
    if not setting.options.watch:
        await asyncio.get_running_loop().create_future()
    while True:
        seen = await changes(lambda: (*watched, *sources.paths()), seen)
        try:
            try:
                await sources.build()
            finally:
                # What is built now is no change to come; what is loaded below, neither.
                seen = {**seen, **await snapshot(sources.outputs)}
            return await _activate(node, setting)
        except (EdgeError, OSError) as exc:
            _not_swapped(exc, setting.options)


def _not_swapped(exc: EdgeError | OSError, options: argparse.Namespace) -> None:
    error = exc if isinstance(exc, EdgeError) else _explained(exc, options)
    _log.error("not swapped: %s%s", error.message, f" ({error.hint})" if error.hint else "")


def _cancel_on_sigterm() -> None:
    """While it starts: a compilation ends with it. Ctrl-C is asyncio's."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


def _stop_signals() -> asyncio.Event:
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, event.set)
    return event


def _tls(options: argparse.Namespace) -> ssl.SSLContext | None:
    if options.tls_cert is None and options.tls_key is None:
        return None
    if options.tls_cert is None or options.tls_key is None:
        raise ConfigError("--tls-cert and --tls-key need each other")
    try:
        return server_tls(options.tls_cert, options.tls_key)
    except ConfigError as exc:
        raise ConfigError(f"--tls-cert, --tls-key: {exc.message}") from exc


def _explained(exc: OSError, options: argparse.Namespace) -> EdgeError:
    """asyncio puts the address into its text; files have a name, addresses have none."""
    known = exc.errno is not None and exc.errno in errno.errorcode
    text = os.strerror(exc.errno or 0) if known else exc.strerror or str(exc)
    subject = exc.filename if exc.filename is not None else options.listen
    return EdgeError(f"{subject}: {text[:1].lower()}{text[1:]}", hint=_hint(exc))


def _hint(exc: OSError) -> str | None:
    if exc.filename is not None:
        return "state needs a writable directory: --state-dir"
    if exc.errno == errno.EADDRINUSE:
        return "another program listens there; choose another port with --listen"
    if exc.errno == errno.EADDRNOTAVAIL:
        return "it is no address of this machine; 0.0.0.0 stands for all that it has"
    if isinstance(exc, PermissionError):
        return "ports below 1024 need root"
    return None
