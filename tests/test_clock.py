"""Trusted time: what a board believes before its clock is set, and after it was set wrong."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.platform.clock import TrustedClock

BUILT = 1_790_000_000.0
YEAR = 365 * 86400.0


@dataclass
class Machine:
    """A machine whose clock anybody may set."""

    wall: float
    up: float = 100.0

    def clock(self, path: Path | None = None, built: float = BUILT) -> TrustedClock:
        return TrustedClock(path, wall=lambda: self.wall, monotonic=lambda: self.up, built=built)

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.up += seconds


def test_a_clock_that_is_set_is_believed() -> None:
    machine = Machine(BUILT + 1000)
    clock = machine.clock()
    assert clock() == BUILT + 1000
    assert clock.is_set
    machine.passes(50)
    assert clock() == BUILT + 1050


def test_before_the_clock_is_set_time_begins_with_the_build_and_goes_on() -> None:
    machine = Machine(0)
    clock = machine.clock()
    assert clock() == BUILT
    assert not clock.is_set
    machine.passes(30)
    assert clock() == BUILT + 30
    machine.wall = BUILT + 5000
    assert clock() == BUILT + 5000
    assert clock.is_set


def test_time_never_goes_back() -> None:
    machine = Machine(BUILT + 5000)
    clock = machine.clock()
    assert clock() == BUILT + 5000
    machine.wall = BUILT + 10
    machine.up += 7
    assert clock() == BUILT + 5007
    assert not clock.is_set


def test_the_last_time_seen_survives_a_boot_without_a_clock(tmp_path: Path) -> None:
    machine = Machine(BUILT + 86_400)
    machine.clock(tmp_path / "state" / "clock").save()
    assert Machine(0).clock(tmp_path / "state" / "clock")() == BUILT + 86_400
    assert [p.name for p in (tmp_path / "state").iterdir()] == ["clock"]


def test_it_is_written_once_an_hour_at_most(tmp_path: Path) -> None:
    path = tmp_path / "clock"
    machine = Machine(BUILT + 4000)
    clock = machine.clock(path)
    clock.save()
    first = path.stat().st_ino
    machine.passes(3599)
    clock.save()
    assert path.stat().st_ino == first
    machine.passes(2)
    clock.save()
    assert Machine(0).clock(path)() == BUILT + 4000 + 3601


@pytest.mark.parametrize(
    "data",
    [b"", b"soon", b"nan", b"inf", b"-1", b"1e400", b"\xff\xfe", b"9" * 100_000, b"5", b"1_0"],
)
def test_a_damaged_file_counts_as_none(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "clock"
    path.write_bytes(data)
    machine = Machine(0)
    clock = machine.clock(path)
    assert clock() == BUILT
    machine.passes(7200)
    clock.save()
    assert float(path.read_text()) == BUILT + 7200


def test_a_clock_far_in_the_future_is_a_fault_and_is_not_kept(tmp_path: Path) -> None:
    """An RTC without a battery may say 2099: kept, it would make everything expired for ever."""
    path = tmp_path / "clock"
    machine = Machine(BUILT + 70 * YEAR)
    clock = machine.clock(path)
    assert clock() == BUILT
    assert not clock.is_set
    clock.save()
    machine.wall = BUILT + 9000
    assert clock() == BUILT + 9000
    path.write_text(f"{BUILT + 70 * YEAR}\n")
    assert Machine(0).clock(path)() == BUILT


def test_a_directory_instead_of_the_file_is_none(tmp_path: Path) -> None:
    (tmp_path / "clock").mkdir()
    assert Machine(0).clock(tmp_path / "clock")() == BUILT


@pytest.mark.parametrize("dated", [0.0, 315_532_800.0, 4_102_444_800.0])
def test_files_that_were_dated_by_a_wrong_clock_do_not_count(
    dated: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """1970 and 1980, as from an archive without dates: the real date would be unbelievable."""
    module = tmp_path / "clock.py"
    module.touch()
    os.utime(module, (dated, dated))
    monkeypatch.setattr("edge.platform.clock.__file__", str(module))
    now = time.time()  # noqa: TID251
    assert TrustedClock()() >= now
    first = TrustedClock(wall=lambda: 0.0)()
    assert 1_790_000_000 < first < 1_800_000_000


def test_the_build_time_of_this_installation_is_in_the_past() -> None:
    now = time.time()  # noqa: TID251
    assert TrustedClock(wall=lambda: 0.0)() <= now


@given(st.lists(st.tuples(st.floats(-1e10, 1e10), st.floats(0, 1e6))))
def test_whatever_the_clock_does_time_only_grows(steps: list[tuple[float, float]]) -> None:
    machine = Machine(BUILT)
    clock = machine.clock()
    last = clock()
    for wall, gone in steps:
        machine.wall = wall
        machine.up += gone
        now = clock()
        assert now >= last
        last = now
