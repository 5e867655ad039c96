"""`edge backup` and `edge restore`: real databases, writers at work, interruptions everywhere."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from edge.errors import BundleError, ConfigError, EdgeError
from edge.node import backup, claim, restore
from edge.registry.store import ContentStore

EDGE = str(Path(sys.executable).parent / "edge")


class Board:
    """The files of a node."""

    def __init__(self, directory: Path) -> None:
        self.state = directory / "state"
        self.config = directory / "etc" / "edge.toml"
        self.state.mkdir(parents=True)
        self.config.parent.mkdir()

    def fill(self, text: str) -> None:
        """Everything of it says `text`."""
        self.config.write_text(f'[node]\nname = "{text}"\nstate_dir = "{self.state}"\n')
        for name in ("apps.json", "fleet.json", "timers.json"):
            (self.state / name).write_text(json.dumps({"schema": 1, "is": text}))
        (self.state / "mqtt" / "main").mkdir(parents=True, exist_ok=True)
        (self.state / "mqtt" / "main" / "mqtt.json").write_text(text)
        for kind in ("kv", "sqlite"):
            (self.state / kind / "my%20app").mkdir(parents=True, exist_ok=True)
            with closing(self.open(kind)) as database:
                database.execute("DELETE FROM t")
                database.execute("INSERT INTO t VALUES (?)", (text,))

    def open(self, kind: str) -> sqlite3.Connection:
        found = sqlite3.connect(self.state / kind / "my%20app" / "default.db", isolation_level=None)
        found.execute("PRAGMA journal_mode = WAL")
        found.execute("CREATE TABLE IF NOT EXISTS t (x)")
        return found

    def says(self) -> dict[str, Any]:
        """What each part of it says."""
        found: dict[str, Any] = {"config": self.config.read_text().split('"')[1]}
        for name in ("apps.json", "fleet.json", "timers.json"):
            path = self.state / name
            found[name] = json.loads(path.read_text())["is"] if path.exists() else None
        path = self.state / "mqtt" / "main" / "mqtt.json"
        found["mqtt"] = path.read_text() if path.exists() else None
        for kind in ("kv", "sqlite"):
            path = self.state / kind / "my%20app" / "default.db"
            if not path.exists():
                found[kind] = None
                continue
            with closing(sqlite3.connect(path)) as database:
                found[kind] = database.execute("SELECT x FROM t").fetchone()[0]
        return found

    def backup(self, target: Path, **more: Any) -> backup.Made:
        return backup.make(target, self.state, config=self.config, node="pi", version="0", **more)

    def left(self) -> list[str]:
        """What does not belong there."""
        known = {"apps.json", "fleet.json", "timers.json", "mqtt", "kv", "sqlite", "blobs"}
        return sorted({p.name for p in self.state.iterdir()} - known - {"node.lock", "backup.lock"})


@pytest.fixture
def board(tmp_path: Path) -> Board:
    found = Board(tmp_path)
    found.fill("old")
    return found


def all_say(text: str) -> dict[str, str]:
    names = ("config", "apps.json", "fleet.json", "timers.json", "mqtt", "kv", "sqlite")
    return dict.fromkeys(names, text)


def test_a_node_is_again_what_it_was(board: Board, tmp_path: Path) -> None:
    made = board.backup(tmp_path / "b.tar")
    assert made.files == 7
    board.fill("new")
    found = restore.restore(tmp_path / "b.tar", board.state, config=board.config)
    assert (found.node, len(found.files)) == ("pi", 7)
    assert board.says() == all_say("old")
    assert board.left() == []


def test_only_its_owner_may_read_it(board: Board, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        board.backup(tmp_path / "b.tar")
    finally:
        os.umask(before)
    assert (tmp_path / "b.tar").stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.tar", "etc", "state"]


def test_a_target_that_cannot_be_is_told_before_anything_is_written(
    board: Board, tmp_path: Path
) -> None:
    (tmp_path / "target").mkdir()
    with pytest.raises(ConfigError, match=r"target: is a directory$") as caught:
        board.backup(tmp_path / "target")
    assert caught.value.hint == "name a file, which may be in it"
    with pytest.raises(ConfigError, match=r"nowhere: there is no such directory$"):
        board.backup(tmp_path / "nowhere" / "x.tar")
    assert list((tmp_path / "target").iterdir()) == []


def test_other_tools_read_it(board: Board, tmp_path: Path) -> None:
    board.backup(tmp_path / "b.tar")
    command = ["tar", "-xOf", str(tmp_path / "b.tar"), "state/apps.json"]
    done = subprocess.run(command, check=True, capture_output=True)
    assert json.loads(done.stdout)["is"] == "old"


def test_what_the_backup_has_not_is_not_there_afterwards(board: Board, tmp_path: Path) -> None:
    other = Board(tmp_path / "other")
    other.config.write_text('name = "empty"')
    other.backup(tmp_path / "b.tar")
    restore.restore(tmp_path / "b.tar", board.state, config=board.config)
    assert board.says() == dict.fromkeys(all_say(""), None) | {"config": "empty"}


def test_the_configuration_can_stay(board: Board, tmp_path: Path) -> None:
    board.backup(tmp_path / "b.tar")
    board.fill("new")
    restore.restore(tmp_path / "b.tar", board.state, config=None)
    assert board.says() == all_say("old") | {"config": "new"}


def test_the_configuration_keeps_its_permissions(board: Board, tmp_path: Path) -> None:
    board.backup(tmp_path / "b.tar")
    board.fill("new")
    board.config.chmod(0o640)
    restore.restore(tmp_path / "b.tar", board.state, config=board.config)
    assert board.config.stat().st_mode & 0o777 == 0o640


def test_a_node_is_made_anew_on_an_empty_board(board: Board, tmp_path: Path) -> None:
    board.backup(tmp_path / "b.tar")
    state, config = tmp_path / "fresh" / "var", tmp_path / "fresh" / "etc" / "edge.toml"
    restore.restore(tmp_path / "b.tar", state, config=config)
    assert config.read_text() == board.config.read_text()
    assert (state / "apps.json").exists()
    assert (state / "kv" / "my%20app" / "default.db").exists()


def test_bundles_come_along_when_asked_for(board: Board, tmp_path: Path) -> None:
    store = ContentStore(board.state)
    blob = store.add(b"content" * 1000, "text/plain")
    store.tags.set("registry.example/a:1", blob.digest)
    board.backup(tmp_path / "without.tar")
    board.backup(tmp_path / "with.tar", bundles=True)
    state = tmp_path / "fresh"
    restore.restore(tmp_path / "without.tar", state, config=None)
    assert ContentStore(state).tags.get("registry.example/a:1") is None
    restore.restore(tmp_path / "with.tar", state, config=None)
    assert ContentStore(state).tags.get("registry.example/a:1") == blob.digest
    ContentStore(state).verify(blob.digest)


def test_bundles_that_are_here_stay_when_the_backup_has_none(board: Board, tmp_path: Path) -> None:
    board.backup(tmp_path / "b.tar")
    blob = ContentStore(board.state).add(b"content", "text/plain")
    restore.restore(tmp_path / "b.tar", board.state, config=None)
    ContentStore(board.state).verify(blob.digest)


def test_a_damaged_bundle_is_not_backed_up_as_a_good_one(board: Board, tmp_path: Path) -> None:
    store = ContentStore(board.state)
    blob = store.add(b"content", "text/plain")
    store.path(blob.digest).chmod(0o600)
    store.path(blob.digest).write_bytes(b"CONTENT")
    with pytest.raises(EdgeError, match="its content is not what its name says"):
        board.backup(tmp_path / "b.tar", bundles=True)
    assert not (tmp_path / "b.tar").exists()


# While the node runs


# Money moves between two accounts, in transactions; their sum never changes.
WRITER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
while True:
    database.execute("BEGIN IMMEDIATE")
    database.execute("UPDATE account SET has = has - 1 WHERE name = 'a'")
    database.execute("UPDATE account SET has = has + 1 WHERE name = 'b'")
    database.execute("COMMIT")
    sys.stdout.write(".")
    sys.stdout.flush()
"""


