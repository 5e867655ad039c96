"""Whose a state directory is, and the restore that may wait in it to be ended.

    STATE_DIR/node.lock     held by a node for as long as it runs
    STATE_DIR/restore       verified and complete: it is only moved to its places, by whoever comes
                            next, also after a power cut

Blocks: not for the event loop.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edge.application.fields import Table, Where, choice, integer, items, parsed
from edge.errors import EdgeError
from edge.platform.atomic import write_file
from edge.registry.disk import exclusive, sync_directory
from edge.registry.manifest import read_json

__all__ = [
    "BLOBS",
    "CONFIG",
    "DATABASES",
    "FILES",
    "LASTING",
    "STATE",
    "TREES",
    "absolute",
    "claimed",
    "finish",
    "locked",
    "move",
    "running",
]

# Where things are in a backup, and in what waits to be restored.
CONFIG = "config/edge.toml"
STATE = "state/"
# Of the state directory. Compiled code is made anew; the last time seen is only ever later.
FILES = ("apps.json", "fleet.json", "timers.json", "mqtt.json")
TREES = ("mqtt", "identity", "authority")
# A node's place in its fleet, and a fleet's authority: replaced by those of a backup, never removed
# because it has none.
LASTING = ("identity", "authority")
DATABASES = ("kv", "sqlite")
BLOBS = ("blobs",)


@contextmanager
def running(state_dir: Path) -> Iterator[bool]:
    """Held by a node for as long as it runs; False if another one runs on that state."""
    with locked(state_dir, "node.lock") as alone:
        yield alone


@contextmanager
def claimed(state_dir: Path) -> Iterator[bool]:
    """What a node holds for as long as it runs. Ends a restore that was interrupted, and says
    whether there was one: the configuration may have changed. EdgeError if a node runs on it.
    """
    with running(state_dir) as alone:
        if not alone:
            raise EdgeError(
                f"{state_dir}: another node runs on it",
                hint="stop it, or name another place with --state-dir",
            )
        yield finish(state_dir)


@contextmanager
def locked(state_dir: Path, name: str) -> Iterator[bool]:
    """A lock for one; whether it was got. Its file belongs to whose state it is, so that a node
    can use what root has used.
    """
    with exclusive(state_dir / name, wait=False) as alone:
        owner = state_dir.stat()
        if alone and os.geteuid() == 0 and owner.st_uid != 0:
            os.chown(state_dir / name, owner.st_uid, owner.st_gid, follow_symlinks=False)
        yield alone


def absolute(text: str) -> Path:
    """A path as a backup names one, or ValueError."""
    path = Path(text)
    if not path.is_absolute() or ".." in path.parts or "\0" in text:
        raise ValueError(f"{text[:200]!a} is not an absolute path")
    return path


def finish(state_dir: Path) -> bool:
    """Ends a restore that was interrupted; whether there was one. For who holds `running`. Raises
    EdgeError when it cannot be ended.
    """
    ready = state_dir / "restore"
    if not ready.is_dir():
        return False
    try:
        _finish(ready, state_dir)
    except OSError as error:
        where = error.filename or state_dir
        raise EdgeError(
            f"{where}: a restore cannot be ended: {(error.strerror or str(error)).lower()}",
            hint="a restore was interrupted; restore again, as root",
        ) from error
    return True


def _finish(ready: Path, state_dir: Path) -> None:
    plan = read_json((ready / "plan.json").read_bytes(), str(ready / "plan.json"), _read_plan)
    if plan.config is not None:
        _configure(ready / "new" / CONFIG, plan.config)
    for name in plan.present:
        _replace(ready / "new" / "state" / name, state_dir / name, ready / "old" / name)
    for name in plan.absent:
        if (state_dir / name).exists():
            move(state_dir / name, ready / "old" / name)
    # In one step it is nothing any more that somebody would have to end.
    shutil.rmtree(state_dir / ".restore", ignore_errors=True)
    move(ready, state_dir / ".restore")
    shutil.rmtree(state_dir / ".restore", ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _Plan:
    """Where everything goes: what the backup has, and what it has not."""

    config: Path | None
    present: tuple[str, ...]
    absent: tuple[str, ...]


def _read_plan(value: object, where: Where) -> _Plan:
    with Table(value, where) as table:
        table.need("schema", integer(1, 1))
        config = table.need("config", lambda v, w: None if v is None else parsed(absolute)(v, w))
        return _Plan(
            config, table.need("present", items(_name)), table.need("absent", items(_name))
        )


def _name(value: object, where: Where) -> str:
    return choice(*FILES, *TREES, *DATABASES, *BLOBS)(value, where)


def _configure(new: Path, target: Path) -> None:
    """With the permissions of the file that was there."""
    try:
        before = target.stat()
    except FileNotFoundError:
        write_file(target, new.read_bytes(), mode=stat.S_IMODE(new.stat().st_mode))
        return
    if target.read_bytes() != new.read_bytes():
        write_file(target, new.read_bytes(), mode=stat.S_IMODE(before.st_mode))
        if os.geteuid() == 0:
            os.chown(target, before.st_uid, before.st_gid)


def _replace(new: Path, target: Path, old: Path) -> None:
    """Any number of times, from wherever it was interrupted."""
    if new.exists():
        if target.exists():
            move(target, old)
        move(new, target)


def move(source: Path, target: Path) -> None:
    """A rename that is on the disk when it returns."""
    source.rename(target)
    sync_directory(target.parent)
    if source.parent != target.parent:
        sync_directory(source.parent)
