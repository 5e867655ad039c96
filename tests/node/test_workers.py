"""Several processes that are one node: real ones, with real guests and clients."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from node_lab import Node, application, node, run_edge
from redis_lab import certificate

from edge import config
from edge.application.model import Application, Component, HttpTrigger, PathSource
from edge.application.options import Options
from edge.application.routes import Route
from edge.errors import ConfigError
from edge.invocation.meter import Meters
from edge.node import configuration
from edge.node.client import NodeClient
from edge.node.workers import shares
from edge.node.workers.counts import Counts, counted, total

Guest = Callable[[str], Path]

HTTP = '[http]\nlisten = ["127.0.0.1:0"]\nworkers = 2\n'
MEMORY = 1 << 30


@dataclass(slots=True)
class Lab:
    """A node of two processes. `apps`: name -> its [[application]]."""

    folder: Path
    guest: Guest
    apps: dict[str, str] = field(default_factory=dict)
    running: Node = field(init=False)

    def make(self, name: str, wasm: str, more: str = "", **entry: str) -> None:
        """An application below /NAME, or another version of it."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        (folder / "spin.toml").write_text(
            f'spin_manifest_version = 2\n[application]\nname = "{name}"\n'
            f'[[trigger.http]]\nroute = "/..."\ncomponent = "guest"\n'
            f'[component.guest]\nsource = "{self.guest(wasm)}"\n{more}\n'
        )
        self.apps[name] = application(name, folder, f"/{name}", **entry)

    @property
    def config(self) -> str:
        sync = '[sync]\nminimum_events = 5\nsoak = "60s"\nhealth_interval = "60s"\n'
        limits = '[limits]\nmemory = "1GiB"\ninstances = 41\n'
        page = '[page]\nlisten = "127.0.0.1:0"\n'
        mirror = '[mirror]\nlisten = "127.0.0.1:0"\naccept_pushes = true\n'
        return HTTP + limits + sync + page + mirror + "".join(self.apps.values())

    def reload(self) -> None:
        file = self.folder / "edge.toml"
        head = file.read_text().partition("[[application]]")[0]
        file.write_text(head + "".join(self.apps.values()))
        self.running.hangup()

    @property
    def workers(self) -> list[int]:
        return [pid for pid in children(self.running.process.pid) if is_worker(pid)]

    @property
    def pids(self) -> list[int]:
        return [self.running.process.pid, *self.workers]

    def until(self, true: Callable[[], object]) -> None:
        self.running.until(true)

    def figures(self) -> Any:
        async def ask() -> Any:
            async with NodeClient(self.running.socket) as client:
                return await client.get("/v1/metrics")

        return asyncio.run(ask())

    def whole(self) -> int:
        """Waits until both serve; the worker."""
        self.until(lambda: self.figures()["node"]["workers"]["serving"] == 2)
        (pid,) = self.workers
        return pid


def children(pid: int) -> list[int]:
    with suppress(FileNotFoundError):
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def is_worker(pid: int) -> bool:
    with suppress(OSError):
        return b"edge.node.workers.process" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


@pytest.fixture(scope="module")
def lab(guest: Guest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("workers"), guest)
    made.make("status", "status")
    made.make("store", "store", 'key_value_stores = ["default"]\nsqlite_databases = ["default"]')
    made.make("few", "sleeper", "[component.guest.tool.edge]\nconcurrency = 2\nqueue = 0")
    made.make("prints", "prints")
    hosts = 'allowed_outbound_hosts = ["http://127.0.0.1:*"]'
    made.make("out", "outbound", f'{hosts}\n[component.guest.tool.edge]\nhealth = ""')
    with node(made.folder, made.config) as running:
        made.running = running
        yield made


