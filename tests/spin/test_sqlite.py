from __future__ import annotations

import asyncio
import math
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from stores_lab import Lab, files, held, opened, until

from edge import config
from edge.engine.host import Err
from edge.spin import sqlite
from edge.spin.platform import DatabaseError, Session, Value
from edge.spin.sqlite import Connection
from edge.spin.sqlite_thread import Kind

OLD = {name: item.call for name, item in sqlite.UNVERSIONED.functions.items()}
NUMBERS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT {}) "
FOR_EVER = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"


def session(lab: Lab, application: str = "app") -> Session:
    opened: Session = lab.context(application).platform.databases["default"].connect()
    return opened


async def run(session: Session, statement: str, *parameters: Value) -> list[tuple[Value, ...]]:
    return (await session.execute(statement, parameters))[1]


async def table(lab: Lab) -> Session:
    first = session(lab)
    await run(first, "CREATE TABLE t (id INTEGER PRIMARY KEY, x)")
    return first


# --- what guests see ----------------------------------------------------------------------------


async def test_values_come_back_as_they_went(tmp_path: Path) -> None:
    async with opened(tmp_path) as lab:
        connection = Connection.open(lab.context(), "default")
        least = -(1 << 63)
        values: list[Any] = [
            ("integer", least), ("real", -0.5), ("real", math.inf), ("text", "ü\0"),
            ("blob", b"\0\xff"), ("null", None), ("real", math.nan),
        ]  # fmt: skip
        columns, rows = await connection.execute("SELECT ? AS a,?,?,?,?,?,?", values)
        assert columns[0] == "a"
        # SQLite has no NaN: it is NULL
        expected = ["null" if case in ("null",) or value != value else (case, value)
                    for case, value in values]  # fmt: skip
        assert rows == [(expected,)]
        (((not_utf8,),),) = (await connection.execute("SELECT CAST(x'61ff' AS TEXT)", []))[1]
        assert not_utf8 == ("text", "a\ufffd")
        connection.drop()


async def test_rows_and_their_numbers(tmp_path: Path) -> None:
    async with opened(tmp_path) as lab:
        connection = Connection.open(lab.context(), "default")
        for statement in ("CREATE TABLE t (id INTEGER PRIMARY KEY, x)", "SELECT * FROM t"):
            await connection.execute(statement, [])
        assert (connection.last_insert_rowid(), connection.changes()) == (0, 0)
        await connection.execute("INSERT INTO t VALUES (7, 'a'), (9, 'b')", [])
        assert (connection.last_insert_rowid(), connection.changes()) == (9, 2)
        assert await connection.execute("UPDATE t SET x = 1 RETURNING id", []) == (
            ["id"], [([("integer", 7)],), ([("integer", 9)],)],
        )  # fmt: skip
        await connection.execute("DELETE FROM t WHERE id = 9", [])
        assert (connection.last_insert_rowid(), connection.changes()) == (9, 1)


async def test_only_what_was_granted_opens(tmp_path: Path) -> None:
    async with opened(tmp_path) as lab:
        for attempt in (Connection.open, OLD["open"]):
            with pytest.raises(Err) as caught:
                attempt(lab.context(sqlite=()), "default")
            assert caught.value.payload == "access-denied"


async def test_the_old_interface_counts_its_databases(tmp_path: Path) -> None:
    async with opened(tmp_path) as lab:
        context = lab.context()
        number, execute = OLD["open"](context, "default"), OLD["execute"]
        await execute(context, number, "CREATE TABLE t (x)", [])
        await execute(context, number, "INSERT INTO t VALUES (?)", [("integer", 3)])
        assert await execute(context, number, "SELECT x FROM t", []) == (
            ["x"], [([("integer", 3)],)],
        )  # fmt: skip
        with pytest.raises(Err) as caught:
            await execute(context, 5, "SELECT 1", [])
        assert caught.value.payload == "invalid-connection"
        # every statement is on its own, and says so
        await execute(context, number, "BEGIN", [])
        with pytest.raises(Err) as caught:
            await execute(context, number, "COMMIT", [])
        assert "no transaction" in caught.value.payload[1]
        OLD["close"](context, number)


