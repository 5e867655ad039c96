"""The log as entries of systemd's journal, with fields: its native protocol, without a library.

https://systemd.io/JOURNAL_NATIVE_PROTOCOL
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import sys
import traceback
from collections.abc import Iterator, Mapping

__all__ = ["JournalHandler", "stderr_is_journal"]

_SOCKET = "/run/systemd/journal/socket"
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG = 7


def stderr_is_journal(environ: Mapping[str, str] | None = None) -> bool:
    """Whether what is written to stderr goes to the journal, without anybody in between."""
    device, _, inode = (
        (os.environ if environ is None else environ).get("JOURNAL_STREAM", "").partition(":")
    )
    try:
        stat = os.fstat(2)
    except OSError:
        return False
    return (device, inode) == (str(stat.st_dev), str(stat.st_ino))


class JournalHandler(logging.Handler):
    """Writes each record as an entry. Its attributes EDGE_… and MESSAGE_ID (`extra`) are fields.

    What the journal does not take is written to stderr, without the fields.
    """

    def __init__(self, path: str = _SOCKET) -> None:
        super().__init__()
        self._path = path
        self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        # Waits for a journal that is busy, but not for one that hangs.
        self._sender.settimeout(1.0)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            entry = b"".join(_fields(record))
            try:
                self._sender.sendto(entry, self._path)
            except OSError:
                self._send_file(entry)
        except OSError:
            _to_stderr(f"{record.getMessage()}\n")
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        self._sender.close()
        super().close()

    def _send_file(self, entry: bytes) -> None:
        """Entries that are too large for a datagram go as a sealed file in memory."""
        file = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with os.fdopen(os.dup(file), "wb") as stream:
                stream.write(entry)
            _seal(file)
            # Not socket.send_fds: before Python 3.12 it forgets the address.
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, file.to_bytes(4, sys.byteorder))
            self._sender.sendmsg([b""], [rights], 0, self._path)
        finally:
            os.close(file)


def _seal(file: int) -> None:
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)


def _fields(record: logging.LogRecord) -> Iterator[bytes]:
    message = record.getMessage()
    if record.exc_info:
        message += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
    yield _field("MESSAGE", message)
    yield _field("PRIORITY", str(_priority(record.levelno)))
    yield _field("SYSLOG_IDENTIFIER", "edge")
    yield _field("EDGE_LOGGER", record.name)
    yield _field("CODE_FILE", record.pathname)
    yield _field("CODE_LINE", str(record.lineno))
    yield _field("CODE_FUNC", record.funcName or "")
    for name, value in record.__dict__.items():
        if name == "MESSAGE_ID" or (name.startswith("EDGE_") and name.isascii()):
            yield _field(name, str(value))


def _field(name: str, value: str) -> bytes:
    data = value.encode("utf-8", "replace")
    if b"\n" not in data:
        return name.encode() + b"=" + data + b"\n"
    return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"


def _priority(level: int) -> int:
    return next((number for least, number in _PRIORITIES if level >= least), _DEBUG)


def _to_stderr(line: str) -> None:
    try:
        os.write(2, line.encode("utf-8", "replace"))
    except OSError:
        return
