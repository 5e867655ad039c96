"""A node that is killed at each change of the disk that a deploy makes, and at any time.

Whenever it dies, it starts again, and serves the version before or the new one, whole; what it was
doing can be done again; nothing that it left grows.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from deploy_forks import Nursery
from deploy_lab import Board, Misfortune, Publisher, board, misfortune
from registry_lab import docker_registry
from soak_lab import FULL, Guest, say, sized

from edge.errors import EdgeError

KILLS = sized(200, 12)
# Every step; in the small size each so many-th.
STRIDE = sized(1, 41)
PAD = 600_000  # a blob of several pieces

CONFIG = '[sync]\ninterval = "1h"\nsoak = "{soak}"\nminimum_events = 3\nhealth_interval = "100ms"\n'


@pytest.fixture
def publisher(tmp_path: Path, guest: Guest) -> Iterator[Publisher]:
    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry") as host:
        yield Publisher(host, tmp_path / "releases", guest("release"))


# --- at every step --------------------------------------------------------------------------------


def deploy(node: Board, reference: str) -> None:
    """Until it has proved itself."""
    node.ask("/v1/deploy", reference=reference)
    while node.app()["state"] != "live":
        time.sleep(0.01)


def fall_back(node: Board, reference: str) -> None:
    """It goes live, and fails."""
    node.ask("/v1/deploy", reference=reference)
    while node.app()["state"] != "rolled back":
        node.get()


def undeploy(node: Board, reference: str) -> None:
    node.ask("/v1/undeploy", name="release", purge=True)


# Work -> what may serve after a death in it, and what serves when it has been done.
WORKS: dict[str, tuple[Callable[[Board, str], None], str, set[str], str]] = {
    "deploy": (deploy, "good", {"old", "new"}, "new"),
    "automatic rollback": (fall_back, "fails", {"old"}, "old"),
    "undeploy": (undeploy, "good", {"old", ""}, ""),
}


@pytest.mark.parametrize("name", list(WORKS))
def test_killed_at_each_step_of(name: str, publisher: Publisher, tmp_path: Path) -> None:
    work, fate, possible, final = WORKS[name]
    old = publisher.push("old", "old", pad=PAD)
    new = publisher.push("new", "new", fate, pad=PAD)
    config = CONFIG.format(soak="200ms" if name == "deploy" else "10m")
    with misfortune(tmp_path / "misfortune") as fault, Nursery(fault.environ) as nursery:
        with board(tmp_path / "begun", config) as begun:
            begun.ask("/v1/deploy", reference=old)
        found, step, steps = Counter[str](), 1, 0
        while steps == 0:
            place = tmp_path / f"step-{step}"
            with Board(place, config, nursery=nursery) as node:
                shutil.copytree(begun.state, node.state)
                steps = killed_at(step, lambda n=node: work(n, new), node, fault)
                may = {final} if steps else possible
                served = after_death(node, may, work, new, final)
            found[served] += steps == 0
            shutil.rmtree(place)
            step += STRIDE
        died = found.total()
        say(
            f"{name}: {steps} changes of the disk, killed before {died} of them; "
            f"served then: {dict(found)}"
        )
        assert died >= 2
        if FULL and name == "deploy":
            assert set(found) == possible


def killed_at(step: int, work: Callable[[], None], node: Board, fault: Misfortune) -> int:
    """0: it died; otherwise how many steps the work has."""
    node.start()
    fault.kill_at(step)
    with contextlib.suppress(EdgeError, OSError):
        work()
    fault.quiet()
    fault.spare()
    code = node.stop()
    assert code in (0, -signal.SIGKILL), node.log
    return 0 if code else fault.steps(step)


def after_death(
    node: Board, possible: set[str], work: Callable[[Board, str], None], new: str, final: str
) -> str:
    """What it serves when it is started again; then the work is done, and nothing is left over."""
    node.start()
    status, served = node.get()
    served = served if status == 200 else ""
    assert served in possible, (status, served, node.log)
    assert (status == 404) == (served == ""), (status, node.log)
    assert sorted(node.remembers()["applications"]) == (["release"] if served else [])
    node.until(lambda: not node.litter())
    if served or final:
        work(node, new)
    status, served_last = node.get()
    assert (served_last if status == 200 else "") == final
    assert node.stop() == 0
    assert "Traceback" not in node.log, node.log
    node.start()  # what is not needed goes when a node has begun
    node.until(lambda: not node.litter())
    # A manifest, its configuration, the application, its Wasm: for this version and one before.
    node.until(lambda: node.blobs() <= 8)
    assert node.stop() == 0
    return served


# --- at random ------------------------------------------------------------------------------------


def test_killed_at_any_time_nothing_is_lost_and_nothing_grows(
    publisher: Publisher, tmp_path: Path
) -> None:
    references = {str(n): publisher.push(str(n), str(n), pad=PAD) for n in range(4)}
    config = CONFIG.format(soak="100ms")
    with Nursery() as nursery, Board(tmp_path / "node", config, nursery=nursery) as node:
        campaign(node, references)


def campaign(node: Board, references: dict[str, str]) -> None:
    chance = random.Random(4)
    node.start()
    node.ask("/v1/deploy", reference=references["0"])
    wanted, served, happened, sizes = {"0"}, Counter[str](), Counter[str](), list[Counter[str]]()
    began = time.monotonic()
    for number in range(KILLS):
        if chance.random() < 0.25:
            node.kill()
            node.launch()
            time.sleep(chance.uniform(0, 1.0))
            node.kill()
            happened["while it started"] += 1
        else:
            version = chance.choice([v for v in references if v not in wanted] or ["0"])
            wanted |= {version}
            kill_while(node, references[version], chance.uniform(0, 0.3))
            happened["in a deploy"] += 1
        node.start()
        status, body = node.get()
        assert status == 200, node.log[-4000:]
        assert body in wanted, (body, wanted)
        # A version that was watched whenever the node died is one that may have killed it.
        assert node.app()["reason"] == "" or node.app()["reason"].startswith("the node ended")
        # What it wants now is known, and what it goes back to while that is watched.
        wanted = {body, *remembered(node)}
        served[body] += 1
        if number % 10 == 9:
            node.until(lambda: not node.litter())
            sizes.append(node.files())
    node.until(lambda: not node.litter())
    last = node.files()
    assert node.stop() == 0
    say(
        f"{KILLS} kills in {time.monotonic() - began:.0f} s, {dict(happened)}; served afterwards: "
        f"{dict(sorted(served.items()))}; files at last: {dict(last)}"
    )
    assert "Traceback" not in node.log, node.log[-4000:]
    # Two versions of an application and what the four references stand for, at most.
    assert all(size["blobs/sha256"] <= 4 * 4 for size in sizes), sizes
    assert all(size["."] <= sizes[0]["."] + 1 for size in sizes), sizes
    assert len(served) > 1


def remembered(node: Board) -> set[str]:
    """The versions that its state says were deployed, and is what a boot returns to."""
    state = node.remembers()
    entries = (state["deployed"]["release"], state["applications"]["release"]["live"]["entry"])
    return {str(entry["reference"].rpartition(":")[2]) for entry in entries}


def kill_while(node: Board, reference: str, seconds: float) -> None:
    def run() -> None:
        with contextlib.suppress(EdgeError):
            node.ask("/v1/deploy", reference=reference)

    asking = threading.Thread(target=run)
    asking.start()
    time.sleep(seconds)
    node.kill()
    asking.join()
