"""Real guests over HTTP, and the types of every interface against the WIT of SDKs."""

from __future__ import annotations

import http.client
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from conftest import Serve, Served

from edge import spin, wasi
from edge.engine.host import Interfaces
from edge.engine.loader import load_plan
from edge.errors import ComponentError

sys.path.insert(0, str(Path(__file__).parent.parent / "engine"))
import wat

GRANTS = """
key_value_stores = ["default"]
sqlite_databases = ["default"]
variables = { greeting = "hello {{ who }}" }
"""
GUESTS = 50


@pytest.fixture
def application(
    guest: Callable[[str], Path], application: Callable[..., Path], tmp_path: Path
) -> Path:
    made = application(guest("store"), more=GRANTS, concurrency=64, queue=256)
    manifest = made / "spin.toml"
    text = manifest.read_text()
    manifest.write_text(
        text.replace("[[trigger", '[variables]\nwho = { default = "you" }\n[[trigger')
    )
    return made


@pytest.fixture
def served(serve: Serve, application: Path, tmp_path: Path) -> Iterator[Served]:
    with serve(application, "--state-dir", str(tmp_path / "state")) as served:
        yield served


def ask(served: Served, path: str, body: str | None = None) -> tuple[int, str]:
    with closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)) as connection:
        connection.request("GET" if body is None else "POST", path, body)
        response = connection.getresponse()
        return response.status, response.read().decode()


def test_increments_of_fifty_guests_at_once_lose_nothing(served: Served) -> None:
    seen: Counter[int] = Counter()

    def guest(_: int) -> list[int]:
        with closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)) as http_:
            numbers = []
            for _ in range(20):
                http_.request("GET", "/increment/n")
                response = http_.getresponse()
                assert response.status == 200
                numbers.append(int(response.read()))
            return numbers

    with ThreadPoolExecutor(GUESTS) as pool:
        for numbers in pool.map(guest, range(GUESTS)):
            assert numbers == sorted(numbers)
            seen.update(numbers)
    assert seen == Counter(range(1, GUESTS * 20 + 1))


def test_swaps_of_guests_lose_nothing(served: Served) -> None:
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: ask(served, "/append/k"), range(50)))
    assert sorted(int(size) for _, size in answers) == list(range(1, 51))
    assert ask(served, "/get/k") == (200, "x" * 50)


def test_a_guest_uses_key_value_and_variables(served: Served) -> None:
    assert ask(served, "/get/a") == (404, "")
    assert ask(served, "/set/a/1") == (200, "ok")
    assert ask(served, "/set/b/") == (200, "ok")
    assert ask(served, "/get/a") == (200, "1")
    assert ask(served, "/get/b") == (200, "")
    assert ask(served, "/keys") == (200, "a\nb\n")
    assert ask(served, "/delete/a") == (200, "ok")
    assert ask(served, "/exists/a") == (200, "0")
    status, error = ask(served, "/set/" + "k" * 257 + "/v")
    assert (status, error[:9]) == (500, "3 the key")
    assert ask(served, "/open/other") == (500, "2")  # access-denied
    assert ask(served, "/variable/greeting") == (200, "hello you")
    assert ask(served, "/variable/who")[1].startswith("1 ")  # undefined
    assert ask(served, "/config/greeting") == (200, "hello you")
    assert ask(served, "/config/who") == (404, "")


def test_a_guest_uses_a_database_and_leaves_a_transaction_behind(served: Served) -> None:
    rows = ask(
        served,
        "/sql",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, x)\n"
        "INSERT INTO t (x) VALUES (-1), (2.5), ('hi'), (x'6869'), (NULL)\n"
        "SELECT * FROM t",
    )
    assert rows == (200, "1|-1\n2|real\n3|hi\n4|hi\n5|null\n")
    assert ask(served, "/sql", "BEGIN\nDELETE FROM t") == (200, "")
    assert ask(served, "/sql", "SELECT count(*) FROM t") == (200, "5\n")
    assert ask(served, "/sql", "BEGIN\nDELETE FROM t\nCOMMIT") == (200, "")
    assert ask(served, "/sql", "SELECT count(*) FROM t") == (200, "0\n")
    assert ask(served, "/sql", "ATTACH '/etc/passwd' AS p") == (500, "4 not authorized")


def test_a_full_disk_is_an_error_for_each_write_and_no_more(
    serve: Serve, application: Path, tmp_path: Path
) -> None:
    # Compiled before: what limits files now would limit compiled code as well.
    state = ("--state-dir", str(tmp_path / "state"))
    with serve(application, *state) as served:
        assert ask(served, "/set/a/1") == (200, "ok")
    with serve(application, *state, prefix=("prlimit", "--fsize=65536")) as served:
        answers = [ask(served, f"/set/b{n}/" + "v" * 4000) for n in range(40)]
        failed = [error for status, error in answers if status == 500]
        assert 0 < len(failed) < 40
        assert all(re.match("3 .*(disk|full)", error) for error in failed), failed
        assert ask(served, "/get/a") == (200, "1")
    with serve(application, *state) as served:
        assert ask(served, "/get/a") == (200, "1")
        kept = [ask(served, f"/get/b{n}")[0] for n in range(40)]
        # what failed may be there or not; what was acknowledged is
        assert all(k == 200 for k, (status, _) in zip(kept, answers, strict=True) if status == 200)


