from __future__ import annotations

import asyncio
import logging
import sqlite3
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from stores_lab import component, files, held, opened, until

from edge import config
from edge.engine.host import Err
from edge.errors import ConfigError
from edge.spin import key_value, wasi_keyvalue
from edge.spin.key_value import Store
from edge.spin.platform import DatabaseError, KeyValueError, Stores
from edge.spin.sqlite_pool import file_name
from edge.spin.sqlite_thread import Kind
from edge.spin.wasi_keyvalue import Bucket

OLD = {name: item.call for name, item in key_value.UNVERSIONED.functions.items()}
ATOMICS = {name: item.call for name, item in wasi_keyvalue.ATOMICS.functions.items()}
BATCH = {name: item.call for name, item in wasi_keyvalue.BATCH.functions.items()}


def bucket(context: Any) -> Bucket:
    opened: Bucket = wasi_keyvalue.STORE.functions["open"].call(context, "default")
    return opened


# --- what guests see ----------------------------------------------------------------------------


async def test_what_was_set_is_there_until_it_is_deleted(tmp_path: Path) -> None:
    async with opened(tmp_path) as lab:
        store = Store.open(lab.context(), "default")
        assert await store.get("a") is None
        await store.set("a", b"\x00\xff")
        await store.set("", b"the empty key is one")
        await store.set("ü\0", b"")
        assert await store.get("a") == b"\x00\xff"
        assert await store.get("ü\0") == b""
        assert (await store.exists("a"), await store.exists("b")) == (True, False)
        assert sorted(await store.get_keys()) == ["", "a", "ü\0"]
        await store.delete("a")
        await store.delete("a")
        assert sorted(await store.get_keys()) == ["", "ü\0"]


async def test_a_store_is_the_application_s_and_the_label_s(tmp_path: Path) -> None:
    settings = config.Stores({"default": config.KeyValue(), "other": config.KeyValue()})
    stores = Stores(tmp_path, settings)
    both = component(key_value=("default", "other"))
    first, second = (stores.grant(name, both, {}).key_value for name in ("one", "two"))
    await first["default"].set("k", b"1")
    assert await first["other"].get("k") is None
    assert await second["default"].get("k") is None
    assert await stores.grant("one", both, {}).key_value["default"].get("k") == b"1"
    await stores.close()


def test_no_name_leads_to_the_files_of_another() -> None:
    names = ["a", "A", ".", "..", "a/b", "a%2Fb", "~", "ä" * 100, "x" * 120, "x" * 121, "x" * 122]
    given = {file_name(name) for name in names}
    made = {file_name(name) for name in given}  # as an application may call itself
    assert len(given | made) == len({*names, *given})
    assert all("/" not in name and name[0] != "." and len(name) <= 120 for name in given | made)


async def test_only_what_was_granted_opens(tmp_path: Path) -> None:
    async with opened(tmp_path) as lab:
        context = lab.context(key_value=())
        for attempt in (
            lambda: Store.open(context, "default"),
            lambda: OLD["open"](context, "default"),
            lambda: bucket(context),
        ):
            with pytest.raises(Err) as caught:
                attempt()
            assert caught.value.payload == "access-denied"


async def test_the_old_interface_counts_its_stores(tmp_path: Path) -> None:
    async with opened(tmp_path) as lab:
        context = lab.context()
        number = OLD["open"](context, "default")
        await OLD["set"](context, number, "k", b"v")
        assert await OLD["get"](context, number, "k") == b"v"
        assert await OLD["exists"](context, number, "k")
        assert await OLD["get-keys"](context, number) == ["k"]
        await OLD["delete"](context, number, "k")
        OLD["close"](context, number)
        for arguments, error in (((number, "k"), "no-such-key"), ((7, "k"), "invalid-store")):
            with pytest.raises(Err) as caught:
                await OLD["get"](context, *arguments)
            assert caught.value.payload == error
        with pytest.raises(Err) as caught:
            await OLD["set"](context, number, "k" * 257, b"")
        assert caught.value.payload[0] == "io"


