"""A disk that forgets: what was written to it and not flushed is lost when its power is cut.

It is served by NBD (its document proto.md: fixed newstyle, simple replies), as a disk with
a volatile cache that announces it. A write is in the cache until a flush was answered; a cut keeps
some sectors of what is there, in no order, and forgets the others. To kill a machine would not be
enough: what it gave to a file of this machine before, this machine would still write.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["ForgetfulDisk", "forgetful_disk"]

# What a disk writes as a whole; a block of the file system may be torn.
SECTOR = 512

# NBD: magic numbers, flags, options and commands.
_INIT, _OPTION, _REPLY = b"NBDMAGIC", b"IHAVEOPT", 0x3E889045565A9
_REQUEST, _SIMPLE = 0x25609513, 0x67446698
_GO, _ACK, _INFO, _UNSUPPORTED = 7, 1, 3, (1 << 31) + 1
_READ, _WRITE, _DISCONNECT, _FLUSH = range(4)
_FUA = 1
# Flags of the export: has flags, flush, FUA.
_FEATURES = 1 | 4 | 8
_EINVAL = 22


@dataclass(slots=True)
class ForgetfulDisk:
    """`image`: what is permanent. `lies`: it answers flushes and does not do them."""

    image: Path
    chance: random.Random
    lies: bool = False
    # Set when it has stopped by itself, see `stop_after`.
    stopped: threading.Event = field(default_factory=threading.Event)
    writes: int = 0
    flushes: int = 0
    # Of the last cut: sectors that were not flushed, and how many of them were lost.
    unflushed: int = 0
    lost: int = 0
    _cache: dict[int, bytes] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _file: int = -1
    _off: bool = False
    _stop_at: int = 0
    _without_power: threading.Event = field(default_factory=threading.Event)
    _connection: socket.socket | None = None

    @property
    def address(self) -> Path:
        return self.image.with_suffix(".socket")

    def switch_on(self) -> None:
        with self._lock:
            self._off = False
            self._stop_at = 0
            self.stopped.clear()
            self._without_power.clear()

    def stop_after(self, writes: int) -> None:
        """It answers the writes until that one, and then nothing any more: it waits for the cut."""
        with self._lock:
            self._stop_at = self.writes + writes

    def cut(self) -> None:
        """Without power: of what was not flushed nothing, some or most sectors stay."""
        with self._lock:
            self._off = True
            kept = 0.0 if self.lies else self.chance.choice((0.0, 0.5, 0.9))
            self.unflushed, self.lost = len(self._cache), 0
            for sector in list(self._cache):
                if self.chance.random() < kept:
                    self._make_permanent(sector)
                else:
                    self.lost += 1
            self._cache.clear()
            self._without_power.set()
            if self._connection is not None:
                with suppress(OSError):
                    self._connection.shutdown(socket.SHUT_RDWR)

    # --- the medium -------------------------------------------------------------------------------

    def _read(self, offset: int, length: int) -> bytes:
        found = bytearray(os.pread(self._file, length, offset))
        if self._cache:
            for sector in range(offset // SECTOR, (offset + length) // SECTOR):
                if (data := self._cache.get(sector)) is not None:
                    at = sector * SECTOR - offset
                    found[at : at + SECTOR] = data
        return bytes(found)

    def _write(self, offset: int, data: bytes, *, through: bool) -> None:
        self.writes += 1
        for at in range(0, len(data), SECTOR):
            sector = (offset + at) // SECTOR
            self._cache[sector] = data[at : at + SECTOR]
            if through and not self.lies:
                self._make_permanent(sector)

    def _flush(self) -> None:
        self.flushes += 1
        if not self.lies:
            for sector in list(self._cache):
                self._make_permanent(sector)

    def _make_permanent(self, sector: int) -> None:
        os.pwrite(self._file, self._cache.pop(sector), sector * SECTOR)

    # --- the protocol -----------------------------------------------------------------------------

    def serve(self, listening: socket.socket) -> None:
        """One connection after the other, until the socket is shut."""
        self._file = os.open(self.image, os.O_RDWR)
        try:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                self._connection = connection
                with connection, suppress(ConnectionError):
                    self._agree(connection)
                    while self._answer(connection):
                        pass
        finally:
            os.close(self._file)

    def _agree(self, connection: socket.socket) -> None:
        connection.sendall(_INIT + _OPTION + struct.pack(">H", 3))
        _take(connection, 4)
        while True:
            _, option, length = struct.unpack(">8sII", _take(connection, 16))
            _take(connection, length)
            answer = struct.Struct(">QIII")
            if option != _GO:
                connection.sendall(answer.pack(_REPLY, option, _UNSUPPORTED, 0))
                continue
            size = self.image.stat().st_size
            export = struct.pack(">HQH", 0, size, _FEATURES)
            connection.sendall(answer.pack(_REPLY, option, _INFO, len(export)) + export)
            connection.sendall(answer.pack(_REPLY, option, _ACK, 0))
            return

    def _answer(self, connection: socket.socket) -> bool:
        head = _take(connection, 28)
        magic, flags, command, cookie, offset, length = struct.unpack(">IHHQQI", head)
        assert magic == _REQUEST
        data = _take(connection, length) if command == _WRITE else b""
        error, found = 0, b""
        with self._lock:
            if self._off or command == _DISCONNECT:
                return False
            if command == _READ:
                found = self._read(offset, length)
            elif command == _WRITE:
                self._write(offset, data, through=bool(flags & _FUA))
                self._off = self.writes == self._stop_at
            elif command == _FLUSH:
                self._flush()
            else:
                error = _EINVAL
        if self._off:
            self.stopped.set()
            self._without_power.wait()
            return False
        connection.sendall(struct.pack(">IIQ", _SIMPLE, error, cookie) + found)
        return True


def _take(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise ConnectionResetError
        data += piece
    return bytes(data)


@contextmanager
def forgetful_disk(
    folder: Path, seed: int, size: int = 512 << 20, *, lies: bool = False
) -> Iterator[ForgetfulDisk]:
    """One with an empty file system, which answers at `socket` until the block is left. `lies`: it
    answers flushes and does not do them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    disk = ForgetfulDisk(folder / "state.img", random.Random(seed), lies)
    with disk.image.open("wb") as image:
        image.truncate(size)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", str(disk.image)], check=True)
    disk.address.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(disk.address))
        listening.listen()
        serving = threading.Thread(target=disk.serve, args=(listening,))
        serving.start()
        try:
            yield disk
        finally:
            disk.cut()
            listening.shutdown(socket.SHUT_RDWR)
            serving.join()