@pytest.fixture
def accounts(board: Board) -> Iterator[sqlite3.Connection]:
    with closing(board.open("sqlite")) as database:
        database.execute("CREATE TABLE account (name, has)")
        database.execute("INSERT INTO account VALUES ('a', 1000000), ('b', 0)")
        # More than a log holds, so that copying takes a while.
        database.execute(
            "CREATE TABLE ballast AS SELECT randomblob(1000) FROM"
            " (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n"
            " WHERE i < 8000) SELECT i FROM n)"
        )
        yield database


def test_a_database_is_copied_at_one_moment_while_others_write(
    board: Board, tmp_path: Path, accounts: sqlite3.Connection
) -> None:
    path = str(board.state / "sqlite" / "my%20app" / "default.db")
    command = [sys.executable, "-c", WRITER, path]
    with (tmp_path / "dots").open("wb") as dots:
        writer = subprocess.Popen(command, stdout=dots)
    try:
        while not (tmp_path / "dots").stat().st_size:
            assert writer.poll() is None
            time.sleep(0.01)
        moved = []
        for number in range(5):
            target = tmp_path / f"{number}.tar"
            board.backup(target)
            other = tmp_path / f"restored-{number}"
            restore.restore(target, other, config=None)
            with closing(sqlite3.connect(other / "sqlite" / "my%20app" / "default.db")) as copy:
                has = dict(copy.execute("SELECT name, has FROM account"))
            assert has["a"] + has["b"] == 1_000_000
            moved.append(has["b"])
    finally:
        writer.kill()
        writer.wait()
    assert moved == sorted(moved)
    assert 0 < moved[0] < moved[-1]
    (now,) = accounts.execute("SELECT has FROM account WHERE name = 'b'").fetchone()
    assert now >= moved[-1]


