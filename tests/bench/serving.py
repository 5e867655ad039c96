"""Requests a second, what one costs the processor, and latency: ours and the peers in turn."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from build import guests
from load import Result, load
from servers import Server, aiohttp_bare, edge, wasmtime_serve

Row = tuple[str, str, dict[str, list[float]]]
Start = Callable[[], AbstractContextManager[Server]]

BODY = 64 * 1024
REUSE = 1000
WIDE = {"concurrency": 64}
# What interprets wants more memory than a small guest.
LARGE = {**WIDE, "memory": "128MiB"}
# Guests that compute without end beside those that are measured.
NEIGHBOURS = 4


def guest(name: str) -> Path:
    made = guests()[name]
    made.make()
    return made.output


def rows(rounds: int, seconds: int) -> Iterator[Row]:
    """On one core. A fresh sandbox for each request, but where it says `reuse`."""
    small, echo, python, javascript = map(guest, ("hello", "echo", "python", "javascript"))
    with TemporaryDirectory() as folder:
        # What is compiled for one row is there for the next.
        ours = partial(edge, state=Path(folder))
        for row, wasm, options, body in (
            ("small guest", small, WIDE, 0),
            ("64 KiB echoed", echo, WIDE, BODY),
            ("Python guest", python, LARGE, 0),
            ("JavaScript guest", javascript, LARGE, 0),
        ):
            starts: dict[str, Start] = {
                "edge": partial(ours, wasm, **options),
                "wasmtime serve": partial(wasmtime_serve, wasm),
            }
            if options is WIDE:
                starts["aiohttp"] = aiohttp_bare
            yield from compared(row, starts, rounds, seconds, body=body)
            if body:
                continue
            starts = {
                "edge": partial(ours, wasm, reuse=REUSE, **options),
                "wasmtime serve": partial(wasmtime_serve, wasm, reuse=REUSE),
            }
            reused = f"{row}, reuse {REUSE}"
            yield from compared(reused, starts, rounds, seconds, latency=False)


def compared(
    row: str,
    starts: Mapping[str, Start],
    rounds: int,
    seconds: int,
    *,
    body: int = 0,
    latency: bool = True,
) -> Iterator[Row]:
    """Full load, then half of what each of them did."""
    with ExitStack() as stack:
        servers = {name: stack.enter_context(start()) for name, start in starts.items()}
        full: dict[str, list[Result]] = {name: [] for name in servers}
        cost: dict[str, list[float]] = {name: [] for name in servers}
        for server in servers.values():
            load(server.url("/warm"), 1, body)
        for number in range(rounds):
            for name, server in in_turn(servers, number):
                before = server.cpu()
                result = load(server.url("/full"), seconds, body)
                full[name].append(result)
                cost[name].append(1e6 * (server.cpu() - before) / result.requests)
        yield row, "requests/s", {n: [r.rate for r in rs] for n, rs in full.items()}
        yield f"{row}: processor time of a request", "µs", cost
        if latency:
            rates = {name: median(r.rate for r in rs) / 2 for name, rs in full.items()}
            # Each at half of its own rate: the wait that its users see on a day of half its load.
            yield from paced(f"{row}, half load", servers, rates, rounds, seconds, body)
            # The same users with the one and the other.
            same = dict.fromkeys(servers, rates["wasmtime serve"])
            yield from paced(f"{row}, at half of the peer's", servers, same, rounds, seconds, body)
    no_failures(row, full.values())


def paced(
    row: str,
    servers: Mapping[str, Server],
    rates: Mapping[str, float],
    rounds: int,
    seconds: int,
    body: int,
) -> Iterator[Row]:
    """Latency at these rates."""
    results: dict[str, list[Result]] = {name: [] for name in servers}
    for number in range(rounds):
        for name, server in in_turn(servers, number):
            results[name].append(load(server.url("/half"), seconds, body, rates[name]))
    for what in ("p50", "p99"):
        yield (
            f"{row}, {what}",
            "µs",
            {n: [getattr(r, what) for r in rs] for n, rs in results.items()},
        )
    no_failures(row, results.values())


def in_turn(servers: Mapping[str, Server], number: int) -> list[tuple[str, Server]]:
    """Who comes first changes from round to round: the second finds a warmer machine."""
    order = list(servers.items())
    first = number % len(order)
    return order[first:] + order[:first]


def no_failures(row: str, results: Iterable[list[Result]]) -> None:
    bad = sum(result.bad for some in results for result in some)
    if bad:
        raise RuntimeError(f"{row}: {bad} requests failed")


# --- neighbours -----------------------------------------------------------------------------------


def neighbours(rounds: int, seconds: int) -> Iterator[Row]:
    """Latency at half load, alone and beside guests of the same node that compute without end."""
    alone: list[Result] = []
    beside: list[Result] = []
    with edge(guest("hello"), beside=guest("loop"), **WIDE) as server:
        load(server.url("/warm"), 1)
        rate = load(server.url("/full"), max(2, seconds)).rate / 2
        for _ in range(rounds):
            alone.append(load(server.url("/half"), seconds, rate=rate))
            with computing(server.port, "/beside/"):
                beside.append(load(server.url("/half"), seconds, rate=rate))
    no_failures("neighbours", [alone, beside])
    for what in ("p50", "p99"):
        figures = {
            "edge": [getattr(r, what) for r in beside],
            "alone": [getattr(r, what) for r in alone],
        }
        yield (
            f"small guest, half load, {NEIGHBOURS} guests compute beside it, {what}",
            "µs",
            figures,
        )


@contextmanager
def computing(port: int, path: str) -> Iterator[None]:
    """Requests under way of guests that do not end by themselves."""
    with ExitStack() as stack:
        clients = []
        for _ in range(NEIGHBOURS):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            # Ends with a reset: who only says no more may still wait for an answer.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(f"GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n".encode())
            clients.append(client)
        yield
        ended, _, _ = select.select(clients, [], [], 0)
        if ended:
            raise RuntimeError(f"{path}: the guests did not compute all the time")