async def test_numbers_are_counted_and_nothing_else_is(tmp_path: Path) -> None:
    async with opened(tmp_path) as lab:
        context = lab.context()
        store = bucket(context)
        increment = ATOMICS["increment"]
        assert await increment(context, store, "n", 5) == 5
        assert await increment(context, store, "n", -7) == -2
        # as Spin keeps them
        assert await store.get("n") == (-2).to_bytes(8, "little", signed=True)
        await store.set("text", b"5")
        await store.set("most", ((1 << 63) - 1).to_bytes(8, "little"))
        for key, why in (("text", "not a number"), ("most", "range")):
            with pytest.raises(Err) as caught:
                await increment(context, store, key, 1)
            assert why in caught.value.payload[1]
        assert await store.get("text") == b"5"


async def test_a_value_is_swapped_only_as_it_was_seen(tmp_path: Path) -> None:
    async with opened(tmp_path) as lab:
        context = lab.context()
        store = bucket(context)
        new, swap = ATOMICS["[static]cas.new"], ATOMICS["swap"]
        first, second = await new(context, store, "k"), await new(context, store, "k")
        assert await first.current() is None
        await swap(context, first, b"first")
        with pytest.raises(Err) as caught:
            await swap(context, second, b"second")
        case, third = caught.value.payload
        assert case == "cas-failed"
        assert await third.current() == b"first"
        await swap(context, third, b"third")
        assert await store.get("k") == b"third"
        with pytest.raises(Err) as caught:
            await swap(context, await new(context, store, "k"), b"x" * ((1 << 20) + 1))
        assert caught.value.payload[0] == "store-error"


async def test_what_waits_to_be_swapped_holds_no_large_values(tmp_path: Path) -> None:
    async with opened(tmp_path) as lab:
        context = lab.context()
        store = bucket(context)
        await store.set("k", bytes(1 << 20))
        tracemalloc.start()
        try:
            many = [await ATOMICS["[static]cas.new"](context, store, "k") for _ in range(30)]
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 8 << 20
        await ATOMICS["swap"](context, many[0], b"other" * 100)
        with pytest.raises(Err) as caught:
            await ATOMICS["swap"](context, many[1], b"late")
        assert caught.value.payload[0] == "cas-failed"
        await ATOMICS["swap"](context, caught.value.payload[1], b"new")
        assert await store.get("k") == b"new"


@pytest.mark.parametrize("piece", [b"x", b"x" * 100])
async def test_swaps_of_many_guests_are_each_seen(tmp_path: Path, piece: bytes) -> None:
    async with opened(tmp_path) as lab:
        context = lab.context()

        async def append() -> None:
            cas = await ATOMICS["[static]cas.new"](context, bucket(context), "k")
            while True:
                seen = await cas.current() or b""
                try:
                    await ATOMICS["swap"](context, cas, seen + piece)
                except Err as exc:
                    cas = exc.payload[1]
                else:
                    return

        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(append())
        assert await bucket(context).get("k") == piece * 20


async def test_batches(tmp_path: Path) -> None:
    async with opened(tmp_path) as lab:
        context = lab.context()
        store = bucket(context)
        await BATCH["set-many"](context, store, [("a", b"1"), ("b", b"2"), ("a", b"3")])
        found = await BATCH["get-many"](context, store, ["b", "nothing", "a"])
        assert found == [("b", b"2"), ("nothing", None), ("a", b"3")]
        await BATCH["delete-many"](context, store, ["a", "nothing"])
        assert await store.list_keys(None) == (["b"], None)


async def test_a_batch_that_fails_leaves_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, config.KeyValue(max_entries=2)) as lab:
        context = lab.context()
        store = bucket(context)
        with pytest.raises(Err) as caught:
            await BATCH["set-many"](context, store, [("a", b"1"), ("b", b"2"), ("c", b"3")])
        assert "full" in caught.value.payload[1]
        assert await store.list_keys(None) == ([], None)
        await BATCH["set-many"](context, store, [("a", b"1"), ("b", b"2")])