def test_what_only_the_log_of_a_killed_node_holds_is_in_it(board: Board, tmp_path: Path) -> None:
    script = (
        "import os, sqlite3, sys; d = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "d.execute('PRAGMA wal_autocheckpoint = 0');"
        "d.execute(\"UPDATE t SET x = 'logged'\"); os.kill(os.getpid(), 9)"
    )
    path = board.state / "kv" / "my%20app" / "default.db"
    done = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.with_name("default.db-wal").stat().st_size > 0
    board.backup(tmp_path / "b.tar")
    restore.restore(tmp_path / "b.tar", tmp_path / "fresh", config=None)
    copy = tmp_path / "fresh" / "kv" / "my%20app" / "default.db"
    with closing(sqlite3.connect(copy)) as database:
        assert database.execute("SELECT x FROM t").fetchone() == ("logged",)


def test_a_damaged_database_is_named_and_there_is_no_backup(board: Board, tmp_path: Path) -> None:
    (tmp_path / "b.tar").write_text("the one before")
    (board.state / "kv" / "my%20app" / "default.db").write_bytes(b"no database" * 1000)
    with pytest.raises(EdgeError, match=r"kv/my%20app/default.db: file is not a database"):
        board.backup(tmp_path / "b.tar")
    assert (tmp_path / "b.tar").read_text() == "the one before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.tar", "etc", "state"]


def test_a_damaged_page_is_found(
    board: Board, tmp_path: Path, accounts: sqlite3.Connection
) -> None:
    accounts.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    accounts.execute("CREATE INDEX by_name ON account (name)")
    accounts.execute("PRAGMA writable_schema = ON")
    accounts.execute("DELETE FROM sqlite_schema WHERE name = 'by_name'")
    with pytest.raises(EdgeError, match="the file is damaged"):
        board.backup(tmp_path / "b.tar")


def test_a_backup_that_was_killed_leaves_nothing_for_long(board: Board, tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from edge.node import backup;"
        "backup._write = lambda *_: os.kill(os.getpid(), 9);"
        "backup.make(Path(sys.argv[1]), Path(sys.argv[2]), config=None, node='', version='')"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "b.tar"), str(board.state)]
    for _ in range(3):
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".edge-backup-*"))) == 1
    board.backup(tmp_path / "b.tar")
    assert not list(tmp_path.glob(".edge-backup-*"))


