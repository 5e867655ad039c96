"""Cron expressions against croniter where the dialects agree, against a slow oracle where clocks
change, and by example where the dialect is Spin's own.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from croniter import CroniterBadDateError, croniter
from hypothesis import given
from hypothesis import strategies as st

from edge.application.cron import Cron, Every, parse

BERLIN = ZoneInfo("Europe/Berlin")


def cron(text: str) -> Cron:
    parsed = parse(text)
    assert isinstance(parsed, Cron)
    return parsed


def ticks(text: str, start: str, count: int, zone: str = "UTC") -> list[str]:
    place = ZoneInfo(zone)
    moment: float | None = datetime.fromisoformat(start).replace(tzinfo=place).timestamp()
    found = []
    for _ in range(count):
        assert moment is not None
        moment = cron(text).next_after(moment, place)
        assert moment is not None
        found.append(datetime.fromtimestamp(moment, place).strftime("%m-%d %H:%M:%S %z"))
    return found


def days(text: str, start: str, count: int) -> list[str]:
    return [tick[:5] for tick in ticks(text, start, count)]


# --- what an expression says ----------------------------------------------------------------------


def test_a_tick_is_later_than_the_moment_asked_for() -> None:
    every_second = cron("* * * * * *")
    assert every_second.next_after(100.0) == 101
    assert every_second.next_after(99.999) == 100
    assert every_second.next_after(100.001) == 101


def test_sunday_is_0_and_7_and_a_range_may_end_on_it() -> None:
    sunday, others = "11-22", ["11-27", "11-28", "11-29", "12-04"]  # of 2026
    for text in ("0", "7", "SUN", "sun", "0/7"):
        assert days(f"0 0 0 * * {text}", "2026-11-20", 1) == [sunday]
    for text in ("5-7", "FRI-SUN", "fri,Sat,7"):
        assert days(f"0 0 0 * * {text}", "2026-11-23", 4) == others


def test_a_day_must_match_both_of_its_fields() -> None:
    assert days("0 0 0 13 * FRI", "2026-01-01", 3) == ["02-13", "03-13", "11-13"]


def test_l_is_the_last_day_of_the_month() -> None:
    assert days("0 0 0 L * *", "2028-01-15", 3) == ["01-31", "02-29", "03-31"]
    assert days("0 0 0 15,L * *", "2026-02-01", 3) == ["02-15", "02-28", "03-15"]


def test_w_is_the_nearest_weekday_within_the_month() -> None:
    # the 15th: Sunday, Sunday, Wednesday; the 1st of August 2026 is a Saturday, 31 May a Sunday
    assert days("0 0 0 15W * *", "2026-02-01", 3) == ["02-16", "03-16", "04-15"]
    assert days("0 0 0 1W 8 *", "2026-01-01", 1) == ["08-03"]
    assert days("0 0 0 31W 5 *", "2026-01-01", 1) == ["05-29"]
    assert days("0 0 0 31W * *", "2026-04-01", 2) == ["05-29", "07-31"]


def test_a_day_of_the_week_may_be_the_nth_or_the_last_of_the_month() -> None:
    assert days("0 0 0 * * 5#2", "2026-01-01", 3) == ["01-09", "02-13", "03-13"]
    assert days("0 0 0 * * FRI#5", "2026-01-01", 2) == ["01-30", "05-29"]
    assert days("0 0 0 * * MON-TUE#1", "2026-02-01", 2) == ["02-02", "02-03"]
    for text in ("5L", "5#L", "FRIL", "FRI#L"):
        assert days(f"0 0 0 * * {text}", "2026-01-01", 2) == ["01-30", "02-27"]
    assert days("0 0 0 * * 7#1", "2026-02-02", 1) == ["03-01"]


def test_a_number_with_a_step_goes_on_to_the_end_of_its_field() -> None:
    assert cron("10/20 * * * * *").seconds == (10, 30, 50)
    assert cron("0 0 8-18/5 * * *").hours == (8, 13, 18)
    assert cron("0 0 ?/6 ? ? ?").hours == (0, 6, 12, 18)


def test_the_seventh_field_is_the_year() -> None:
    once = cron("0 0 0 1 1 * 2030")
    assert once.next_after(0) == datetime(2030, 1, 1, tzinfo=UTC).timestamp()
    assert once.next_after(datetime(2030, 1, 1, tzinfo=UTC).timestamp()) is None


@pytest.mark.parametrize(
    ("nickname", "meaning"),
    [
        ("@yearly", "0 0 0 1 1 *"),
        ("@annually", "0 0 0 1 1 *"),
        ("@monthly", "0 0 0 1 * *"),
        ("@weekly", "0 0 0 * * SUN"),
        ("@Daily", "0 0 0 * * *"),
        (" @hourly ", "0 0 * * * *"),
    ],
)
def test_a_nickname_is_an_expression(nickname: str, meaning: str) -> None:
    start = "2026-03-04 05:06:07"
    assert ticks(nickname, start, 3) == ticks(meaning, start, 3)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10s", 10), ("1h30m", 5400), ("250ms", 0.25), ("1.5h", 5400), ("7d", 604800)],
)
def test_every_is_a_fixed_distance(text: str, seconds: float) -> None:
    assert parse(f"@every {text}") == Every(seconds)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "has 0 fields, not 6 or 7"),
        ("* * * * *", "has 5 fields, not 6 or 7"),
        ("* * * * * * * *", "has 8 fields"),
        ("60 * * * * *", 'second: "60" is not within 0-59'),
        ("* * 24 * * *", 'hour: "24" is not within 0-23'),
        ("* * * 0 * *", 'day of month: "0" is not within 1-31'),
        ("* * * * 13 *", 'month: "13" is not within 1-12'),
        ("* * * * * 8", 'day of week: "8" is not within 0-7'),
        ("* * * * * * 1969", 'year: "1969" is not within 1970-2099'),
        ("*/0 * * * * *", "is not within 1-59"),
        ("5-1 * * * * *", 'second: "5-1" runs backwards'),
        ("* * * * * FRI-MON", "runs backwards"),
        ("1,,2 * * * * *", "has an empty item"),
        ("-1 * * * * *", 'second: "-1" is not understood'),
        ("1-2-3 * * * * *", "is not understood"),
        ("1/2/3 * * * * *", "is not understood"),
        ("L * * * * *", "is not understood"),
        ("* * * LW * *", "is not understood"),
        ("* * * * FRI *", "is not understood"),
        ("* * * * * JAN", "is not understood"),
        ("* * * * * 5#6", "is not within 1-5"),
        ("* * * * * 5#", "is not understood"),
        ("١ * * * * *", "is not understood"),
        ("0 0 0 31 2 *", "never happens"),
        ("0 0 0 30 FEB * 2020-2030", "never happens"),
        ("@fortnightly", "is none of"),
        ("@every", "must be a duration"),
        ("@every 5", "must be a duration"),
        ("@every 1ms", "must be between 100ms and 366d"),
        ("@every 999999d", "must be between"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why.replace("(", r"\(")):
        parse(text)


@given(st.text(alphabet="0123456789*?/,-#LWlw @SUNmonjEveryhdms.", max_size=40))
def test_nonsense_is_an_error_and_nothing_else(text: str) -> None:
    with suppress(ValueError):
        parse(text)


# --- against croniter -----------------------------------------------------------------------------


@st.composite
def fields(draw: st.DrawFn, least: int, most: int) -> str:
    """What both dialects read alike."""

    def item() -> str:
        low = draw(st.integers(least, most - 1))
        high = draw(st.integers(low + 1, most))  # croniter takes "0-0" for every day of the week
        step = draw(st.integers(1, high - low))  # and refuses a step out of the range
        return draw(
            st.sampled_from(["*", f"{low}", f"{low}-{high}", f"*/{step}", f"{low}-{high}/{step}"])
        )

    return ",".join(item() for _ in range(draw(st.integers(1, 3))))


@given(
    st.tuples(
        fields(0, 59), fields(0, 59), fields(0, 23), fields(1, 31), fields(1, 12), fields(0, 6)
    ),
    st.integers(0, 4_000_000_000),
)
def test_croniter_finds_the_same_ticks(text: tuple[str, ...], start: int) -> None:
    expression = " ".join(text)
    theirs = croniter(expression, start, ret_type=float, second_at_beginning=True, day_or=False)
    try:
        ours = cron(expression)
    except ValueError:
        with pytest.raises(CroniterBadDateError):
            theirs.get_next()
        return
    moment: float | None = start
    for _ in range(5):
        moment = ours.next_after(moment)
        if moment is None or moment > 4_070_908_000:  # the end of 2099 is only ours
            return
        assert moment == theirs.get_next(), expression


@given(
    st.tuples(fields(0, 59), fields(0, 59), fields(0, 23)),
    st.integers(1_500_000_000, 1_900_000_000),
    st.integers(0, 7 * 86400),
)
def test_the_latest_tick_is_the_last_before_the_next(
    text: tuple[str, ...], now: int, span: int
) -> None:
    schedule = cron(" ".join((*text, "* * *")))
    since = now - span
    latest = schedule.last_until(now, since)
    if latest is None:
        following = schedule.next_after(since)
        assert following is None or following > now
    else:
        assert since < latest <= now
        following = schedule.next_after(latest)
        assert following is None or following > now


# --- where clocks change --------------------------------------------------------------------------


def test_a_time_that_is_skipped_happens_when_the_gap_ends() -> None:
    assert ticks("0 30 2 * * *", "2026-03-28 12:00", 2, "Europe/Berlin") == [
        "03-29 03:00:00 +0200",
        "03-30 02:30:00 +0200",
    ]
    # once, however many fell into it, and not beside one that is due then anyway
    assert ticks("0 */10 2,3 29 3 *", "2026-03-29 00:00", 2, "Europe/Berlin") == [
        "03-29 03:00:00 +0200",
        "03-29 03:10:00 +0200",
    ]


def test_a_time_that_comes_twice_happens_the_first_time() -> None:
    assert ticks("0 30 2 * * *", "2026-10-24 12:00", 2, "Europe/Berlin") == [
        "10-25 02:30:00 +0200",
        "10-26 02:30:00 +0100",
    ]


def test_a_schedule_of_every_hour_follows_elapsed_time() -> None:
    assert ticks("0 15 * * * *", "2026-03-29 00:20", 3, "Europe/Berlin") == [
        "03-29 01:15:00 +0100",
        "03-29 03:15:00 +0200",
        "03-29 04:15:00 +0200",
    ]
    assert ticks("0 15 * * * *", "2026-10-25 01:20", 3, "Europe/Berlin") == [
        "10-25 02:15:00 +0200",
        "10-25 02:15:00 +0100",
        "10-25 03:15:00 +0100",
    ]


def test_midnight_may_be_skipped() -> None:
    assert ticks("0 0 0 * * *", "2018-11-03 12:00", 2, "America/Sao_Paulo") == [
        "11-04 01:00:00 -0200",
        "11-05 00:00:00 -0200",
    ]


def test_a_day_may_be_skipped() -> None:
    assert ticks("0 0 12 * * *", "2011-12-29 00:00", 2, "Pacific/Apia") == [
        "12-29 12:00:00 -1000",
        "12-31 12:00:00 +1400",
    ]


def test_a_change_may_be_of_half_an_hour() -> None:
    assert ticks("0 45 1 * * *", "2026-04-04 12:00", 2, "Australia/Lord_Howe") == [
        "04-05 01:45:00 +1100",
        "04-06 01:45:00 +1030",
    ]
    assert ticks("0 15 2 * * *", "2026-10-03 12:00", 1, "Australia/Lord_Howe") == [
        "10-04 02:30:00 +1100"
    ]


def slow_ticks(
    minutes: set[int], hours: set[int], zone: ZoneInfo, start: datetime, stop: datetime
) -> list[int]:
    """Looks at each minute, one by one."""
    found = []
    moment, before = start, start - timedelta(minutes=1)
    while moment < stop:
        here, last = moment.astimezone(zone), before.astimezone(zone)
        matches = here.minute in minutes and here.hour in hours
        if len(hours) < 24:
            gap = (here.replace(tzinfo=None) - last.replace(tzinfo=None)) // timedelta(minutes=1)
            skipped = (last.replace(tzinfo=None) + timedelta(minutes=n) for n in range(1, gap))
            matches = matches and not here.fold
            matches = matches or any(s.minute in minutes and s.hour in hours for s in skipped)
        if matches:
            found.append(int(moment.timestamp()))
        before, moment = moment, moment + timedelta(minutes=1)
    return found


CHANGES = [
    ("Europe/Berlin", datetime(2026, 3, 29, 1, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2026, 10, 25, 1, tzinfo=UTC)),
    ("America/Sao_Paulo", datetime(2018, 11, 4, 3, tzinfo=UTC)),
    ("America/Sao_Paulo", datetime(2019, 2, 17, 2, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 4, 4, 15, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 10, 3, 15, 30, tzinfo=UTC)),
    ("Asia/Kathmandu", datetime(2026, 1, 1, tzinfo=UTC)),
]


@pytest.mark.parametrize(("zone", "change"), CHANGES)
@given(
    st.sets(st.integers(0, 59), min_size=1, max_size=4),
    st.one_of(st.just(set(range(24))), st.sets(st.integers(0, 23), min_size=1)),
)
def test_a_slow_oracle_finds_the_same_ticks(
    zone: str, change: datetime, minutes: set[int], hours: set[int]
) -> None:
    place = ZoneInfo(zone)
    text = f"0 {','.join(map(str, minutes))} {','.join(map(str, hours))} * * *"
    start, stop = change - timedelta(hours=3), change + timedelta(hours=3)
    ours = []
    moment: float | None = start.timestamp() - 1
    while moment is not None and (moment := cron(text).next_after(moment, place)) is not None:
        if moment >= stop.timestamp():
            break
        ours.append(moment)
    assert ours == slow_ticks(minutes, hours, place, start, stop)
