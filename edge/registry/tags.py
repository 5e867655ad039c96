"""Names of the content store: which manifest each stands for, and stood for before.

One JSON document with a schema version, replaced as a whole. Blocks: not for the event loop.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from edge.application.fields import Table, Where, integer, items, mapping, parsed
from edge.errors import BundleError, EdgeError
from edge.platform.atomic import write_file
from edge.registry.digest import Digest
from edge.registry.disk import allocate, exclusive, explained, leased, sync_directory
from edge.registry.manifest import read_json

__all__ = ["Tags"]

_SCHEMA = 1
# What a name stood for is remembered this far back; a collection keeps fewer.
MAX_HISTORY = 8
# Bytes for the names of thousands of applications: on a full disk one must still be removable.
_RESERVE = 1 << 20

History = tuple[Digest, ...]


class Tags:
    """The names in `directory`. What they stand for is reachable, and so kept."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / "tags.json"
        self._reserve = directory / "reserve"
        # The document as it was read last: with thousands of names it is read far more often than
        # it changes, and comparing bytes takes a hundredth of the time of parsing them.
        self._last: tuple[bytes | None, Mapping[str, History]] = (None, {})

    def all(self) -> Mapping[str, History]:
        """Every name, with its digests from the newest to the oldest that is remembered."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return {}
        known, tags = self._last
        if data != known:
            tags = MappingProxyType(read_json(data, str(self._path), _read))
            self._last = data, tags
        return tags

    def get(self, name: str) -> Digest | None:
        """What a name stands for."""
        return next(iter(self.all().get(name, ())), None)

    def set(self, name: str, digest: Digest) -> None:
        """From now on `name` stands for a blob that is here; what it stood for is remembered."""
        self.set_all({name: digest})

    def set_all(self, digests: Mapping[str, Digest]) -> None:
        """As `set` for each name, in one step: all of them or none."""
        blobs = self._directory / "sha256"
        with leased(self._directory), self._changing() as tags:
            for name, digest in digests.items():
                if not (blobs / digest.hex).exists():
                    raise BundleError(f"{name}: {digest} is not in {blobs}")
                history = (digest, *(d for d in tags.get(name, ()) if d != digest))
                tags[name] = history[:MAX_HISTORY]
            sync_directory(blobs)

    def recover(self) -> str | None:
        """Sets a document aside that is damaged, so that names can be given again; a line to say.
        Raises EdgeError for what a newer version wrote.
        """
        with exclusive(self._directory / "tags.lock"):
            try:
                self.all()
            except BundleError as error:
                for number in range(1, 10):
                    aside = self._path.with_name(f"{self._path.name}.damaged-{number}")
                    if not aside.exists():
                        break
                self._path.replace(aside)
                return f"{error.message}; it is kept as {aside.name}"
        return None

    def remove(self, *names: str) -> None:
        """Forgets names and all that they stood for."""
        with self._changing() as tags:
            for name in names:
                tags.pop(name, None)

    def trim(self, floor: int) -> Mapping[str, History]:
        """Forgets all but the newest and `floor` before it of each name; returns what is left."""
        with self._changing() as tags:
            tags |= {name: history[: floor + 1] for name, history in tags.items()}
            return dict(tags)

    @contextmanager
    def _changing(self) -> Iterator[dict[str, History]]:
        with exclusive(self._directory / "tags.lock"):
            before = self.all()
            after = dict(before)
            yield after
            if after != before:
                self._write(after)
            self._keep_reserve()

    def _write(self, tags: Mapping[str, History]) -> None:
        named = {name: [str(digest) for digest in history] for name, history in tags.items()}
        document = {"schema": _SCHEMA, "tags": named}
        data = json.dumps(document, sort_keys=True, indent=1).encode()
        try:
            write_file(self._path, data)
        except OSError:
            self._reserve.unlink(missing_ok=True)
            with explained(self._directory, len(data)):
                write_file(self._path, data)
        self._last = data, MappingProxyType(dict(tags))

    def _keep_reserve(self) -> None:
        try:
            with self._reserve.open("ab") as file:
                if file.tell() != _RESERVE:
                    allocate(file.fileno(), _RESERVE)
        except OSError:  # for as long as the disk is full
            self._reserve.unlink(missing_ok=True)


def _read(value: object, where: Where) -> Mapping[str, History]:
    with Table(value, where) as table:
        if (schema := table.need("schema", integer(1, 1 << 31))) != _SCHEMA:
            raise EdgeError(
                f"{where}: has schema {schema}, this version knows {_SCHEMA}",
                hint="a newer version wrote it: install that one, or restore a backup",
            )
        return table.need("tags", mapping(items(parsed(Digest.parse))))