class Client:
    """A connection that one process has accepted: the others sleep meanwhile."""

    def __init__(self, lab: Lab, pid: int) -> None:
        others = [other for other in lab.pids if other != pid]
        for other in others:
            os.kill(other, signal.SIGSTOP)
        try:
            self.http = http.client.HTTPConnection("127.0.0.1", lab.running.port, timeout=60)
            assert self.get("/.well-known/spin/health")[0] == 200
        finally:
            for other in others:
                os.kill(other, signal.SIGCONT)

    def get(self, path: str, body: str | None = None, **headers: str) -> tuple[int, str]:
        self.http.request("GET" if body is None else "POST", path, body, headers)
        answer = self.http.getresponse()
        return answer.status, answer.read().decode()

    def close(self) -> None:
        self.http.close()


@contextmanager
def clients(lab: Lab) -> Iterator[list[Client]]:
    """One of each process, the first one's first."""
    lab.whole()
    found = [Client(lab, pid) for pid in lab.pids]
    try:
        yield found
    finally:
        for client in found:
            client.close()


def together(work: Sequence[Callable[[], Any]]) -> list[Any]:
    with ThreadPoolExecutor(len(work)) as pool:
        return [future.result() for future in [pool.submit(one) for one in work]]


# --- what is divided ----------------------------------------------------------------------------


def test_shares_add_up_and_the_first_is_the_least() -> None:
    for total_, count in ((10, 3), (2, 2), (1, 4), (0, 2), ((1 << 40) + 7, 8)):
        found = [shares.share(total_, index, count) for index in range(count)]
        assert sum(found) == total_
        assert found == sorted(found)
        assert found[-1] - found[0] <= 1
    whole = replace(config.Daemon(), http=replace(config.Http(), workers=3))
    parts = [shares.of_settings(whole, index) for index in range(3)]
    for of, name in ((lambda d: d.limits, "memory"), (lambda d: d.limits, "queue"),
                     (lambda d: d.stores, "open"), (lambda d: d.stores, "queue"),
                     (lambda d: d.http.settings, "max_connections")):  # fmt: skip
        assert sum(getattr(of(part), name) for part in parts) == getattr(of(whole), name)


def test_what_requests_reach_is_divided_and_nothing_else() -> None:
    options = Options(concurrency=5, queue=3)
    components = {id: Component(id, PathSource("x"), options=options) for id in ("web", "tick")}
    whole = Application(
        "a", components=components, http=(HttpTrigger("t", Route.parse("/..."), component="web"),)
    )
    found = [shares.of_application(whole, index, 2).components for index in range(2)]
    assert [(c["web"].options.concurrency, c["web"].options.queue) for c in found] == [
        (2, 1), (3, 2),
    ]  # fmt: skip
    assert all(c["tick"].options == options for c in found)
    with pytest.raises(ConfigError, match="concurrency 5 cannot be divided among the 6 processes"):
        shares.of_application(whole, 0, 6)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[http]\nworkers = 0", "http.workers"),
        ("[http]\nworkers = 65", "http.workers"),
        ('[http]\nworkers = 2\n[mqtt]\nurl = "mqtt://h"\n[home_assistant]\nenabled = true',
         "home_assistant.enabled: .*several"),
        ("[http]\nworkers = 4\n[limits]\ninstances = 3", "limits.instances: 3 cannot be divided"),
    ],
)  # fmt: skip
def test_what_cannot_be_with_several_processes_is_refused(
    text: str, told: str, tmp_path: Path
) -> None:
    file = tmp_path / "edge.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=told):
        configuration.read(file)


def test_the_limits_are_the_nodes(lab: Lab) -> None:
    with clients(lab) as found:
        pool = lab.figures()["node"]["pool"]
        assert (pool["memory"], pool["slots"]) == (MEMORY, 41)
        # Two may run, none may wait: one in each process.
        slow = [lambda c=c: c.get("/few/1500") for c in found]
        with ThreadPoolExecutor(2) as pool_, clients(lab) as others:
            under_way = [pool_.submit(one) for one in slow]
            lab.until(lambda: gauges(lab, "few")["in_flight"] == 2)
            assert [client.get("/few/0")[0] for client in others] == [503, 503]
            assert [one.result() for one in under_way] == [(200, "slept")] * 2