@pytest.mark.parametrize(
    ("statement", "parameters"),
    [
        ("SELECT :one, @two, $three", (1, 2, 3)),
        ("SELECT ?1, ?2, ?3", (1, 2, 3)),
        ("SELECT ?, ?, ? WHERE ':x' <> '?1'", (1, 2, 3)),
        ("SELECT :a, :b, :c WHERE :a = 1", (1, 2, 3)),
    ],
)
async def test_parameters_are_taken_in_order(
    tmp_path: Path, statement: str, parameters: Sequence[Value]
) -> None:
    async with opened(tmp_path) as lab:
        assert await run(session(lab), statement, *parameters) == [(1, 2, 3)]


@pytest.mark.parametrize(
    "statement",
    ["", "nonsense", "SELECT 1; SELECT 2", "SELECT ?", "SELECT :a", "SELECT * FROM missing",
     "SELECT '\0'", "COMMIT", "RELEASE job", "ROLLBACK TO job"],
)  # fmt: skip
async def test_a_statement_that_is_wrong_is_its_guest_s_error(
    tmp_path: Path, statement: str
) -> None:
    async with opened(tmp_path) as lab:
        guest = session(lab)
        if statement == "":
            assert await guest.execute(statement, ()) == ([], [])
            return
        with pytest.raises(DatabaseError) as caught:
            await run(guest, statement)
        assert str(tmp_path) not in str(caught.value)
        assert await run(guest, "SELECT 1") == [(1,)]


async def test_foreign_keys_are_enforced_as_spin_does(tmp_path: Path) -> None:
    async with opened(tmp_path) as lab:
        guest = await table(lab)
        await run(guest, "CREATE TABLE u (t INTEGER REFERENCES t)")
        with pytest.raises(DatabaseError, match="FOREIGN KEY"):
            await run(guest, "INSERT INTO u VALUES (1)")
        with pytest.raises(DatabaseError, match="not authorized"):
            await run(guest, "PRAGMA foreign_keys = OFF")
        await run(guest, "PRAGMA foreign_keys = ON")


# --- guests beside each other -------------------------------------------------------------------


async def test_each_guest_knows_its_own_last_row(tmp_path: Path) -> None:
    async with opened(tmp_path) as lab:
        first, second = await table(lab), session(lab)
        await run(first, "INSERT INTO t VALUES (5, 'a')")
        await run(second, "INSERT INTO t VALUES (6, 'b'), (7, 'c')")
        for _ in range(2):
            for guest, expected in ((first, (5, 1)), (second, (7, 2)), (session(lab), (0, 0))):
                assert await run(guest, "SELECT last_insert_rowid(), changes()") == [expected]
        await run(first, "INSERT OR IGNORE INTO t VALUES (5, 'z')")
        assert (first.last_insert_rowid, first.changes) == (5, 0)
        await run(second, "UPDATE t SET x = last_insert_rowid() WHERE id = 5")
        assert await run(first, "SELECT x FROM t WHERE id = 5") == [(7,)]
        assert (first.last_insert_rowid, second.last_insert_rowid) == (5, 7)


async def test_a_transaction_is_seen_whole_or_not_at_all(tmp_path: Path) -> None:
    async with opened(tmp_path) as lab:
        first, second = await table(lab), session(lab)
        await run(first, "BEGIN")
        await run(first, "INSERT INTO t VALUES (1, 'a')")
        reader = asyncio.get_running_loop().create_task(run(second, "SELECT count(*) FROM t"))
        await run(first, "INSERT INTO t VALUES (2, 'b')")
        assert not reader.done()
        await run(first, "COMMIT")
        assert await reader == [(2,)]
        await run(second, "SAVEPOINT mine")
        await run(second, "DELETE FROM t")
        await run(second, "ROLLBACK TO mine")
        await run(second, "RELEASE mine")
        assert await run(first, "SELECT count(*) FROM t") == [(2,)]


async def test_a_transaction_that_nobody_ends_ends_with_its_guest(tmp_path: Path) -> None:
    async with opened(tmp_path, sqlite=config.Sqlite(timeout=0.2)) as lab:
        first, second = await table(lab), session(lab)
        await run(first, "/* mine */ ; begin immediate")
        await run(first, "INSERT INTO t VALUES (1, 'a')")
        with pytest.raises(DatabaseError, match="another transaction"):
            await run(second, "INSERT INTO t VALUES (2, 'b')")
        waiting = asyncio.get_running_loop().create_task(run(second, "SELECT count(*) FROM t"))
        await until(lambda: lab.workers[0].pending == 1)
        first.close()
        first.close()
        assert await waiting == [(0,)]
        with pytest.raises(DatabaseError, match="closed"):
            await run(first, "COMMIT")


