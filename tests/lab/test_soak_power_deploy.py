"""A machine whose power is cut while a new version is deployed: afterwards it serves the version
before or the new one, whole. Where the deployment was answered it becomes the new one: one that was
watched when the power went is tried once more, after the version before serves.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

from deploy_lab import Publisher
from power_lab import CUTS, Guest, Victim, say, victim
from registry_lab import docker_registry
from vm_machine import KIND, PATIENCE, needs_vm

from edge.errors import EdgeError

pytestmark = needs_vm

# Of [sync].
SYNC = 'soak = "1s"\nhealth_interval = "500ms"\n'
PAD = 300_000  # a blob of several pieces


class Deployment(threading.Thread):
    """Asked for, until it is answered or the machine is gone."""

    def __init__(self, node: Victim, reference: str) -> None:
        super().__init__()
        self._node, self._reference = node, reference
        self.answered = False

    def run(self) -> None:
        with suppress(EdgeError, OSError, TimeoutError):
            self._node.ask("/v1/deploy", reference=self._reference, name="release")
            self.answered = True


def test_a_deployment_is_whole_or_not_there_after_each_power_cut(
    tmp_path: Path, guest: Guest
) -> None:
    began, served = time.monotonic(), Counter[str]()
    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry") as host, victim(tmp_path, seed=3) as node:
        publisher = Publisher(host, tmp_path / "releases", guest("release"))
        versions = [f"v{number}" for number in range(CUTS + 1)]
        for version in versions:
            publisher.push(version, version, pad=PAD)
        with node.machine.reachable(int(host.rpartition(":")[2])) as address:
            node.install({}, f'[registry."{address}"]\ninsecure = true\n', SYNC)
            references = {v: f"{address}/team/release:{v}" for v in versions}
            node.boot()
            seconds, writes = measured(node, references[versions[0]])
            proves_itself(node)
            say(f"a deployment takes {seconds:.1f} s and {writes} writes")
            for number, (old, new) in enumerate(pairwise(versions), 1):
                with deploying(node, references[new]) as deployment:
                    node.cut_within(seconds * 1.2, writes)
                node.boot()
                found = after(node, old, new, answered=deployment.answered)
                outcome = f"{'new' if found == new else 'old'}, answered: {deployment.answered}"
                served[outcome] += 1
                say(
                    f"cut {number}: {outcome}; {node.disk.lost} of {node.disk.unflushed} unflushed"
                    " sectors lost"
                )
                # What it was doing can be done again.
                node.ask("/v1/deploy", reference=references[new], name="release")
                proves_itself(node)
                assert node.machine.get() == (200, new.encode())
            node.cut()
    say(
        f"deploy, {KIND.__name__}: {CUTS} cuts in {time.monotonic() - began:.0f} s; {dict(served)};"
        f" {sum(node.lost)} sectors lost, at {sum(lost > 0 for lost in node.lost)} cuts"
    )


def measured(node: Victim, reference: str) -> tuple[float, int]:
    """How long a deployment takes, and how often it writes to the disk."""
    before, began = node.disk.writes, time.monotonic()
    node.ask("/v1/deploy", reference=reference, name="release")
    return time.monotonic() - began, node.disk.writes - before


@contextmanager
def deploying(node: Victim, reference: str) -> Iterator[Deployment]:
    deployment = Deployment(node, reference)
    deployment.start()
    try:
        yield deployment
    finally:
        node.machine.cut()
        deployment.join()


def after(node: Victim, old: str, new: str, *, answered: bool) -> str:
    """The version that it serves first; whole, and where it must it goes on to the new one."""
    status, body = node.machine.get()
    version = body.decode()
    assert status == 200, version
    assert version in (old, new), f"{version}, not {old} or {new}"
    node.is_whole()
    if answered:
        proves_itself(node)
        assert node.machine.get() == (200, new.encode())
    return version


def proves_itself(node: Victim) -> None:
    """Waits until nothing is on trial."""
    deadline = time.monotonic() + PATIENCE
    while True:
        (app,) = node.ask("/v1/apps")
        assert app["state"] in ("live", "soaking"), app
        if app["state"] == "live":
            return
        node.machine.alive(deadline, f"still {app}")
        time.sleep(0.2)
