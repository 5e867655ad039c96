"""What a component may print, by a clock that the test turns."""

from __future__ import annotations

from edge.invocation.printing import BURST, RATE, Printing


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def flood(printing: Printing, line: str, times: int) -> list[str]:
    return [text for _ in range(times) for text in printing(line)]


def test_who_prints_little_is_never_cut() -> None:
    clock = Clock()
    printing = Printing(clock)
    for _ in range(10_000):
        clock.now += 0.05
        assert printing("a line of some length, as programs print them") == (
            "a line of some length, as programs print them",
        )


def test_a_burst_passes_and_a_flood_ends_with_a_note() -> None:
    printing = Printing(Clock())
    passed = flood(printing, "x" * 100, 100_000)
    assert 1000 < len(passed) < BURST / 300
    assert set(passed[:-1]) == {"x" * 100}
    assert passed[-1] == "(this prints too much: lines are dropped for a while)"


def test_empty_lines_are_not_free() -> None:
    assert len(flood(Printing(Clock()), "", 100_000)) == BURST // 256 + 1


def test_what_was_dropped_is_counted_once_there_is_room_again() -> None:
    clock = Clock()
    printing = Printing(clock)
    passed = flood(printing, "x", 10_000)
    clock.now += 1
    assert printing("too soon") == ()
    clock.now += 60
    dropped = 10_000 - (len(passed) - 1) + 1
    assert printing("again") == (f"({dropped} lines were dropped)", "again")
    assert printing("more") == ("more",)


def test_a_flood_that_goes_on_costs_its_rate_and_few_notes() -> None:
    clock = Clock()
    printing = Printing(clock)
    flood(printing, "", 10_000)
    passed = []
    for _ in range(60_000):
        clock.now += 0.001
        passed += printing("spam")
    assert len(passed) * 256 < 61 * RATE
    assert sum(text.startswith("(") for text in passed) < 40