async def test_a_guest_that_goes_while_it_begins_blocks_nobody(tmp_path: Path) -> None:
    async with opened(tmp_path) as lab:
        first, second = await table(lab), session(lab)
        (worker,) = lab.workers
        async with held(lab.pool, worker):
            begins = asyncio.get_running_loop().create_task(run(first, "BEGIN"))
            await until(lambda: worker.pending == 2)
            begins.cancel()
            await asyncio.wait([begins])
            first.close()
        assert await run(second, "SELECT 1") == [(1,)]
        await until(lambda: worker.unused)
        third = session(lab)
        await run(third, "BEGIN")
        third.close()
        assert await run(second, "SELECT 1") == [(1,)]


async def test_writes_of_many_guests_share_commits(tmp_path: Path) -> None:
    async with opened(tmp_path) as lab:
        await table(lab)
        (worker,) = lab.workers
        seen: list[str] = []
        trace = seen.append
        await lab.pool.run(
            worker, lambda guarded: guarded.connection.set_trace_callback(trace), Kind.READ, 5
        )
        async with asyncio.TaskGroup() as group, held(lab.pool, worker):
            for number in range(50):
                group.create_task(run(session(lab), "INSERT INTO t VALUES (?, 'x')", number))
            await until(lambda: worker.pending == 51)
        assert seen.count("COMMIT") == 1
        assert await run(session(lab), "SELECT count(*) FROM t") == [(50,)]


@pytest.mark.parametrize(
    ("failing", "why"),
    [
        ("INSERT OR ROLLBACK INTO t VALUES (0, 'x')", "UNIQUE"),  # takes the transaction with it
        ("INSERT INTO t VALUES (0, 'x')", "UNIQUE"),
        ("INSERT INTO late VALUES (99)", "FOREIGN KEY"),  # noticed at the commit
        ("SELECT 1 FROM missing", "no such table"),
    ],
)
async def test_a_guest_that_fails_harms_no_other(tmp_path: Path, failing: str, why: str) -> None:
    async with opened(tmp_path) as lab:
        first = await table(lab)
        await run(first, "INSERT INTO t VALUES (0, 'x')")
        deferred = "REFERENCES t DEFERRABLE INITIALLY DEFERRED"
        await run(first, f"CREATE TABLE late (t INTEGER {deferred})")
        (worker,) = lab.workers
        errors: list[str] = []

        async def fails() -> None:
            try:
                await run(session(lab), failing)
            except DatabaseError as exc:
                errors.append(str(exc))

        async with asyncio.TaskGroup() as group, held(lab.pool, worker):
            for number in range(1, 21):
                group.create_task(run(session(lab), "INSERT INTO t VALUES (?, 'x')", number))
                if number % 7 == 0:
                    group.create_task(fails())
            await until(lambda: worker.pending == 23)
        assert [why in error for error in errors] == [True, True], errors
        assert await run(first, "SELECT count(*), sum(id) FROM t") == [(21, 210)]
        assert await run(first, "PRAGMA integrity_check") == [("ok",)]


