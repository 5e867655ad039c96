"""`edge backup`: what makes this node itself, in one tar, while it runs.

    backup.json           schema, what this is of, and each file with its size and digest; first
    config/edge.toml      the configuration
    state/…               apps.json, fleet.json, timers.json, mqtt…; kv/ and sqlite/ as copies
                          that SQLite makes of each file at one moment; identity/ and authority/,
                          which are who the node is in its fleet; blobs/ when asked for

Blocks: not for the event loop. Restoring is in `restore`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from edge.errors import ConfigError, EdgeError
from edge.node.claim import CONFIG, DATABASES, FILES, STATE, TREES, locked
from edge.registry.digest import Digest
from edge.registry.disk import explained, sync_directory
from edge.registry.store import ContentStore

__all__ = ["MANIFEST", "SCHEMA", "Made", "make"]

SCHEMA = 1
MANIFEST = "backup.json"
# A database that somebody keeps locked for so long, in seconds, is not waited for.
_PATIENCE = 60.0
_PIECE = 1 << 20
# Of a fleet's authority. A token that was used since must not be good again.
_PASSING = ("tokens.json", "door.pem")


@dataclass(frozen=True, slots=True)
class _Part:
    path: str
    source: Path
    size: int
    digest: Digest
    mode: int


@dataclass(frozen=True, slots=True)
class Made:
    """What a backup holds."""

    files: int
    bytes: int


def make(
    target: Path,
    state_dir: Path,
    *,
    config: Path | None,
    node: str,
    version: str,
    bundles: bool = False,
) -> Made:
    """Writes `target`, whole or not at all, readable by its owner only. Raises EdgeError.

    `config`: the edge.toml that belongs to it. `bundles`: with the content store.
    """
    if not state_dir.is_dir():
        hint = "name it: --state-dir, or --config for the edge.toml that does"
        raise ConfigError(f"{state_dir}: there is no state of a node", hint=hint)
    if target.is_dir():
        raise ConfigError(f"{target}: is a directory", hint="name a file, which may be in it")
    if not target.parent.is_dir():
        raise ConfigError(f"{target.parent}: there is no such directory")
    if (state_dir / "restore").exists():
        raise EdgeError(
            f"{state_dir}: a restore was interrupted", hint="start the node, or restore again"
        )
    try:
        with explained(target.parent), ExitStack() as stack:
            staging = stack.enter_context(_staging(target.parent, state_dir))
            store = ContentStore(state_dir)
            if bundles and store.directory.is_dir():
                stack.enter_context(store.lease())
            parts = list(_parts(state_dir, config, staging, bundles=bundles))
            about = {
                "node": node,
                "edge": version,
                "state_dir": str(state_dir.absolute()),
                "config": str(config.absolute()) if config else None,
                "bundles": bundles,
            }
            _write(staging / "tar", about, parts)
            (staging / "tar").replace(target)
            sync_directory(target.parent)
    except OSError as error:
        where = error.filename or target
        raise EdgeError(f"{where}: {(error.strerror or str(error)).lower()}") from error
    return Made(len(parts), sum(part.size for part in parts))


@contextmanager
def _staging(beside: Path, state_dir: Path) -> Iterator[Path]:
    """A directory beside the target, for its owner only; what killed ones left is removed."""
    mark = hashlib.sha256(str(state_dir.absolute()).encode(errors="surrogateescape")).hexdigest()
    prefix = f".edge-backup-{mark[:8]}-"
    with locked(state_dir, "backup.lock") as alone:
        if not alone:
            raise EdgeError(f"{state_dir}: another backup is being made", hint="wait for it")
        for left in beside.glob(f"{prefix}*"):
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(prefix=prefix, dir=beside) as directory:
            yield Path(directory)


def _parts(
    state_dir: Path, config: Path | None, staging: Path, *, bundles: bool
) -> Iterator[_Part]:
    if config is not None:
        yield _copied(CONFIG, config, staging)
    for name in FILES:
        if (state_dir / name).is_file():
            yield _copied(f"{STATE}{name}", state_dir / name, staging)
    for tree in TREES:
        for path in _files(state_dir / tree):
            if path.name not in _PASSING:
                yield _copied(f"{STATE}{path.relative_to(state_dir)}", path, staging)
    for tree in DATABASES:
        for path in _files(state_dir / tree):
            # Others are SQLite's own, and part of what its copy is.
            if path.suffix == ".db":
                yield from _database(path, f"{STATE}{path.relative_to(state_dir)}", staging)
    if bundles:
        yield from _blobs(state_dir, staging)


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def _copied(name: str, source: Path, staging: Path) -> _Part:
    """Of a file that may be replaced at any moment."""
    with source.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode & 0o777
        descriptor, copy = tempfile.mkstemp(dir=staging)
        with os.fdopen(descriptor, "wb") as into:
            shutil.copyfileobj(file, into, _PIECE)
    return _part(name, Path(copy), mode)


def _part(name: str, source: Path, mode: int) -> _Part:
    with source.open("rb") as file:
        digest = Digest(hashlib.file_digest(file, "sha256").hexdigest())
        return _Part(name, source, os.fstat(file.fileno()).st_size, digest, mode)


def _database(path: Path, name: str, staging: Path) -> Iterator[_Part]:
    """As it is at one moment, by SQLite itself; who writes meanwhile is not held up."""
    descriptor, copy = tempfile.mkstemp(dir=staging, suffix=".db")
    os.close(descriptor)
    try:
        _copy_database(path, Path(copy))
    except sqlite3.Error as error:
        if not path.exists():  # its application was removed meanwhile
            return
        raise EdgeError(
            f"{path}: {error}", hint="repair it, or move it away: see docs/state.md"
        ) from error
    yield _part(name, Path(copy), 0o600)


def _copy_database(path: Path, copy: Path) -> None:
    # Not read-only: after a crash SQLite first has to take in what its log holds.
    uri = f"file:{quote(str(path.absolute()))}?mode=rw"
    deadline = time.monotonic() + _PATIENCE

    def moved(status: int, *_: int) -> None:
        waits = status not in (sqlite3.SQLITE_OK, sqlite3.SQLITE_DONE)
        if waits and time.monotonic() > deadline:
            raise EdgeError(f"{path}: another program keeps it locked", hint="try again later")

    with (
        closing(sqlite3.connect(uri, uri=True, timeout=_PATIENCE)) as source,
        closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target, pages=-1, progress=moved)
        # One file, whatever it was: a log that is left beside it would not be in the tar.
        target.execute("PRAGMA journal_mode = DELETE").fetchall()
        (verdict,) = target.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(f"the file is damaged: {verdict}")


def _blobs(state_dir: Path, staging: Path) -> Iterator[_Part]:
    """Names before content: nothing that they lead to goes while the store is leased."""
    blobs = state_dir / "blobs"
    records = [blobs / "tags.json", *_files(blobs / "unpacked")]
    for path in records:
        if path.is_file() and not path.name.startswith("."):
            yield _copied(f"{STATE}{path.relative_to(state_dir)}", path, staging)
    for path in _files(blobs / "sha256"):
        if not path.name.startswith("."):
            digest = Digest(path.name)
            size = path.stat().st_size
            yield _Part(f"{STATE}blobs/sha256/{digest.hex}", path, size, digest, 0o444)


def _part_json(part: _Part) -> dict[str, object]:
    return {
        "path": part.path,
        "size": part.size,
        "sha256": part.digest.hex,
        "mode": part.mode,
    }


def _write(target: Path, about: Mapping[str, object], parts: Iterable[_Part]) -> None:
    made = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    files = [_part_json(part) for part in parts]
    data = json.dumps({"schema": SCHEMA, "made": made, **about, "files": files}, indent=1).encode()
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            tar.addfile(_header(MANIFEST, len(data), 0o600), io.BytesIO(data))
            for part in parts:
                _add(tar, part)
        file.flush()
        os.fsync(file.fileno())


def _add(tar: tarfile.TarFile, part: _Part) -> None:
    with part.source.open("rb") as source:
        hashed = _Hashed(source)
        tar.addfile(_header(part.path, part.size, part.mode), hashed)
    if hashed.hash.hexdigest() != part.digest.hex:
        raise EdgeError(
            f"{part.source}: is damaged: its content is not what its name says",
            hint="edge sync repairs a damaged bundle, when its registry has it",
        )


class _Hashed:
    """What is read of a file, and its hash."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self.hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.hash.update(data)
        return data


def _header(name: str, size: int, mode: int) -> tarfile.TarInfo:
    """Without times and owners: the same node gives the same bytes, but for its databases."""
    header = tarfile.TarInfo(name)
    header.size = size
    header.mode = mode
    return header