# Restoring


def test_a_node_that_runs_is_not_restored(board: Board, tmp_path: Path) -> None:
    board.backup(tmp_path / "b.tar")
    board.fill("new")
    with claim.running(board.state) as alone:
        assert alone
        with pytest.raises(EdgeError, match="a node runs on it"):
            restore.restore(tmp_path / "b.tar", board.state, config=board.config)
        with pytest.raises(EdgeError, match="another node runs on it"):
            finish(board)
    assert board.says() == all_say("new")


def finish(board: Board) -> bool:
    """A node starts on it."""
    with claim.claimed(board.state) as finished:
        return finished


def interruptions(tar: Path, target: Board, stop: Callable[[int], None]) -> int:
    """How often something is renamed or made durable while restoring."""
    calls = 0
    real = claim.move

    def move(source: Path, to: Path) -> None:
        nonlocal calls
        stop(calls)
        calls += 1
        real(source, to)
        stop(calls)
        calls += 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claim, "move", move)
        patch.setattr(restore, "move", move)
        restore.restore(tar, target.state, config=target.config)
    return calls


class Cut(BaseException):
    """The power."""


def test_a_restore_that_is_interrupted_anywhere_is_old_or_ends_as_new(tmp_path: Path) -> None:
    source = Board(tmp_path / "source")
    source.fill("old")
    (source.state / "timers.json").unlink()  # what is here and not in the backup goes
    source.backup(tmp_path / "b.tar")
    wanted = all_say("old") | {"timers.json": None}

    def never(_: int) -> None: ...

    first = Board(tmp_path / "first")
    first.fill("new")
    count = interruptions(tmp_path / "b.tar", first, never)
    assert count > 20
    for at in range(count):
        target = Board(tmp_path / f"cut-{at}")
        target.fill("new")

        def cut(call: int, at: int = at) -> None:
            if call == at:
                raise Cut

        with pytest.raises(Cut):
            interruptions(tmp_path / "b.tar", target, cut)
        if finish(target):
            assert target.says() == wanted
        elif at == 0:
            assert target.says() == all_say("new")
        else:
            assert target.says() == wanted, at
        restore.restore(tmp_path / "b.tar", target.state, config=target.config)
        assert target.says() == wanted
        assert target.left() == []


def test_a_restore_that_is_interrupted_twice_ends_as_well(board: Board, tmp_path: Path) -> None:
    board.backup(tmp_path / "b.tar")
    board.fill("new")
    real = claim.move
    left = 0

    def move(source: Path, to: Path) -> None:
        nonlocal left
        if not left:
            raise Cut
        left -= 1
        real(source, to)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claim, "move", move)
        patch.setattr(restore, "move", move)
        left = 2
        with pytest.raises(Cut):
            restore.restore(tmp_path / "b.tar", board.state, config=board.config)
        for _ in range(50):
            left = 1
            try:
                finish(board)
                break
            except Cut:
                continue
        else:
            pytest.fail("never ends")
    finish(board)
    assert board.says() == all_say("old")


def test_killed_restores_leave_the_old_or_the_new(tmp_path: Path) -> None:
    """At moments that nobody chose."""
    source = Board(tmp_path / "source")
    source.fill("old")
    source.backup(tmp_path / "b.tar")
    script = (
        "import sys; from pathlib import Path; from edge.node import restore;"
        "sys.stdout.write('x'); sys.stdout.flush();"
        "restore.restore(Path(sys.argv[1]), Path(sys.argv[2]), config=Path(sys.argv[3]))"
    )
    target = Board(tmp_path / "target")
    command = [sys.executable, "-c", script, tmp_path / "b.tar", target.state, target.config]
    for number in range(8):
        target.fill("new")
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.read(1)
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.004 * number)
        process.kill()
        process.wait()
        process.stdout.close()
        finished = finish(target)
        said = target.says()
        assert said in (all_say("old"), all_say("new"))
        assert not finished or said == all_say("old")


# Backups that are not what they should be


