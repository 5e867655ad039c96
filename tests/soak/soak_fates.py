"""Requests of every fate, mixed: answers, errors, traps, timeouts, clients that leave, bad HTTP."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence

from soak_lab import FULL, Answer, Client, Cut, Part, chunked, part, request

CLIENTS = 32


def parts() -> tuple[Part, ...]:
    small = {"memory": "1MiB", "concurrency": 64, "queue": 256, "timeout": "5s"}
    found = [
        part(name, **small)
        for name in (
            *("hello", "status", "echo", "sleeper", "lies", "exit", "silent", "recursion"),
            *("memory_bomb", "table_bomb", "start_trap", "late_trap", "endless_body"),
        )
    ]
    return (
        *found,
        part("counter", **small, reuse=100),
        part("outbound", **small, more='allowed_outbound_hosts = ["http://*.spin.internal"]'),
        part("cgi", wagi=True, **{**small, "memory": "32MiB"}),
        part("loop", **{**small, "timeout": "20ms"}),
        part("start_loop", **small),
        part("output_flood", **{**small, "timeout": "50ms"}),
        part("sleeper", "impatient", **{**small, "timeout": "50ms"}),
        *([part("python", concurrency=4, queue=256)] if FULL else []),
    )


class Mixture:
    """Clients that draw one fate after the other, always the same for the same seed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._chance = random.Random(7)
        self._left = 0
        self._fates: Sequence[str] = ()
        self.seen: Counter[str] = Counter()

    async def exhaust_stacks(self) -> None:
        """Fibers run on the pool's stacks, which keep the pages that any guest ever used. So that
        they do not pass for a leak all of them, 256 at most, are used to their end first.
        """
        await self.run(1500, ["recursion"])

    async def run(self, requests: int, fates: Sequence[str] = ()) -> None:
        """So many requests. Fails when one has an end that it may not have."""
        self._left = requests
        self._fates = fates or list(FATES)
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(self._client())

    async def _client(self) -> None:
        client = Client(self._port)
        weights = [FATES[name][0] for name in self._fates]
        try:
            while self._left > 0:
                self._left -= 1
                name = self._chance.choices(self._fates, weights)[0]
                await self._one(name, client)
        finally:
            client.close()

    async def _one(self, name: str, client: Client) -> None:
        try:
            async with asyncio.timeout(60):
                end = await FATES[name][1](client, self._chance)
        except TimeoutError:
            raise AssertionError(f"{name}: no end within a minute") from None
        except (AssertionError, Cut, ConnectionError) as exc:
            raise AssertionError(f"{name}: {exc!r}") from exc
        self.seen[f"{name}: {end}"] += 1

    def report(self) -> str:
        return ", ".join(f"{name} × {count}" for name, count in sorted(self.seen.items()))


# What became of a request, for the count; raises AssertionError when it may not.
Fate = Callable[[Client, random.Random], Awaitable[str]]


def expect(data: bytes, status: int, body: bytes | None = None) -> Fate:
    """An answer. Where all ask at once, being told to come back is one too."""

    async def run(client: Client, chance: random.Random) -> str:
        return checked(await client.ask(data), status, body)

    return run


def checked(answer: Answer, status: int, body: bytes | None = None) -> str:
    if answer.status == 503 != status:
        assert answer.headers["retry-after"]
        return "refused"
    assert answer.status == status, answer
    assert body is None or answer.body == body, answer.body[:100]
    return str(status)


def fails_late(data: bytes, *statuses: int) -> Fate:
    """The guest fails after its head: cut, or the truth while nothing had left the node."""

    async def run(client: Client, chance: random.Random) -> str:
        try:
            answer = await client.ask(data)
        except Cut:
            return "cut"
        return checked(answer, answer.status if answer.status in statuses else 500)

    return run


def leave(data: bytes, read: int = 0, *, politely: bool = False) -> Fate:
    """A client that goes away in the middle: of its request, of the guest's work, of the answer."""

    async def run(client: Client, chance: random.Random) -> str:
        client.close()
        await client.send(data)
        if read:
            await client.read_some(read)
        else:
            await asyncio.sleep(chance.random() * 0.01)
        if politely:
            client.close()
        else:
            client.abort()
        return "left"

    return run


def refused(data: bytes, status: int) -> Fate:
    """Bad HTTP: a clear status, and no more on that connection."""

    async def run(client: Client, chance: random.Random) -> str:
        client.close()
        try:
            answer = await client.ask(data)
        finally:
            client.close()
        assert answer.status == status, answer
        return str(status)

    return run


async def pipelined(client: Client, chance: random.Random) -> str:
    await client.send(request("/hello/1") + request("/status/404") + request("/hello/3"))
    ends = [checked(await client.receive(), status) for status in (200, 404, 200)]
    return "+".join(ends)


async def head(client: Client, chance: random.Random) -> str:
    answer = await client.ask(request("/hello/x", method="HEAD"), head=True)
    assert answer.body == b""
    return checked(answer, 200)


async def half_closed(client: Client, chance: random.Random) -> str:
    """It has said all it wants to say, and still waits for its answer."""
    client.close()
    await client.send(request("/sleeper/5"))
    client.half_close()
    answer = await client.receive()
    client.close()
    return checked(answer, 200, b"slept")