async def test_a_batch_has_an_end(tmp_path: Path) -> None:
    async with opened(tmp_path) as lab:
        context = lab.context()
        for name, item in (("get-many", "k"), ("delete-many", "k"), ("set-many", ("k", b""))):
            with pytest.raises(Err) as caught:
                await BATCH[name](context, bucket(context), [item] * 16_385)
            assert "at most 16384" in caught.value.payload[1]
            long = ("k" * 257, b"") if name == "set-many" else "k" * 257
            with pytest.raises(Err) as caught:
                await BATCH[name](context, bucket(context), [item, long])
            assert "257 bytes" in caught.value.payload[1]
        big = [(f"{number}", b"x" * (1 << 20)) for number in range(17)]
        await BATCH["set-many"](context, bucket(context), big)
        with pytest.raises(Err) as caught:
            await BATCH["get-many"](context, bucket(context), [key for key, _ in big])
        assert "16MiB" in caught.value.payload[1]


async def test_many_keys_come_in_pages(tmp_path: Path) -> None:
    async with opened(tmp_path, config.KeyValue(max_entries=5000)) as lab:
        context = lab.context()
        store, names = bucket(context), [f"k{number}" for number in range(2500)]
        await BATCH["set-many"](context, store, [(name, b"") for name in names])
        pages, cursor = [await store.list_keys(None)], None
        while (cursor := pages[-1][1]) is not None:
            pages.append(await store.list_keys(cursor))
        assert [len(page) for page, _ in pages] == [1024, 1024, 452]
        assert sorted(key for page, _ in pages for key in page) == sorted(names)
        assert sorted(await Store.open(context, "default").get_keys()) == sorted(names)


# --- limits -------------------------------------------------------------------------------------


async def test_limits_are_those_that_spin_documents(tmp_path: Path) -> None:
    async with opened(tmp_path) as lab:
        store = Store.open(lab.context(), "default")
        await store.set("k" * 256, b"v" * (1 << 20))
        for key, value in (("k" * 257, b""), ("ü" * 129, b""), ("k", b"v" * ((1 << 20) + 1))):
            with pytest.raises(Err) as caught:
                await store.set(key, value)
            assert caught.value.payload[0] == "other"
            assert "at most" in caught.value.payload[1]
        for number in range(1023):
            await store.set(f"{number}", b"")
        with pytest.raises(Err) as caught:
            await store.set("one more", b"")
        assert caught.value.payload == ("other", "the store is full: 1024 entries")
        await store.set("7", b"what is there may change")
        await store.delete("8")
        await store.set("one more", b"")


async def test_a_store_keeps_no_more_bytes_than_it_may(tmp_path: Path) -> None:
    async with opened(tmp_path, config.KeyValue(max_bytes=1000)) as lab:
        store = lab.key_value()
        await store.set("a", b"x" * 499)
        await store.set("b", b"x" * 499)
        for key in "ca":
            with pytest.raises(KeyValueError, match="full"):
                await store.set(key, b"x" * 500)
        await store.set("a", b"x" * 99)
        await store.set("c", b"x" * 399)
        await store.delete("b")
        await store.set("d", b"x" * 499)
    # what another process wrote counts as well
    (file,) = files(tmp_path)
    async with opened(tmp_path, config.KeyValue(max_bytes=1000)) as lab:
        store = lab.key_value()
        with pytest.raises(KeyValueError, match="full"):
            await store.set("e", b"x")
        with sqlite3.connect(file) as other:
            other.execute("DELETE FROM spin_key_value WHERE key = 'a'")
        other.close()
        await store.set("e", b"x")


# --- many at once -------------------------------------------------------------------------------


async def test_increments_of_many_lose_nothing_and_failures_harm_nobody(tmp_path: Path) -> None:
    async with opened(tmp_path) as lab:
        store = lab.key_value()
        await store.set("text", b"text")
        failed = 0

        async def count() -> None:
            nonlocal failed
            for _ in range(20):
                await store.increment("n", 1)
                try:
                    await store.increment("text", 1)
                except KeyValueError:
                    failed += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(50):
                group.create_task(count())
        assert await store.increment("n", 0) == 1000
        assert failed == 1000