def tampered(path: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]) -> Path:
    """The same backup but for a change of its members."""
    with tarfile.open(path) as tar:
        members = [(m, (tar.extractfile(m) or io.BytesIO()).read()) for m in tar]
    change(members)
    target = path.with_name("tampered.tar")
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for member, data in members:
            member.size = len(data) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(data))
    return target


Members = list[tuple[tarfile.TarInfo, bytes]]


def named(edit: Callable[[Any], None]) -> Callable[[Members], None]:
    def change(members: Members) -> None:
        about = json.loads(members[0][1])
        edit(about)
        members[0] = (members[0][0], json.dumps(about).encode())

    return change


def as_path(text: str) -> Callable[[Members], None]:
    def change(members: Members) -> None:
        named(lambda about: about["files"][1].update(path=text))(members)
        members[2][0].name = text

    return change


def flipped(members: Members) -> None:
    header, data = members[2]
    members[2] = (header, data.replace(b"old", b"OLD"))


def linked(members: Members) -> None:
    members[2][0].type = tarfile.SYMTYPE
    members[2][0].linkname = "/etc/passwd"


def more(members: Members) -> None:
    members.append((tarfile.TarInfo("state/more.json"), b"x"))


TAMPERED: dict[str, tuple[Callable[[Members], None], str]] = {
    "content": (flipped, "state/apps.json is damaged"),
    "a link": (linked, "has 'state/apps.json' where state/apps.json should be"),
    "one more": (more, "which it does not name"),
    "one less": (lambda members: members.pop(), "ends before state/sqlite"),
    "another order": (lambda members: members.insert(1, members.pop()), "should be"),
    "no list": (lambda members: members.pop(0), "is not a backup of edge"),
    "newer": (named(lambda about: about.update(schema=2)), "has schema 2, this version knows 1"),
    "twice": (named(lambda about: about["files"].append(about["files"][0])), "names a file twice"),
    "size": (named(lambda about: about["files"][1].update(size=1)), "should be"),
    "unknown key": (named(lambda about: about.update(more=1)), "more: unknown key"),
    "above": (as_path("state/kv/../../../evil"), "is not a file of a backup"),
    "absolute": (as_path("/etc/passwd"), "is not a file of a backup"),
    "elsewhere": (as_path("state/code/x"), "is not a file of a backup"),
    "a directory": (as_path("state/kv"), "is not a file of a backup"),
    "empty part": (as_path("state/kv//x"), "is not a file of a backup"),
    "NUL": (as_path("state/kv/a\0b"), "is not a file of a backup"),
    "mode": (named(lambda about: about["files"][1].update(mode=0o4755)), "must be between"),
    "relative": (named(lambda about: about.update(config="edge.toml")), "is not an absolute path"),
}


@pytest.mark.parametrize(("change", "message"), TAMPERED.values(), ids=TAMPERED)
def test_what_was_tampered_with_changes_nothing(
    board: Board, tmp_path: Path, change: Callable[[Members], None], message: str
) -> None:
    board.backup(tmp_path / "b.tar")
    path = tampered(tmp_path / "b.tar", change)
    board.fill("new")
    for attempt in (
        lambda: restore.verify(path),
        lambda: restore.restore(path, board.state, config=board.config),
    ):
        with pytest.raises(EdgeError) as caught:
            attempt()
        assert message in caught.value.message
    assert board.says() == all_say("new")
    assert board.left() == []


def test_no_byte_of_a_backup_changes_unnoticed(board: Board, tmp_path: Path) -> None:
    board.backup(tmp_path / "b.tar")
    before = restore.verify(tmp_path / "b.tar")
    data = (tmp_path / "b.tar").read_bytes()
    chance = random.Random(4)
    refused = 0
    for _ in range(400):
        at = chance.randrange(len(data))
        changed = bytearray(data)
        changed[at] ^= 1 << chance.randrange(8)
        (tmp_path / "c.tar").write_bytes(changed)
        try:
            # What means nothing to anybody may differ: padding, when and by whom it was made.
            after = restore.verify(tmp_path / "c.tar")
            assert after.files == before.files
        except EdgeError:
            refused += 1
    assert refused > 200


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.5, 0.7])
def test_a_truncated_backup_changes_nothing(board: Board, tmp_path: Path, share: float) -> None:
    board.backup(tmp_path / "b.tar")
    data = (tmp_path / "b.tar").read_bytes()
    (tmp_path / "b.tar").write_bytes(data[: int(len(data) * share)])
    board.fill("new")
    with pytest.raises(BundleError):
        restore.restore(tmp_path / "b.tar", board.state, config=board.config)
    assert board.says() == all_say("new")


