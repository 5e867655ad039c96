"""Nodes on one switch find each other, notice who is gone, and survive what networks do."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import pytest
from fleet_attackers import advertising, stranger
from fleet_lab import (
    FULL,
    Board,
    Lab,
    all_know_all,
    form,
    lab,
    needs_root,
    promised,
    resident,
    say,
    stop,
    token_of,
    until,
    views,
)

pytestmark = needs_root


@pytest.fixture(autouse=True)
def settled() -> None:
    """Nodes that a test starts anew live on for the next one; the lab ends them all."""


# What the fleet promises, in seconds.
FOUND, NOTICED, HEALED = 3.0, 15.0, 60.0


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("net")) as made:
        yield made


@pytest.fixture(scope="module")
def fleet(net: Lab) -> list[Board]:
    """Five nodes that were told nothing but the token."""
    boards = net.boards(5)
    began = time.monotonic()
    form(boards)
    joined = time.monotonic()
    found = known(boards, FOUND)
    say(f"5 nodes: formed in {joined - began:.1f} s, known to each other {found:.1f} s later")
    return boards


@pytest.fixture
def five(fleet: list[Board]) -> Iterator[list[Board]]:
    """They know each other before and after each test."""
    known(fleet, HEALED)
    yield fleet
    for board in fleet:
        assert "Traceback" not in board.text, board.text


def known(boards: Sequence[Board], seconds: float) -> float:
    """How long it takes until each takes exactly the others for alive."""
    return until(lambda: all_know_all(boards), promised(seconds), lambda: views(boards))


def given_up(boards: Sequence[Board], gone: Sequence[Board], seconds: float) -> float:
    """How long it takes until none of the boards takes one of those for alive."""
    names = {board.name for board in gone}
    return until(
        lambda: not any(board.knows() & names for board in boards),
        promised(seconds),
        lambda: views(boards),
    )


def test_all_find_each_other_at_their_start(five: list[Board]) -> None:
    stop(five)
    for board in five:
        board.launch()
    for board in five:
        board.ready()
    say(f"5 nodes: known to each other {known(five, FOUND):.1f} s after the last one is ready")
    for board in five:
        addresses = {peer["name"]: peer["addresses"] for peer in board.peers()}
        for other in five:
            if other is not board:
                assert any(other.address in address for address in addresses[other.name])


def test_a_node_that_loses_power_is_noticed_and_welcome_again(five: list[Board]) -> None:
    *others, last = five
    last.power_off()
    say(f"5 nodes: power cut of one known to all after {given_up(others, [last], NOTICED):.1f} s")
    assert all_know_all(others), views(others)
    last.cable("up")
    last.start()
    say(f"5 nodes: its return known to all after {known(five, FOUND):.1f} s")


def test_a_node_that_says_goodbye_is_not_waited_for(five: list[Board]) -> None:
    first, *others = five
    first.stop()
    # It takes no failed question to know.
    say(f"5 nodes: goodbye known to all after {given_up(others, [first], 2.0):.1f} s")
    first.start()
    known(five, FOUND)


def test_a_node_that_hangs_is_noticed_and_refutes_it(five: list[Board]) -> None:
    one, *others = five
    one.freeze()
    try:
        seconds = given_up(others, [one], NOTICED)
    finally:
        one.thaw()
    back = known(five, NOTICED)
    say(f"5 nodes: a hung node known to all after {seconds:.1f} s, its return after {back:.1f} s")


def test_a_flapping_link(five: list[Board]) -> None:
    one = five[1]
    for number in range(10):
        one.cable("down")
        time.sleep(0.1 + 0.2 * (number % 4))
        one.cable("up")
        time.sleep(0.1 + 0.3 * (number % 3))
    say(f"5 nodes: known to each other {known(five, NOTICED):.1f} s after a link flapped 10 times")


def test_a_changed_address(net: Lab, five: list[Board]) -> None:
    one, *others = five
    before = one.address
    one.take_address(net.spare_number())

    def moved() -> bool:
        for board in others:
            (row,) = (peer for peer in board.peers() if peer["name"] == one.name)
            said = " ".join(row["addresses"])
            if row["state"] != "alive" or one.address not in said or f"{before}:" in said:
                return False
        return all_know_all(five)

    seconds = until(moved, promised(NOTICED), lambda: views(five))
    say(f"5 nodes: a changed address known to all after {seconds:.1f} s")


def test_a_partition_heals(net: Lab, five: list[Board]) -> None:
    few, many = five[:2], five[2:]
    net.partition(few, many)
    try:
        apart = max(given_up(few, many, NOTICED), given_up(many, few, NOTICED))
        assert all_know_all(few), views(few)
        assert all_know_all(many), views(many)
    finally:
        net.heal()
    healed = known(five, HEALED)
    say(f"5 nodes: a partition known after {apart:.1f} s, healed {healed:.1f} s after its end")


def test_two_nodes_of_one_name(net: Lab, five: list[Board]) -> None:
    """Who they are is their key: the name is for people."""
    twin = net.board("n6", called="n5")
    twin.start()
    twin.tell("fleet", "join", token_of(five[0]))
    try:

        def both() -> bool:
            return all(
                [peer["state"] for peer in board.peers() if peer["name"] == "n5"] == ["alive"] * 2
                for board in five[:4]
            )

        seconds = until(both, promised(FOUND), lambda: views(five))
        say(f"5 nodes: a sixth with the name of another known to all after {seconds:.1f} s")
        ids = {peer["id"] for peer in five[0].peers() if peer["name"] == "n5"}
        assert len(ids) == 2
    finally:
        twin.tell("fleet", "leave")
        twin.stop()
    known(five, NOTICED)


def test_sixty_strangers(net: Lab, five: list[Board]) -> None:
    """Nodes of other fleets, and such as advertise what makes no sense."""
    before = {board.name: resident(board) for board in five}
    strange = net.machine("strange")
    with advertising(strange, [stranger(number, strange) for number in range(60)]):
        new = net.board("new")
        new.start()
        new.tell("fleet", "join", token_of(five[0]))
        seconds = known([*five, new], FOUND)
        say(f"5 nodes: a new one among 60 strangers known to all after {seconds:.1f} s")
        new.tell("fleet", "leave")
        new.stop()
    for board in five:
        grown = resident(board) - before[board.name]
        assert grown < 4 << 20, f"{board.name}: {grown} bytes more"


def test_without_multicast_addresses_are_enough(net: Lab) -> None:
    """One known address leads to all the others."""
    first = net.board("s1", fleet="discovery = false")
    named = f'discovery = false\npeers = ["{first.address}"]'
    boards = [first, *(net.board(f"s{number}", fleet=named) for number in (2, 3, 4))]
    for board in boards:
        board.launch()
    for board in boards:
        board.ready()
    form(boards, "static")
    say(f"4 nodes without multicast: known to each other after {known(boards, FOUND):.1f} s")
    *others, last = boards
    last.power_off()
    seconds = given_up(others, [last], NOTICED)
    say(f"4 nodes without multicast: power cut of one known to all after {seconds:.1f} s")
    stop(others)


def test_an_idle_fleet_is_quiet(net: Lab, five: list[Board]) -> None:
    boards = five
    if FULL:
        boards = [*five, *(net.board(f"i{number}") for number in range(5))]
        for board in boards[5:]:
            board.start()
            board.tell("fleet", "join", token_of(five[0]))
        known(boards, FOUND)
    seconds = 300.0 if FULL else 15.0
    time.sleep(15 if FULL else 5)  # what the tests before have stirred up
    before = net.traffic()
    began = time.monotonic()
    time.sleep(seconds)
    after, minutes = net.traffic(), (time.monotonic() - began) / 60
    sent = [after[board.name].since(before[board.name]) for board in boards]
    packets = max(row.sent_packets for row in sent) / minutes
    size = max(row.sent_bytes for row in sent) / minutes
    received = max(row.received_bytes for row in sent) / minutes
    say(
        f"{len(boards)} idle nodes: each sends at most {packets:.0f} packets and {size / 1000:.1f}"
        f" kB a minute, receives at most {received / 1000:.1f} kB"
    )
    # Three questions every four seconds, and the answers to as many: below 2 kB a second.
    assert packets < 1000
    assert size < 120_000
    for board in boards[5:]:
        board.tell("fleet", "leave")
        board.stop()