# --- what hostile statements meet ---------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "ATTACH '/etc/passwd' AS p", "ATTACH ':memory:' AS m", "DETACH main",
        "VACUUM", "VACUUM INTO 'copy.db'",
        "PRAGMA writable_schema = 1", "PRAGMA hard_heap_limit = 1", "PRAGMA database_list",
        "PRAGMA max_page_count = 1000000000", "PRAGMA temp_store_directory = '/etc'",
        "PRAGMA query_only = 1", "PRAGMA page_size = 512", "PRAGMA journal_mode = OFF; SELECT 1",
        "SELECT * FROM pragma_database_list", "SELECT load_extension('x')",
        "SELECT fts3_tokenizer('simple')", "CREATE TEMP TABLE mine (x)",
        "CREATE TEMP VIEW mine AS SELECT 1", "CREATE TEMP TRIGGER r AFTER INSERT ON t BEGIN"
        " SELECT 1; END", "SELECT * FROM temp.edge_last", "SELECT * FROM sqlite_temp_master",
        "INSERT INTO edge_last VALUES (1)", "DROP TABLE temp.edge_last",
        "UPDATE sqlite_master SET sql = ''", "DELETE FROM sqlite_schema",
        "CREATE VIRTUAL TABLE v USING fts3(x)", "CREATE VIRTUAL TABLE v USING dbstat",
        "CREATE VIRTUAL TABLE v USING csv(filename = '/etc/passwd')",
        "SELECT * FROM sqlite_dbpage", "SELECT * FROM sqlite_stmt", "SELECT * FROM bytecode('x')",
        "EXPLAIN ATTACH 'x' AS x", "SELECT zeroblob(100000000)", "SELECT randomblob(100000000)",
        "SELECT '" + "x" * 2_000_000 + "'",
        "SELECT " + "(" * 5000 + "1" + ")" * 5000, "SELECT " + "1+" * 5000 + "1",
        "SELECT 'a' LIKE '" + "%a" * 1000 + "'",
    ],
)  # fmt: skip
async def test_what_would_leave_the_database_is_refused(tmp_path: Path, statement: str) -> None:
    async with opened(tmp_path) as lab:
        guest = await table(lab)
        before = {path.name for path in files(tmp_path)}
        with pytest.raises(DatabaseError):
            await run(guest, statement)
        assert {path.name for path in files(tmp_path)} == before
        assert await run(guest, "INSERT INTO t VALUES (1, 'x') RETURNING id") == [(1,)]


async def test_settings_that_are_the_node_s_stay_as_they_are(tmp_path: Path) -> None:
    async with opened(tmp_path) as lab:
        guest = await table(lab)
        for pragma in ("journal_mode = DELETE", "synchronous = OFF", "busy_timeout = 5",
                       "wal_autocheckpoint = 0", "locking_mode = EXCLUSIVE"):  # fmt: skip
            assert await run(guest, f"PRAGMA {pragma}") == []
        (worker,) = lab.workers

        def ask(guarded: Any) -> list[Any]:
            names = ("journal_mode", "synchronous", "wal_autocheckpoint", "locking_mode")
            return [guarded.connection.execute(f"PRAGMA {n}").fetchone()[0] for n in names]

        # With no job of a guest running, the authorizer lets everything pass.
        def unguarded(guarded: Any) -> list[Any]:
            job = guarded._job
            guarded.running(None)
            try:
                return ask(guarded)
            finally:
                guarded.running(job)

        found = await lab.pool.run(worker, unguarded, Kind.READ, 5)
        assert found == ["wal", 2, 256, "normal"]
        await run(guest, "PRAGMA user_version = 3")
        assert await run(guest, "PRAGMA user_version") == [(3,)]
        assert [row[1] for row in await run(guest, "PRAGMA table_info(t)")] == ["id", "x"]


@pytest.mark.parametrize(
    "statement",
    [
        FOR_EVER,
        NUMBERS.format(10**9) + "INSERT INTO t SELECT x + 1000, x FROM n",
        NUMBERS.format(10**9) + "SELECT x FROM n ORDER BY random() LIMIT 1",
        "SELECT count(*) FROM t a, t b, t c, t d, t e",
    ],
)
async def test_a_statement_without_end_ends_at_its_deadline(tmp_path: Path, statement: str) -> None:
    async with opened(tmp_path, sqlite=config.Sqlite(timeout=0.3)) as lab:
        guest = await table(lab)
        await run(guest, NUMBERS.format(1000) + "INSERT INTO t SELECT x, x FROM n")
        with pytest.raises(DatabaseError, match=r"longer than 300ms|out of memory"):
            await run(guest, statement)
        assert await run(guest, "SELECT count(*) FROM t") == [(1000,)]


async def test_steps_that_take_long_do_not_outlast_the_deadline(tmp_path: Path) -> None:
    async with opened(tmp_path, sqlite=config.Sqlite(timeout=0.3)) as lab:
        guest = await table(lab)
        slow = "SELECT sum(length(randomblob(16000000))) FROM n"
        async with asyncio.timeout(20):  # 50,000 steps of these take minutes
            with pytest.raises(DatabaseError, match="longer than 300ms"):
                await run(guest, NUMBERS.format(10**9) + slow)
        assert await run(guest, "SELECT count(*) FROM t") == [(0,)]