def test_a_link_in_the_state_directory_is_not_replaced(board: Board, tmp_path: Path) -> None:
    board.backup(tmp_path / "b.tar")
    (board.state / "kv").rename(tmp_path / "elsewhere")
    (board.state / "kv").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EdgeError, match="is a symbolic link"):
        restore.restore(tmp_path / "b.tar", board.state, config=None)


@pytest.mark.parametrize("name", ["node.lock", "backup.lock"])
def test_root_does_not_follow_what_the_user_of_a_node_has_linked(tmp_path: Path, name: str) -> None:
    """Its owner and its locks would be given to whoever has taken over the node."""
    state, victim = tmp_path / "state", tmp_path / "victim"
    state.mkdir()
    victim.write_text("root's")
    (state / name).symlink_to(victim)
    if os.geteuid() == 0:
        os.chown(state, 12345, 12345)
    with pytest.raises(OSError, match="symbolic"), claim.locked(state, name):
        pass
    assert victim.stat().st_uid == os.geteuid()
    (state / name).unlink()
    (state / name).symlink_to(tmp_path / "new")
    with pytest.raises(OSError, match="symbolic"), claim.locked(state, name):
        pass
    assert not (tmp_path / "new").exists()


def test_a_node_runs_after_what_was_given_to_its_user(board: Board, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    os.chown(board.state, 12345, 12345)
    board.backup(tmp_path / "b.tar")
    restore.restore(tmp_path / "b.tar", board.state, config=None)
    for name in ("node.lock", "backup.lock"):
        assert (board.state / name).stat().st_uid == 12345
    for found in (board.state / "apps.json", *(board.state / "kv").rglob("*")):
        assert found.stat().st_uid == 12345, found


# The command line


def edge(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [EDGE, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_verbs(board: Board, tmp_path: Path) -> None:
    done = edge("backup", tmp_path / "b.tar", "--config", board.config)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/b.tar\n"), done.stderr
    assert "7 files" in done.stderr
    assert "secrets" in done.stderr
    done = edge("restore", "--check", tmp_path / "b.tar")
    assert done.returncode == 0
    assert "a backup: of node old at" in done.stderr
    board.fill("new")
    done = edge("restore", tmp_path / "b.tar", "--config", board.config)
    assert done.returncode == 0, done.stderr
    assert board.says() == all_say("old")
    done = edge("restore", tmp_path / "nothing.tar")
    assert (done.returncode, done.stderr) == (
        78,
        f"edge: {tmp_path}/nothing.tar: no such file or directory\n",
    )


def test_places_that_a_backup_names_need_somebody_who_says_so(board: Board, tmp_path: Path) -> None:
    edge("backup", tmp_path / "b.tar", "--config", board.config)
    done = edge("restore", tmp_path / "b.tar")
    assert done.returncode == 78
    assert f"hint: --config {board.config}, or --no-config" in done.stderr
    done = edge("restore", tmp_path / "b.tar", "--no-config")
    assert done.returncode == 78
    assert f"hint: --state-dir {board.state}" in done.stderr
    board.fill("new")
    done = edge("restore", tmp_path / "b.tar", "--state-dir", board.state, "--no-config")
    assert done.returncode == 0, done.stderr
    assert board.says() == all_say("old") | {"config": "new"}


def test_the_same_node_gives_the_same_list(board: Board, tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        board.backup(tmp_path / name)
    first, second = (restore.verify(tmp_path / name) for name in ("a.tar", "b.tar"))
    assert first.files == second.files
