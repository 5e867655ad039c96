"""What a request costs in instructions, counted by callgrind: a figure that does not depend on how
fast or how busy a machine is. The kernel's are not in it.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from servers import Server

# Several: a server may read them all before it answers one. callgrind leaves addresses for eight
# memories.
CONNECTIONS, MEMORIES = 6, 8
WARM, COUNTED = 20, 100  # requests on each of them
REQUEST = b"GET /hello HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
# callgrind counts each repetition of a string instruction, a byte; vectors are what others use.
TUNABLES = (
    "glibc.cpu.x86_rep_stosb_threshold=4000000000:glibc.cpu.x86_rep_movsb_threshold=4000000000"
)

Start = Callable[[list[str]], AbstractContextManager[Server]]


def row(starts: Mapping[str, Start]) -> dict[str, list[float]]:
    """Thousands of instructions of a request to each server; `starts` get what comes before its
    command.
    """
    return {name: [counted(start) / 1000] for name, start in starts.items()}


def counted(start: Start) -> float:
    with TemporaryDirectory() as folder:
        command = [
            "env", f"GLIBC_TUNABLES={os.environ.get('GLIBC_TUNABLES', TUNABLES)}",
            "valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no", "--trace-children=yes",
            f"--callgrind-out-file={folder}/%p",
        ]  # fmt: skip
        with start(command) as server, clients(server.port) as ask:
            ask(WARM)
            control(server, "-i", "on")
            ask(COUNTED)
            control(server, "-i", "off")
            control(server, "-d")
            return total(Path(folder), server.process.pid) / (CONNECTIONS * COUNTED)


@contextmanager
def clients(port: int) -> Iterator[Callable[[int], None]]:
    """What sends so many requests on each connection, one on all at once, and takes the answers."""
    with ExitStack() as stack:
        address = ("127.0.0.1", port)
        made = [stack.enter_context(socket.create_connection(address)) for _ in range(CONNECTIONS)]

        def ask(times: int) -> None:
            for _ in range(times):
                for client in made:
                    client.sendall(REQUEST)
                for client in made:
                    answered(client)

        yield ask


def answered(client: socket.socket) -> None:
    """The whole of a small answer, whose length its head says or its last chunk."""
    data = b""
    while not complete(data):
        piece = client.recv(4096)
        if not piece:
            raise RuntimeError("the server closed the connection")
        data += piece


def complete(data: bytes) -> bool:
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        return False
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.partition(b":")[2])
    return body.endswith(b"0\r\n\r\n")


def control(server: Server, *words: str) -> None:
    command = ["callgrind_control", *words, str(server.process.pid)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, timeout=60)


def total(folder: Path, pid: int) -> int:
    """All threads of the process, of what was dumped."""
    totals = (
        int(line.split()[1])
        for path in folder.glob(f"{pid}.*")
        for line in path.read_text(errors="replace").splitlines()
        if line.startswith("totals:")
    )
    return sum(totals)
