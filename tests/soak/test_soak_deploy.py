"""New versions under load, good ones and bad ones: what clients see of it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from deploy_lab import CLIENTS, Publisher, board, load
from registry_lab import docker_registry
from soak_lab import Guest, MiB, memory, say, sized

SWAPS = sized(50, 4)
ROLLBACKS = sized(10, 2)
# Of a version that fails at everything these many events count, before it is taken back.
LEAST = 20


@pytest.fixture
def publisher(tmp_path: Path, guest: Guest) -> Iterator[Publisher]:
    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry") as host:
        yield Publisher(host, tmp_path / "releases", guest("release"))


def test_swaps_under_load_fail_no_request(publisher: Publisher, tmp_path: Path) -> None:
    config = '[sync]\ninterval = "1h"\nsoak = "1s"\n'
    with board(tmp_path / "node", config) as node:
        live = publisher.push("live", "0")
        node.deploy(live)
        assert node.process is not None
        pid, before = node.process.pid, 0
        with load(node, tmp_path) as seen:
            began = time.monotonic()
            for number in range(1, SWAPS + 1):
                version = f"{number}"
                if number % 2:
                    publisher.push("live", version, pad=100_000)
                    node.sync()
                else:
                    publisher.push("live", version, pad=100_000)
                    node.deploy(live)
                assert node.get() == (200, version)
                if number == SWAPS // 2:
                    before = memory(pid)["Pss"]
            took = time.monotonic() - began
        grown = memory(pid)["Pss"] - before
        say(
            f"{SWAPS} swaps in {took:.0f} s under {seen.total} requests of {CLIENTS} clients: "
            f"{seen.errors} broken connections, failed: {seen.failed()}; "
            f"{node.blobs()} blobs; PSS grew by {grown / MiB:.1f} MiB over the second half"
        )
        assert seen.errors == 0
        assert seen.failed() == {}
        assert set(seen.seen) == {f"200 {version}" for version in range(SWAPS + 1)}
        assert node.litter() == []


@pytest.mark.parametrize("fate", ["fails", "traps"])
def test_versions_that_fail_are_taken_back(fate: str, publisher: Publisher, tmp_path: Path) -> None:
    """Well at /healthz, and at nothing else. Rolled back without anybody's doing."""
    config = f'[sync]\ninterval = "1h"\nsoak = "10m"\nminimum_events = {LEAST}\n'
    with board(tmp_path / "node", config) as node:
        node.deploy(publisher.push("live", "good"))
        good, reasons = node.app()["digest"], set[str]()
        with load(node, tmp_path) as seen:
            for number in range(ROLLBACKS):
                publisher.push("live", f"bad-{number}", fate)
                node.sync()
                node.until(lambda: node.app()["state"] == "rolled back")
                app = node.app()
                reasons.add(app["reason"])
                assert app["digest"] == good
                assert node.get() == (200, "good")
        bad = [count for key, count in seen.failed().items() if key.startswith("500 ")]
        most = ROLLBACKS * (LEAST + CLIENTS)
        say(
            f"{ROLLBACKS} rollbacks of what {fate} under {seen.total} requests: {seen.errors} "
            f"broken connections, failed: {seen.failed()}, {sum(bad) / ROLLBACKS:.1f} each "
            f"(at most {LEAST} + {CLIENTS}); {sorted(reasons)}"
        )
        assert seen.errors == 0
        assert ROLLBACKS * LEAST <= sum(bad) <= most
        others = {key for key in seen.seen if key != "200 good"}
        if fate == "fails":
            assert others == {f"500 bad-{number}" for number in range(ROLLBACKS)}
            assert max(bad) <= LEAST + CLIENTS
        else:
            assert len(others) == 1
            assert others.pop().startswith('500 {"error"')
        assert all(re.search(r"\d+ events failed", reason) for reason in reasons), reasons
        assert node.litter() == []


def test_a_version_that_falls_ill_goes_and_one_that_is_ill_never_comes(
    publisher: Publisher, tmp_path: Path
) -> None:
    """Neither costs a request."""
    config = '[sync]\ninterval = "1h"\nsoak = "10m"\nhealth_interval = "100ms"\n'
    with board(tmp_path / "node", config) as node:
        reference = publisher.push("live", "good")
        node.deploy(reference)
        good = node.app()["digest"]
        with load(node, tmp_path) as seen:
            for number in range(ROLLBACKS):
                publisher.push("live", f"fades-{number}", "fades")
                node.sync()
                assert node.get("/spoil") == (200, f"fades-{number}")
                node.until(lambda: node.app()["state"] == "rolled back")
                assert "health: " in node.app()["reason"]
                bad = publisher.push("live", f"sick-{number}", "sick")
                assert "answers GET /healthz with 503" in node.refuses(bad)
                assert node.app()["digest"] == good
                assert node.get() == (200, "good")
        say(
            f"{ROLLBACKS} versions that fell ill, {ROLLBACKS} that were, under {seen.total} "
            f"requests: {seen.errors} broken connections, failed: {seen.failed()}"
        )
        assert seen.errors == 0
        assert seen.failed() == {}
        fades = {f"200 fades-{number}" for number in range(ROLLBACKS)}
        assert set(seen.seen) == {"200 good"} | fades
        assert node.litter() == []
