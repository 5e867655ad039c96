"""`edge backup` and `edge restore`: what makes a node itself, in one file."""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from edge import config
from edge.application.units import show_size
from edge.cli.common import Verbs
from edge.errors import ConfigError
from edge.node import backup, configuration, restore

_log = logging.getLogger("edge")


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    _add_backup(verbs, common)
    _add_restore(verbs, common)


def _add_backup(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser(
        "backup",
        parents=[common],
        help="save a node's configuration, desired state and data",
        description="Saves the configuration, what the node is to run, key-value stores and SQLite"
        " databases in one tar; the node may run. It holds secrets: only its owner may read it.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a tar, replaced if it is there")
    _where(parser)
    parser.add_argument(
        "--bundles", action="store_true", help="with the bundles, for a node without a network"
    )
    parser.set_defaults(run=_run_backup)


def _add_restore(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser(
        "restore",
        parents=[common],
        help="make a node what it was when a backup was made",
        description="Verifies a backup, then replaces configuration and state by what it holds."
        " The node must not run.",
        epilog="A restore that is interrupted is ended by the next one, or when the node starts.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="what `edge backup` wrote")
    _where(parser)
    parser.add_argument(
        "--no-config", action="store_true", help="the edge.toml of this node stays as it is"
    )
    parser.add_argument("--check", action="store_true", help="only verify the backup")
    parser.set_defaults(run=_run_restore)


def _where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help=f"(default: {configuration.PATH})"
    )
    parser.add_argument(
        "--state-dir", type=Path, metavar="DIR", help="(default: what the configuration says)"
    )


def _run_backup(options: argparse.Namespace) -> int:
    path: Path | None = options.config or configuration.PATH
    if path is not None and options.config is None and not path.exists():
        path = None
    found = configuration.read(path)[0] if path else config.Daemon()
    made = backup.make(
        options.file,
        options.state_dir or found.node.state_dir,
        config=path,
        node=found.node.name,
        version=importlib.metadata.version("edge"),
        bundles=options.bundles,
    )
    for outside in _outside(found.stores):
        _log.warning("not in it, as it is outside of the state directory: %s", outside)
    _log.info("%d files, %s; it may hold secrets", made.files, _about(made.bytes))
    sys.stdout.write(f"{options.file}\n")
    return 0


def _outside(stores: config.Stores) -> Iterator[str]:
    """Databases that the configuration places elsewhere, and stores of other programs."""
    for label, store in stores.key_value.items():
        if store.type == "redis":
            yield f'key-value store "{label}", of a Redis server'
        elif store.path is not None:
            yield f'key-value store "{label}": {store.path}'
    for label, database in stores.sqlite.items():
        if database.path is not None:
            yield f'database "{label}": {database.path}'


def _run_restore(options: argparse.Namespace) -> int:
    if options.check:
        _report("a backup", restore.verify(options.file))
        return 0
    found = restore.read(options.file)
    # In this order: the configuration often says where the state is.
    target = None if options.no_config else _config(options, found)
    state_dir = _state_dir(options, found)
    _report("restored", restore.restore(options.file, state_dir, config=target))
    return 0


def _report(what: str, found: restore.Backup) -> None:
    size = _about(found.size)
    files = len(found.files)
    _log.info("%s: of node %s at %s: %d files, %s", what, found.node, found.made, files, size)


# A backup may come from anywhere: places that it names are used only when somebody says so.


def _config(options: argparse.Namespace, found: restore.Backup) -> Path:
    target: Path = options.config or configuration.PATH
    if options.config is None and found.config not in (None, target):
        raise ConfigError(
            f"{options.file}: its configuration is that of {found.config}",
            hint=f"--config {found.config}, or --no-config",
        )
    return target


def _state_dir(options: argparse.Namespace, found: restore.Backup) -> Path:
    if options.state_dir is not None:
        return Path(options.state_dir)
    try:
        here = configuration.read(options.config or configuration.PATH)[0].node.state_dir
    except ConfigError:  # there is none yet, or it is what is to be restored
        here = config.Node().state_dir
    if found.state_dir != here:
        raise ConfigError(
            f"{options.file}: its state is that of {found.state_dir}, this node has {here}",
            hint=f"--state-dir {found.state_dir}",
        )
    return here


def _about(size: int) -> str:
    for unit in (1 << 30, 1 << 20, 1 << 10):
        if size >= unit:
            return f"{size / unit:.1f} {show_size(unit)[1:]}"
    return f"{size} B"
