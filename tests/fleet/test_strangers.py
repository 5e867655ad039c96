"""Handshakes that fail: how often an address may try."""

from __future__ import annotations

from edge.fleet.strangers import Strangers


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def fail(strangers: Strangers, address: str, times: int) -> None:
    for _ in range(times):
        strangers.failed(address)


def test_who_fails_often_is_unwelcome_for_a_while() -> None:
    strangers = Strangers(clock := Clock(), most=3, seconds=10)
    fail(strangers, "a", 2)
    assert not strangers.unwelcome("a")
    fail(strangers, "a", 1)
    assert strangers.unwelcome("a")
    assert not strangers.unwelcome("b")
    clock.now = 9.9
    assert strangers.unwelcome("a")
    clock.now = 10.0
    assert not strangers.unwelcome("a")
    fail(strangers, "a", 2)
    assert not strangers.unwelcome("a")


def test_who_passes_begins_anew() -> None:
    strangers = Strangers(Clock(), most=3)
    fail(strangers, "a", 2)
    strangers.passed("a")
    fail(strangers, "a", 2)
    assert not strangers.unwelcome("a")


def test_what_is_remembered_is_bounded() -> None:
    strangers = Strangers(Clock(), most=1, addresses=4)
    for number in range(100):
        strangers.failed(str(number))
    assert [n for n in range(100) if strangers.unwelcome(str(n))] == [96, 97, 98, 99]
