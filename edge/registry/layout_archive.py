"""OCI image layouts as tar files, from a stranger's hand: only plain files are looked at, and what
stands between them is bounded.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, cast

from edge.application.units import show_size
from edge.errors import BundleError

__all__ = ["MOST_FILES", "Archive"]

# Members: directories, and the blobs of many bundles.
MOST_FILES = 100_000
# Of one member, with long names and times.
_HEADERS = 256 << 10
# A layout's own files have shorter names.
_LONGEST = 200


class Archive:
    """A tar file that can be read at any place; nothing of it is unpacked."""

    def __init__(self, file: IO[bytes], title: str) -> None:
        self._title = title
        zipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if zipped:
            raise BundleError(f"{title}: is compressed", hint=f"unpack it: gunzip {title}")
        self._headers = _Headers(file, title)
        with self._explained():
            self._tar = tarfile.open(fileobj=cast(IO[bytes], self._headers), mode="r:")  # noqa: SIM115
            self._members = dict(self._found())
        self._headers.bounded = False

    @contextmanager
    def open(self, path: str) -> Iterator[IO[bytes]]:
        """A member. Raises KeyError."""
        with self._explained():
            file = self._tar.extractfile(self._members[path])
            assert file is not None, "only plain files are known"
            with file:
                yield file

    def names(self) -> Iterable[str]:
        return self._members

    def _found(self) -> Iterator[tuple[str, tarfile.TarInfo]]:
        count = 0
        seen: set[str] = set()
        while (member := self._tar.next()) is not None:
            self._headers.given = 0
            # It would remember each of them, with whatever a stranger wrote about it.
            member.pax_headers = {}
            self._tar.members = []  # type: ignore[attr-defined]
            count += 1
            name = member.name.removeprefix("./")
            if member.size < 0 or count > MOST_FILES:
                raise BundleError(f"{self._title}: holds more than {MOST_FILES} files, or nonsense")
            if not member.isreg() or member.issparse() or len(name) > _LONGEST:
                continue
            if name in seen:
                raise BundleError(f"{self._title}: {name[:200]!a}: is in it twice")
            seen.add(name)
            yield name, member

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (tarfile.TarError, EOFError) as error:
            message = f"{self._title}: is not an archive that can be read: {error}"
            raise BundleError(message, hint="is it whole, and the tar of an OCI layout?") from error


class _Headers:
    """The file, which gives no more than headers need for as long as it is `bounded`."""

    def __init__(self, file: IO[bytes], title: str) -> None:
        self._file, self._title = file, title
        self.bounded = True
        self.given = 0

    def read(self, size: int) -> bytes:
        self.given += size
        if self.bounded and self.given > _HEADERS:
            most = show_size(_HEADERS)
            raise BundleError(f"{self._title}: holds more than {most} between two files")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
