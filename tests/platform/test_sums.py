"""What gets a line of its own and what is summed up, by a clock that the test turns."""

from __future__ import annotations

import asyncio

import pytest

from edge.platform.sums import LONG, SHORT, WHOLE, Sums, cut


class Told:
    """The sums that were told, by a clock of its own."""

    def __init__(self) -> None:
        self.now = 100.0
        self.said: list[str] = []
        self.sums = Sums(lambda text, _number: self.said.append(text), lambda: self.now)

    def lines(self, cause: str, times: int) -> int:
        """How many of these have a line."""
        return sum(self.sums(cause) for _ in range(times))


async def test_who_fails_seldom_gets_each_line() -> None:
    told = Told()
    for _ in range(1000):
        assert told.lines("a trap", 1) == 1
        told.now += SHORT / WHOLE
    told.sums.close()
    assert told.said == []


async def test_a_flood_is_some_lines_and_a_sum() -> None:
    told = Told()
    assert told.lines("a trap", 10_000) == WHOLE
    assert told.said == []
    told.now += SHORT
    told.sums.tell()
    assert told.said == ["9980 more times in 10 s: 9980 x a trap"]
    told.sums.tell()
    assert len(told.said) == 1


async def test_a_flood_that_goes_on_is_told_of_in_longer_times() -> None:
    told = Told()
    lines = 0
    for _ in range(100):
        lines += told.lines("a trap", 1000)
        told.now += LONG
        told.sums.tell()
    assert lines == WHOLE + 99
    assert len(told.said) == 100
    assert told.said[-1] == "999 more times in 60 s: 999 x a trap"
    # Some quiet is the end of it.
    told.now += LONG
    assert told.lines("a trap", WHOLE) == WHOLE


async def test_causes_are_told_apart_and_the_most_frequent_named() -> None:
    told = Told()
    told.lines("a trap", WHOLE)
    told.lines("late", 5)
    told.lines("a trap", 50)
    told.lines("rare\nsecond line", 4)
    told.lines("rarest", 1)
    told.sums.close()
    assert told.said == ["60 more times in 0 s: 50 x a trap; 5 x late; 4 x rare; …"]


async def test_causes_that_are_ever_new_are_counted_together() -> None:
    told = Told()
    told.lines("a trap", WHOLE)
    for number in range(10_000):
        told.lines(f"number {number}", 1)
    told.sums.close()
    (said,) = told.said
    assert said.startswith("10000 more times in 0 s: 9984 x others; 1 x number ")


async def test_the_loop_tells_it_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.platform.sums.SHORT", 0.01)
    said: asyncio.Future[tuple[str, int]] = asyncio.get_running_loop().create_future()
    sums = Sums(lambda text, number: said.set_result((text, number)), lambda: 0.0)
    assert [sums("a trap") for _ in range(WHOLE + 2)] == [True] * WHOLE + [False] * 2
    assert await said == ("2 more times in 0 s: 2 x a trap", 2)


async def test_after_its_end_each_gets_a_line() -> None:
    told = Told()
    told.lines("a trap", WHOLE + 1)
    told.sums.close()
    assert told.said == ["1 more times in 0 s: 1 x a trap"]
    assert told.lines("a trap", 50) == 50


def test_what_others_say_is_one_printable_line() -> None:
    assert cut("\n  first \nsecond") == "first"
    assert cut("a\x1b[31mb\rc") == "a\N{REPLACEMENT CHARACTER}[31mb"
    assert cut("x" * 1000) == "x" * 200 + "…"
    assert cut("") == ""
