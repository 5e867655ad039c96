"""Connections passed on between a virtual machine and this one, byte by byte."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

__all__ = ["Relay"]


class Relay:
    """Passes on what comes to `listening`, a listening socket, to who `connect` finds."""

    def __init__(self, listening: socket.socket, connect: Callable[[], socket.socket]) -> None:
        self._listening = listening
        self._connect = connect
        self._ends: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]

    @classmethod
    def to_port(cls, host: str, target: int) -> Self:
        """From a free port of `host` to a service of this machine."""
        listening = socket.create_server((host, 0))
        return cls(listening, lambda: socket.create_connection(("127.0.0.1", target)))

    @property
    def port(self) -> int:
        return int(self._listening.getsockname()[1])

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._threads[0].join()
        self.cut()
        for thread in self._threads:
            thread.join()

    def cut(self) -> None:
        """Ends every connection; what was on its way is lost."""
        for end in list(self._ends):
            _end(end)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            try:
                far = self._connect()
            except OSError:
                near.close()
                continue
            self._ends |= {near, far}
            for ends in ((near, far), (far, near)):
                thread = threading.Thread(target=self._pump, args=ends)
                thread.start()
                self._threads.append(thread)

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        # The other direction ends as well, and each direction closes where it read.
        _end(target)
        self._ends.discard(source)
        source.close()


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