# --- what is counted, kept, said ----------------------------------------------------------------


def gauges(lab: Lab, name: str) -> Any:
    (found,) = (c for c in lab.figures()["components"] if c["application"] == name)
    return found


def test_counts_of_workers_become_the_nodes() -> None:
    node_, worker = Meters(), Meters()
    serving = {"a"}
    counts = Counts(node_, serving.__contains__)
    node_.of("a", "c").ok = 100
    for _ in range(3):
        worker.of("a", "c").succeeded(time.monotonic() - 0.3, 0.2)
        worker.of("a", "c").failed(time.monotonic() - 3, 0, None)
        worker.of("gone", "c").succeeded(0, 0)
        counts.take(counted(worker))
    meter = node_.of("a", "c")
    assert (meter.ok, meter.outcomes["failed"]) == (103, 3)
    assert sum(meter.latency.counts) == 6
    assert meter.latency.sum == pytest.approx(3 * 3.3, abs=0.5)
    assert (sum(meter.waits.counts), meter.waits.sum) == (3, pytest.approx(0.6))
    assert [names for *names, _ in node_] == [["a", "c"]]
    # Gone from the node and there again: from nothing, on both sides.
    counts.drop("a")
    node_.drop("a")
    worker.drop("a")
    worker.of("a", "c").succeeded(0, 0)
    counts.take(counted(worker))
    assert node_.of("a", "c").ok == 1
    assert total([{"a": 1, "b": None}, {"a": 2.5, "b": 1}]) == {"a": 3.5, "b": None}


def test_both_processes_serve_and_their_counts_add_up(lab: Lab) -> None:
    with clients(lab) as found:
        before = gauges(lab, "status")["outcomes"] if counts_of(lab) else {"ok": 0, "failed": 0}
        paths = ["/status/200"] * 30 + ["/status/500"] * 5
        answers = together([lambda c=c: [c.get(path)[0] for path in paths] for c in found])
        assert [answer.count(200) for answer in answers] == [30, 30]
        now = gauges(lab, "status")
        assert now["outcomes"]["ok"] - before["ok"] == 60
        assert now["outcomes"]["failed"] - before["failed"] == 10
        assert sum(now["latency"]["counts"]) == sum(now["outcomes"].values())
        assert now["in_flight"] == 0
        assert f"handled  {sum(events(lab))} events" in lab.running.tell("status")


def counts_of(lab: Lab) -> bool:
    return any(c["application"] == "status" for c in lab.figures()["components"])


def events(lab: Lab) -> list[int]:
    return [sum(c["outcomes"].values()) for c in lab.figures()["components"]]


def test_nothing_is_lost_of_what_all_of_them_keep(lab: Lab) -> None:
    with clients(lab) as found:
        assert found[0].get("/store/sql", "CREATE TABLE t (n INTEGER)\nSELECT 1")[0] == 200
        assert found[1].get("/store/sql", "INSERT INTO t VALUES (0)\nSELECT 1")[0] == 200
        # Read, then write: another process must not write in between.
        add = "BEGIN\nSELECT n FROM t\nUPDATE t SET n = n + 1\nCOMMIT\nSELECT 1"

        def work(client: Client) -> None:
            for _ in range(25):
                assert client.get("/store/increment/n")[0] == 200
                assert client.get("/store/append/text")[0] == 200
                status, text = client.get("/store/sql", add)
                assert status == 200, text

        together([lambda c=c: work(c) for c in found])
        for client in found:
            assert client.get("/store/sql", "SELECT n FROM t") == (200, "50\n")
            assert client.get("/store/increment/n") == (200, "51")
            assert client.get("/store/get/text") == (200, "x" * 50)
            assert client.get("/store/delete/n")[0] == 200
            together([lambda c=c: [c.get("/store/increment/n") for _ in range(25)] for c in found])


