"""The node is killed while guests write: what was acknowledged is there, the files are whole."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from soak_lab import Answer, Client, Cut, Guest, part, request, say, sized, write_application

KILLS = sized(200, 8)
WRITERS = 6  # of each kind
LONGEST = 0.4  # seconds of writing before a kill; the shortest is none at all
GRANTS = 'key_value_stores = ["default"]\nsqlite_databases = ["default"]'
TABLE = b"CREATE TABLE IF NOT EXISTS t (writer INTEGER, number INTEGER)"


@dataclass(slots=True)
class Ledger:
    """What was asked for and what of it was acknowledged, over all lives of the node."""

    asked: int = 0  # increments
    counted: int = 0
    keys: dict[int, tuple[int, int]] = field(default_factory=dict)  # writer -> acknowledged, asked
    rows: set[tuple[int, int]] = field(default_factory=set)
    rows_asked: int = 0
    sets: int = 0
    number: int = 0  # of the last write

    @property
    def acknowledged(self) -> int:
        return self.counted + self.sets + len(self.rows)


def test_kills_lose_nothing_that_was_acknowledged(guest: Guest, tmp_path: Path) -> None:
    application = write_application(
        tmp_path, guest, [part("store", more=GRANTS, concurrency=64, queue=256)]
    )
    state, seed = tmp_path / "state", random.randrange(1 << 32)
    chance, ledger = random.Random(seed), Ledger()
    started = time.monotonic()
    for _ in range(KILLS):
        with node(application, state) as (process, port):
            asyncio.run(life(process, port, ledger, chance.uniform(0, LONGEST)))
        whole(state, tmp_path / "copy")
    with node(application, state) as (process, port):
        asyncio.run(check(port, ledger))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert not list(state.rglob("*-wal")), "a node that ends by itself leaves no log"
    say(
        f"{KILLS} kills in {time.monotonic() - started:.0f} s (seed {seed}): "
        f"{ledger.acknowledged} acknowledged writes, {ledger.counted} of them increments"
    )
    assert ledger.counted > KILLS
    assert ledger.sets > KILLS
    assert len(ledger.rows) > KILLS


@contextmanager
def node(application: Path, state: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A node that serves; killed on leaving unless it has ended."""
    command = [str(Path(sys.executable).parent / "edge"), "up", str(application)]
    command += ["--listen", "127.0.0.1:0", "--state-dir", str(state)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=application
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("listening on "), "the node did not start"
        yield process, int(line.strip().rpartition(":")[2])
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def life(process: subprocess.Popen[str], port: int, ledger: Ledger, seconds: float) -> None:
    """What was there before is there; then all write until the node is killed."""
    await check(port, ledger)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for number in range(WRITERS):
            for write in (increment, put, insert):
                group.create_task(writing(port, number, write, ledger))
        await asyncio.sleep(seconds)
        process.kill()


Write = Callable[[Client, int, Ledger], Awaitable[None]]


async def writing(port: int, number: int, write: Write, ledger: Ledger) -> None:
    """Writes for as long as the node lives."""
    client = Client(port)
    try:
        while True:
            await write(client, number, ledger)
    except (Cut, OSError):
        return
    finally:
        client.close()


async def increment(client: Client, _writer: int, ledger: Ledger) -> None:
    ledger.asked += 1
    answer = await client.ask(request("/store/increment/n"))
    assert answer.status == 200, answer
    assert int(answer.body) > ledger.counted - WRITERS
    ledger.counted += 1


async def put(client: Client, writer: int, ledger: Ledger) -> None:
    ledger.number += 1
    number = ledger.number
    ledger.keys[writer] = ledger.keys.get(writer, (0, 0))[0], number
    answer = await client.ask(request(f"/store/set/w{writer}/{number}"))
    assert answer.status == 200, answer
    ledger.keys[writer] = number, number
    ledger.sets += 1


async def insert(client: Client, writer: int, ledger: Ledger) -> None:
    ledger.number += 1
    row = writer, ledger.number
    ledger.rows_asked += 1
    answer = await sql(client, b"INSERT INTO t VALUES (%d, %d)" % row)
    assert answer.status == 200, answer
    ledger.rows.add(row)


async def sql(client: Client, statement: bytes) -> Answer:
    return await client.ask(request("/store/sql", method="POST", body=statement))


async def check(port: int, ledger: Ledger) -> None:
    """What the node has after its start is what it acknowledged before it was killed, and of the
    rest only what it had been asked for."""
    client = Client(port)
    try:
        ledger.asked += 1
        count = int((await client.ask(request("/store/increment/n"))).body)
        ledger.counted += 1
        assert ledger.counted <= count <= ledger.asked
        for writer, (acknowledged, asked) in ledger.keys.items():
            answer = await client.ask(request(f"/store/get/w{writer}"))
            assert answer.status == (200 if acknowledged else answer.status)
            found = int(answer.body or 0)
            assert found in (acknowledged, asked), (writer, found, acknowledged, asked)
            # What is there now, acknowledged or not, must not go away any more.
            ledger.keys[writer] = found, found
        assert (await sql(client, TABLE)).status == 200
        answer = await sql(client, b"SELECT writer, number FROM t ORDER BY number DESC LIMIT 500")
        found_rows = {
            (int(writer), int(number))
            for writer, number in (line.split(b"|") for line in answer.body.splitlines())
        }
        recent = sorted(ledger.rows, key=lambda row: -row[1])[:300]
        missing = [row for row in recent if row not in found_rows]
        assert not missing, f"acknowledged rows are gone: {missing[:5]}"
        count = int((await sql(client, b"SELECT count(*) FROM t")).body)
        assert len(ledger.rows) <= count <= ledger.rows_asked
    finally:
        client.close()


def whole(state: Path, copy: Path) -> None:
    """The files as the kill left them, looked at beside the node."""
    shutil.rmtree(copy, ignore_errors=True)
    found = [path for kind in ("kv", "sqlite") for path in (state / kind).rglob("*.db*")]
    for path in found:
        target = copy / path.relative_to(state)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not path.name.endswith("-shm"):
            shutil.copyfile(path, target)
    for path in copy.rglob("*.db"):
        database = sqlite3.connect(path)
        try:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)], path
        finally:
            database.close()
