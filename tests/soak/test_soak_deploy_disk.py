"""A disk with no room for the next version: it is refused in words, and the live one goes on."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from deploy_lab import Board, Load, Publisher, load
from registry_lab import docker_registry
from soak_lab import Guest, say

MiB = 1 << 20
# Of the small disk, or of the quota. What a node keeps to be able to remove things is in it.
ROOM = 12 * MiB
LARGE = 9 * MiB

CONFIG = '[sync]\ninterval = "1h"\nsoak = "0s"\n'


@pytest.fixture
def publisher(tmp_path: Path, guest: Guest) -> Iterator[Publisher]:
    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry") as host:
        yield Publisher(host, tmp_path / "releases", guest("release"))


@contextmanager
def small_disk(place: Path) -> Iterator[None]:
    place.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting needs root; the quota is tested all the same")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_refuses_a_deploy_in_words(publisher: Publisher, tmp_path: Path) -> None:
    with Board(tmp_path / "node", CONFIG) as node, small_disk(node.state):
        ballast = node.state / "ballast"

        def fill(size: int) -> None:
            """Something else that takes the room."""
            with ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)

        refused(node, publisher, tmp_path, fill, lambda: ballast.unlink())
        to_the_last_byte(node, ballast)


def to_the_last_byte(node: Board, ballast: Path) -> None:
    """It starts, serves, and lets itself be told to remove what it has."""
    with ballast.open("wb", buffering=0) as file:
        for size in (MiB, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    node.start()
    assert node.get() == (200, "large")
    assert node.refuses("127.0.0.1:1/nothing:1")
    node.edge("undeploy", "release", "--purge")
    assert node.get()[0] == 404
    assert node.stop() == 0
    assert "Traceback" not in node.log


def test_a_full_quota_refuses_a_deploy_in_words(publisher: Publisher, tmp_path: Path) -> None:
    config = f'{CONFIG}[limits]\nquota = "{ROOM}B"\n'
    with Board(tmp_path / "node", config) as node:

        def fill(size: int) -> None:
            """Another application."""
            other = publisher.push("other", "other", pad=size)
            node.ask("/v1/deploy", reference=other, name="other", mount="/other")

        def make_room() -> None:
            node.ask("/v1/undeploy", name="other")

        refused(node, publisher, tmp_path, fill, make_room)


def refused(
    node: Board,
    publisher: Publisher,
    folder: Path,
    fill: Callable[[int], None],
    make_room: Callable[[], None],
) -> None:
    node.start()
    live = publisher.push("live", "old")
    node.deploy(live)
    digest, reasons = node.app()["digest"], set[str]()
    with load(node, folder, clients=2) as seen:
        # More than there is at all; then more than is left; then not even a small one.
        reasons.add(no_room(node, publisher.push("huge", "huge", pad=ROOM)))
        fill(ROOM - LARGE)
        reasons.add(no_room(node, publisher.push("large", "large", pad=LARGE)))
        publisher.push("live", "large", pad=LARGE)
        said = node.edge("sync", "release", code=1)
        assert "no room" in said or "quota" in said, said
        assert "room" in node.app()["reason"] or "quota" in node.app()["reason"]
        assert node.app()["digest"] == digest
        assert node.get() == (200, "old")
        make_room()
        node.sync()
        for _ in range(50):  # beside the clients, who get their turns meanwhile
            assert node.get() == (200, "large")
    check(node, seen, reasons)
    assert node.stop() == 0
    node.start()
    assert node.get() == (200, "large")
    assert node.stop() == 0


def no_room(node: Board, reference: str) -> str:
    said = node.refuses(reference)
    assert "no room" in said or "quota" in said, said
    assert node.get() == (200, "old")
    return said


def check(node: Board, seen: Load, reasons: set[str]) -> None:
    shown = [reason.replace(str(node.state), "STATE") for reason in sorted(reasons)]
    say(f"no room, under {seen.total} requests, failed: {seen.failed()}; {shown}")
    assert seen.errors == 0
    assert seen.failed() == {}
    assert set(seen.seen) == {"200 old", "200 large"}
    assert node.litter() == []
    assert "Traceback" not in node.log
