"""A token that names where its fleet was, on a network with multicast."""

from __future__ import annotations

from pathlib import Path

from fleet_lab import all_know_all, lab, needs_root, promised, until, views

pytestmark = needs_root


def test_a_board_finds_the_fleet_of_its_token(tmp_path: Path) -> None:
    with lab(tmp_path) as net:
        first, fresh = net.boards(2)
        first.tell("fleet", "init")
        made = first.tell("fleet", "token", "--address", "127.0.0.1").strip()
        fresh.tell("fleet", "join", made)
        until(lambda: all_know_all([first, fresh]), promised(3), lambda: views([first, fresh]))