def test_the_log_has_the_lines_of_all(lab: Lab) -> None:
    with clients(lab) as found:
        for client in found:
            assert client.get("/prints/words/1")[0] == 200
    lines = lab.running.tell("logs", "--application", "prints", "--json").splitlines()
    told = [json.loads(line) for line in lines]
    assert len({entry["invocation"].partition("-")[0] for entry in told}) == 2
    assert {(entry["component"], entry["stream"]) for entry in told} == {("guest", "stdout")}
    assert {entry["message"] for entry in told} == {"wwwwwww " * 7 + "wwwwwww"}


def test_a_guest_of_a_worker_does_not_see_the_page(lab: Lab) -> None:
    (url,) = re.findall(r"page +(http://\S+)", lab.running.tell("status"))
    with clients(lab) as found:
        for client in found:
            assert client.get("/out/", **{"x-url": f"{url}/v1/apps"})[0] == 403


def test_what_is_purged_is_gone_everywhere(lab: Lab) -> None:
    """And what is deployed by hand is there."""
    lab.make("brief", "store", 'key_value_stores = ["default"]')
    del lab.apps["brief"]
    (mirror,) = re.findall(r"mirror +http://(\S+)", lab.running.tell("status"))
    done = run_edge("push", lab.folder / "brief", f"{mirror}/brief:1")
    assert done.returncode == 0, done.stderr
    lab.running.tell("deploy", f"{mirror}/brief:1", "--mount", "/brief")
    with clients(lab) as found:
        assert [client.get("/brief/set/k/v")[0] for client in found] == [200, 200]
        kept = lab.folder / "state" / "kv" / "brief"
        assert kept.exists()
        lab.running.tell("undeploy", "brief", "--purge")
        assert [client.get("/brief/get/k")[0] for client in found] == [404, 404]
        assert not kept.exists()
        lab.running.tell("deploy", f"{mirror}/brief:1", "--mount", "/brief")
        assert [client.get("/brief/get/k") for client in found] == [(404, "")] * 2
        assert [client.get("/brief/set/k/v")[0] for client in found] == [200, 200]


# --- versions -----------------------------------------------------------------------------------


def release(lab: Lab, name: str, version: str, fate: str) -> None:
    lab.make(
        name,
        "release",
        'key_value_stores = ["default"]\n'
        f'[component.guest.variables]\nversion = "{version}"\nfate = "{fate}"',
    )
    lab.reload()


def test_versions_change_under_load_without_a_failure(lab: Lab) -> None:
    release(lab, "release", "1", "good")
    lab.until(lambda: lab.running.get("/release/") == (200, b"1"))
    stop = threading.Event()

    def load(client: Client) -> list[tuple[int, str]]:
        seen = []
        while not stop.is_set():
            seen.append(client.get("/release/"))
            time.sleep(0.002)
        return seen

    with clients(lab) as found, ThreadPoolExecutor(2) as pool:
        under_way = [pool.submit(load, client) for client in found]
        release(lab, "release", "2", "good")
        lab.until(lambda: lab.running.count("application release: ") == 2)
        # It is said to serve: it does, wherever one asks.
        after = [[client.get("/release/") for client in fresh] for fresh in twice(lab)]
        stop.set()
        for seen in (one.result() for one in under_way):
            assert {status for status, _ in seen} == {200}
            versions = [version for _, version in seen]
            assert versions == sorted(versions)
            assert {"1", "2"} == set(versions)
    assert after == [[(200, "2")] * 2] * 2


def twice(lab: Lab) -> Iterator[list[Client]]:
    for _ in range(2):
        with clients(lab) as found:
            yield found


