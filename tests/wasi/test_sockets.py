"""wasi:sockets over real sockets on loopback: grants, states, streams, datagrams, names."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from edge.application.hosts import AllowedHosts
from edge.engine.host import Err, Trap
from edge.wasi.context import Context
from edge.wasi.io import Error, InputStream, OutputStream
from edge.wasi.outbound import Egress, Grants, Limits, Outbound, Resolver
from edge.wasi.sockets import INTERFACES
from edge.wasi.sockets.lookup import IP_NAME_LOOKUP, ResolveAddressStream
from edge.wasi.sockets.network import (
    NETWORK,
    Network,
    WasiAddress,
    host_address,
    wasi_address,
    wasi_ip,
)
from edge.wasi.sockets.tcp import TCP_CREATE_SOCKET, TcpSocket
from edge.wasi.sockets.udp import (
    UDP_CREATE_SOCKET,
    IncomingDatagramStream,
    OutgoingDatagramStream,
    UdpSocket,
)

NET = Network()
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def invocation(
    *hosts: str, names: dict[str, list[str]] | None = None, connections: int = 16
) -> AsyncIterator[Context]:
    def lookup(name: str) -> list[str]:
        if name not in (names or {}):
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return (names or {})[name]

    egress = Egress(Resolver(lookup))
    grants = Grants(AllowedHosts.parse(hosts), limits=Limits(connections=connections))
    outbound = Outbound(grants, egress)
    yield Context(outbound=outbound)
    await outbound.close()
    await asyncio.sleep(0)
    assert egress.open == 0
    egress.resolver.close()


@contextlib.asynccontextmanager
async def server(serve: Serve) -> AsyncIterator[WasiAddress]:
    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    made = await asyncio.start_server(one, "127.0.0.1", 0)
    yield wasi_address(made.sockets[0].getsockname())
    made.close()


def tcp(context: Context, family: str = "ipv4") -> TcpSocket:
    made = TCP_CREATE_SOCKET.functions["create-tcp-socket"].call(context, family)
    assert isinstance(made, TcpSocket)
    return made


def udp(context: Context) -> UdpSocket:
    made = UDP_CREATE_SOCKET.functions["create-udp-socket"].call(context, "ipv4")
    assert isinstance(made, UdpSocket)
    return made


def refused(call: Callable[..., object], *arguments: object) -> object:
    """The error that a call raises or returns."""
    try:
        result = call(*arguments)
    except Err as error:
        return error.payload
    assert isinstance(result, Err), result
    return result.payload


async def connect(sock: TcpSocket, address: WasiAddress) -> tuple[InputStream, OutputStream]:
    sock.start_connect(NET, address)
    while True:
        try:
            return sock.finish_connect()
        except Err as error:
            if error.payload != "would-block":
                raise
            await sock.subscribe().wait()


async def read(stream: InputStream) -> bytes:
    parts: list[bytes] = []
    with contextlib.suppress(Err):
        while True:
            data = stream.read(65_536)
            parts.append(data)
            if not data:
                await stream.wait()
    return b"".join(parts)


def address(text: str, port: int = 1) -> WasiAddress:
    return wasi_address((text, port, 0, 0))


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()


async def test_without_grants_everything_is_denied() -> None:
    async with invocation() as empty:
        for context in (Context(), empty):
            for interface, name in (
                (TCP_CREATE_SOCKET, "create-tcp-socket"),
                (UDP_CREATE_SOCKET, "create-udp-socket"),
            ):
                call = interface.functions[name].call
                assert refused(call, context, "ipv4") == "access-denied"
            lookup = IP_NAME_LOOKUP.functions["resolve-addresses"].call
            assert refused(lookup, context, NET, "localhost") == "access-denied"


@pytest.mark.parametrize(
    "text", ["127.0.0.1", "0.0.0.0", "255.1.2.3", "::1", "2001:db8::ff00:42:8329", "fe80::1"]
)
def test_addresses_survive_the_way_there_and_back(text: str) -> None:
    made = address(text, 4711)
    assert host_address(made[0], made) == (text, 4711)


def test_mapped_addresses_become_ipv4() -> None:
    assert wasi_ip("::ffff:1.2.3.4") == ("ipv4", (1, 2, 3, 4))


async def test_tcp_talks_to_whom_it_is_granted() -> None:
    async with invocation("tcp://127.0.0.1:*") as context, server(echo) as target:
        sock = tcp(context)
        incoming, outgoing = await connect(sock, target)
        assert sock.remote_address() == target
        assert sock.local_address()[1][1] == (127, 0, 0, 1)
        outgoing.check_write()
        outgoing.write(b"hello")
        sock.shutdown("send")
        assert await read(incoming) == b"hello"
        assert refused(outgoing.check_write) == "closed"
        sock.shutdown("both")
        sock.shutdown("both")
        sock.drop()


async def test_tcp_is_denied_elsewhere() -> None:
    async with invocation("tcp://127.0.0.1:80", "http://*:*", "tcp://10.0.0.0/8:*") as context:
        sock = tcp(context)
        for target in (address("127.0.0.1", 81), address("192.168.1.1", 80)):
            assert refused(sock.start_connect, NET, target) == "access-denied"
        for wrong in (
            address("0.0.0.0"),
            address("127.0.0.1", 0),
            address("::1"),
        ):
            assert refused(sock.start_connect, NET, wrong) == "invalid-argument"
        sock.drop()
        sock = tcp(context, "ipv6")
        mapped: WasiAddress = ("ipv6", (80, 0, (0, 0, 0, 0, 0, 0xFFFF, 0x7F00, 1), 0))
        assert refused(sock.start_connect, NET, mapped) == "invalid-argument"
        sock.drop()


async def test_states_of_a_tcp_socket() -> None:
    async with invocation("tcp://127.0.0.1:*") as context, server(echo) as target:
        sock = tcp(context)
        assert refused(sock.finish_connect) == "not-in-progress"
        assert refused(sock.start_bind, NET, address("127.0.0.1", 0)) == "access-denied"
        assert refused(sock.finish_bind) == "not-in-progress"
        assert refused(sock.start_listen) == "invalid-state"
        assert refused(sock.finish_listen) == "not-in-progress"
        assert refused(sock.accept) == "invalid-state"
        assert refused(sock.local_address) == "invalid-state"
        assert refused(sock.remote_address) == "invalid-state"
        assert refused(sock.shutdown, "both") == "invalid-state"
        assert sock.subscribe().ready()
        sock.start_connect(NET, target)
        assert refused(sock.start_connect, NET, target) == "concurrency-conflict"
        await sock.subscribe().wait()
        streams = sock.finish_connect()
        assert refused(sock.finish_connect) == "not-in-progress"
        assert refused(sock.start_connect, NET, target) == "invalid-state"
        assert refused(sock.set_listen_backlog_size, 1) == "invalid-state"
        assert not sock.is_listening()
        for stream in streams:
            stream.drop()
        sock.drop()


async def test_a_refused_connection_closes_the_socket() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        target = wasi_address(unused.getsockname())
        async with invocation("tcp://127.0.0.1:*") as context:
            sock = tcp(context)
            with pytest.raises(Err) as raised:
                await connect(sock, target)
            assert raised.value.payload == "connection-refused"
            assert refused(sock.start_connect, NET, target) == "invalid-state"
            assert refused(sock.keep_alive_enabled) == "invalid-state"
            sock.drop()


async def test_options_of_a_tcp_socket() -> None:
    second = 1_000_000_000
    async with invocation("tcp://*:*") as context:
        sock = tcp(context)
        assert sock.address_family() == "ipv4"
        sock.set_keep_alive_enabled(True)
        assert sock.keep_alive_enabled()
        sock.set_keep_alive_idle_time(1)
        assert sock.keep_alive_idle_time() == second
        sock.set_keep_alive_interval(2**64 - 1)
        assert sock.keep_alive_interval() == 32_767 * second
        sock.set_keep_alive_count(2**32 - 1)
        assert sock.keep_alive_count() == 127
        sock.set_hop_limit(7)
        assert sock.hop_limit() == 7
        sock.set_receive_buffer_size(10_000)
        assert sock.receive_buffer_size() == 10_000
        sock.set_send_buffer_size(2**64 - 1)
        assert 4096 < sock.send_buffer_size() <= 2**20
        for setter in (
            sock.set_keep_alive_idle_time,
            sock.set_keep_alive_interval,
            sock.set_keep_alive_count,
            sock.set_hop_limit,
            sock.set_receive_buffer_size,
            sock.set_send_buffer_size,
            sock.set_listen_backlog_size,
        ):
            assert refused(setter, 0) == "invalid-argument"
        sock.drop()


async def test_large_data_flows_with_back_pressure() -> None:
    total, block = 8 * 2**20, bytes(65_536)
    async with invocation("tcp://127.0.0.1:*") as context, server(echo) as target:
        sock = tcp(context)
        incoming, outgoing = await connect(sock, target)

        async def write() -> None:
            left, stalled = total, 0
            while left:
                room = outgoing.check_write()
                if not room:
                    stalled += 1
                    await outgoing.wait()
                    continue
                outgoing.write(block[:room])
                left -= len(block[:room])
            sock.shutdown("send")
            assert stalled

        async with asyncio.TaskGroup() as group:
            group.create_task(write())
            await asyncio.sleep(0.1)
            assert len(await read(incoming)) == total
        sock.drop()


async def test_what_was_written_arrives_though_the_guest_is_gone() -> None:
    received, may_read = [], asyncio.Event()

    async def slow(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await may_read.wait()
        received.append(len(await reader.read(-1)))

    async with server(slow) as target:
        async with invocation("tcp://127.0.0.1:*") as context:
            sock = tcp(context)
            sock.set_send_buffer_size(4096)
            _, outgoing = await connect(sock, target)
            written = 0
            while room := outgoing.check_write():
                outgoing.write(bytes(room))
                written += room
            outgoing.drop()
            sock.drop()
            assert context.outbound.busy
            may_read.set()
        await asyncio.sleep(0.05)
        assert received == [written]


async def test_a_reset_is_an_error_with_a_code() -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async with invocation("tcp://127.0.0.1:*") as context, server(reset) as target:
        sock = tcp(context)
        incoming, outgoing = await connect(sock, target)
        outgoing.check_write()
        outgoing.write(bytes(60_000))
        await incoming.wait()
        kind, error = refused(incoming.read, 10)  # type: ignore[misc]
        assert kind == "last-operation-failed"
        assert NETWORK.functions["network-error-code"].call(None, error) == "connection-reset"
        assert NETWORK.functions["network-error-code"].call(None, Error(ValueError())) is None
        sock.drop()


async def test_dropping_a_socket_wakes_and_closes_its_streams() -> None:
    async with invocation("tcp://127.0.0.1:*") as context, server(echo) as target:
        sock = tcp(context)
        incoming, outgoing = await connect(sock, target)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(incoming.wait())
            await asyncio.sleep(0)
            sock.drop()
        assert waiting.done()
        assert refused(incoming.read, 1) == "closed"
        assert refused(outgoing.check_write) == "closed"


async def test_sockets_count_as_connections() -> None:
    async with invocation("tcp://*:*", "udp://*:*", connections=2) as context:
        socks = [tcp(context), udp(context)]
        call = TCP_CREATE_SOCKET.functions["create-tcp-socket"].call
        assert refused(call, context, "ipv4") == "new-socket-limit"
        for sock in socks:
            sock.drop()


def bound(context: Context) -> UdpSocket:
    sock = udp(context)
    sock.start_bind(NET, address("0.0.0.0", 0))
    sock.finish_bind()
    return sock


@contextlib.contextmanager
def peer() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", 0))
        made.settimeout(5)
        yield made


async def arrived(stream: IncomingDatagramStream) -> list[tuple[bytes, WasiAddress]]:
    async with asyncio.timeout(5):
        await stream.subscribe().wait()
    return stream.receive(100)


async def test_udp_sends_and_receives() -> None:
    with peer() as other:
        target = wasi_address(other.getsockname())
        async with invocation("udp://127.0.0.1:*") as context:
            sock = bound(context)
            incoming, outgoing = sock.stream(None)
            assert outgoing.check_send() > 1
            assert outgoing.send([(b"one", target), (b"", target)]) == 2
            data, sender = other.recvfrom(100)
            assert (data, sender[1]) == (b"one", sock.local_address()[1][0])
            assert other.recv(100) == b""
            assert incoming.receive(10) == []
            assert not incoming.subscribe().ready()
            other.sendto(b"two", sender)
            assert await arrived(incoming) == [(b"two", target)]
            assert incoming.receive(0) == []
            sock.drop()
            assert incoming.subscribe().ready()
            assert incoming.receive(1) == []


async def test_udp_is_denied_elsewhere_and_hears_nobody_else() -> None:
    with peer() as friend, peer() as stranger:
        port = friend.getsockname()[1]
        async with invocation(f"udp://127.0.0.1:{port}") as context:
            sock = bound(context)
            incoming, outgoing = sock.stream(None)
            outgoing.check_send()
            elsewhere = wasi_address(stranger.getsockname())
            assert refused(outgoing.send, [(b"x", elsewhere)]) == "access-denied"
            assert refused(sock.stream, elsewhere) == "access-denied"
            mine = ("127.0.0.1", sock.local_address()[1][0])
            for _ in range(100):
                stranger.sendto(b"noise", mine)
            friend.sendto(b"word", mine)
            assert [data for data, _ in await arrived(incoming)] == [b"word"]
            sock.drop()


async def test_udp_with_a_peer_talks_to_it_alone() -> None:
    with peer() as one, peer() as two:
        first, second = wasi_address(one.getsockname()), wasi_address(two.getsockname())
        async with invocation("udp://127.0.0.1:*") as context:
            sock = bound(context)
            old_in, old_out = sock.stream(second)
            incoming, outgoing = sock.stream(first)
            assert sock.remote_address() == first
            assert old_in.receive(1) == []
            assert refused(old_out.check_send) == "invalid-state"
            outgoing.check_send()
            assert outgoing.send([(b"a", None), (b"b", first), (b"c", second)]) == 2
            assert one.recv(10) + one.recv(10) == b"ab"
            mine = ("127.0.0.1", sock.local_address()[1][0])
            two.sendto(b"no", mine)
            one.sendto(b"yes", mine)
            assert await arrived(incoming) == [(b"yes", first)]
            sock.drop()


async def test_states_of_a_udp_socket() -> None:
    async with invocation("udp://127.0.0.1:*") as context:
        sock = udp(context)
        assert refused(sock.stream, None) == "invalid-state"
        assert refused(sock.finish_bind) == "not-in-progress"
        assert refused(sock.local_address) == "invalid-state"
        assert refused(sock.remote_address) == "invalid-state"
        assert refused(sock.start_bind, NET, address("0.0.0.0", 53)) == "access-denied"
        assert refused(sock.start_bind, NET, address("127.0.0.1", 0)) == "access-denied"
        assert refused(sock.start_bind, NET, address("::", 0)) == "invalid-argument"
        sock.start_bind(NET, address("0.0.0.0", 0))
        assert refused(sock.start_bind, NET, address("0.0.0.0", 0)) == "concurrency-conflict"
        sock.finish_bind()
        assert refused(sock.start_bind, NET, address("0.0.0.0", 0)) == "invalid-state"
        assert sock.address_family() == "ipv4"
        sock.set_unicast_hop_limit(3)
        assert sock.unicast_hop_limit() == 3
        sock.set_receive_buffer_size(5000)
        assert sock.receive_buffer_size() == 5000
        sock.set_send_buffer_size(5000)
        assert sock.send_buffer_size() == 5000
        assert sock.subscribe().ready()
        _, outgoing = sock.stream(None)
        assert isinstance(outgoing, OutgoingDatagramStream)
        with pytest.raises(Trap):
            outgoing.send([(b"", None)])
        outgoing.check_send()
        assert outgoing.send([]) == 0
        assert refused(outgoing.send, [(b"", None)]) == "invalid-argument"
        outgoing.check_send()
        too_large = [(bytes(70_000), address("127.0.0.1", 9))]
        assert refused(outgoing.send, too_large) == "datagram-too-large"
        assert outgoing.subscribe().ready()
        sock.drop()


def resolve(context: Context, name: str) -> ResolveAddressStream:
    made = IP_NAME_LOOKUP.functions["resolve-addresses"].call(context, NET, name)
    assert isinstance(made, ResolveAddressStream)
    return made


async def test_names_are_resolved_when_a_grant_could_use_them() -> None:
    names = {"db.example": ["::1", "::ffff:127.0.0.1"]}
    async with invocation("tcp://db.example:*", names=names) as context, server(echo) as target:
        stream = resolve(context, "DB.example")
        assert refused(stream.resolve_next_address) == "would-block"
        await stream.subscribe().wait()
        assert stream.resolve_next_address() == ("ipv6", (0, 0, 0, 0, 0, 0, 0, 1))
        assert stream.resolve_next_address() == ("ipv4", (127, 0, 0, 1))
        assert stream.resolve_next_address() is None
        stream.drop()
        lookup = IP_NAME_LOOKUP.functions["resolve-addresses"].call
        assert refused(lookup, context, NET, "other.example") == "access-denied"
        # A name that leads to this machine does not open it.
        sock = tcp(context)
        assert refused(sock.start_connect, NET, target) == "access-denied"
        sock.drop()


async def test_a_granted_name_may_be_connected_to_after_its_lookup() -> None:
    async with (
        invocation("tcp://localhost:*", names={"localhost": ["127.0.0.1"]}) as context,
        server(echo) as target,
    ):
        sock = tcp(context)
        assert refused(sock.start_connect, NET, target) == "access-denied"
        stream = resolve(context, "localhost")
        await stream.subscribe().wait()
        await connect(sock, target)
        sock.drop()


@pytest.mark.parametrize("name", ["", "a b", "-a", "a-", "a..b", "a" * 64, "\u2024", "é" * 300])
async def test_a_malformed_name_is_an_invalid_argument(name: str) -> None:
    async with invocation("tcp://*:*") as context:
        lookup = IP_NAME_LOOKUP.functions["resolve-addresses"].call
        assert refused(lookup, context, NET, name) == "invalid-argument"


async def test_unknown_names_literals_and_unicode() -> None:
    async with invocation("tcp://*:*", names={"xn--mnchen-3ya.de": ["1.2.3.4"]}) as context:
        stream = resolve(context, "nowhere.example")
        await stream.subscribe().wait()
        assert refused(stream.resolve_next_address) == "name-unresolvable"
        for name in ("1.2.3.4", "münchen.de"):
            stream = resolve(context, name)
            if not stream.subscribe().ready():
                await stream.subscribe().wait()
            assert stream.resolve_next_address() == ("ipv4", (1, 2, 3, 4))


async def test_a_dropped_lookup_is_over() -> None:
    async with invocation("tcp://*:*", names={"a": ["1.2.3.4"]}) as context:
        resolve(context, "a").drop()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not context.outbound.busy


def test_every_interface_is_there() -> None:
    assert len({interface.name for interface in INTERFACES}) == 7
