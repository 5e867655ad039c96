"""Who is on the network and means harm: false adverts, foreign certificates, a server that listens.

Each runs in a thread of its own that is in the namespace of its machine.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import random
import select
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from fleet_lab import PEERS_PORT, Board, Machine, enter
from zeroconf import IPVersion
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from edge.fleet import certificates

TYPE = "_edge-node._tcp.local."


@contextmanager
def hosted(machine: Machine, main: Callable[[asyncio.Event], Awaitable[None]]) -> Iterator[None]:
    """Runs a coroutine function in the machine's network. It sets its event when it is ready, and
    is cancelled at the end of the block.
    """
    ready, failed = threading.Event(), list[BaseException]()
    loop = asyncio.new_event_loop()
    tasks: list[asyncio.Task[None]] = []

    async def body() -> None:
        begun = asyncio.Event()
        task = loop.create_task(_as_coroutine(main(begun)))
        tasks.append(task)
        started = loop.create_task(begun.wait())
        await asyncio.wait((task, started), return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        ready.set()
        await task

    def run() -> None:
        try:
            enter(machine.namespace)
            loop.run_until_complete(body())
        except asyncio.CancelledError:
            pass
        except BaseException as exc:
            failed.append(exc)
        finally:
            ready.set()
            loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(30), "an attacker does not start"
        if failed:
            raise failed[0]
        yield
    finally:
        if not loop.is_closed():
            with suppress(RuntimeError):  # closed meanwhile
                loop.call_soon_threadsafe(lambda: [task.cancel() for task in tasks])
        thread.join()
    if failed:
        raise failed[0]


async def _as_coroutine(made: Awaitable[None]) -> None:
    await made


# --- adverts --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spoof:
    """An advert of anything, by anybody."""

    instance: str
    address: str
    txt: dict[str | bytes, str | bytes | None]
    port: int = PEERS_PORT

    def info(self) -> AsyncServiceInfo:
        return AsyncServiceInfo(
            TYPE,
            f"{self.instance}.{TYPE}",
            port=self.port,
            properties=dict(self.txt),
            parsed_addresses=[self.address],
            server=f"{self.instance.replace(' ', '-')}.local.",
        )


def claim(id: str, fleet: str, machine: Machine, instance: str = "evil") -> Spoof:
    """Says that node `id` of `fleet` is at the machine."""
    told: dict[str | bytes, str | bytes | None] = {
        "txtvers": "1",
        "id": id,
        "fleet": fleet,
        "inv": "1",
        "arch": "x86_64",
        "v": "9",
    }
    return Spoof(instance, machine.address, told)


def random_id(source: random.Random) -> str:
    return base64.b32encode(source.randbytes(32)).decode().rstrip("=").lower()


def stranger(number: int, machine: Machine) -> Spoof:
    """A node of another fleet; each third one makes no sense."""
    source = random.Random(number)
    spoof = claim(random_id(source), random_id(source), machine, f"stranger-{number}")
    nonsense: list[dict[str | bytes, str | bytes | None]] = [
        {"txtvers": "1", "id": "x" * 200, "fleet": "\x1b[31m"},
        {b"\xff\xfe": b"\xff" * 200, "id": None},
        {f"k{n}": "v" * 200 for n in range(6)},
    ]
    if number % 3 == 0:
        return Spoof(spoof.instance, spoof.address, nonsense[number // 3 % 3])
    return spoof


@contextmanager
def advertising(machine: Machine, spoofs: Sequence[Spoof]) -> Iterator[None]:
    """All of them are out when the block begins; they say goodbye at its end."""

    async def advertise(ready: asyncio.Event) -> None:
        mdns = AsyncZeroconf(ip_version=IPVersion.V4Only, interfaces=[machine.address])
        try:
            async with asyncio.TaskGroup() as group:
                for spoof in spoofs:
                    group.create_task(_register(mdns, spoof.info()))
            ready.set()
            await asyncio.get_running_loop().create_future()
        finally:
            await mdns.async_close()

    with hosted(machine, advertise):
        yield


async def _register(mdns: AsyncZeroconf, info: AsyncServiceInfo) -> None:
    await (await mdns.async_register_service(info, cooperating_responders=True))


# --- certificates ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Papers:
    """Key, certificate and authority of a node, as files; `node`: the id that it claims."""

    folder: Path
    node: str

    @classmethod
    def of(cls, board: Board) -> Papers:
        """Those of a real node, which has lost them."""
        folder = board.state / "identity"
        return cls(folder, certificates.node_of_key((folder / "key.pem").read_bytes()))

    @classmethod
    def issued(cls, folder: Path, authority: certificates.Signer, now: float) -> Papers:
        """Of a new key, by that authority, at that time."""
        folder.mkdir(parents=True)
        key = certificates.new_key()
        made = authority.issue(certificates.new_request(key), now)
        for name, data in (
            ("key.pem", key),
            ("certificate.pem", made.pem),
            ("authority.pem", authority.certificate),
        ):
            (folder / name).write_bytes(data)
        return cls(folder, made.node)

    def context(self, *, server: bool, trusting: Path | None = None) -> ssl.SSLContext:
        """Checks nothing unless `trusting` names an authority: who attacks takes what it gets."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if trusting is not None:
            context.load_verify_locations(trusting)
            context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(self.folder / "certificate.pem", self.folder / "key.pem")
        return context


