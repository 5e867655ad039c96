"""`edge restore`: a backup becomes this node's configuration and state, on a node that is stopped.

    STATE_DIR/.restore    what is being verified; nothing of it counts
    STATE_DIR/restore     verified and complete: from here on it is only moved to its places, by
                          whoever comes next, also after a power cut

Blocks: not for the event loop.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edge.application.fields import (
    Table,
    Where,
    boolean,
    integer,
    items,
    parsed,
    string,
)
from edge.application.units import show_size
from edge.errors import BundleError, ConfigError, EdgeError
from edge.node.backup import MANIFEST, SCHEMA
from edge.node.claim import (
    BLOBS,
    CONFIG,
    DATABASES,
    FILES,
    LASTING,
    STATE,
    TREES,
    absolute,
    finish,
    move,
    running,
)
from edge.platform.atomic import write_file
from edge.registry.digest import Digest
from edge.registry.disk import explained, sync_directory
from edge.registry.manifest import read_json

__all__ = ["Backup", "read", "restore", "verify"]

# Of the list of files: a hundred bytes for each of a million.
_MAX_MANIFEST = 128 << 20
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    size: int
    digest: Digest
    mode: int


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup says of itself."""

    node: str
    edge: str
    made: str
    state_dir: Path
    config: Path | None
    bundles: bool
    files: tuple[_File, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def read(path: Path) -> Backup:
    """What a backup says of itself; its files are not looked at."""
    with _opened(path) as (backup, _):
        return backup


def verify(path: Path) -> Backup:
    """Reads all of a backup; anything that is not as it should be is a BundleError."""
    with _opened(path) as (backup, tar):
        for file, member in _members(path, backup, tar):
            _copy(path, tar, file, member, None)
    return backup


def restore(path: Path, state_dir: Path, *, config: Path | None) -> Backup:
    """Verifies a backup, then puts it in the place of what is there. Raises EdgeError, and then
    nothing has changed.

    `config`: where the edge.toml goes; None: it stays as it is.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        with running(state_dir) as alone:
            if not alone:
                raise EdgeError(
                    f"{state_dir}: a node runs on it", hint="stop it first: systemctl stop edge"
                )
            return _restore(path, state_dir, config)
    except OSError as error:
        where = error.filename or state_dir
        raise EdgeError(f"{where}: {(error.strerror or str(error)).lower()}") from error


def _restore(path: Path, state_dir: Path, config: Path | None) -> Backup:
    finish(state_dir)
    _refuse_links(state_dir)
    staging = state_dir / ".restore"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        with explained(state_dir):
            backup = _extract(path, staging, config)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    move(staging, state_dir / "restore")
    finish(state_dir)
    return backup


# Reading


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Backup, tarfile.TarFile]]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise ConfigError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    with file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                yield _about(path, tar), tar
        except tarfile.TarError as error:
            raise BundleError(f"{path}: is not a backup of edge: {error}") from error


def _about(path: Path, tar: tarfile.TarFile) -> Backup:
    member = tar.next()
    if member is None or member.name != MANIFEST or not member.isreg():
        raise BundleError(f"{path}: is not a backup of edge")
    if member.size > _MAX_MANIFEST:
        raise BundleError(f"{path}: {MANIFEST} has more than {show_size(_MAX_MANIFEST)}")
    file = tar.extractfile(member)
    assert file is not None
    return read_json(file.read(), f"{path}: {MANIFEST}", _backup)


def _backup(value: object, where: Where) -> Backup:
    with Table(value, where) as table:
        if (schema := table.need("schema", integer(1, 1 << 31))) > SCHEMA:
            raise EdgeError(
                f"{where}: has schema {schema}, this version knows {SCHEMA}",
                hint="a newer version wrote it: install that one",
            )
        config = table.need("config", lambda v, w: None if v is None else parsed(absolute)(v, w))
        return Backup(
            node=table.need("node", string),
            edge=table.need("edge", string),
            made=table.need("made", string),
            state_dir=table.need("state_dir", parsed(absolute)),
            config=config,
            bundles=table.need("bundles", boolean),
            files=table.need("files", _files),
        )


def _files(value: object, where: Where) -> tuple[_File, ...]:
    found = items(_file)(value, where)
    if len({file.path for file in found}) != len(found):
        raise where.error("names a file twice")
    return found


def _file(value: object, where: Where) -> _File:
    with Table(value, where) as table:
        return _File(
            path=table.need("path", parsed(_path)),
            size=table.need("size", integer(0, 1 << 50)),
            digest=Digest(table.need("sha256", parsed(lambda text: Digest(text).hex))),
            mode=table.need("mode", integer(0, 0o777)),
        )


def _path(text: str) -> str:
    """One of those that a backup has; nothing else becomes a path here."""
    parts = PurePosixPath(text).parts
    plain = "/".join(parts) == text and ".." not in parts and "\0" not in text
    if text == CONFIG:
        return text
    if plain and parts[0] == STATE.strip("/"):
        if len(parts) == 2 and parts[1] in FILES:
            return text
        if len(parts) > 2 and parts[1] in (*TREES, *DATABASES, *BLOBS):
            return text
    raise ValueError(f"{text[:200]!a} is not a file of a backup")


def _members(
    path: Path, backup: Backup, tar: tarfile.TarFile
) -> Iterator[tuple[_File, tarfile.TarInfo]]:
    """Exactly the files that it says, in that order."""
    for file in backup.files:
        member = tar.next()
        if member is None:
            raise BundleError(f"{path}: ends before {file.path}")
        if member.name != file.path or not member.isreg() or member.size != file.size:
            raise BundleError(f"{path}: has {member.name[:200]!a} where {file.path} should be")
        yield file, member
    if (member := tar.next()) is not None:
        raise BundleError(f"{path}: has {member.name[:200]!a}, which it does not name")


def _copy(
    path: Path, tar: tarfile.TarFile, file: _File, member: tarfile.TarInfo, target: Path | None
) -> None:
    source = tar.extractfile(member)
    assert source is not None
    hashed = hashlib.sha256()
    descriptor = _create(target or Path(os.devnull), file.mode, new=target is not None)
    with os.fdopen(descriptor, "wb") as into:
        while piece := source.read(_PIECE):
            hashed.update(piece)
            into.write(piece)
        into.flush()
        if target is not None:
            os.fsync(descriptor)
    if hashed.hexdigest() != file.digest.hex:
        raise BundleError(f"{path}: {file.path} is damaged: its digest is not {file.digest}")


def _create(path: Path, mode: int, *, new: bool) -> int:
    return os.open(path, os.O_WRONLY | (os.O_CREAT | os.O_EXCL if new else 0), mode)


# Before it counts


def _extract(path: Path, staging: Path, config: Path | None) -> Backup:
    """All of it, verified and on the disk, with a plan of where it goes."""
    staging.mkdir(mode=0o700)
    with _opened(path) as (backup, tar):
        free = shutil.disk_usage(staging).free
        if backup.size > free:
            raise EdgeError(
                f"{staging.parent}: no room for {show_size(backup.size)}:"
                f" {show_size(free)} are free"
            )
        for file, member in _members(path, backup, tar):
            target = staging / "new" / file.path
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
            _copy(path, tar, file, member, target)
    _check_config(staging, config)
    _plan(staging, backup, config)
    _give(staging)
    for directory, _, __ in os.walk(staging, topdown=False):
        Path(directory).chmod(0o700)
        sync_directory(Path(directory))
    return backup


def _check_config(staging: Path, config: Path | None) -> None:
    if config is not None and (staging / "new" / CONFIG).exists():
        config.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(config.parent, os.W_OK):
            raise EdgeError(f"{config.parent}: may not be written to", hint="be root")


def _plan(staging: Path, backup: Backup, config: Path | None) -> None:
    new = staging / "new"
    names = (*FILES, *TREES, *DATABASES, *(BLOBS if backup.bundles else ()))
    present = [name for name in names if (new / "state" / name).exists()]
    plan = {
        "schema": 1,
        "config": str(config.absolute()) if config and (new / CONFIG).exists() else None,
        "present": present,
        "absent": [name for name in names if name not in (*present, *LASTING)],
    }
    (staging / "old").mkdir()
    write_file(staging / "plan.json", json.dumps(plan).encode(), mode=0o600)


def _give(staging: Path) -> None:
    """To whoever the state directory belongs to, when that is not who restores."""
    owner = staging.parent.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    for directory, _, names in os.walk(staging):
        for name in (".", *names):
            os.chown(Path(directory) / name, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _refuse_links(state_dir: Path) -> None:
    for name in (*FILES, *TREES, *DATABASES, *BLOBS):
        if (state_dir / name).is_symlink():
            raise EdgeError(
                f"{state_dir / name}: is a symbolic link, and would be replaced",
                hint="mount what it leads to at its place instead",
            )
