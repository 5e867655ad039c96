"""`edge run` from the outside: boot, READY, reload, swap, revert, end."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mqtt_lab import Peer, mosquitto
from node_lab import Node, application, configured, node, notify_socket, run_edge, start
from registry_lab import docker_registry

Guest = Callable[[str], Path]
Make = Callable[..., Path]

CONFIG = 78  # exit code


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture
def make(guest: Guest, tmp_path: Path) -> Make:
    """`make("a", "status", '/x', more)`: a folder with an application of one guest."""

    def made(name: str, wasm: str, route: str = "/...", more: str = "", trigger: str = "") -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        http = f'[[trigger.http]]\nroute = "{route}"\ncomponent = "guest"' if route else ""
        (folder / "spin.toml").write_text(
            f'spin_manifest_version = 2\n[application]\nname = "{name}"\n{http}\n{trigger}\n'
            f'[component.guest]\nsource = "{guest(wasm)}"\n{more}\n'
        )
        return folder

    return made


def push(folder: Path, reference: str) -> None:
    done = run_edge("push", folder, reference)
    assert done.returncode == 0, done.stderr


# --- boot ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("abstract", [False, True])
def test_it_says_ready_when_it_serves_and_what_it_does_later(
    abstract: bool, make: Make, tmp_path: Path
) -> None:
    address = f"@edge-{os.getpid()}" if abstract else str(tmp_path / "notify")
    apps = application("a", make("a", "hello"))
    with (
        notify_socket(address) as manager,
        node(tmp_path, apps, environ={"NOTIFY_SOCKET": address}) as running,
    ):
        assert manager.recv(4096) == b"READY=1\nSTATUS=serving 1 application"
        assert running.get()[0] == 200
        running.process.send_signal(signal.SIGHUP)
        reloading = manager.recv(4096)
        assert reloading.startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert int(reloading.rpartition(b"=")[2]) <= time.monotonic_ns() // 1000
        assert manager.recv(4096).startswith(b"READY=1\n")
        (tmp_path / "edge.toml").write_text("[nod]")
        running.process.send_signal(signal.SIGHUP)
        assert manager.recv(4096).startswith(b"RELOADING=1\n")
        assert manager.recv(4096).startswith(b"READY=1\nSTATUS=not reloaded: ")
        running.process.send_signal(signal.SIGTERM)
        assert manager.recv(4096) == b"STOPPING=1\nSTATUS=draining"


def test_a_node_without_applications_is_well(tmp_path: Path) -> None:
    with node(tmp_path) as running:
        assert running.get("/.well-known/spin/health") == (200, b"OK")
        assert running.get("/")[0] == 404
        assert running.apps() == {}


def test_hosts_mounts_and_shared_routes(make: Make, tmp_path: Path) -> None:
    root, sharing = make("root", "status"), make("sharing", "hello", "/hello")
    deep, cgi = make("deep", "hello"), make("cgi", "spin-python")
    apps = (
        application("root", root)
        + application("sharing", sharing)
        + application("deep", deep, "/a/b/c")
        + f'[[application]]\nname = "own"\npath = "{cgi}"\n'
        + 'mount = { path = "/x", host = "thermo.local" }\n'
    )
    with node(tmp_path, apps) as running:
        assert running.get("/status/204")[0] == 204
        assert running.get("/hello") == (200, b"hello /hello")
        assert running.get("/a/b/c?x") == (200, b"hello /?x")
        assert running.get("/a/b/status/204")[0] == 204
        assert running.get("/x", "thermo.local:80")[0] == 200
        assert running.get("/hello", "thermo.local") == (404, b"no application is here\n")
        status, told = running.get("/x/headers?q=1", "thermo.local")
        assert status == 200
        assert b"spin-full-url: http://thermo.local/x/headers?q=1" in told.lower(), told
        assert b"spin-base-path: /x" in told.lower()
        assert {name: app["state"] for name, app in running.apps().items()} == dict.fromkeys(
            ("root", "sharing", "deep", "own"), "live"
        )


def test_a_broken_application_does_not_stop_the_others(make: Make, tmp_path: Path) -> None:
    good, broken, twin = make("good", "hello"), make("broken", "hello"), make("twin", "hello")
    (broken / "spin.toml").write_text("no = [")
    apps = application("broken", broken) + application("good", good) + application("twin", twin)
    with node(tmp_path, apps) as running:
        assert running.get()[0] == 200
        known = running.apps()
        assert known["good"]["state"] == "live"
        assert known["broken"]["state"] == "failed"
        assert "spin.toml" in known["broken"]["reason"]
        assert known["twin"]["state"] == "failed"
        assert known["twin"]["reason"].startswith(
            "application twin: its route /... is that of application good (mount /)"
        )


def test_mistakes_end_it_with_their_place(make: Make, tmp_path: Path) -> None:
    def complaint(config: str, *arguments: str | Path, code: int = CONFIG) -> str:
        failed = start(tmp_path, config, *arguments)
        out, err = failed.process.communicate(timeout=60)
        assert (failed.process.returncode, out) == (code, ""), err
        assert "Traceback" not in err
        return err

    assert "edge.toml: nod" in complaint("[nod]\n")
    assert "no such file" in complaint("", "--config", tmp_path / "none.toml")
    taken = socket.create_server(("127.0.0.1", 0))
    with taken:
        port = taken.getsockname()[1]
        said = complaint("", "--listen", f"127.0.0.1:{port}", code=1)
        assert f"edge: 127.0.0.1:{port}: address already in use" in said
        assert "--listen" in said
    (tmp_path / "file").touch()
    assert "file" in complaint("", "--state-dir", tmp_path / "file" / "x", code=1)
    with node(tmp_path):
        assert "another node runs on it" in complaint("", code=1)


# --- reload -------------------------------------------------------------------------------------


def test_a_reload_changes_what_the_file_changes(make: Make, tmp_path: Path) -> None:
    a, b = make("a", "hello"), make("b", "status")
    with node(tmp_path, application("a", a)) as running:
        configured(tmp_path, application("b", b) + application("a", a, "/a"))
        running.hangup()
        running.until(lambda: running.get("/204")[0] == 204)
        assert running.get("/a")[0] == 200
        configured(tmp_path, application("b", b, "/b"))
        running.hangup()
        running.until(lambda: running.get("/b/204")[0] == 204)
        running.until(lambda: running.get("/a")[0] == 404)
        assert set(running.apps()) == {"b"}


def test_a_bad_file_keeps_what_runs(make: Make, tmp_path: Path) -> None:
    a = make("a", "hello")
    with node(tmp_path, application("a", a)) as running:
        configured(tmp_path, application("a", a, "no-slash") + "[mqtt]\nurll = 1\n")
        running.hangup()
        assert running.get()[0] == 200
        assert "not reloaded, the configuration before holds" in running.text
        assert "application[0].mount" in running.text
        assert "mqtt.urll" in running.text
        done = running.edge("sync", "--json")
        assert done.returncode == 0, done.stderr
        configured(tmp_path, application("a", a, "/fine"))
        running.hangup()
        running.until(lambda: running.get("/fine")[0] == 200)


def test_a_reload_names_what_needs_a_restart(make: Make, tmp_path: Path) -> None:
    a = make("a", "hello")
    with node(tmp_path, application("a", a)) as running:
        configured(tmp_path, application("a", a) + '[limits]\nmemory = "256MiB"\n')
        running.hangup()
        running.until(lambda: "[limits] changed" in running.text)
        assert "[http]" not in running.text


def test_an_application_of_this_machine_follows_its_files(make: Make, tmp_path: Path) -> None:
    a = make("a", "hello")
    with node(tmp_path, application("a", a)) as running:
        make("a", "status")
        running.tell("sync")
        assert running.get("/204")[0] == 204
        (a / "spin.toml").write_text("no = [")
        done = running.edge("sync", "a")
        assert done.returncode != 0
        assert running.get("/204")[0] == 204, "what served goes on"


# --- end ----------------------------------------------------------------------------------------


def test_sigterm_lets_requests_end(make: Make, tmp_path: Path) -> None:
    with node(tmp_path, application("a", make("a", "sleeper"))) as running:
        answers: list[tuple[int, bytes]] = []
        slow = threading.Thread(target=lambda: answers.append(running.get("/1500")))
        slow.start()
        time.sleep(0.5)
        running.process.send_signal(signal.SIGTERM)
        slow.join()
        assert answers == [(200, b"slept")]
        assert running.process.wait(20) == 0


def test_a_second_signal_ends_at_once(make: Make, tmp_path: Path) -> None:
    with node(tmp_path, application("a", make("a", "sleeper"))) as running:
        client = socket.create_connection(("127.0.0.1", running.port))
        client.sendall(b"GET /25000 HTTP/1.1\r\nhost: x\r\n\r\n")
        time.sleep(0.3)
        running.process.send_signal(signal.SIGTERM)
        running.until(lambda: "draining" in running.text)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(15) == 0
        client.close()


# --- without a network, without a clock ---------------------------------------------------------


CLOCK = """
import time
_real = time.time
_begun = _real()
time.time = lambda: 60.0 + _real() - _begun
"""


def test_a_boot_in_1970_without_a_network_serves_what_it_had(
    make: Make, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if shutil.which("unshare") is None or os.geteuid() != 0:
        pytest.fail("needs root, to take the network away")
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(CLOCK)
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        config = f'[[application]]\nname = "a"\nreference = "{host}/a:1"\n'
        push(make("a", "hello"), f"{host}/a:1")
        with node(tmp_path, config) as running:
            running.until(lambda: running.get()[0] == 200)
            digest = running.apps()["a"]["digest"]
    # Neither a loopback interface nor a date: the socket of the API works nevertheless.
    with node(
        tmp_path,
        config + '[http]\nlisten = ["127.0.0.1:0"]\n',
        prefix=("unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh"),
        environ={"PYTHONPATH": str(tmp_path / "clock")},
    ) as running:
        app = running.apps()["a"]
        assert (app["digest"], app["state"]) == (digest, "live")
        assert running.tell("invoke", "a").startswith("hello /")
        running.until(lambda: running.apps()["a"]["reason"])
        assert running.apps()["a"]["digest"] == digest


# --- swap and revert ----------------------------------------------------------------------------


def test_swaps_under_load_fail_no_request(make: Make, registry: str, tmp_path: Path) -> None:
    reference = f"{registry}/swapped:live"
    config = f'[[application]]\nname = "a"\nreference = "{reference}"\n[sync]\nsoak = "0s"\n'
    folders = [make("one", "hello"), make("two", "status")]
    push(folders[0], reference)
    with node(tmp_path, config) as running:
        running.until(lambda: running.get()[0] == 200)
        command = ["wrk", "-t1", "-c4", "-d60s", f"http://127.0.0.1:{running.port}/"]
        load = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        digests = set()
        try:
            for number in range(1, 13):
                push(folders[number % 2], reference)
                running.tell("sync", "a")
                digests.add(running.apps()["a"]["digest"])
        finally:
            load.send_signal(signal.SIGINT)
            said, _ = load.communicate(timeout=30)
        assert len(digests) == 2
        assert "Socket errors" not in said, said
        assert "Non-2xx" not in said, said
        assert "requests in" in said


def test_a_version_that_fails_at_its_events_is_taken_back(
    make: Make, registry: str, tmp_path: Path
) -> None:
    reference = f"{registry}/failing:live"
    config = (
        f'[[application]]\nname = "a"\nreference = "{reference}"\n'
        '[sync]\nsoak = "10m"\nminimum_events = 7\n'
    )
    push(make("good", "hello"), reference)
    with node(tmp_path, config) as running:
        running.until(lambda: running.get("/500")[0] == 200)
        before = running.apps()["a"]["digest"]
        push(make("bad", "status"), reference)
        running.tell("sync", "a")
        assert running.apps()["a"]["state"] == "soaking"
        statuses = [running.get("/500")[0] for _ in range(12)]
        assert statuses == [500] * 7 + [200] * 5
        running.until(lambda: running.apps()["a"]["state"] == "rolled back")
        app = running.apps()["a"]
        assert app["digest"] == before
        assert "7 of 7 events failed" in app["reason"]
        running.tell("sync", "a")
        assert running.apps()["a"]["digest"] == before, "it is not tried again by itself"


def test_a_version_that_falls_ill_is_taken_back(make: Make, registry: str, tmp_path: Path) -> None:
    reference = f"{registry}/ill:live"
    config = (
        f'[[application]]\nname = "a"\nreference = "{reference}"\n'
        '[sync]\nsoak = "10m"\nhealth_interval = "200ms"\n'
    )
    stores = 'key_value_stores = ["default"]\nsqlite_databases = ["default"]\n'
    push(make("good", "store", more=stores), reference)
    with node(tmp_path, config) as running:
        running.until(lambda: running.get("/keys")[0] == 200)
        before = running.apps()["a"]["digest"]
        health = '[component.guest.tool.edge]\nhealth = "/increment/health"'
        push(make("ill", "store", more=stores + health), reference)
        running.tell("sync", "a")
        assert running.apps()["a"]["digest"] != before
        assert running.get("/set/health/bad")[0] == 200, "now it is no number to increment"
        running.until(lambda: running.apps()["a"]["state"] == "rolled back")
        app = running.apps()["a"]
        assert app["digest"] == before
        assert "health: component guest: answers GET /increment/health with 500" in app["reason"]


def test_a_conflict_refuses_a_deploy_and_says_with_whom(
    make: Make, registry: str, tmp_path: Path
) -> None:
    reference = f"{registry}/second:1"
    push(make("second", "status"), reference)
    with node(tmp_path, application("first", make("first", "hello"))) as running:
        done = running.edge("deploy", reference)
        assert done.returncode == CONFIG, done.stderr
        assert "application second: its route /... is that of application first" in done.stderr
        assert "another mount" in done.stderr
        assert set(running.apps()) == {"first"}
        running.tell("deploy", reference, "--mount", "/second")
        assert running.get("/second/204")[0] == 204
        assert running.get("/")[0] == 200
        running.tell("undeploy", "second")
        assert running.get("/second/204")[0] == 200, "the first one's /... again"


def test_data_stays_when_an_application_goes_unless_it_is_purged(
    make: Make, registry: str, tmp_path: Path
) -> None:
    reference = f"{registry}/store:1"
    stores = 'key_value_stores = ["default"]\nsqlite_databases = ["default"]\n'
    push(make("store", "store", more=stores), reference)
    with node(tmp_path) as running:
        running.tell("deploy", reference)
        assert running.get("/set/color/blue")[0] == 200
        assert running.get("/get/color") == (200, b"blue")
        running.tell("deploy", reference, "--name", "other", "--mount", "/other")
        assert running.get("/other/exists/color")[1] != running.get("/exists/color")[1]
        running.tell("undeploy", "store")
        running.tell("deploy", reference)
        assert running.get("/get/color") == (200, b"blue")
        running.tell("undeploy", "store", "--purge")
        assert not list((tmp_path / "state" / "kv").glob("store*"))
        running.tell("deploy", reference)
        assert running.get("/get/color") != (200, b"blue")


# --- events -------------------------------------------------------------------------------------


async def test_applications_with_several_brokers(
    make: Make, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def listening(name: str, url: str) -> str:
        trigger = (
            f'[application.trigger.mqtt]\naddress = "{url}"\n'
            f'[[trigger.mqtt]]\nid = "in"\ntopic = "{name}/#"\nqos = "1"\ncomponent = "guest"'
        )
        return application(name, make(name, "on_message", "", trigger=trigger))

    with (
        mosquitto(tmp_path_factory.mktemp("one")) as one,
        mosquitto(tmp_path_factory.mktemp("two")) as two,
    ):
        apps = listening("a", one.url) + listening("b", two.url) + listening("c", two.url)
        with node(tmp_path, apps) as running:
            for port, name in ((one.port, "a"), (two.port, "b"), (two.port, "c")):
                async with Peer(port) as peer:
                    await _delivered(peer, running, f"{name}/x")
                assert "b/x: hello" not in running.text or name != "a"
            assert running.process.poll() is None


async def _delivered(peer: Peer, running: Node, topic: str) -> None:
    """Published until it arrives: the node may not have subscribed yet."""
    async with asyncio.timeout(60):
        while not running.count(f"{topic}: hello"):
            await peer.publish(topic, b"hello")
            await asyncio.sleep(0.1)
