"""A new version on N nodes of one network: as a fleet, and each for itself.

Real nodes in network namespaces, a registry behind an uplink of 50 Mbit/s. From the push to the
moment at which the last node serves the new version; bytes that the registry has sent meanwhile.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fleet_lab import (
    REGISTRY,
    Board,
    Lab,
    MiB,
    all_know_all,
    application,
    entry,
    lab,
    token_of,
    until,
    views,
)

NODES = (1, 2, 5, 10)
SIZE = 20 * MiB
UPLINK = 50.0  # Mbit/s
REFERENCE = f"{REGISTRY}/big:stable"

Row = tuple[str, str, dict[str, list[float]]]


def rows(guest: Path, rounds: int) -> Iterator[Row]:
    """A row each for time and bytes of each number of nodes; a figure for each round."""
    seconds: dict[int, dict[str, list[float]]] = {n: {} for n in NODES}
    volume: dict[int, dict[str, list[float]]] = {n: {} for n in NODES}
    for _ in range(rounds):
        for who in ("edge", "each for itself"):
            for count, took, sent in measured(guest, together=who == "edge"):
                seconds[count].setdefault(who, []).append(took)
                volume[count].setdefault(who, []).append(sent / SIZE)
    for count in NODES:
        nodes = f"20 MB on {count} node{'s' if count > 1 else ''}"
        yield f"{nodes}: all live", "s", seconds[count]
        yield f"{nodes}: over the uplink", "× its bytes", volume[count]


def measured(guest: Path, *, together: bool) -> Iterator[tuple[int, float, int]]:
    """Number of nodes, seconds, bytes over the uplink; one version after the other."""
    with TemporaryDirectory() as directory, lab(Path(directory)) as net:
        boards: list[Board] = []
        route = publish(net, guest, 0)
        for count in NODES:
            while len(boards) < count:
                boards.append(one_more(net, boards, route, together=together))
            net.uplink.rate(UPLINK)
            before = sum(net.uplink.sent().values())
            route = publish(net, guest, count)
            began = time.monotonic()
            live(boards, route)
            took = time.monotonic() - began
            yield count, took, sum(net.uplink.sent().values()) - before
            net.uplink.rate(None)


def one_more(net: Lab, boards: list[Board], route: str, *, together: bool) -> Board:
    """A node that serves what the others do, and knows them."""
    name = f"n{len(boards) + 1}"
    board = net.board(name, interval="1s", more=entry("big", REFERENCE))
    board.start()
    live([board], route)
    if together:
        if boards:
            board.tell("fleet", "join", token_of(boards[0]))
        else:
            board.tell("fleet", "init", "--name", "bench")
        everybody = [*boards, board]
        until(lambda: all_know_all(everybody), 30, lambda: views(everybody))
    return board


def publish(net: Lab, guest: Path, number: int) -> str:
    """Pushes a version with a new layer; the route that it answers on."""
    folder = net.folder / f"version-{number}"
    made = application(folder, guest, SIZE, seed=number, route=f"/v{number}")
    net.uplink.edge("push", made, REFERENCE, "--insecure")
    return f"/v{number}"


def live(boards: list[Board], route: str) -> None:
    until(lambda: all(board.get(route) == 200 for board in boards), 300, lambda: boards[0].text)
