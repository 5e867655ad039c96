"""`edge doctor` as it is typed: with and without a node, and what a node's configuration names."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from mqtt_lab import mosquitto
from node_lab import EDGE, application, configured, node, run_edge
from redis_lab import redis_server
from registry_lab import PASSWORD, USER, Authority, docker_registry, free_port

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes networks and changes its user")

Doctor = Callable[..., list[dict[str, Any]]]


def examined(
    folder: Path, toml: str, *checks: str, prefix: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """What it finds with that configuration, and a node's state in that folder."""
    file = configured(folder, toml)
    (folder / "state").mkdir(exist_ok=True, mode=0o750)
    command = [*prefix, EDGE, "doctor", *checks, "--config", str(file), "--json"]
    command += ["--socket", str(folder / "edge.sock")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.stderr == ""
    report = json.loads(done.stdout)
    found: list[dict[str, Any]] = report["findings"]
    assert report["ok"] == (done.returncode == 0)
    assert report["ok"] == all(one["status"] != "error" for one in found)
    assert all((one["advice"] is None) == (one["status"] == "ok") for one in found)
    return found


@pytest.fixture
def doctor(tmp_path: Path) -> Doctor:
    """`doctor("[mqtt] …", "broker")`."""
    return partial(examined, tmp_path)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that other users may enter, other than those of pytest."""
    folder = Path(tempfile.mkdtemp(prefix="edge-doctor-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def only(found: list[dict[str, Any]]) -> tuple[str, str]:
    (one,) = found
    return one["status"], one["found"]


# --- the verb -------------------------------------------------------------------------------------


def test_everything_is_examined_without_a_node(doctor: Doctor) -> None:
    started = time.monotonic()
    found = doctor("")
    assert time.monotonic() - started < 30
    assert list(dict.fromkeys(one["check"] for one in found)) == [
        "configuration", "node", "clock", "space", "disk", "power", "memory", "addresses", "pages",
        "kernel", "unit", "permissions", "ports", "certificates", "multicast", "registries",
        "broker", "stores",
    ]  # fmt: skip
    (alone,) = [one for one in found if one["check"] == "node"]
    assert (alone["status"], "`edge run`" in alone["advice"]) == ("warning", True)


def test_people_read_lines_with_advice_and_a_count(tmp_path: Path) -> None:
    file = configured(tmp_path, "[nod]\n")
    done = run_edge("doctor", "configuration", "pages", "--config", file)
    assert done.returncode == 1
    first, advice, pages, empty, count = done.stdout.splitlines()
    assert first.startswith(f"error    configuration  {file}: nod")
    assert advice.strip().startswith("→ ")
    assert pages.split()[:2] == ["ok", "pages"]
    assert (empty, count) == ("", "1 error, no warnings")


def test_a_check_that_there_is_not() -> None:
    done = run_edge("doctor", "clok")
    assert done.returncode == 78
    assert done.stderr.startswith('edge: doctor: there is no check "clok"\nhint: there are ')


def test_a_node_that_runs_is_asked(
    doctor: Doctor, tmp_path: Path, guest: Callable[[str], Path]
) -> None:
    good = application("good", guest("hello"), "/good")
    with node(tmp_path, good) as running:
        # The node's own ports are not somebody else's.
        listen = f'[http]\nlisten = ["127.0.0.1:{running.port}"]\n'
        found = {one["check"]: one for one in doctor(listen, "node", "ports", "permissions")}
        assert found["node"]["found"] == "lab answers, with 1 application"
        assert found["ports"]["status"] == "ok"
        assert running.url in found["ports"]["found"]
        assert found["permissions"]["status"] == "ok"
        (tmp_path / "edge.toml").write_text(
            configured(tmp_path, good + application("bad", tmp_path / "none")).read_text()
        )
        running.hangup()
        toml = good + application("bad", tmp_path / "none")
        found_now = doctor(toml, "node", "configuration")
        said = [(one["check"], one["status"]) for one in found_now]
        assert said == [("configuration", "error"), ("node", "warning")]
        assert found_now[1]["found"].startswith("bad is failed: ")
        assert "edge sync --retry bad" in found_now[1]["advice"]


@as_root
def test_a_user_without_rights_gets_an_answer(public: Path) -> None:
    prefix = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
    if subprocess.run([*prefix, EDGE, "--version"], capture_output=True, check=False).returncode:
        pytest.skip("this checkout is in a directory that others may not enter")
    (public / "state").mkdir(mode=0o755)
    found = {one["check"]: one for one in examined(public, "", prefix=prefix)}
    assert found["permissions"]["status"] == "error"
    assert "belongs to root, the node is nobody" in found["permissions"]["found"]
    assert found["clock"]["status"] != "error"
    (public / "state").chmod(0o700)
    found = {one["check"]: one for one in examined(public, "", prefix=prefix)}
    assert "may not look into it" in found["permissions"]["found"]
    assert found["certificates"]["status"] == "ok"


def test_a_real_limit_of_addresses(doctor: Doctor) -> None:
    """What a 39-bit kernel leaves: 512 GiB."""
    limited = ("prlimit", f"--as={1 << 39}")
    (one,) = doctor("", "addresses", prefix=limited)
    assert one["status"] == "warning"
    assert "a limit of 512 GiB is set" in one["found"]
    assert "room for 64 guests" in one["found"]
    assert "ulimit -v unlimited" in one["advice"]
    assert only(doctor("", "addresses", prefix=("prlimit", "--as=unlimited")))[0] == "ok"


# --- registries -----------------------------------------------------------------------------------


def reference(text: str) -> str:
    return f'[[application]]\nname = "app"\nreference = "{text}"\n'


def test_registries_that_answer_or_not(doctor: Doctor, tmp_path: Path, guest: Any) -> None:
    with docker_registry(tmp_path) as host:
        assert run_edge("push", guest("hello"), f"{host}/team/app:1").returncode == 0
        assert only(doctor(reference(f"{host}/team/app:1"), "registries")) == (
            "ok", f"{host}/team/app:1: answers",
        )  # fmt: skip
        status, said = only(doctor(reference(f"{host}/team/app:2"), "registries"))
        assert status == "error"
        assert f"{host}/team/app:2" in said
        assert only(doctor(f'[registry."{host}"]\ninsecure = true\n', "registries")) == (
            "ok", f"{host}: answers",
        )  # fmt: skip
    (gone,) = doctor(reference(f"{host}/team/app:1"), "registries")
    assert gone["status"] == "error"
    assert "is the network there" in gone["advice"]


def test_a_registry_that_wants_another_password(doctor: Doctor, tmp_path: Path, guest: Any) -> None:
    authority = Authority.make(tmp_path)
    with docker_registry(tmp_path, users=True, authority=authority) as host:
        table = f'[registry."{host}"]\nca_file = "{authority.ca}"\nusername = "{USER}"\n'
        toml = f'{reference(f"{host}/team/app:1")}{table}password_file = "password"\n'
        (tmp_path / "password").write_text("wrong")
        assert only(doctor(toml, "registries"))[0] == "error"
        (tmp_path / "password").write_text(PASSWORD)
        status, said = only(doctor(toml, "registries"))
        assert (status, "team/app:1" in said) == ("error", True)  # there is no such tag
        table_alone = f'{table}password_file = "password"\n'
        assert only(doctor(table_alone, "registries")) == ("ok", f"{host}: answers")
        plain = doctor(f'[registry."{host}"]\n', "registries")
        assert (plain[0]["status"], "ca_file in [registry." in plain[0]["advice"]) == (
            "error",
            True,
        )


def test_names_that_nobody_knows_and_servers_that_say_nothing(doctor: Doctor) -> None:
    with silent() as port:
        names = ("no-such-host.invalid/x/y:1", f"127.0.0.1:{port}/x/y:1", f"127.0.0.1:{port}/z:1")
        toml = "".join(
            f'[[application]]\nname = "app-{n}"\nreference = "{name}"\nmount = "/{n}"\n'
            for n, name in enumerate(names)
        )
        started = time.monotonic()
        found = doctor(toml, "registries")
        assert time.monotonic() - started < 25
    assert [one["status"] for one in found] == ["error"] * 3


@contextmanager
def silent() -> Iterator[int]:
    """A server that lets everybody connect and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield listener.getsockname()[1]


# --- the broker -----------------------------------------------------------------------------------


def mqtt(url: str, more: str = "") -> str:
    return f'[mqtt]\nurl = "{url}"\n{more}\n'


def test_a_broker_that_is_there_gone_or_silent(doctor: Doctor, tmp_path: Path) -> None:
    with mosquitto(tmp_path) as broker:
        assert only(doctor(mqtt(broker.url), "broker")) == ("ok", f"{broker.url}: answers")
    status, said = only(doctor(mqtt(broker.url), "broker"))
    assert (status, "connection refused" in said) == ("error", True)
    with silent() as port:
        started = time.monotonic()
        status, said = only(doctor(mqtt(f"mqtt://127.0.0.1:{port}"), "broker"))
        assert time.monotonic() - started < 25
    assert (status, "no answer within 6 s" in said) == ("error", True)
    assert only(doctor(mqtt("mqtt://no-such-host.invalid"), "broker"))[0] == "error"


def test_a_broker_that_wants_another_password(doctor: Doctor, tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    command = ["mosquitto_passwd", "-b", "-c", str(passwords), "edge", "right"]
    subprocess.run(command, check=True, capture_output=True)
    passwords.chmod(0o644)
    with mosquitto(tmp_path, f"password_file {passwords}", anonymous=False) as broker:
        toml = mqtt(broker.url, 'username = "edge"\npassword_file = "password"')
        (tmp_path / "password").write_text("wrong")
        (wrong,) = doctor(toml, "broker")
        assert wrong["status"] == "error"
        assert "mqtt.password_file" in wrong["advice"]
        (tmp_path / "password").write_text("right\n")
        assert only(doctor(toml, "broker"))[0] == "ok"
        (tmp_path / "password").unlink()
        (unread,) = doctor(toml, "broker")
        assert (unread["status"], "no such file" in unread["found"]) == ("warning", True)


def test_the_node_keeps_its_connection_while_the_doctor_asks(
    doctor: Doctor, tmp_path: Path
) -> None:
    with mosquitto(tmp_path) as broker:
        assert only(doctor(mqtt(broker.url, 'client_id = "edge"'), "broker"))[0] == "ok"
        log = (broker.directory / "log").read_text()
    assert "edge-doctor-" in log
    assert "as edge " not in log


def test_a_file_that_hangs_does_not_hang_the_doctor(doctor: Doctor, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "password")
    toml = mqtt(f"mqtt://127.0.0.1:{free_port()}", 'username = "x"\npassword_file = "password"')
    started = time.monotonic()
    found = doctor(toml, "broker", "pages")
    assert time.monotonic() - started < 30
    assert [one["status"] for one in found] == ["ok", "error"]


# --- stores ---------------------------------------------------------------------------------------


def test_a_redis_server_that_is_there_gone_or_wants_a_password(
    doctor: Doctor, tmp_path: Path
) -> None:
    def store(url: str) -> str:
        return f'[stores.key_value.cache]\ntype = "redis"\nurl = "{url}"\n'

    with redis_server(tmp_path, password="right") as server:
        there = f"127.0.0.1:{server.port}"
        assert only(doctor(store(f"redis://:right@{there}"), "stores")) == (
            "ok", f"cache: redis://{there}: answers",
        )  # fmt: skip
        (wrong,) = doctor(store(f"redis://:wrong@{there}"), "stores")
        assert wrong["status"] == "error"
        assert "wrong@" not in str(wrong)
        assert only(doctor(store(f"redis://{there}"), "stores"))[0] == "error"
    status, said = only(doctor(store(f"redis://{there}"), "stores"))
    assert (status, "connection refused" in said.lower()) == ("error", True)
    with silent() as port:
        assert only(doctor(store(f"redis://127.0.0.1:{port}"), "stores"))[0] == "error"
    assert only(doctor("", "stores")) == ("ok", "all are on this machine")


# --- multicast ------------------------------------------------------------------------------------


@pytest.fixture
def network() -> Iterator[str]:
    """A network namespace with one interface that leads somewhere."""
    name = f"edge-doctor-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        inside = ["ip", "-n", name]
        for command in (
            ["link", "add", "eth0", "type", "veth", "peer", "name", "eth1"],
            ["address", "add", "10.99.0.1/24", "dev", "eth0"],
            ["link", "set", "eth0", "up"],
            ["link", "set", "eth1", "up"],
            ["link", "set", "lo", "up"],
        ):
            subprocess.run([*inside, *command], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


@as_root
@pytest.mark.skipif(shutil.which("iptables") is None, reason="needs iptables")
def test_multicast_that_a_firewall_drops(doctor: Doctor, network: str) -> None:
    inside = ("ip", "netns", "exec", network)
    toml = '[fleet]\ninterfaces = ["eth0"]\n'
    assert only(doctor(toml, "multicast", prefix=inside)) == (
        "ok", "eth0: sends and hears; `edge peers --browse` shows who answers",
    )  # fmt: skip
    rule = ["INPUT", "-p", "udp", "--dport", "5353", "-j", "DROP"]
    subprocess.run([*inside, "iptables", "-A", *rule], check=True)
    (dropped,) = doctor(toml, "multicast", prefix=inside)
    assert dropped["status"] == "warning"
    assert "does not come back" in dropped["found"]
    assert "UDP port 5353" in dropped["advice"]
    subprocess.run([*inside, "iptables", "-D", *rule], check=True)
    assert only(doctor(toml, "multicast", prefix=inside))[0] == "ok"
    subprocess.run(["ip", "-n", network, "link", "set", "eth0", "down"], check=True)
    status, said = only(doctor(toml, "multicast", prefix=inside))
    assert (status, "no network interface is up" in said) == ("warning", True)
    off = "[fleet]\ndiscovery = false\n"
    assert only(doctor(off, "multicast", prefix=inside))[0] == "ok"


@as_root
def test_a_program_that_has_the_port_for_itself(doctor: Doctor, network: str) -> None:
    holding = (
        "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        "s.bind(('0.0.0.0', 5353)); print(flush=True); sys.stdin.read()"
    )
    command = ["ip", "netns", "exec", network, "python3", "-c", holding]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        with closing(holder.stdout):
            holder.stdout.readline()
            toml = '[fleet]\ninterfaces = ["eth0"]\n'
            (taken,) = doctor(toml, "multicast", prefix=("ip", "netns", "exec", network))
            assert holder.stdin is not None
            holder.stdin.close()
    assert taken["status"] == "warning"
    assert f"(process {holder.pid}) has port 5353" in taken["found"]
