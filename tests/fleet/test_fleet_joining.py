"""How a board comes into a fleet: two commands, a token that works once, no clock needed."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fleet_attackers import Papers, authority_of, foreign_authority, impostor
from fleet_lab import (
    REGISTRY,
    Board,
    Lab,
    MiB,
    all_know_all,
    application,
    entry,
    form,
    lab,
    needs_root,
    promised,
    say,
    token_of,
    until,
    views,
)

pytestmark = needs_root
Guest = Callable[[str], Path]

ROOT = Path(__file__).parent.parent.parent
JOIN_PORT = 7467


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Lab]:
    with lab(tmp_path) as made:
        yield made


def readme_commands() -> list[list[str]]:
    """The commands of the README's section on a second board."""
    text = (ROOT / "README.md").read_text()
    (section,) = re.findall(r"^##+ [^\n]*second board[^\n]*\n(.*?)(?=^##)", text, re.M | re.S)
    blocks = re.findall(r"```sh\n(.*?)```", section, re.S)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    return [shlex.split(line, comments=True) for line in lines]


def test_the_two_commands_of_the_readme(net: Lab) -> None:
    commands = [command for command in readme_commands() if "edge" in command]
    words = [command[command.index("edge") + 1 :] for command in commands]
    (create,) = (command for command in words if command[:2] == ["fleet", "init"])
    (token,) = (command for command in words if command[:2] == ["fleet", "token"])
    (join,) = (command for command in words if command[:2] == ["fleet", "join"])
    assert len(words) == 3, "one that makes the fleet, and two for each board"

    first, fresh = net.boards(2)
    first.tell(*create)
    said = first.tell(*token).split()
    (made,) = (word for word in said if word.startswith("edge1."))
    began = time.monotonic()
    fresh.tell(*[made if word.startswith("edge1.") or word == "TOKEN" else word for word in join])
    until(lambda: all_know_all([first, fresh]), promised(3), lambda: views([first, fresh]))
    say(f"a fresh node: known {time.monotonic() - began:.1f} s after `edge fleet join`")


def test_a_token_works_once(net: Lab) -> None:
    first, second, third = net.boards(3)
    first.tell("fleet", "init", "--name", "site-a")
    token = token_of(first)
    second.tell("fleet", "join", token)
    refused = third.edge("fleet", "join", token)
    assert refused.returncode != 0
    # Not even when the issuer lost its power between.
    first.power_off()
    first.cable("up")
    first.start()
    again = third.edge("fleet", "join", token)
    assert again.returncode != 0
    assert third.peers_said()["fleet"] is None
    assert not (third.state / "identity" / "certificate.pem").exists()
    say(f"a replayed token: {refused.stderr.splitlines()[0]}")
    token = token_of(first)
    third.tell("fleet", "join", token)
    boards = [first, second, third]
    until(lambda: all_know_all(boards), promised(5), lambda: views(boards))


@pytest.mark.parametrize("who", ["stranger", "member"])
def test_who_takes_the_issuers_address_learns_no_secret(net: Lab, who: str) -> None:
    """What a stranger may know is the fleet's authority; a member has a good certificate, too."""
    first, member, fresh = net.boards(3)
    form([first, member])
    token = token_of(first)
    first.power_off()
    papers = Papers.of(member)
    if who == "stranger":
        now = time.time()  # noqa: TID251
        papers = Papers.issued(net.folder / "evil", foreign_authority(), now)
    authority = (member.state / "identity" / "authority.pem").read_text()
    told = json.dumps({"authority": authority}).encode() + b"\n"
    evil = net.machine("evil")
    evil.take_address(first.number)
    with impostor(evil, papers.context(server=True), JOIN_PORT, told) as server:
        refused = fresh.edge("fleet", "join", token)
    assert refused.returncode != 0
    asked = server.received.count(b'{"ask": "authority"}')
    assert asked > 0, "the attack did not reach anybody"
    assert server.connections > asked, "it ended before its second step"
    assert server.shaken == asked
    assert server.received.replace(b'{"ask": "authority"}\n', b"") == b""
    for board in (first, member, fresh):
        assert token not in board.text