async def invited(client: Client, chance: random.Random) -> str:
    await client.send(request("/echo/", "expect: 100-continue", "content-length: 4", method="POST"))
    interim = await client.receive(head=True)
    if interim.status == 100:
        await client.send(b"body")
        return checked(await client.receive(), 200, b"body")
    client.close()
    return checked(interim, 503)


def counted() -> Fate:
    async def run(client: Client, chance: random.Random) -> str:
        answer = await client.ask(request("/counter/"))
        if answer.status == 200:
            assert 1 <= int(answer.body) <= 100
        return checked(answer, 200)

    return run


TEN_KB = bytes(range(250)) * 40
MUCH = TEN_KB * 10
PROMISED = request("/echo/", "content-length: 100000", method="POST")


def _fates() -> Iterator[tuple[str, float, Fate]]:
    # Good ones, most of them on a connection that stays.
    yield "hello", 30, expect(request("/hello/x"), 200)
    yield "status", 5, expect(request("/status/404"), 404)
    yield "echo", 8, expect(request("/echo/", method="POST", body=TEN_KB), 200, TEN_KB)
    yield "chunks", 2, expect(chunked("/echo/", *[TEN_KB] * 10), 200, MUCH)
    yield "reused", 8, counted()
    yield "sleeps", 4, expect(request("/sleeper/5"), 200, b"slept")
    yield "chained", 4, expect(request("/outbound/", "x-url: http://hello.spin.internal/x"), 200)
    yield "denied", 1, expect(request("/outbound/", "x-url: http://127.0.0.1:9/"), 502)
    yield "wagi", 3, expect(request("/cgi/env"), 200)
    yield "wagi body", 1, expect(request("/cgi/body", method="POST", body=TEN_KB), 200, TEN_KB)
    yield "pipelined", 2, pipelined
    yield "head", 1, head
    yield "invited", 1, invited
    yield "half closed", 1, half_closed
    yield "no route", 1, expect(request("/nowhere"), 404)
    if FULL:
        yield "python", 0.5, expect(request("/python/x"), 200)
    # Guests that fail.
    for lie in ("drop-twice", "string-outside", "realloc-outside", "realloc-traps"):
        yield lie, 1, expect(request(f"/lies/{lie}"), 500)
    yield "exit 0", 1, expect(request("/exit/0"), 500)
    yield "exit 1", 1, expect(request("/exit/1"), 500)
    yield "wagi exit", 0.5, expect(request("/cgi/exit/3"), 500)
    yield "wagi abort", 0.5, expect(request("/cgi/abort"), 500)
    yield "silent", 1, expect(request("/silent/"), 500)
    yield "error", 1, expect(request("/silent/error"), 500)
    yield "recursion", 0.5, expect(request("/recursion/"), 500)
    yield "memory bomb", 1, expect(request("/memory-bomb/"), 500)
    yield "table bomb", 1, expect(request("/table-bomb/"), 500)
    yield "start trap", 1, expect(request("/start-trap/"), 500)
    yield "start loop", 0.05, expect(request("/start-loop/"), 500)
    yield "early trap", 1, fails_late(request("/late-trap/quick/trap"))
    yield "late trap", 1, fails_late(request("/late-trap/trap"))
    yield "late exit", 0.5, fails_late(request("/late-trap/exit"))
    yield "unfinished", 0.5, fails_late(request("/late-trap/return"))
    yield "reused trap", 1, fails_late(request("/counter/trap"), 200)
    yield "reused leak", 1, expect(request("/counter/leak"), 200)
    yield "loop", 0.2, expect(request("/loop/"), 504)
    yield "late loop", 0.1, fails_late(request("/loop/late"), 504)
    yield "timeout", 1, expect(request("/impatient/10000"), 504)
    yield "flood", 0.02, expect(request("/output-flood/"), 504)
    # Clients that fail.
    yield "leaves a sleeper", 2, leave(request("/sleeper/1000"))
    yield "closes on a sleeper", 1, leave(request("/sleeper/1000"), politely=True)
    yield "leaves a loop", 0.05, leave(request("/loop/"))
    yield "leaves a command", 0.5, leave(request("/cgi/sleep/1"))
    yield (
        "leaves a chain",
        0.5,
        leave(request("/outbound/", "x-url: http://sleeper.spin.internal/1000")),
    )
    yield "half a head", 1, leave(b"GET /hello/x HTTP/1.1\r\nhost: so")
    yield "half a body", 1, leave(PROMISED + TEN_KB)
    yield "half a body, read", 0.5, leave(PROMISED + TEN_KB, read=1000)
    yield "half a chunk", 1, leave(chunked("/echo/", TEN_KB, end=b"ffff\r\nand"))
    yield "half an answer", 1, leave(request("/endless-body/"), read=10_000)
    yield "no request", 0.5, refused(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400)
    yield (
        "two lengths",
        0.5,
        refused(
            request("/echo/", "content-length: 3", "transfer-encoding: chunked", method="POST"), 400
        ),
    )
    yield "a long head", 0.2, refused(request("/hello/x", "x: " + "y" * 60_000), 431)


FATES: dict[str, tuple[float, Fate]] = {name: (weight, fate) for name, weight, fate in _fates()}
