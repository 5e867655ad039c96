"""What a real node counts, by `GET /v1/metrics` and as Prometheus takes it: as many as there were,
whatever they came by.
"""

from __future__ import annotations

import asyncio
import http.client
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mqtt_lab import Peer, mosquitto
from node_lab import Node, application, node
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from edge.node.client import NodeClient
from edge.node.metrics.families import FAMILIES

Guest = Callable[[str], Path]
Make = Callable[..., Path]


@pytest.fixture
def make(guest: Guest, tmp_path: Path) -> Make:
    """`make("a", "status", trigger)`: a folder with an application of one guest."""

    def made(name: str, wasm: str, trigger: str = "") -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        trigger = trigger or '[[trigger.http]]\nroute = "/..."\ncomponent = "guest"'
        (folder / "spin.toml").write_text(
            f'spin_manifest_version = 2\n[application]\nname = "{name}"\n{trigger}\n'
            f'[component.guest]\nsource = "{guest(wasm)}"\n'
        )
        return folder

    return made


def figures(running: Node) -> dict[str, Any]:
    async def ask() -> Any:
        async with NodeClient(running.socket) as client:
            return await client.get("/v1/metrics")

    found: dict[str, Any] = asyncio.run(ask())
    return found


def components(running: Node) -> dict[str, dict[str, Any]]:
    return {found["application"]: found for found in figures(running)["components"]}


def test_requests_are_counted_once_each_over_swaps(make: Make, tmp_path: Path) -> None:
    folder = make("a", "status")
    with node(tmp_path, application("a", folder)) as running:
        paths = ["/200"] * 40 + ["/404"] * 10 + ["/500"] * 7
        with ThreadPoolExecutor(8) as pool:
            statuses = [status for status, _ in pool.map(running.get, paths)]
        assert statuses.count(500) == 7
        (found,) = figures(running)["components"]
        assert (found["application"], found["component"]) == ("a", "guest")
        assert {k: n for k, n in found["outcomes"].items() if n} == {"ok": 50, "failed": 7}
        assert found["in_flight"] == found["queued"] == 0
        for measured in (found["latency"], found["queue"]):
            assert len(measured["counts"]) == len(measured["bounds"]) + 1
        assert sum(found["latency"]["counts"]) == 57
        assert 0 < found["latency"]["sum"] < 57 * 30

        make("a", "hello")
        running.hangup()
        running.until(lambda: running.get()[1].startswith(b"hello"))
        before = components(running)["a"]["outcomes"]["ok"]
        running.get()
        assert components(running)["a"]["outcomes"] == {**found["outcomes"], "ok": before + 1}

        (tmp_path / "edge.toml").write_text(
            (tmp_path / "edge.toml").read_text().partition("[[application]]")[0]
        )
        running.hangup()
        running.until(lambda: not figures(running)["components"])


def test_what_the_node_says_of_itself(make: Make, tmp_path: Path) -> None:
    with node(tmp_path, application("a", make("a", "hello"))) as running:
        found = figures(running)
        assert found["at"] > Path(__file__).stat().st_mtime
        own = found["node"]
        pages = int(Path(f"/proc/{running.process.pid}/statm").read_text().split()[1])
        assert 0.5 < own["memory"]["rss"] / (pages * 4096) < 2
        assert 0 < own["memory"]["pss"] <= own["memory"]["rss"] * 1.5
        assert 0 <= own["pool"]["slots_used"] < own["pool"]["slots"]
        assert own["pool"]["memory"] > own["pool"]["memory_used"] >= 0
        assert own["loop_lag"] >= 0
        assert 0 < own["store"]["used"] < own["store"]["quota"]
        assert own["disk"]["written"] >= 0
        assert (own["applications"], own["peers"], own["mqtt"]) == (1, None, [])
        assert own["sync"]["succeeded"] >= 1


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("node")
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self._path)


def scraped(running: Node, accept: str = "text/plain") -> tuple[str, str]:
    """Content type and body."""
    connection = _Connection(running.socket)
    try:
        connection.request("GET", "/metrics", headers={"accept": accept})
        answer = connection.getresponse()
        assert answer.status == 200
        return answer.headers["content-type"], answer.read().decode()
    finally:
        connection.close()


