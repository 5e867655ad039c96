"""Many guests that begin, fail, give up and go, at random: what was acknowledged is there, nothing
else but what was asked for, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path

from stores_lab import Lab, opened, until

from edge import config
from edge.spin.platform import DatabaseError, Session

GUESTS = 24
STEPS = 40


class Guest:
    """One after another connection of the application."""

    def __init__(self, lab: Lab, chance: random.Random, rows: Rows) -> None:
        self.lab = lab
        self.chance = chance
        self.rows = rows
        self.session: Session = self.connect()

    def connect(self) -> Session:
        made: Session = self.lab.context().platform.databases["default"].connect()
        return made

    async def run(self) -> None:
        for _ in range(STEPS):
            step = self.chance.choice(
                (self.insert, self.insert, self.insert, self.read, self.fail, self.transaction)
            )
            doing = asyncio.get_running_loop().create_task(step())
            if self.chance.random() < 0.25:
                for _ in range(self.chance.randrange(4)):
                    await asyncio.sleep(0)
                doing.cancel()
                await asyncio.wait([doing])
                self.leave()
            with contextlib.suppress(asyncio.CancelledError, DatabaseError):
                await doing
        self.leave()

    def leave(self) -> None:
        """As a guest's handles are dropped when it ends, wherever it was."""
        self.session.close()
        self.session = self.connect()

    async def insert(self) -> None:
        row = self.rows.next()
        await self.session.execute("INSERT INTO t VALUES (?, 0)", (row,))
        self.rows.acknowledged.add(row)

    async def read(self) -> None:
        await self.session.execute("SELECT count(*) FROM t", ())

    async def fail(self) -> None:
        statement = self.chance.choice(
            (
                "INSERT OR ROLLBACK INTO t VALUES (0, 0)",
                "INSERT INTO t VALUES (0, 0)",
                "INSERT INTO late VALUES (-1)",
                "bogus",
                "COMMIT",
                "ROLLBACK TO job",
            )
        )
        await self.session.execute(statement, ())
        raise AssertionError(f"{statement} did not fail")

    async def transaction(self) -> None:
        await self.session.execute("BEGIN", ())
        mine = [self.rows.next() for _ in range(self.chance.randrange(4))]
        for row in mine:
            await self.session.execute("INSERT INTO t VALUES (?, 1)", (row,))
        end = self.chance.choice(("COMMIT", "COMMIT", "ROLLBACK", ""))
        if end:
            await self.session.execute(end, ())
        else:
            self.leave()
        if end == "COMMIT":
            self.rows.acknowledged.update(mine)
        elif end:
            self.rows.undone.update(mine)


class Rows:
    def __init__(self) -> None:
        self.last = 0
        self.acknowledged: set[int] = set()
        self.undone: set[int] = set()

    def next(self) -> int:
        self.last += 1
        return self.last


async def test_chaos(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    chance, rows = random.Random(seed), Rows()
    async with opened(tmp_path, sqlite=config.Sqlite(timeout=20)) as lab:
        first = Guest(lab, chance, rows).session
        await first.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x)", ())
        await first.execute(
            "CREATE TABLE late (t INTEGER REFERENCES t DEFERRABLE INITIALLY DEFERRED)", ()
        )
        await first.execute("INSERT INTO t VALUES (0, 0)", ())
        async with asyncio.TaskGroup() as group:
            for _ in range(GUESTS):
                group.create_task(Guest(lab, chance, rows).run())
        (worker,) = lab.workers
        await until(lambda: worker.unused)
        assert (worker.bytes, len(worker._jobs), worker._blocked) == (0, 0, [])
        _, found = await first.execute("SELECT id FROM t WHERE id > 0", ())
        kept = {row for (row,) in found}
        assert rows.acknowledged - kept == set(), f"seed {seed}"
        assert rows.undone & kept == set(), f"seed {seed}"
        assert len(rows.acknowledged) > GUESTS
        assert (await first.execute("PRAGMA integrity_check", ()))[1] == [("ok",)]
        assert (await first.execute("PRAGMA foreign_key_check", ()))[1] == []
