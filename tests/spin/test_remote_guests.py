"""Real guests that talk to real servers by Redis and MQTT: what they get, and what they leave."""

from __future__ import annotations

import http.client
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import redis
from conftest import Serve, Served
from mqtt_lab import Mosquitto, mosquitto
from redis_lab import Server, redis_server

HOSTS = 'allowed_outbound_hosts = ["redis://127.0.0.1:*", "mqtt://127.0.0.1:*"]'

Make = Callable[..., Path]
Guest = Callable[[str], Path]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with mosquitto(tmp_path_factory.mktemp("mosquitto")) as running:
        yield running


def ask(served: Served, path: str) -> tuple[int, str]:
    with closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()


def left_alone(server: Server) -> None:
    """Returns when no guest is connected any more."""
    end = time.monotonic() + 20
    while server.connections():
        assert time.monotonic() < end, "a connection was left open"
        time.sleep(0.01)


def test_many_guests_at_once_count_by_redis(
    serve: Serve, guest: Guest, application: Make, server: Server
) -> None:
    server.client.flushall()
    with serve(application(guest("remote"), more=HOSTS)) as served:
        with ThreadPoolExecutor(8) as pool:
            answers = list(
                pool.map(lambda _: ask(served, f"/redis/{server.port}/incr/n"), range(64))
            )
        assert sorted(int(text) for _, text in answers) == list(range(1, 65))
        assert ask(served, f"/redis/{server.port}/get/n") == (200, "64")
        assert ask(served, f"/redis/{server.port}/get/none") == (404, "")
        server.client.set("word", "x")
        assert ask(served, f"/redis/{server.port}/incr/word") == (500, "2")
        left_alone(server)


def test_whatever_ends_a_guest_ends_its_connection(
    serve: Serve, guest: Guest, application: Make, server: Server
) -> None:
    with serve(application(guest("remote"), more=HOSTS, timeout="500ms")) as served:
        assert ask(served, f"/redis/{server.port}/wait")[0] == 504
        left_alone(server)
        assert ask(served, f"/redis/{server.port}/trap")[0] == 500
        left_alone(server)
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
        connection.request("GET", f"/redis/{server.port}/wait")
        connection.close()
        left_alone(server)


@pytest.mark.parametrize("qos", [1, 2])
def test_a_guest_publishes(
    serve: Serve, guest: Guest, application: Make, broker: Mosquitto, qos: int
) -> None:
    # A session that has subscribed once gets what comes while nobody is there.
    subscriber = ["mosquitto_sub", "-p", str(broker.port), "-i", f"s{qos}", "-c", "-q", "2"]
    subscriber += ["-t", f"out/{qos}"]
    subprocess.run([*subscriber, "-E"], check=True, timeout=20)
    with serve(application(guest("remote"), more=HOSTS)) as served:
        assert ask(served, f"/mqtt/{broker.port}/{qos}/out/{qos}") == (200, "published")
    got = [*subscriber, "-C", "1", "-W", "20"]
    done = subprocess.run(got, check=True, timeout=30, capture_output=True, text=True)
    assert done.stdout == "hello\n"


def test_a_guest_without_a_grant_is_told(
    serve: Serve, guest: Guest, application: Make, server: Server, broker: Mosquitto
) -> None:
    with serve(application(guest("remote"))) as served:
        before = server.client.info("stats")["total_connections_received"]
        for path, case in ((f"/redis/{server.port}/get/k", 3), (f"/mqtt/{broker.port}/0/t", 2)):
            status, text = ask(served, path)
            assert (status, text[:2]) == (500, f"{case} ")
            assert "allowed_outbound_hosts" in text
        assert server.client.info("stats")["total_connections_received"] == before


def test_guests_share_a_store_in_redis(
    serve: Serve, guest: Guest, application: Make, server: Server, tmp_path: Path
) -> None:
    config = tmp_path / "runtime-config.toml"
    config.write_text(f'[key_value_store.default]\ntype = "redis"\nurl = "{server.url}/3"\n')
    made = application(guest("store"), more='key_value_stores = ["default"]', queue=256)
    with serve(made, "--runtime-config-file", str(config)) as served:
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda _: ask(served, "/increment/n"), range(200)))
        assert sorted(int(text) for _, text in answers) == list(range(1, 201))
        assert ask(served, "/set/k/v") == (200, "ok")
        assert server.connections() == 1
    with serve(made, "--runtime-config-file", str(config)) as served:
        assert ask(served, "/append/k") == (200, "2")
        assert ask(served, "/get/k") == (200, "vx")
        assert sorted(ask(served, "/keys")[1].split()) == ["k", "n"]
        assert ask(served, f"/get/{'x' * 300}")[0] == 500
    with closing(redis.Redis(port=server.port, db=3)) as client:
        assert client.get("edge:test:default:k") == b"vx"
        assert client.get("edge:test:default:n") == b"200"
