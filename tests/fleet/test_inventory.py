"""The Ansible inventory: who is in it, and what cannot get into it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from advertising import Advertiser, Stage, advertised, announcement, made_id, multicast, text
from fleet_lab import all_know_all, form, lab, needs_root, promised, until, views
from node_lab import EDGE

SCRIPT = Path(__file__).parents[2] / "ansible" / "inventory" / "edge_peers.py"
# As the node's API describes them.
NODE = {
    "name": "attic",
    "id": made_id("attic"),
    "version": "0.1.0",
    "arch": "x86_64",
    "addresses": ["10.0.0.1:7466"],
    "inventory": "",
    "generation": 3,
    "applications": 2,
}


def peer(name: str, **more: object) -> dict[str, object]:
    return {**NODE, "name": name, "id": made_id(name), "state": "alive", **more}


def said(tmp_path: Path, answer: object) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the inventory with a node that answers this."""
    (tmp_path / "answer").write_text(answer if isinstance(answer, str) else json.dumps(answer))
    (tmp_path / "edge").write_text(f"#!/bin/sh\ncat {shlex.quote(str(tmp_path / 'answer'))}\n")
    (tmp_path / "edge").chmod(0o755)

    def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [SCRIPT, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}", **environ},
        )

    return run


def listed(tmp_path: Path, answer: object, **environ: str) -> dict[str, Any]:
    done = said(tmp_path, answer)("--list", **environ)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_hosts_are_grouped_by_their_state_and_architecture(tmp_path: Path) -> None:
    peers = [
        peer("shed", addresses=["[fe80::1%2]:7466", "[fd00::7]:7466", "10.0.0.7:7466"]),
        peer("barn", state="dead", arch="aarch64", addresses=[]),
        peer("hall", state="penalised"),
        peer("gone", state="left"),
    ]
    found = listed(tmp_path, {"fleet": {"name": "home"}, "node": NODE, "peers": peers})
    assert found["edge"]["hosts"] == ["attic", "hall", "shed"]
    assert found["edge_dead"]["hosts"] == ["barn"]
    assert found["edge_left"]["hosts"] == ["gone"]
    assert found["edge_arch_aarch64"]["hosts"] == ["barn"]
    hosts = found["_meta"]["hostvars"]
    assert hosts["attic"]["ansible_connection"] == "local"
    assert hosts["shed"] == {
        "ansible_host": "fd00::7",
        "edge_addresses": ["fd00::7", "10.0.0.7", "fe80::1%2"],
        "edge_applications": 2,
        "edge_arch": "x86_64",
        "edge_generation": 3,
        "edge_id": made_id("shed"),
        "edge_state": "alive",
        "edge_version": "0.1.0",
    }
    assert "ansible_host" not in hosts["barn"]


def test_a_node_that_is_asked_elsewhere_is_not_local(tmp_path: Path) -> None:
    run = said(tmp_path, {"fleet": {}, "node": NODE, "peers": []})
    (tmp_path / "far").symlink_to("edge")
    done = run("--host", "attic", EDGE_COMMAND="far --as it likes")
    assert json.loads(done.stdout)["ansible_host"] == "10.0.0.1"
    assert "ansible_connection" not in json.loads(done.stdout)


def test_of_nodes_with_one_name_each_has_its_own(tmp_path: Path) -> None:
    twins = [peer("pi"), peer("pi", id=made_id("other"))]
    found = listed(tmp_path, {"fleet": {}, "node": NODE, "peers": twins})
    names = sorted(f"pi-{id[:8]}" for id in (made_id("pi"), made_id("other")))
    assert found["edge"]["hosts"] == ["attic", *names]


@pytest.mark.parametrize(
    "odd",
    [
        {"name": "{{ lookup('pipe', 'id') }}"},
        {"name": "a b"},
        {"name": "[1:9]"},
        {"name": "-oProxyCommand=id"},
        {"version": "{{ 1 }}"},
        {"arch": "x\ny"},
        {"id": "short"},
        {"id": None},
        {"state": 7},
        {"name": ["a"]},
    ],
)
def test_who_says_odd_things_is_left_out(tmp_path: Path, odd: dict[str, object]) -> None:
    peers = [{**peer("bad"), **odd}, peer("good")]
    found = listed(tmp_path, {"fleet": {}, "node": None, "peers": peers})
    assert set(found["_meta"]["hostvars"]) == {"good"}