async def test_memory_of_statements_has_an_end(tmp_path: Path) -> None:
    async with opened(tmp_path, sqlite=config.Sqlite(timeout=60)) as lab:
        guest, store = await table(lab), lab.key_value()
        with pytest.raises(DatabaseError, match="out of memory"):
            await run(
                guest, NUMBERS.format(10**6) + "SELECT randomblob(1000) AS r FROM n ORDER BY r"
            )
        assert await run(guest, "SELECT count(*) FROM t") == [(0,)]
        await store.set("k", b"v")
        assert not [path for path in files(tmp_path) if "etilqs" in path.name]


async def test_cancelling_interrupts_what_runs(tmp_path: Path) -> None:
    async with opened(tmp_path, sqlite=config.Sqlite(timeout=60)) as lab:
        guest = await table(lab)
        (worker,) = lab.workers
        runs = asyncio.get_running_loop().create_task(run(guest, FOR_EVER))
        await until(lambda: worker.pending == 1 and not worker._jobs)
        runs.cancel()
        await asyncio.wait([runs])
        assert worker.pending == 0
        assert await run(session(lab), "SELECT 1") == [(1,)]


async def test_a_thread_that_cannot_be_had_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")  # as Python says it

    async with opened(tmp_path) as lab:
        guest = session(lab)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refused)
            for _ in range(2):
                with pytest.raises(DatabaseError, match="no thread"):
                    await run(guest, "SELECT 1")
        assert await run(guest, "SELECT 1") == [(1,)]


async def test_the_node_stops_while_a_statement_runs(tmp_path: Path) -> None:
    async with opened(tmp_path, sqlite=config.Sqlite(timeout=60)) as lab:
        guest = await table(lab)
        (worker,) = lab.workers
        runs = asyncio.get_running_loop().create_task(run(guest, FOR_EVER))
        await until(lambda: worker.pending == 1 and not worker._jobs)
    with pytest.raises(DatabaseError):
        await runs


async def test_a_result_has_an_end(tmp_path: Path) -> None:
    async with opened(tmp_path) as lab:
        guest = await table(lab)
        for query in (
            NUMBERS.format(10**6) + "SELECT x FROM n",
            NUMBERS.format(20) + "SELECT randomblob(1000000) FROM n",
        ):
            with pytest.raises(DatabaseError, match="larger than 16MiB"):
                await run(guest, query)
        assert len(await run(guest, NUMBERS.format(50_000) + "SELECT x FROM n")) == 50_000


async def test_a_large_result_lets_others_run(tmp_path: Path) -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with opened(tmp_path) as lab:
        connection = Connection.open(lab.context(), "default")
        outcome = await connection._session.execute(NUMBERS.format(30_000) + "SELECT x FROM n", [])
        task = asyncio.get_running_loop().create_task(others())
        rows = await sqlite._converted(outcome[1], 1000)
        task.cancel()
        assert turns >= 28
        assert [row for ((row,),) in rows] == [("integer", n) for n in range(1, 30_001)]
        connection.drop()


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT {}", ";" * 200 + "SELECT {}", "WITH w AS (SELECT 1) SELECT {}",
        "INSERT INTO t (x) VALUES (1) RETURNING {}", "UPDATE t SET x = ?1returning {}",
    ],
)  # fmt: skip
async def test_a_row_of_large_values_has_an_end(tmp_path: Path, statement: str) -> None:
    async with opened(tmp_path) as lab:
        guest = await table(lab)
        await run(guest, "INSERT INTO t VALUES (1, 'x')")
        value = b"x" * 4_000_000
        with pytest.raises(DatabaseError, match="too big"):  # and not 2 GB for a moment
            await run(guest, statement.format(",".join(["?1"] * 500)), value)
        assert await run(guest, "SELECT * FROM t") == [(1, "x")]
        assert await run(guest, ";SELECT ?1,?1,?1", value) == [(value,) * 3]
        assert await run(guest, "SELECT ?1,1,1,1,1,1", value) == [(value, 1, 1, 1, 1, 1)]