def test_a_version_is_taken_back_for_what_only_a_worker_saw(lab: Lab) -> None:
    release(lab, "bad", "1", "good")
    lab.until(lambda: lab.running.get("/bad/") == (200, b"1"))
    with clients(lab) as (first, worker):
        release(lab, "bad", "2", "fails")
        lab.until(lambda: worker.get("/bad/") == (500, "2"))
        lab.until(lambda: worker.get("/bad/") == (200, "1"))
        lab.until(lambda: lab.running.apps()["bad"]["state"] == "rolled back")
        assert "events failed" in lab.running.apps()["bad"]["reason"]
        assert first.get("/bad/") == (200, "1")


def test_what_cannot_be_divided_is_not_deployed(lab: Lab) -> None:
    lab.make("one", "status", "[component.guest.tool.edge]\nconcurrency = 1")
    lab.reload()
    lab.until(lambda: lab.running.apps().get("one", {}).get("state") == "failed")
    assert "concurrency 1 cannot be divided" in lab.running.apps()["one"]["reason"]
    del lab.apps["one"]
    lab.reload()


# --- workers that end ---------------------------------------------------------------------------


def test_a_worker_that_was_killed_is_started_anew(lab: Lab) -> None:
    worker = lab.whole()
    with closing(Client(lab, worker)) as client:
        assert client.get("/status/200")[0] == 200
        ok = gauges(lab, "status")["outcomes"]["ok"]
        os.kill(worker, signal.SIGKILL)
    lab.until(lambda: lab.running.count("was ended by SIGKILL; it is started anew"))
    # The other one serves meanwhile, and nothing that was counted is gone.
    assert lab.running.get("/status/200")[0] == 200
    assert gauges(lab, "status")["outcomes"]["ok"] >= ok + 1
    assert lab.whole() != worker
    assert lab.figures()["node"]["workers"]["restarts"] >= 1
    with clients(lab) as found:
        assert [client.get("/status/200")[0] for client in found] == [200, 200]


def test_a_worker_that_hangs_is_ended_and_no_version_waits_for_it(lab: Lab) -> None:
    worker = lab.whole()
    os.kill(worker, signal.SIGSTOP)
    lab.make("late", "status")
    lab.reload()
    lab.until(lambda: lab.running.apps().get("late", {}).get("state") == "failed")
    assert "worker 2: has ended" in lab.running.apps()["late"]["reason"]
    assert lab.running.count("worker 2: has not answered for 10 s: it is killed")
    assert lab.whole() != worker
    lab.running.tell("sync", "late", "--retry")
    with clients(lab) as found:
        assert [client.get("/late/200")[0] for client in found] == [200, 200]


def test_a_drain_waits_for_all_and_tls_is_spoken_by_all(guest: Guest, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    lab = Lab(tmp_path, guest)
    lab.make("slow", "sleeper")
    tls = f'tls_certificate = "{cert}"\ntls_key = "{key}"\n'
    with node(tmp_path, HTTP + tls + lab.apps["slow"]) as running:
        lab.running = running
        worker = lab.whole()
        trust = ssl.create_default_context(cafile=str(cert))
        os.kill(running.process.pid, signal.SIGSTOP)
        try:
            client = http.client.HTTPSConnection(
                "localhost", running.port, timeout=60, context=trust
            )
            client.request("GET", "/slow/1500")
            time.sleep(0.3)
        finally:
            os.kill(running.process.pid, signal.SIGCONT)
        lab.until(lambda: gauges(lab, "slow")["in_flight"] == 1)
        running.process.send_signal(signal.SIGTERM)
        answer = client.getresponse()
        assert (answer.status, answer.read()) == (200, b"slept")
        client.close()
        running.process.wait(20)
        assert not is_worker(worker)


def test_a_worker_dies_with_its_node(tmp_path: Path) -> None:
    with node(tmp_path, HTTP, expected_exit=-signal.SIGKILL) as running:
        (worker,) = filter(is_worker, children(running.process.pid))
        running.process.kill()
        deadline = time.monotonic() + 20
        while is_worker(worker):
            assert time.monotonic() < deadline
            time.sleep(0.02)
