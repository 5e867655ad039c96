"""Three bare Debians and the collection: from nothing to a fleet, its changes, its misfortunes, and
back to nothing. The tests stand in the order of a fleet's life, and each leaves it whole.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_lab import NAMES, Fleet, Load, Played, broken, fleet
from deploy_lab import write_release
from machines import eventually, needs_machines

pytestmark = [
    needs_machines,
    pytest.mark.skipif(shutil.which("ansible-playbook") is None, reason="needs ansible-core"),
]

REPOSITORY = Path(__file__).parents[2]
SECRET = "correct-horse-battery"
NOTHING = dict.fromkeys(NAMES, 0)
# Each machine is a batch: what happens to one is seen at the next.
ONE_BY_ONE = [1]


@pytest.fixture(autouse=True)
def settled() -> None:
    """In the place of the usual one: machines that a test starts anew end with the fleet."""


@pytest.fixture(scope="module")
def pis(tmp_path_factory: pytest.TempPathFactory, guest: Callable[[str], Path]) -> Iterator[Fleet]:
    """Machines that `site` has not seen yet."""
    with fleet(tmp_path_factory.mktemp("ansible"), python=False) as made:
        made.push(REPOSITORY / "examples/thermostat", "thermostat:1")
        wasm = guest("release")
        for version, fate in (("1", "good"), ("2", "good"), ("3", "sick"), ("4", "fails")):
            folder = write_release(made.folder / "releases" / version, wasm, version, fate, pad=9)
            made.push(folder, f"release:{version}")
        made.variables = inventory(made)
        yield made


@pytest.fixture(scope="module")
def sited(pis: Fleet) -> tuple[Fleet, Played, Played]:
    """With what a look ahead said, and what `site` did."""
    foretold = pis.play("site", "--check")
    for machine in pis.machines.values():
        machine.run("test", "-e", "/usr/bin/edge", expected=1)
    return pis, foretold, pis.play("site")


def inventory(made: Fleet) -> dict[str, object]:
    broker = made.machines[NAMES[0]].address
    return {
        "edge_broker": f"{{{{ inventory_hostname == '{NAMES[0]}' }}}}",
        "edge_broker_users": {"node": SECRET},
        "edge_credentials": {"mqtt": SECRET},
        "edge_configuration": {
            "node": {"labels": {"site": "lab"}},
            "mqtt": {
                "url": f"mqtt://{broker}",
                "username": "node",
                "password_file": "edge_mqtt",
            },
            "registry": {made.registry: {"insecure": True}},
            "sync": {"soak": "3s", "health_interval": "1s"},
        },
        "edge_apps": [
            {
                "name": "thermostat",
                "reference": f"{made.registry}/team/thermostat:1",
                "mount": "/thermostat",
                "variables": {"limit": 30},
            },
            {"name": "release", "reference": f"{made.registry}/team/release:1"},
        ],
    }


def release(made: Fleet, version: str) -> None:
    """What the inventory says of it from now on."""
    (app,) = [app for app in made.variables["edge_apps"] if app["name"] == "release"]
    app["reference"] = f"{made.registry}/team/release:{version}"


def versions(made: Fleet) -> list[str]:
    """What each machine answers."""
    return [machine.get("/")[1].decode() for machine in made.machines.values()]


def references(made: Fleet) -> list[str]:
    """The tags that each machine was told to follow."""
    told = [made.edge(name, "apps", "release") for name in NAMES]
    # Who was taken back is watched again.
    assert {app["state"] for app in told} <= {"live", "soaking"}
    return [app["reference"].rpartition(":")[2] for app in told]


def good(played: Played) -> Played:
    assert played.code == 0, played.text
    return played


def test_site_foresees_what_it_then_does(sited: tuple[Fleet, Played, Played]) -> None:
    _, foretold, done = sited
    good(foretold)
    assert all(foretold.of_each("changed").values()), foretold.text
    assert f"{NAMES[-1]} has no Python" in foretold.text
    good(done)
    assert all(done.of_each("changed").values())


def test_bare_machines_serve_a_bundle_over_http_and_mqtt(
    sited: tuple[Fleet, Played, Played],
) -> None:
    made, _, _ = sited
    assert versions(made) == ["1", "1", "1"]
    broker = made.machines[NAMES[0]].address
    login = ["-h", broker, "-u", "node", "-P", SECRET]
    listen = [
        "stdbuf",
        "-oL",
        "mosquitto_sub",
        *login,
        "-t",
        "alerts/#",
        "-C",
        "1",
        "-W",
        "60",
        "-d",
    ]
    with subprocess.Popen(listen, stdout=subprocess.PIPE, text=True) as listening:
        assert listening.stdout is not None
        for line in listening.stdout:
            if "Subscribed" in line:
                break
        say = ["mosquitto_pub", *login, "-q", "1", "-t", "sensors/kitchen/temperature"]
        subprocess.run([*say, "-m", "31.5"], check=True)
        assert "31.5 is above 30" in listening.stdout.read()
    stranger = ["mosquitto_pub", "-h", broker, "-u", "node", "-P", "?", "-t", "x", "-m", "x"]
    assert subprocess.run(stranger, check=False, capture_output=True).returncode != 0


def test_a_second_run_changes_nothing(sited: tuple[Fleet, Played, Played]) -> None:
    made, _, _ = sited
    assert good(made.play("site")).of_each("changed") == NOTHING


def test_check_mode_then_has_nothing_to_say(sited: tuple[Fleet, Played, Played]) -> None:
    made, _, _ = sited
    assert good(made.play("site", "--check")).of_each("changed") == NOTHING


def test_no_secret_is_in_what_plays_say(sited: tuple[Fleet, Played, Played]) -> None:
    made, _, _ = sited
    machine = made.machines[NAMES[0]]
    machine.write("etc/edge/credentials/mqtt", "another", 0o600)
    good(made.play("site", "-vv", "--diff", "--limit", machine.name))
    assert SECRET not in (made.folder / "plays.log").read_text()
    assert machine.run("cat", "/etc/edge/credentials/mqtt") == SECRET
    machine.run("sudo", "-u", "edge", "cat", "/etc/edge/credentials/mqtt", expected=1)


def test_what_check_mode_says_of_a_change_is_what_happens(
    sited: tuple[Fleet, Played, Played],
) -> None:
    made, _, _ = sited
    made.variables["edge_configuration"]["node"]["labels"] = {"site": "attic"}
    release(made, "2")
    foretold = good(made.play("site", "--check", "--diff"))
    assert '+site = "attic"' in foretold.text
    assert versions(made) == ["1", "1", "1"]
    done = good(made.play("site"))
    assert foretold.of_each("changed") == done.of_each("changed")
    assert versions(made) == ["2", "2", "2"]
    assert made.edge(NAMES[0], "status")["labels"] == {"site": "attic"}


def test_what_was_before_returns(sited: tuple[Fleet, Played, Played]) -> None:
    made, _, _ = sited
    good(made.play("rollback", edge_app="release"))
    assert versions(made) == ["1", "1", "1"]
    assert good(made.play("rollback", edge_app="release")).of_each("changed") == NOTHING
    release(made, "1")
    assert good(made.play("deploy")).of_each("changed") == NOTHING


def test_an_upgrade_one_by_one_under_load_fails_no_request(
    sited: tuple[Fleet, Played, Played],
) -> None:
    made, _, _ = sited
    before = [machine.property("edge.service", "MainPID") for machine in made.machines.values()]
    newer = made.packages("0.1.0-2")
    with Load(list(made.machines.values())) as load:
        good(made.play("upgrade", edge_batches=ONE_BY_ONE, edge_packages=newer))
    after = [machine.property("edge.service", "MainPID") for machine in made.machines.values()]
    assert not set(before) & set(after)
    assert load.failed == [], load.answered
    assert min(load.answered.values()) > 50
    assert installed(made) == ["0.1.0-2+deb12"] * 3


def installed(made: Fleet) -> list[str]:
    show = ["dpkg-query", "--show", "--showformat=${Version}", "edge"]
    return [machine.run(*show) for machine in made.machines.values()]


def test_a_package_that_does_not_start_stops_at_the_canary_and_reverts(
    sited: tuple[Fleet, Played, Played],
) -> None:
    made, _, _ = sited
    newer = made.packages("0.1.0-3", broken)
    played = made.play("upgrade", edge_patience=6, edge_packages=newer)
    assert played.code != 0
    assert "does not serve what it served" in played.text
    assert f"not touched: {NAMES[1]}, {NAMES[2]}" in played.text
    assert set(played.counts) == {NAMES[0]}
    assert installed(made) == ["0.1.0-2+deb12"] * 3
    assert versions(made) == ["1", "1", "1"]


def test_the_package_of_before_returns(sited: tuple[Fleet, Played, Played]) -> None:
    made, _, _ = sited
    good(made.play("rollback", edge_app=""))
    assert installed(made) == ["0.1.0-1+deb12"] * 3
    assert versions(made) == ["1", "1", "1"]


@pytest.mark.parametrize(
    ("version", "reason"),
    [("3", "answers GET /healthz with 503"), ("4", "rolled back")],
    ids=["that is ill", "that fails"],
)
def test_a_bundle_stops_at_the_canary_and_is_taken_back(
    sited: tuple[Fleet, Played, Played], version: str, reason: str
) -> None:
    made, _, _ = sited
    release(made, version)
    canary = [made.machines[NAMES[0]]]
    with Load(canary):  # a version shows by its events that it fails
        played = made.play("deploy")
    release(made, "1")
    assert played.code != 0
    assert reason in played.text
    assert set(played.counts) == {NAMES[0]}
    assert references(made) == ["1", "1", "1"]
    assert versions(made) == ["1", "1", "1"]


def test_a_bundle_that_answers_something_else_is_taken_back(
    sited: tuple[Fleet, Played, Played],
) -> None:
    """The node finds it well: only who runs it knows what it must say."""
    made, _, _ = sited
    release(made, "2")
    played = made.play("deploy", edge_checks=[{"path": "/", "contains": "1"}])
    release(made, "1")
    assert played.code != 0
    assert "taken back: release" in played.text
    assert references(made) == ["1", "1", "1"]
    assert versions(made) == ["1", "1", "1"]


def test_a_machine_that_dies_in_the_middle_is_named_and_the_others_are_whole(
    sited: tuple[Fleet, Played, Played],
) -> None:
    made, _, _ = sited
    dying = made.machines[NAMES[1]]
    release(made, "2")

    def dies() -> None:
        eventually("the canary has it", lambda: made.machines[NAMES[0]].get("/")[1] == b"2", 200)
        dying.stop()

    death = threading.Thread(target=dies)
    death.start()
    played = made.play("deploy", edge_batches=ONE_BY_ONE)
    death.join()
    assert played.code != 0
    assert played.of_each("unreachable") == {NAMES[0]: 0, NAMES[1]: 1}
    alive = [made.machines[name].get("/")[1] for name in (NAMES[0], NAMES[2])]
    assert alive == [b"2", b"1"]

    made.lab.boot(dying)
    eventually("it serves again", lambda: dying.get("/")[0] == 200)
    assert dying.get("/")[1] in (b"1", b"2")
    good(made.play("deploy"))
    assert references(made) == ["2", "2", "2"]
    assert versions(made) == ["2", "2", "2"]


def test_a_reboot_without_a_network_comes_back_serving(
    sited: tuple[Fleet, Played, Played],
) -> None:
    made, _, _ = sited
    machine = made.machines[NAMES[2]]
    network = machine.root / "etc/systemd/network/10-host0.network"
    kept = network.read_text()
    machine.stop()
    network.write_text("[Match]\nName=host0\n[Link]\nUnmanaged=yes\n")
    made.lab.boot(machine)
    assert "10.78." not in machine.run("ip", "address")
    answer = eventually(
        "it serves", lambda: machine.run("curl", "-s", "http://127.0.0.1/", expected=None)
    )
    assert answer == "2"
    machine.stop()
    network.write_text(kept)
    made.lab.boot(machine)
    eventually("it is back", lambda: machine.get("/")[0] == 200)


def test_all_become_one_fleet(sited: tuple[Fleet, Played, Played]) -> None:
    made, _, _ = sited
    foretold = good(made.play("join", "--check"))
    assert all(foretold.of_each("changed").values())
    good(made.play("join", edge_fleet_name="attic"))
    fleets = [made.edge(name, "status")["fleet"] for name in NAMES]
    assert {fleet["name"] for fleet in fleets} == {"attic"}
    assert len({fleet["fleet"] for fleet in fleets}) == 1
    assert good(made.play("join")).of_each("changed") == NOTHING
    log = (made.folder / "plays.log").read_text()
    assert "edge1." not in log


def test_a_reset_needs_a_word_and_leaves_nothing(sited: tuple[Fleet, Played, Played]) -> None:
    made, _, _ = sited
    before = versions(made)
    unsaid = made.play("reset")
    assert unsaid.code != 0
    assert "edge_reset=yes" in unsaid.text
    assert versions(made) == before
    good(made.play("reset", edge_reset="yes"))
    for machine in made.machines.values():
        for path in ("/etc/edge", "/var/lib/edge", "/usr/bin/edge", "/var/lib/edge-ansible"):
            machine.run("test", "-e", path, expected=1)
    assert good(made.play("reset", edge_reset="yes")).of_each("changed") == NOTHING
