"""Sends and takes large bodies: load_bodies.py '[PORT, WAY, SIZE, CONNECTIONS, TIMES]'. Prints the
seconds from the first byte to the last.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time

SECONDS = 120


def client(port: int, way: str, size: int, times: int) -> None:
    """So many bodies on one connection, one after the other; each must come as it should."""
    buffer = bytearray(256 * 1024)
    body = memoryview(bytes(range(256)) * (size // 256)) if way != "down" else memoryview(b"")
    if way == "down":
        head = b"GET /%d HTTP/1.1\r\nhost: bench\r\n\r\n" % size
    else:
        head = b"POST / HTTP/1.1\r\nhost: bench\r\ncontent-length: %d\r\n\r\n" % size
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
        for _ in range(times):
            sender = threading.Thread(target=_give, args=(connection, head, body))
            sender.start()
            content = _answer(connection, buffer)
            sender.join()
            wanted = len(str(size)) if way == "up" else size
            if content != wanted:
                raise RuntimeError(f"{content} bytes came where {wanted} should")


def _give(connection: socket.socket, head: bytes, body: memoryview) -> None:
    connection.sendall(head)
    connection.sendall(body)


def _answer(connection: socket.socket, buffer: bytearray) -> int:
    """Bytes of the content of one answer."""
    start = b""
    while b"\r\n\r\n" not in start:
        start += _piece(connection)
    head, _, rest = start.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"answers {head!r}")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            size = int(line.partition(b":")[2])
            _pass(connection, size - len(rest), buffer)
            return size
    return _chunked(connection, rest, buffer)


def _chunked(connection: socket.socket, data: bytes, buffer: bytearray) -> int:
    """Chunks' sizes are read, their bytes passed over."""
    content = at = 0
    while True:
        while (end := data.find(b"\r\n", at)) < 0:
            data, at = data[at:] + _piece(connection), 0
        size = int(data[at:end], 16)
        at = end + 2 + size + 2
        _pass(connection, at - len(data), buffer)
        content += size
        if not size:
            return content


def _pass(connection: socket.socket, left: int, buffer: bytearray) -> None:
    while left > 0:
        got = connection.recv_into(buffer, min(left, len(buffer)))
        if not got:
            raise RuntimeError("the server closed the connection")
        left -= got


def _piece(connection: socket.socket) -> bytes:
    piece = connection.recv(65536)
    if not piece:
        raise RuntimeError("the server closed the connection")
    return piece


def main(what: str) -> None:
    port, way, size, connections, times = json.loads(what)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            client(port, way, size, times)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(connections)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    print(time.perf_counter() - begun)


if __name__ == "__main__":
    main(sys.argv[1])
