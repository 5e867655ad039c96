"""`edge up --watch` under load: a change costs nobody a request, a mistake changes nothing."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from conftest import Serve, Served
from soak_lab import (
    Client,
    Guest,
    descriptors,
    eventually,
    memory,
    part,
    request,
    say,
    sized,
    write_application,
)

SWAPS = sized(40, 10)
LOAD = 8  # clients that never pause
# What each guest answers on /hello/x.
ANSWERS = {"hello": b"hello /hello/x", "counter": b"1"}


async def test_swaps_drop_no_request(guest: Guest, serve: Serve, tmp_path: Path) -> None:
    wasm = tmp_path / "live.wasm"
    shutil.copyfile(guest("hello"), wasm)
    parts = (part("hello", concurrency=64, queue=256), part("sleeper"))
    application = write_application(
        tmp_path, lambda name: wasm if name == "hello" else guest(name), parts
    )
    with serve(application, "--watch") as served:
        pid, name = served.process.pid, "hello"
        async with under_load(served.port) as seen:
            await answered(served.port, ANSWERS["hello"])
            opened, mapped, one = descriptors(pid), [], mappings(pid)
            before = memory(pid)["Pss"]
            started = time.monotonic()
            for _ in range(SWAPS):
                name = "counter" if name == "hello" else "hello"
                put(wasm, guest(name).read_bytes())
                await answered(served.port, ANSWERS[name])
                mapped.append(mappings(pid))
            elapsed = time.monotonic() - started
        say(
            f"{SWAPS} swaps in {elapsed:.0f} s under {sum(seen.values())} requests: {dict(seen)}; "
            f"PSS grew by {(memory(pid)['Pss'] - before) / 1e6:.1f} MB"
        )
        assert set(seen) == {*ANSWERS.values(), b"slept"}
        # It goes up and down by the versions that wait for the collector; kept, each would be more
        # by what the second one brought.
        early, late = mapped[2 : SWAPS // 2], mapped[SWAPS // 2 :]
        gone = f"code of versions that are gone is still mapped: {one}, {mapped}"
        assert min(late) < max(early) + mapped[0] - one, gone
        assert await eventually(lambda: descriptors(pid) <= opened), descriptors(pid)
    assert sum("swapped: soak" in line for line in served.log) >= SWAPS


async def test_a_mistake_keeps_the_old_version_and_says_why(
    guest: Guest, serve: Serve, tmp_path: Path
) -> None:
    wasm = tmp_path / "live.wasm"
    shutil.copyfile(guest("hello"), wasm)
    application = write_application(tmp_path, lambda _: wasm, (part("hello"),))
    manifest = (tmp_path / "spin.toml").read_text()
    hello = wasm.read_bytes()
    with serve(application, "--watch") as served:
        async with under_load(served.port, sleepers=0) as seen:
            for path, content in (
                (wasm, b"\0asm\x0d\0\1\0 and nonsense"),
                (wasm, hello[:500]),
                (wasm, b""),
                (tmp_path / "spin.toml", manifest.encode() + b"\nthis is no TOML"),
                (tmp_path / "spin.toml", manifest.replace("source", "sauce").encode()),
            ):
                whole, refusals = path.read_bytes(), count(served, "not swapped")
                put(path, content)
                assert await eventually(lambda n=refusals: count(served, "not swapped") > n)
                put(path, whole)
                await asyncio.sleep(1.2)
            refusals = count(served, "not swapped")
            wasm.unlink()
            assert await eventually(lambda: count(served, "not swapped") > refusals)
            put(wasm, guest("counter").read_bytes())
            await answered(served.port, ANSWERS["counter"])
            assert await eventually(lambda: ANSWERS["counter"] in seen)  # by the load, too
        assert set(seen) == set(ANSWERS.values())
    text = "".join(served.log)
    for reason in ("sauce", "TOML", "component hello", "live.wasm does not exist"):
        assert reason in text, text
    assert "Traceback" not in text, text


@asynccontextmanager
async def under_load(port: int, *, sleepers: int = 2) -> AsyncIterator[Counter[bytes]]:
    """Requests without a pause meanwhile, and slow ones; counts the answers, fails on any other."""
    seen: Counter[bytes] = Counter()
    over = asyncio.Event()

    async def ask(path: str) -> None:
        client = Client(port)
        try:
            while not over.is_set():
                answer = await client.ask(request(path))
                assert answer.status == 200, answer
                seen[answer.body] += 1
                await asyncio.sleep(0.002)
        finally:
            client.close()

    async with asyncio.TaskGroup() as group:
        for number in range(LOAD + sleepers):
            group.create_task(ask("/hello/x" if number < LOAD else "/sleeper/1500"))
        yield seen
        over.set()


async def answered(port: int, body: bytes) -> None:
    """Waits until that is the answer."""
    client = Client(port)
    try:
        async with asyncio.timeout(30):
            while (await client.ask(request("/hello/x"))).body != body:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    finally:
        client.close()


def put(path: Path, content: bytes) -> None:
    """As a build does it at best: in one step."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(content)
    temporary.replace(path)


def count(served: Served, text: str) -> int:
    return sum(text in line for line in served.log)


def mappings(pid: int) -> int:
    return Path(f"/proc/{pid}/maps").read_text().count(".cwasm")
