"""What the campaigns share: size, applications of many guests, a client, what a process holds."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Guest = Callable[[str], Path]

# `make soak` runs the campaigns at the promised size, `make test` at one that takes seconds.
FULL = os.environ.get("EDGE_SOAK") == "full"

MiB = 1 << 20


def sized(full: int, small: int) -> int:
    return full if FULL else small


def say(line: str) -> None:
    """The numbers of a campaign, for whoever runs it."""
    sys.stderr.write(f"\n{line}\n")


# --- applications ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Part:
    """One component on `/ID/...`; `options` of its `tool.edge`, `more` TOML of its own table."""

    guest: str
    id: str = ""
    more: str = ""
    wagi: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.id or self.guest.replace("_", "-")

    def toml(self, wasm: Path) -> str:
        executor = 'executor = { type = "wagi" }' if self.wagi else ""
        options = "\n".join(
            f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}"
            for key, value in self.options.items()
        )
        return f"""
[[trigger.http]]
route = "/{self.name}/..."
component = "{self.name}"
{executor}

[component.{self.name}]
source = "{wasm}"
{self.more}

[component.{self.name}.tool.edge]
{options}
"""


def part(guest: str, id: str = "", *, more: str = "", wagi: bool = False, **options: Any) -> Part:
    return Part(guest, id, more, wagi, options)


def write_application(folder: Path, guest: Guest, parts: Iterable[Part]) -> Path:
    head = 'spin_manifest_version = 2\n[application]\nname = "soak"\nversion = "1.0.0"\n'
    text = head + "".join(part.toml(guest(part.guest)) for part in parts)
    (folder / "spin.toml").write_text(text)
    return folder


# --- a client -------------------------------------------------------------------------------------


class Cut(Exception):
    """The connection ended before the answer did."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """One connection, opened when it is needed. Its owner closes it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, data: bytes) -> None:
        _, writer = await self._open()
        writer.write(data)

    async def ask(self, data: bytes, *, head: bool = False) -> Answer:
        """Sends, and reads one answer. A connection that had been idle too long is replaced."""
        await self.send(data)
        return await self.receive(head=head)

    async def receive(self, *, head: bool = False) -> Answer:
        reader, _ = await self._open()
        try:
            status, headers = _head(await reader.readuntil(b"\r\n\r\n"))
            body = b"" if head or status in (204, 304) else await _body(reader, headers)
        except (asyncio.IncompleteReadError, ConnectionError, IndexError, ValueError) as exc:
            self.abort()
            raise Cut(repr(exc)) from exc
        if headers.get("connection") == "close":
            self.close()
        return Answer(status, headers, body)

    async def read_some(self, size: int) -> int:
        """Reads until `size` bytes came, or the end. Returns how many came."""
        reader, _ = await self._open()
        seen = 0
        while seen < size and (data := await reader.read(65536)):
            seen += len(data)
        return seen

    def half_close(self) -> None:
        if self._streams is not None:
            self._streams[1].write_eof()

    def close(self) -> None:
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].close()

    def abort(self) -> None:
        """Leaves at once: what was sent may be lost, the server sees a reset or an end."""
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].transport.abort()

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        return self._streams


def request(path: str, *headers: str, method: str = "GET", body: bytes | None = None) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: soak", *headers]
    if body is not None:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


def chunked(path: str, *chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    head = request(path, "transfer-encoding: chunked", method="POST")
    return head + b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in chunks) + end


def _head(data: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = data.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return int(first.split(" ", 2)[1]), {k.lower(): v.strip() for k, _, v in pairs}


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if (length := headers.get("content-length")) is not None:
        return await reader.readexactly(int(length))
    if headers.get("transfer-encoding") != "chunked":
        return await reader.read(-1)
    parts = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        parts.append((await reader.readexactly(size + 2))[:-2])
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass  # trailers
    return b"".join(parts)


# --- what a process holds -------------------------------------------------------------------------


def memory(pid: int) -> dict[str, int]:
    """Bytes: `Rss`, `Pss`, `Private_Dirty`, … of /proc/PID/smaps_rollup, and its peak as `Peak`."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    status = Path(f"/proc/{pid}/status").read_text()
    found["Peak"] = int(status.split("VmHWM:")[1].split()[0]) * 1024
    return found


def forget_peak(pid: int) -> None:
    """The peak is counted from now on."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def descriptors(pid: int) -> list[str]:
    """What is open: names of files, kinds of sockets and pipes."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(str(link.readlink()).split(":[")[0])
        except FileNotFoundError:  # closed meanwhile
            continue
    return sorted(found)


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


async def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether the condition comes true in that time."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not condition():
        if loop.time() > end:
            return False
        await asyncio.sleep(0.05)
    return True


def slope(points: list[tuple[int, int]]) -> float:
    """Least squares: how much y grows for one x."""
    n = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