def authority_of(board: Board) -> certificates.Signer:
    """The real one of a fleet, from the disk of the node that has it."""
    key, certificate = (board.state / "authority" / name for name in ("key.pem", "certificate.pem"))
    return certificates.Signer(key.read_bytes(), certificate.read_bytes())


def foreign_authority() -> certificates.Signer:
    return certificates.Signer(*certificates.new_authority("site-a", 1.8e9))


def ask(
    machine: Machine, papers: Papers | None, board: Board, path: str, port: int = PEERS_PORT
) -> int:
    """The status that a node's peers' port answers to these papers with; 0: not even that."""
    context = ssl._create_unverified_context() if papers is None else papers.context(server=False)

    def request() -> int:
        connection = http.client.HTTPSConnection(board.address, port, timeout=10, context=context)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read(1 << 20)
            return answer.status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    return machine.call(request)


# --- a server -------------------------------------------------------------------------------------


@dataclass
class Impostor:
    """What happened at an attacker's server."""

    connections: int = 0
    shaken: int = 0  # TLS handshakes that its client took for good, as far as it can tell
    received: bytes = b""  # what it was sent within TLS
    answer: bytes = b""  # to whatever it is sent
    _stop: threading.Event = field(default_factory=threading.Event)


@contextmanager
def impostor(
    machine: Machine, context: ssl.SSLContext, port: int = PEERS_PORT, answer: bytes = b""
) -> Iterator[Impostor]:
    """Listens, shakes hands with whoever comes, and keeps what it is told."""
    found = Impostor(answer=answer)
    listening = machine.call(lambda: socket.create_server(("", port), backlog=64))

    def serve() -> None:
        while not found._stop.is_set():
            if select.select([listening], [], [], 0.1)[0]:
                plain, _ = listening.accept()
                found.connections += 1
                _hear(plain, context, found)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield found
    finally:
        found._stop.set()
        thread.join()
        listening.close()


def _hear(plain: socket.socket, context: ssl.SSLContext, found: Impostor) -> None:
    plain.settimeout(2)
    with plain, suppress(OSError), context.wrap_socket(plain, server_side=True) as wrapped:
        found.shaken += 1
        while data := wrapped.recv(65536):
            found.received += data
            wrapped.sendall(found.answer)


@contextmanager
def silent_connections(machine: Machine, board: Board, count: int) -> Iterator[list[socket.socket]]:
    """That many connections to a node's port for peers, which say nothing."""

    def connect() -> list[socket.socket]:
        made = []
        for _ in range(count):
            sock = socket.socket()
            sock.settimeout(2)
            with suppress(OSError):
                sock.connect((board.address, PEERS_PORT))
            made.append(sock)
        return made

    opened = machine.call(connect)
    try:
        yield opened
    finally:
        for sock in opened:
            sock.close()