def samples(families: Any) -> dict[str, float]:
    """By their names, and the values of their labels after those of the component."""
    return {
        "/".join(
            [s.name, *(v for k, v in s.labels.items() if k not in ("application", "component"))]
        ): s.value
        for family in families
        for s in family.samples
    }


def test_prometheus_reads_it(make: Make, tmp_path: Path) -> None:
    with node(tmp_path, application("a", make("a", "status"))) as running:
        for path in ["/200"] * 5 + ["/500"] * 2:
            running.get(path)
        content_type, text = scraped(running)
        assert content_type.startswith("text/plain; version=")
        plain = samples(text_string_to_metric_families(text))
        content_type, text = scraped(running, "application/openmetrics-text;version=1.0.0")
        assert content_type.startswith("application/openmetrics-text")
        assert text.endswith("# EOF\n")
        strict = samples(openmetrics.text_string_to_metric_families(text))
    for found in (plain, strict):
        assert found["edge_invocations_total/ok"] == 5
        assert found["edge_invocations_total/failed"] == 2
        assert found["edge_invocations_total/overloaded"] == 0
        assert found["edge_invocation_duration_seconds_count"] == 7
        assert found["edge_invocation_duration_seconds_bucket/+Inf"] == 7
        assert found["edge_invocation_queue_duration_seconds_count"] == 7
        assert 0 < found["edge_invocation_duration_seconds_sum"] < 7 * 30
        assert found["edge_applications"] == 1
        assert found["process_resident_memory_bytes"] > 1 << 20
        assert "edge_peers_known" not in found, "in no fleet"
    buckets = [v for k, v in plain.items() if k.startswith("edge_invocation_duration_seconds_b")]
    assert buckets == sorted(buckets)


def test_libraries_are_loaded_by_who_uses_them_only() -> None:
    """Those of metrics and traces, and what several processes need: memory and time of a board."""
    script = (
        "import sys, edge.node.daemon\n"
        "unused = {'prometheus_client', 'opentelemetry', 'edge.node.workers'}\n"
        "sys.exit(bool(unused & {*sys.modules}))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_names_are_prometheus_own_way() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    for family in FAMILIES:
        assert family.name.startswith(("edge_", "process_"))
        assert family.name.endswith("_total") is (family.kind == "counter")
        assert family.help.endswith(".")


def test_the_reference_is_up_to_date() -> None:
    script = Path(__file__).parent.parent.parent / "docs" / "metrics.py"
    done = subprocess.run([sys.executable, script, "--check"], check=False)
    assert done.returncode == 0, "python docs/metrics.py writes it"


async def test_messages_are_counted(
    make: Make, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    trigger = (
        '[[trigger.mqtt]]\nid = "in"\ntopic = "t/#"\nqos = "1"\ncomponent = "guest"\n'
        '[component.guest.tool.edge.trigger.in]\nretries = 1\ndead_letter = "dead"'
    )
    with mosquitto(tmp_path_factory.mktemp("broker")) as broker:
        config = f'[mqtt]\nurl = "{broker.url}"\n'
        config += application("a", make("a", "on_message", trigger))
        with node(tmp_path, config) as running:
            async with Peer(broker.port) as peer:
                # What says that the node has subscribed.
                await peer.subscribe("edge/+/status")
                while (await peer.get()).payload != b"online":
                    pass
                await peer.subscribe("dead")
                for topic in ("t/x", "t/y", "t/trap"):
                    await peer.publish(topic, b"hello")
                await peer.get()
                # The broker confirms it when it has given it to others, perhaps.
                await asyncio.to_thread(
                    running.until, lambda: figures(running)["node"]["mqtt"][0]["published"]
                )
            found = await asyncio.to_thread(figures, running)
    ((of_broker,), (component,)) = found["node"]["mqtt"], found["components"]
    assert of_broker == {
        "broker": of_broker["broker"],
        "connected": True,
        "received": 3,
        "published": 1,
        "again": 1,
        "dead": 1,
    }
    assert component["outcomes"]["ok"] == 2
    assert component["outcomes"]["failed"] == 2, "it was tried twice"