async def test_writers_that_wait_share_one_commit_and_readers_wait_for_none(tmp_path: Path) -> None:
    async with opened(tmp_path) as lab:
        store = lab.key_value()
        await store.set("old", b"1")
        (worker,) = lab.workers
        seen: list[str] = []
        trace = seen.append
        await lab.pool.run(
            worker, lambda table: table.connection.set_trace_callback(trace), Kind.READ, 5
        )
        order: list[str] = []

        async def write(number: int) -> None:
            await store.set(f"{number}", b"v")
            order.append("write")

        async def read() -> None:
            assert await store.get("old") == b"1"
            order.append("read")

        async with asyncio.TaskGroup() as group, held(lab.pool, worker):
            for number in range(100):
                group.create_task(write(number))
            group.create_task(read())
            await until(lambda: worker.pending == 102)
        assert seen.count("COMMIT") == 1
        assert order == ["read"] + ["write"] * 100


async def test_who_gives_up_leaves_nothing_in_the_queue(tmp_path: Path) -> None:
    async with opened(tmp_path) as lab:
        store = lab.key_value()
        await store.set("a", b"1")
        (worker,) = lab.workers
        async with held(lab.pool, worker):
            create = asyncio.get_running_loop().create_task
            tasks = [create(store.set(f"{n}", b"x" * 1000)) for n in range(50)]
            await until(lambda: worker.pending == 51)
            assert worker.bytes == 50_000
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            assert (worker.pending, worker.bytes, len(worker._jobs)) == (1, 0, 0)
        assert await store.keys() == (["a"], None)


async def test_a_queue_has_an_end(tmp_path: Path) -> None:
    async with opened(tmp_path, queue=3) as lab:
        store = lab.key_value()
        await store.set("a", b"1")
        (worker,) = lab.workers
        async with asyncio.TaskGroup() as group, held(lab.pool, worker):
            for number in range(2):
                group.create_task(store.set(f"{number}", b""))
            await until(lambda: worker.pending == 3)
            with pytest.raises(KeyValueError, match="too many"):
                await store.set("b", b"")


async def test_who_waited_too_long_is_told(tmp_path: Path) -> None:
    async with opened(tmp_path, config.KeyValue(timeout=0.05)) as lab:
        store = lab.key_value()
        await store.set("a", b"1")
        (worker,) = lab.workers
        told: list[str] = []

        async def late() -> None:
            try:
                await store.set("b", b"")
            except KeyValueError as exc:
                told.append(str(exc))

        async with asyncio.TaskGroup() as group, held(lab.pool, worker):
            group.create_task(late())
            await until(lambda: worker.pending == 2)
            await asyncio.sleep(0.1)
        assert told == ["others kept the database for too long"]
        assert await store.keys() == (["a"], None)


# --- files --------------------------------------------------------------------------------------


async def test_what_was_acknowledged_is_there_in_the_next_life(tmp_path: Path) -> None:
    for life in range(3):
        async with opened(tmp_path) as lab:
            assert await lab.key_value().increment("lives", 1) == life + 1
    (file,) = files(tmp_path)  # nothing beside it when it is closed
    assert file == tmp_path / "kv/app/default.db"


async def test_a_file_that_nobody_uses_is_closed(tmp_path: Path) -> None:
    async with opened(tmp_path, idle=0.02) as lab:
        store = lab.key_value()
        await store.set("a", b"1")
        await until(lambda: not lab.workers and not lab.pool._ending)
        assert await store.get("a") == b"1"


async def test_few_files_are_open_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path, open=2) as lab:
        stores = [lab.key_value(f"app{number}") for number in range(5)]
        for _ in range(2):
            for number, store in enumerate(stores):
                await store.set("k", b"%d" % number)
                assert len(lab.workers) <= 2
        assert [await store.get("k") for store in stores] == [b"%d" % n for n in range(5)]
        async with held(lab.pool, lab.workers[0]), held(lab.pool, lab.workers[1]):
            with pytest.raises(KeyValueError, match="2 stores"):
                await stores[0].get("k")
        assert await stores[0].get("k") == b"0"


@pytest.mark.parametrize("name", ["../../up", ".", "..", "a/b", "/etc", "\0", "x" * 300, "", "ü"])
async def test_any_name_is_the_name_of_a_file_in_its_place(tmp_path: Path, name: str) -> None:
    state = tmp_path / "state"
    async with opened(state) as lab:
        await lab.key_value(name).set("k", b"v")
    (file,) = files(tmp_path)
    assert file.parent.parent == state / "kv"