def test_a_label_that_nobody_configured_is_refused_at_start(application: Path) -> None:
    manifest = application / "spin.toml"
    manifest.write_text(manifest.read_text().replace('stores = ["default"]', 'stores = ["cache"]'))
    edge = Path(sys.executable).parent / "edge"
    done = subprocess.run([edge, "check", application], capture_output=True, text=True, check=False)
    assert done.returncode == 78, done.stderr
    assert 'component.guest.key_value_stores: no store "cache" is configured' in done.stderr
    assert "[key_value_store.cache]" in done.stderr


def test_the_runtime_configuration_says_where_data_and_variables_are(
    serve: Serve, application: Path, tmp_path: Path
) -> None:
    manifest = application / "spin.toml"
    text = manifest.read_text().replace('stores = ["default"]', 'stores = ["default", "cache"]')
    manifest.write_text(text)
    runtime = tmp_path / "runtime-config.toml"
    runtime.write_text(
        """
        [[variables_provider]]
        type = "static"
        values = { who = "s3cret" }
        [key_value_store.default]
        type = "spin"
        path = "elsewhere.db"
        max_entries = 1
        [key_value_store.cache]
        type = "spin"
        """
    )
    state = ("--state-dir", str(tmp_path / "state"), "--runtime-config-file", str(runtime))
    with serve(application, *state) as served:
        assert ask(served, "/variable/greeting") == (200, "hello s3cret")
        assert ask(served, "/open/cache") == (200, "ok")
        assert ask(served, "/set/a/1") == (200, "ok")
        assert ask(served, "/set/b/1") == (500, "3 the store is full: 1 entries")
    assert (tmp_path / "elsewhere.db").exists()
    assert "s3cret" not in "".join(served.log)
    runtime.write_text("[key_value_store.default]\ntype = 'azure_cosmos'")
    edge = Path(sys.executable).parent / "edge"
    command = [edge, "check", application, "--runtime-config-file", runtime]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 78
    assert f"{runtime}: key_value_store.default.type: " in done.stderr


# --- types --------------------------------------------------------------------------------------


def host() -> Interfaces:
    return Interfaces((*wasi.interfaces(), *spin.interfaces()))


def test_what_the_sdk_s_world_imports_has_the_types_it_says() -> None:
    sys.path.insert(0, str(Path(__file__).parent.parent / "guests"))
    import build

    names = ("--dummy-names", "legacy")
    module = wat.wasm_tools("component", "embed", *names, "-w", "platform", build.wit())
    component = wat.wasm_tools("component", "new", "-", data=module)
    interfaces = host()
    ours = {
        name
        for name in re.findall(rb"(?:fermyon|spin|wasi):[a-z-]+/[a-z-]+@[0-9a-z.-]+", component)
        if interfaces.find(name.decode()) is not None
    }
    assert {
        b"fermyon:spin/key-value@2.0.0", b"fermyon:spin/variables@2.0.0",
        b"fermyon:spin/sqlite@2.0.0", b"spin:sqlite/sqlite@3.0.0",
        b"wasi:keyvalue/store@0.2.0-draft2", b"wasi:keyvalue/atomics@0.2.0-draft2",
        b"wasi:keyvalue/batch@0.2.0-draft2", b"wasi:config/store@0.2.0-draft-2024-09-27",
    } <= ours  # fmt: skip
    load_plan(component, interfaces)  # refuses a function of another type


# As Spin's repository has them, without comments.
OLD = """package fermyon:spin;
interface key-value {
  type store = u32;
  variant error {
    store-table-full, no-such-store, access-denied, invalid-store, no-such-key, io(string),
  }
  open: func(name: string) -> result<store, error>;
  get: func(store: store, key: string) -> result<list<u8>, error>;
  set: func(store: store, key: string, value: list<u8>) -> result<_, error>;
  delete: func(store: store, key: string) -> result<_, error>;
  exists: func(store: store, key: string) -> result<bool, error>;
  get-keys: func(store: store) -> result<list<string>, error>;
  close: func(store: store);
}
interface sqlite {
  type connection = u32;
  variant error {
    no-such-database, access-denied, invalid-connection, database-full, io(string),
  }
  open: func(database: string) -> result<connection, error>;
  execute: func(conn: connection, statement: string, parameters: list<value>)
    -> result<query-result, error>;
  close: func(conn: connection);
  record query-result { columns: list<string>, rows: list<row-result> }
  record row-result { values: list<value> }
  variant value { integer(s64), real(f64), text(string), blob(list<u8>), null }
}
interface config {
  get-config: func(key: string) -> result<string, error>;
  variant error { provider(string), invalid-key(string), invalid-schema(string), other(string) }
}
world old { import key-value; import sqlite; import config; }
"""


def test_what_old_sdks_import_has_the_types_they_say() -> None:
    component = wat.component_of(OLD, "old")
    for name in (b"fermyon:spin/key-value", b"fermyon:spin/sqlite", b"fermyon:spin/config"):
        assert name in component
        assert host().find(name.decode()) is not None
    load_plan(component, host())
    other = OLD.replace("get-config: func(key: string)", "get-config: func(key: u32)")
    with pytest.raises(ComponentError, match="imports fermyon:spin/config"):
        load_plan(wat.component_of(other, "old"), host())