def test_a_node_that_was_revoked_is_out(net: Lab) -> None:
    boards = net.boards(3)
    form(boards)
    until(lambda: all_know_all(boards), promised(5), lambda: views(boards))
    first, second, third = boards
    (row,) = (peer for peer in first.peers() if peer["name"] == "n3")
    first.tell("fleet", "revoke", row["id"])
    seconds = until(
        lambda: not (first.knows() | second.knows()) & {"n3"} and not third.knows(),
        promised(15),
        lambda: views(boards),
    )
    say(f"a revoked node: out, and told so, after {seconds:.1f} s")
    assert "revoked" in str(third.status())
    # It stays out, whatever it tries.
    third.stop()
    third.start()
    until(lambda: "revoked" in str(third.status()), promised(15), lambda: third.text)
    assert first.knows() == {"n2"}
    # With the identity put away and a new token it is another node.
    third.tell("fleet", "leave")
    third.tell("fleet", "join", token_of(first))
    until(lambda: all_know_all(boards), promised(5), lambda: views(boards))


def test_a_token_on_the_boot_partition(net: Lab) -> None:
    first = net.board("n1")
    first.start()
    first.tell("fleet", "init", "--name", "site-a")
    second = net.board("n2", fleet='join_token_file = "../token"')
    (net.folder / "token").write_text(token_of(first) + "\n")
    second.start()
    boards = [first, second]
    until(lambda: all_know_all(boards), promised(5), lambda: views(boards))
    until(lambda: not (net.folder / "token").exists(), 10)
    second.stop()
    second.start()
    until(lambda: all_know_all(boards), promised(5), lambda: views(boards))


def clock_at_1970(folder: Path) -> dict[str, str]:
    """The environment of a process whose clock begins at 1970."""
    library, steering = folder / "misfortune.so", folder / "steering"
    source = ROOT / "tests" / "soak" / "misfortune.c"
    compiler = shutil.which("cc")
    assert compiler is not None, "needs the Debian package gcc"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    behind = int(time.time())  # noqa: TID251
    words = [0, 0, 0, behind]
    steering.write_bytes(b"".join(word.to_bytes(8, "little") for word in words).ljust(4096, b"\0"))
    return {"LD_PRELOAD": str(library), "MISFORTUNE": str(steering)}


def test_a_clock_at_1970_joins_and_syncs(net: Lab, guest: Guest) -> None:
    made = application(net.folder / "app", guest("hello"), MiB)
    reference = f"{REGISTRY}/big:1"
    net.uplink.edge("push", made, reference, "--insecure")
    more = entry("big", reference)
    first = net.board("n1", more=more)
    late = net.board("n2", more=more, environ=clock_at_1970(net.folder))
    for board in (first, late):
        board.start()
    assert "the machine's clock is behind" in str(late.status()["notes"])
    form([first, late])
    boards = [first, late]
    until(lambda: all_know_all(boards), promised(5), lambda: views(boards))
    until(lambda: late.get("/one") == 200, 30, lambda: late.text)


def test_an_expired_certificate_is_refused_by_both_sides(net: Lab) -> None:
    """In the attacks' file are those that come from outside; this one is the fleet's own."""
    boards: list[Board] = net.boards(2)
    form(boards)
    until(lambda: all_know_all(boards), promised(5), lambda: views(boards))
    one, two = boards
    two.stop()
    # As if it had been off for a year: the same key, a certificate that ended yesterday.
    from edge.fleet import certificates

    key = (two.state / "identity" / "key.pem").read_bytes()
    ago = time.time() - certificates.YEAR - 86400  # noqa: TID251
    issued = authority_of(one).issue(certificates.new_request(key), ago)
    (two.state / "identity" / "certificate.pem").write_bytes(issued.pem)
    until(lambda: not one.knows(), promised(15), lambda: views([one]))
    two.start()
    until(lambda: "expired" in two.text + str(two.status()), promised(15), lambda: two.text)
    assert (one.knows(), two.knows()) == (set(), set())