def test_addresses_are_addresses(tmp_path: Path) -> None:
    odd = ["-oProxyCommand=id:22", "[fe80::1%{{1}}]:7", "pi.lan:22", 7, "10.0.0.9", "10.0.0.8:22"]
    found = listed(tmp_path, {"fleet": {}, "node": None, "peers": [peer("pi", addresses=odd)]})
    assert found["_meta"]["hostvars"]["pi"]["edge_addresses"] == ["10.0.0.8"]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("{", "its answer"),
        ("[" * 100_000, "its answer"),
        ([], "not about a fleet"),
        ({"fleet": None, "peers": []}, "of no fleet"),
        ({"fleet": {}, "peers": {}}, "not a list"),
    ],
)
def test_an_answer_that_is_none_is_an_error(tmp_path: Path, answer: object, why: str) -> None:
    done = said(tmp_path, answer)("--list")
    assert (done.returncode, done.stdout) == (1, "")
    assert why in done.stderr
    assert "Traceback" not in done.stderr


def test_a_command_that_fails_is_an_error(tmp_path: Path) -> None:
    run = said(tmp_path, [])
    (tmp_path / "edge").write_text("#!/bin/sh\necho no node runs here >&2\nexit 1\n")
    assert run("--list").stderr == "edge_peers: edge peers --json: no node runs here\n"
    hinted = "#!/bin/sh\nprintf 'log\\nedge: no node answers\\nhint: start one\\n' >&2\nexit 1\n"
    (tmp_path / "edge").write_text(hinted)
    assert run("--list").stderr.endswith("edge peers --json: no node answers; hint: start one\n")
    assert run("--list", EDGE_COMMAND="/no/such").returncode == 1


def test_ansible_reads_it(tmp_path: Path) -> None:
    run = said(tmp_path, {"fleet": {}, "node": NODE, "peers": [peer("shed"), peer("barn")]})
    assert run("--list").returncode == 0
    done = subprocess.run(
        ["ansible-inventory", "-i", SCRIPT, "--list"],
        capture_output=True,
        text=True,
        check=False,
        env={
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "LC_ALL": "C.UTF-8",
        },
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["edge"]["hosts"] == ["attic", "barn", "shed"]
    assert found["_meta"]["hostvars"]["shed"]["ansible_host"] == "10.0.0.1"


@needs_root
def test_the_network_is_browsed_and_its_answers_are_kept_apart(tmp_path: Path) -> None:
    with Stage(tmp_path) as stage:
        node: Advertiser = stage.node(name="shed")
        until(lambda: advertised(node) != "", promised(3))
        laptop, attacker = stage.machine(), stage.machine()
        lure = announcement("{{ 7*7 }}", text(made_id("lure")), [attacker.address])
        browsing = subprocess.Popen(
            laptop.command(sys.executable, SCRIPT, "--list"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "EDGE_COMMAND": EDGE, "EDGE_BROWSE": "1"},
        )
        while browsing.poll() is None:
            multicast(attacker, lure)
            try:
                browsing.wait(0.3)
            except subprocess.TimeoutExpired:
                continue
        out, err = browsing.communicate()
        assert browsing.returncode == 0, err
        found = json.loads(out)
        assert found["edge"]["hosts"] == []
        assert found["edge_advertised"]["hosts"] == ["shed"]
        assert found["_meta"]["hostvars"]["shed"]["ansible_host"] == node.machine.address
        assert "{{ 7*7 }}" in err


@needs_root
def test_a_fleet_is_listed_by_one_of_its_nodes(tmp_path: Path) -> None:
    with lab(tmp_path) as network:
        boards = network.boards(2)
        form(boards)
        until(lambda: all_know_all(boards), promised(5), lambda: views(boards))
        first, second = boards
        asking = tmp_path / "edge"
        asking.write_text(f'#!/bin/sh\nexec {EDGE} "$@" --socket {first.folder / "edge.sock"}\n')
        asking.chmod(0o755)
        done = subprocess.run(
            [SCRIPT, "--list"],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "EDGE_COMMAND": str(asking)},
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["edge"]["hosts"] == sorted(board.name for board in boards)
        assert found["_meta"]["hostvars"][second.name]["ansible_host"] == second.address
        assert found["_meta"]["hostvars"][first.name]["ansible_connection"] == "local"