async def test_a_file_of_spin_s_is_one_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "sqlite_key_value.db"
    with sqlite3.connect(path) as theirs:
        theirs.execute(
            "CREATE TABLE spin_key_value (store TEXT NOT NULL, key TEXT NOT NULL,"
            " value BLOB NOT NULL, PRIMARY KEY (store, key))"
        )
        theirs.execute("INSERT INTO spin_key_value VALUES ('default', 'k', x'00ff')")
        theirs.execute("INSERT INTO spin_key_value VALUES ('other', 'k', x'')")
    theirs.close()
    async with opened(tmp_path, config.KeyValue(path=str(path))) as lab:
        store = lab.key_value()
        assert await store.get("k") == b"\x00\xff"
        assert await store.keys() == (["k"], None)


async def test_a_damaged_file_is_an_error_and_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "kv/app/default.db"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"this was a database once" * 1000)
    async with opened(tmp_path) as lab:
        with caplog.at_level(logging.WARNING, "edge.stores"):
            for _ in range(3):
                with pytest.raises(KeyValueError, match="damaged") as caught:
                    await lab.key_value().set("k", b"v")
        assert str(tmp_path) not in str(caught.value), "guests learn no path"
        assert path.read_bytes() == b"this was a database once" * 1000
        assert [str(path) in record.getMessage() for record in caplog.records] == [True]
        path.unlink()
        await lab.key_value().set("k", b"v")


async def test_a_directory_that_cannot_be_made_is_an_error_until_it_can(tmp_path: Path) -> None:
    (tmp_path / "kv").write_text("in the way")
    async with opened(tmp_path) as lab:
        store = lab.key_value()
        with pytest.raises(KeyValueError, match="exists"):
            await store.get("k")
        (tmp_path / "kv").unlink()
        assert await store.get("k") is None


def test_a_store_that_is_not_configured_is_refused_with_its_place(tmp_path: Path) -> None:
    stores = Stores(tmp_path)
    for labels, key in ((("cache",), "key_value_stores"), (("big",), "sqlite_databases")):
        kinds = {"key_value": labels} if key.startswith("key") else {"sqlite": labels}
        with pytest.raises(ConfigError) as caught:
            stores.grant("app", component(**kinds), {})
        assert caught.value.message.startswith(f"app: component.guest.{key}: ")
        assert labels[0] in caught.value.message
        assert "runtime-config" in str(caught.value.hint)
    assert not any(tmp_path.iterdir()), "nothing is made before it is used"


async def test_what_is_under_way_makes_no_store_again_that_was_purged(tmp_path: Path) -> None:
    stores = Stores(tmp_path)
    declared = component(key_value=("default",), sqlite=("default",))
    before = stores.grant("app", declared, {})
    await before.key_value["default"].set("k", b"v")
    await stores.purge("app")
    with pytest.raises(KeyValueError, match="removed"):
        await before.key_value["default"].set("k", b"again")
    with pytest.raises(DatabaseError, match="removed"):
        await before.databases["default"].connect().execute("SELECT 1", [])
    assert not any((tmp_path / kind / "app").exists() for kind in ("kv", "sqlite"))
    after = stores.grant("app", declared, {})
    assert await after.key_value["default"].get("k") is None
    await stores.close()


async def test_two_nodes_on_one_directory_count_together(tmp_path: Path) -> None:
    limits = config.KeyValue(max_entries=60)
    async with opened(tmp_path, limits) as one, opened(tmp_path, limits) as two:
        refused = 0

        async def count(store: Any, name: str) -> None:
            nonlocal refused
            for number in range(40):
                await store.increment("n", 1)
                try:
                    await store.set(f"{name}{number}", b"")
                except KeyValueError:
                    refused += 1

        async with asyncio.TaskGroup() as group:
            for lab, name in ((one, "a"), (two, "b")):
                group.create_task(count(lab.key_value(), name))
        assert await one.key_value().increment("n", 0) == 80
        keys, _ = await two.key_value().keys()
        assert (len(keys), refused) == (60, 21)
