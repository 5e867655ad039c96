"""A board that boots in 1970 and without a network: it serves what it had, then syncs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy_forks import MODULES
from deploy_lab import Board, Misfortune, Publisher, misfortune
from registry_lab import Authority, docker_registry
from soak_lab import Guest, say, sized

APPLICATIONS = sized(30, 3)
BOOTS = sized(5, 1)
# A minute after the beginning of time.
MOMENT = 60.0

# Without a page: its port may be that of another node here.
CONFIG = '[page]\nlisten = ""\n[sync]\ninterval = "1s"\nsoak = "0s"\n'


def mounted(host: str) -> str:
    """One application, many times."""
    return "".join(
        f'[[application]]\nname = "app-{n}"\nmount = "/app-{n}"\n'
        f'reference = "{host}/team/release:live"\n'
        for n in range(APPLICATIONS)
    )


@contextmanager
def registry(folder: Path, tls: Authority | None) -> Iterator[str]:
    folder.mkdir()
    with docker_registry(folder, authority=tls) as host:
        yield host


def test_a_board_in_1970_without_a_network_serves_what_it_had(guest: Guest, tmp_path: Path) -> None:
    with registry(tmp_path / "registry", None) as host, misfortune(tmp_path / "fault") as fault:
        publisher = Publisher(host, tmp_path / "releases", guest("release"))
        publisher.push("live", "old")
        with Board(tmp_path / "node", CONFIG + mounted(host), fault.environ) as node:
            node.start()
            all_serve(node, "old")
            assert node.stop() == 0
            publisher.push("live", "new")
            ready = min(boot(node, fault) for _ in range(BOOTS))
            all_serve(node, "old")
            known = node.apps()
            assert {app["state"] for app in known.values()} == {"live"}, known
            node.until(lambda: all("unreachable" in a["reason"] for a in node.apps().values()))
            assert any("clock is behind" in note for note in node.ask("/v1/status")["notes"])

            fault.offline(offline=False)
            all_serve(node, "new")
            node.until(lambda: {app["reason"] for app in node.apps().values()} == {""})
            fault.right_clock()
            publisher.push("live", "newest")
            all_serve(node, "newest")
            assert node.ask("/v1/status")["notes"] == []
            assert node.stop() == 0
        assert "Traceback" not in node.log, node.log[-4000:]
    imports = min(importing() for _ in range(3))
    budget = 1.5 * imports + 0.002 * APPLICATIONS
    say(
        f"{APPLICATIONS} applications, 1970, no network: served after {ready:.2f} s; "
        f"imports alone {imports:.2f} s, budget {budget:.2f} s"
    )
    assert ready < 3 * budget, "it waited for something"


def boot(node: Board, fault: Misfortune) -> float:
    """Seconds until it serves, in 1970 and without a network."""
    if node.process is not None:
        assert node.stop() == 0
    fault.offline(offline=True)
    fault.set_clock(MOMENT)
    began = time.monotonic()
    node.start()
    return time.monotonic() - began


def all_serve(node: Board, version: str) -> None:
    paths = [f"/app-{n}/" for n in range(APPLICATIONS)]
    node.until(lambda: {node.get(path) for path in paths} == {(200, version)})


def importing() -> float:
    began = time.monotonic()
    code = f"import {', '.join(MODULES)}"
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.monotonic() - began
