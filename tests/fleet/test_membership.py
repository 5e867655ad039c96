"""Founding a fleet, joining, leaving, revoking, as a node is told to; two of them as real nodes."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import tarfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from members import DAY, YEAR, Clock
from node_lab import Node, node, run_edge
from sync_lab import until

from edge import config
from edge.errors import ConfigError, EdgeError
from edge.node import tokenfile
from edge.node.membership import Membership


def free_ports() -> int:
    """The first of two neighbours that are free."""
    while True:
        with socket.socket() as one, socket.socket() as next_one:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            try:
                next_one.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Member:
    """A node, as far as its place in a fleet goes."""

    def __init__(self, folder: Path, clock: Clock, **fleet: Any) -> None:
        self.folder, self.clock, self.port = folder, clock, free_ports()
        self._fleet = fleet
        self.changes: list[bool] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Member]:
        listen = config.Address("127.0.0.1", self.port)
        about = config.Node(name=self.folder.name, state_dir=self.folder)
        fleet = config.Fleet(listen=listen, **self._fleet)
        async with Membership(about, fleet, self.clock) as self.membership:

            async def changed() -> None:
                self.changes.append(self.membership.identity is not None)

            self.membership.changed = changed
            yield self

    async def do(self, verb: str, **body: object) -> Any:
        return await self.membership.operations[verb](body)

    async def token(self, **body: object) -> str:
        found = await self.do("token", addresses=["127.0.0.1"], **body)
        return str(found["token"])

    @property
    def id(self) -> str:
        assert self.membership.identity is not None
        return self.membership.identity.node


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def first(tmp_path: Path, clock: Clock) -> Member:
    return Member(tmp_path / "first", clock)


@pytest.fixture
def second(tmp_path: Path, clock: Clock) -> Member:
    return Member(tmp_path / "second", clock)


async def test_the_door_is_open_while_a_token_is_good(first: Member, clock: Clock) -> None:
    door = first.port + 1
    async with first.running():
        about = await first.do("init", name="site")
        assert about["name"] == "site"
        assert not is_open(door)
        await first.token(life="1m")
        assert is_open(door)
    assert not is_open(door)
    async with first.running():  # after a restart, too
        assert is_open(door)
    clock.now += 61
    async with first.running():
        assert not is_open(door)
        await first.token(life="1m")
        assert is_open(door)
        clock.now += 59.5
        until_shut = until(lambda: not is_open(door))
        clock.now += 1
        first.membership._watching.cancel()  # type: ignore[union-attr] – it sleeps for a minute
        await first.membership._watch()
        await until_shut


async def test_founding_that_was_interrupted_is_taken_up(first: Member) -> None:
    async with first.running():
        fleet = (await first.do("init", name="site"))["fleet"]
    (first.folder / "identity" / "membership.json").unlink()
    async with first.running():
        assert first.membership.about() is None
        about = await first.do("init", name="another")
        assert (about["fleet"], about["name"]) == (fleet, "site")


async def test_a_machine_may_be_called_as_it_likes(first: Member, tmp_path: Path) -> None:
    odd = Member(tmp_path / "küche (alt)", first.clock)
    async with first.running(), odd.running():
        await first.do("init")
        await odd.do("join", token=await first.token())
        assert first.membership.members()[1]["name"] == "k-che--alt-"


async def test_one_node_after_the_other(first: Member, second: Member, tmp_path: Path) -> None:
    async with first.running(), second.running():
        await first.do("init")
        token = await first.token()
        about = await second.do("join", token=token)
        assert (about["issuer"], about["node"]) == (first.id, second.id)
        names = [(m["name"], m["authority"]) for m in first.membership.members()]
        assert names == [("first", True), ("second", False)]
        for verb in ("token", "revoke"):
            with pytest.raises(EdgeError, match="on another node") as error:
                await second.do(verb, **({"who": "x"} if verb == "revoke" else {}))
            assert first.id in (error.value.hint or "")
        for body in ({"token": token}, {"token": await first.token()}):
            with pytest.raises(EdgeError, match="already"):
                await second.do("join", **body)
        assert (first.changes, second.changes) == ([True], [True])


async def test_leaving(first: Member, second: Member) -> None:
    async with first.running(), second.running():
        await first.do("init")
        token = await first.token(uses=5)
        before = (await second.do("join", token=token))["node"]
        await second.do("leave")
        assert not (second.folder / "identity").exists()
        await second.do("leave")
        assert (await second.do("join", token=token))["node"] != before
        with pytest.raises(EdgeError, match="nobody can be revoked"):
            await first.do("leave")
        await first.do("leave", dissolve=True)
        assert not is_open(first.port + 1)
        assert not (first.folder / "authority").exists()
        assert (await first.do("init", name="another"))["name"] == "another"
        assert (first.changes, second.changes) == ([True, False, True], [True, False, False, True])


async def gone_away(member: Member, verb: str, **body: object) -> None:
    """Asks for something, and does not wait."""
    asking = asyncio.get_running_loop().create_task(member.do(verb, **body))
    for _ in range(2):  # it has begun
        await asyncio.sleep(0)
    asking.cancel()


async def test_who_asks_may_go_away(first: Member, second: Member) -> None:
    """What was begun is done as a whole, on the disk and in memory."""
    async with first.running(), second.running():
        await first.do("init")
        await gone_away(second, "join", token=await first.token())
        await until(lambda: second.changes == [True])
        assert second.id
        assert (second.folder / "identity").exists()
        await gone_away(second, "leave")
        await until(lambda: second.changes == [True, False])
        assert second.membership.identity is None
        assert not (second.folder / "identity").exists()


async def test_revoking(first: Member, second: Member, tmp_path: Path, clock: Clock) -> None:
    namesake = Member(tmp_path / "more" / "second", clock)
    async with first.running(), second.running(), namesake.running():
        await first.do("init")
        token = await first.token(uses=2)
        await second.do("join", token=token)
        await namesake.do("join", token=token)
        with pytest.raises(ConfigError, match="several nodes") as error:
            await first.do("revoke", who="second")
        assert second.id in error.value.message
        with pytest.raises(ConfigError, match="no node of this fleet"):
            await first.do("revoke", who="nobody")
        with pytest.raises(EdgeError, match="this node"):
            await first.do("revoke", who=first.id)
        gone = second.id
        for _ in range(2):
            assert await first.do("revoke", who=gone[:8]) == {"id": gone, "revocations": 1}
        assert [m["revoked"] for m in first.membership.members()] == [False, True, False]
        assert second.membership.identity is not None
        await second.membership.identity.take_revocations(
            first.membership.identity.revocations.data  # type: ignore[union-attr]
        )
        assert "revoked" in second.membership.notes()[0]
        # As a new node, with a new token; the old one went with it.
        await second.do("leave")
        with pytest.raises(EdgeError, match="expired, or is none"):
            await second.do("join", token=token)
        assert (await second.do("join", token=await first.token()))["node"] != gone
        # A name means who is not revoked yet, and is still not enough for two.
        with pytest.raises(ConfigError, match="several nodes") as error:
            await first.do("revoke", who="second")
        assert gone not in error.value.message
        await first.do("revoke", who=second.id)
        assert (await first.do("revoke", who="second"))["id"] == namesake.id


async def test_who_was_off_for_too_long_joins_again(
    first: Member, second: Member, clock: Clock
) -> None:
    async with first.running(), second.running():
        await first.do("init")
        before = (await second.do("join", token=await first.token()))["node"]
        clock.now += YEAR + DAY
        assert "expired" in second.membership.notes()[0]
        assert first.membership.authority is not None
        identity = first.membership.identity
        assert identity is not None
        issued = first.membership.authority.renew(first.id, await identity.request(), ())
        await identity.take_certificate(issued.pem)
    async with first.running(), second.running():
        await second.do("join", token=await first.token())
        assert second.id == before
        assert second.membership.notes() == ()


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("init", {"name": "a\nb"}),
        ("init", {"name": "x" * 64}),
        ("init", {"nmae": "x"}),
        ("token", {"uses": 0}),
        ("token", {"uses": True}),
        ("token", {"life": "1s"}),
        ("token", {"life": "31d"}),
        ("token", {"addresses": ["a:b:c"]}),
        ("token", {"addresses": "10.0.0.1"}),
        ("join", {}),
        ("join", {"token": "secret"}),
        ("join", {"token": "edge1." + "A" * 5000}),
        ("leave", {"dissolve": 1}),
        ("revoke", {}),
    ],
)
async def test_what_is_asked_wrongly_changes_nothing(
    first: Member, verb: str, body: dict[str, object]
) -> None:
    async with first.running():
        with pytest.raises(ConfigError):
            await first.do(verb, **body)
    assert not first.folder.exists()


async def test_a_damaged_membership_does_not_keep_a_node_from_serving(first: Member) -> None:
    async with first.running():
        await first.do("init")
    (first.folder / "identity" / "membership.json").write_text("{")
    async with first.running():
        assert "membership.json" in first.membership.notes()[0]
        with pytest.raises(EdgeError, match="damaged"):
            await first.do("init")
        await first.do("leave", dissolve=True)
        await first.do("init")


async def test_a_port_that_is_taken_is_told(first: Member) -> None:
    async with first.running():
        await first.do("init")
        taken = socket.create_server(("127.0.0.1", first.port + 1))
        with taken, pytest.raises(EdgeError, match="in use"):
            await first.token()
        await first.token()
    with socket.create_server(("127.0.0.1", first.port + 1)):
        async with first.running():
            assert "in use" in first.membership.notes()[0]


# A token in a file


async def test_a_board_joins_by_a_file_when_its_fleet_is_there(
    first: Member, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenfile, "_FIRST", 0.05)
    file = tmp_path / "token"
    board = Member(tmp_path / "board", clock, join_token_file=file)
    async with first.running():
        await first.do("init")
        file.write_text(await first.token() + "\n")
    async with board.running():
        await until(lambda: board.membership.notes())
        assert "not in a fleet yet" in board.membership.notes()[0]
        async with first.running():
            await until(lambda: not file.exists())
        assert board.membership.notes() == ()
        assert board.changes == [True]
    async with board.running():  # without the file
        assert board.membership.identity is not None
        assert board.membership.notes() == ()
    async with first.running():
        file.write_text(await first.token())  # as if the power had gone before it was removed
    async with board.running():
        assert not file.exists()
    other = Member(tmp_path / "other", clock)
    async with other.running():
        await other.do("init")
        file.write_text(await other.token())
    async with board.running():
        assert file.exists()


@pytest.mark.parametrize(("text", "said"), [("edge1.x", "missing"), ("\xff", "begins with")])
async def test_a_file_that_holds_no_token_is_told(
    tmp_path: Path, clock: Clock, text: str, said: str
) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    board = Member(tmp_path / "board", clock, join_token_file=file)
    async with board.running():
        await until(lambda: board.membership.notes())
        assert said in board.membership.notes()[0]
    assert file.exists()


async def test_a_file_that_is_not_there_is_told(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "tokn"
    board = Member(tmp_path / "board", clock, join_token_file=file)
    with caplog.at_level(logging.INFO, "edge.fleet"):
        async with board.running():
            await until(lambda: f"{file}: no such file" in caplog.text)
            assert board.membership.notes() == ()  # as it is where no fleet is wanted yet


# Real nodes


def fleet() -> str:
    return f'[fleet]\nlisten = "127.0.0.1:{free_ports()}"\ndiscovery = false\n'


def loaded(of: Node, library: str) -> bool:
    return library in Path(f"/proc/{of.process.pid}/maps").read_text()


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[Node]:
    (tmp_path / "a").mkdir()
    with node(tmp_path / "a", fleet()) as running:
        running.tell("fleet", "init", "--name", "site")
        yield running


def test_verbs_say_what_they_did(issuer: Node, caplog: pytest.LogCaptureFixture) -> None:
    assert issuer.tell("apps", "--fleet") == "no applications\n"
    assert issuer.tell("apps", "--fleet", "thermo") == "no node that answers has thermo\n"
    with caplog.at_level(logging.INFO, "edge"):
        issuer.tell("fleet", "leave", "--dissolve")
    assert "in no fleet any more" in caplog.text


def test_a_node_joins_and_is_its_members_backup(tmp_path: Path, issuer: Node) -> None:
    folder, settings = tmp_path / "b", fleet()
    folder.mkdir()
    with node(folder, settings) as other:
        assert not loaded(other, "cryptography")
        assert not loaded(other, "zeroconf")
        assert not is_open(int(settings.split('"')[1].rpartition(":")[2]))
        assert "is in no fleet" in other.edge("fleet", "members").stderr
        made = issuer.tell("fleet", "token", "--address", "127.0.0.1").strip()
        (tmp_path / "token").write_text(f"{made}\n")
        assert "no such file" in other.edge("fleet", "join", "@/nowhere").stderr
        said = other.tell("fleet", "join", f"@{tmp_path / 'token'}")
        assert said.endswith(" of fleet site\n")
        members = json.loads(issuer.tell("fleet", "members", "--json"))
        assert said.split()[1] == members[1]["id"]
        assert not any(made in log.text for log in (other, issuer))
    with node(folder, settings) as other:  # no cryptography but that of TLS
        assert "already" in other.edge("fleet", "init").stderr
        assert not loaded(other, "cryptography")

    tar, restored = tmp_path / "node.tar", tmp_path / "restored"
    assert run_edge("backup", tar, "--config", issuer.folder / "edge.toml").returncode == 0
    with tarfile.open(tar) as found:
        names = found.getnames()
    assert {"state/authority/key.pem", "state/identity/key.pem"} <= set(names)
    assert not [name for name in names if "tokens" in name or "door" in name]
    done = run_edge("restore", tar, "--state-dir", restored, "--no-config")
    assert done.returncode == 0, done.stderr
    for name in ("authority", "identity"):
        assert (restored / name).stat().st_mode & 0o777 == 0o700
    # Another one, of a node without a fleet, takes nothing away.
    (tmp_path / "plain").mkdir()
    run_edge("backup", tmp_path / "plain.tar", "--state-dir", tmp_path / "plain")
    run_edge("restore", tmp_path / "plain.tar", "--state-dir", restored, "--no-config")
    assert (restored / "authority" / "key.pem").exists()