@pytest.mark.parametrize(
    "call", ["instr({})", "replace({}, 'c')", "trim({})", "ltrim({})", "rtrim({})"]
)
async def test_what_takes_the_product_of_two_lengths_has_an_end(tmp_path: Path, call: str) -> None:
    async with opened(tmp_path, sqlite=config.Sqlite(timeout=5)) as lab:
        guest = await table(lab)
        sql = f"SELECT {call.format('?1, ?2')}"
        large = "a" * 400_000
        async with asyncio.timeout(30):
            with pytest.raises(DatabaseError, match=r"[a-z]+: its arguments are too large"):
                await run(guest, sql, large, "b" * 400_000)
            await run(guest, f"CREATE TABLE s (a, b, c AS ({call.format('a, b')}) STORED)")
            with pytest.raises(DatabaseError, match=r"[a-z]+: its arguments are too large"):
                await run(guest, "INSERT INTO s VALUES (?, ?)", large, large)
        plain = sqlite3.connect(":memory:")
        for values in (
            ("xabcx", "x"),
            ("ü", "ü"),
            (b"ab", b"b"),
            (12.5, "5"),
            (None, "a"),
            ("", ""),
        ):
            assert await run(guest, sql, *values) == plain.execute(sql, values).fetchall()
        plain.close()
        await run(guest, f"CREATE VIEW v AS SELECT {call.format('x, 1')} AS y FROM t")
        await run(guest, f"CREATE INDEX i ON t ({call.format('x, 1')})")
        await run(guest, "INSERT INTO t (x) VALUES ('121')")
        assert len(await run(guest, "SELECT y FROM v")) == 1


async def test_what_sqlite_says_need_not_be_text(tmp_path: Path) -> None:
    async with opened(tmp_path) as lab:
        with pytest.raises(DatabaseError, match="\ufffd"):
            await run(session(lab), "SELECT json_extract('{}', CAST(x'ff' AS TEXT))")


async def test_a_database_takes_no_more_than_its_quota(tmp_path: Path) -> None:
    settings = config.Sqlite(max_bytes=1 << 20)
    async with opened(tmp_path, sqlite=settings) as lab:
        connection = Connection.open(lab.context(), "default")
        await connection.execute("CREATE TABLE t (x)", [])

        async def fill() -> None:
            for _ in range(100):
                await connection.execute("INSERT INTO t VALUES (zeroblob(100000))", [])

        with pytest.raises(Err) as caught:
            await fill()
        assert caught.value.payload == "database-full"
        await connection.execute("DELETE FROM t WHERE rowid = 1", [])
        await connection.execute("INSERT INTO t VALUES (zeroblob(90000))", [])
        assert sum(path.stat().st_size for path in files(tmp_path)) < 4 << 20


async def test_a_transaction_s_log_has_an_end(tmp_path: Path) -> None:
    # SQLite writes a page that changes again over its last copy: the log is no way round the quota.
    settings = config.Sqlite(max_bytes=4 << 20)
    async with opened(tmp_path, sqlite=settings) as lab:
        guest = session(lab)
        await run(guest, "CREATE TABLE t (x)")
        await run(guest, "INSERT INTO t VALUES (zeroblob(1500000))")
        await run(guest, "BEGIN")
        for _ in range(20):
            await run(guest, "SAVEPOINT s")
            await run(guest, "UPDATE t SET x = randomblob(1500000)")
        assert sum(path.stat().st_size for path in files(tmp_path)) < 10 << 20
        await run(guest, "COMMIT")
        await run(guest, "DELETE FROM t")
        assert sum(path.stat().st_size for path in files(tmp_path)) < 7 << 20


async def test_full_text_search_where_it_is_safe(tmp_path: Path) -> None:
    async with opened(tmp_path) as lab:
        guest = session(lab)
        if not hasattr(sqlite3.Connection, "setconfig"):
            with pytest.raises(DatabaseError, match="not authorized"):
                await run(guest, "CREATE VIRTUAL TABLE f USING fts5(x)")
            return
        await run(guest, "CREATE VIRTUAL TABLE f USING fts5(x)")
        await run(guest, "INSERT INTO f VALUES ('a word')")
        assert await run(guest, "SELECT x FROM f WHERE f MATCH 'word'") == [("a word",)]
        with pytest.raises(DatabaseError):
            await run(guest, "UPDATE f_data SET block = x'ff'")


async def test_a_damaged_database_is_an_error_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "sqlite/app/default.db"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"this was a database once" * 1000)
    async with opened(tmp_path) as lab:
        for _ in range(2):
            with pytest.raises(DatabaseError, match="damaged"):
                await run(session(lab), "SELECT 1")
        assert path.read_bytes() == b"this was a database once" * 1000
