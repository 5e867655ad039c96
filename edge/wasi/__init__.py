"""The WASI host: 0.2 in all its patch versions, and preview 1 over the same parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge.engine.host import CoreInterface, Interface


def interfaces() -> tuple[Interface | CoreInterface, ...]:
    """Every interface this host has, one a line."""
    # Not at the top: whoever needs only the byte streams would load all of WASI with them.
    from edge.wasi import cli, clocks, filesystem, io, poll, preview1, random
    from edge.wasi.http import types as http
    from edge.wasi.sockets import lookup, network, tcp, udp

    return (
        io.ERROR,
        io.STREAMS,
        poll.POLL,
        clocks.MONOTONIC_CLOCK,
        clocks.WALL_CLOCK,
        random.RANDOM,
        random.INSECURE,
        random.INSECURE_SEED,
        cli.ENVIRONMENT,
        cli.EXIT,
        cli.STDIN,
        cli.STDOUT,
        cli.STDERR,
        cli.TERMINAL_INPUT,
        cli.TERMINAL_OUTPUT,
        cli.TERMINAL_STDIN,
        cli.TERMINAL_STDOUT,
        cli.TERMINAL_STDERR,
        filesystem.TYPES,
        filesystem.PREOPENS,
        http.TYPES,
        http.OUTGOING_HANDLER,
        network.NETWORK,
        network.INSTANCE_NETWORK,
        lookup.IP_NAME_LOOKUP,
        tcp.TCP,
        tcp.TCP_CREATE_SOCKET,
        udp.UDP,
        udp.UDP_CREATE_SOCKET,
        preview1.interface(),
    )
