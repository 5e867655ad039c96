"""Files as byte streams: what stands behind the streams of a descriptor."""

from __future__ import annotations

from edge.engine.host import Err
from edge.wasi.io import Ready
from edge.wasi.nodes import File
from edge.wasi.pipe import CAPACITY

__all__ = ["FileError", "FileSink", "FileSource"]


class FileError(Exception):
    """Why a stream of a file failed; `code` is an error-code of wasi:filesystem."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class FileSource(Ready):
    """Reads a file from an offset on. It is never waited for; the end is where a read finds it."""

    __slots__ = ("_closed", "_file", "_offset", "ended", "error")

    def __init__(self, file: File, offset: int) -> None:
        file.open()
        self._file = file
        self._offset = offset
        self._closed = False
        self.ended = False
        self.error: Exception | None = None

    @property
    def exhausted(self) -> bool:
        return self.ended

    def read_nowait(self, n: int) -> bytes:
        if n <= 0 or self.ended:
            return b""
        data = b""
        try:
            data = self._file.read(n, self._offset)
        except Err as error:
            self.error = FileError(error.payload)
        self._offset += len(data)
        self.ended = not data
        return data

    async def wait_readable(self) -> None:
        return

    def close(self) -> None:
        if not self._closed:
            self._closed = self.ended = True
            self._file.close()


class FileSink:
    """Writes a file from an offset on, or at its end when the offset is None.

    What guests can write to is in memory and counted by their quota: no file has to be kept open.
    """

    __slots__ = ("_file", "_offset", "error")

    def __init__(self, file: File, offset: int | None) -> None:
        self._file = file
        self._offset = offset
        self.error: Exception | None = None

    def writable(self) -> int:
        return 0 if self.error else CAPACITY

    def write(self, data: bytes) -> None:
        if self.error:
            return
        try:
            self._file.write(data, self._file.size() if self._offset is None else self._offset)
        except Err as error:
            self.error = FileError(error.payload)
        if self._offset is not None:
            self._offset += len(data)

    async def wait_writable(self) -> None:
        return

    def finish(self) -> None:
        return

    def abort(self, error: Exception) -> None:
        self.error = self.error or error
