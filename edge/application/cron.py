"""Cron expressions: text in, the next time of day out, in any time zone. Knows no clock.

The dialect is that of Spin's cron trigger (0.6: the Rust crate croner 2.2, seconds required, both
day fields must match), and the year that its documentation names:

    second  minute  hour  day of month  month  day of week  [year]
    0-59    0-59    0-23  1-31          1-12   0-7          1970-2099

`*` or `?` any · `a,b` a list · `a-b` a range · `*/n`, `a-b/n`, `a/n` steps (the last to the end of
the field) · months JAN-DEC and days SUN-SAT in any case; 0 and 7 are both Sunday · `L` the last day
of the month · `15W` the weekday nearest to the 15th, within the month · `5#2` the second Friday,
`5L` or `5#L` the last one · @yearly, @annually, @monthly, @weekly, @daily, @hourly. Unlike crontab,
a day must match both of its fields. `@every 90s` is ours: see `Every`.

Where clocks change: a schedule for each of the 24 hours follows elapsed time: it skips what the
clock skips and runs in both passes of an hour that comes twice. One that names hours follows the
clock on the wall: a time that is skipped happens when the gap ends, one that comes twice happens
the first time.
"""

from __future__ import annotations

import calendar
import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo

from edge.application import units

__all__ = ["Cron", "Every", "parse"]

_NICKNAMES = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIRST_YEAR, _LAST_YEAR = 1970, 2099
_DAY = 86400
_EVERY = re.compile(r"@every\s+((?:[0-9.]+(?:ms|s|m|h|d))+)")
_PART = re.compile(r"[0-9.]+(?:ms|s|m|h|d)")
# Faster than this is a loop of the guest's own; slower is a mistake.
_SHORTEST, _LONGEST = 0.1, 366 * 86400.0


@dataclass(frozen=True, slots=True)
class Every:
    """A fixed time between ticks, counted from the start on a clock that nobody sets."""

    seconds: float


@dataclass(frozen=True, slots=True)
class _Field:
    """What may stand in one of the fields."""

    name: str
    least: int
    most: int
    names: tuple[str, ...] = ()


_SECOND = _Field("second", 0, 59)
_MINUTE = _Field("minute", 0, 59)
_HOUR = _Field("hour", 0, 23)
_DAY_OF_MONTH = _Field("day of month", 1, 31)
_MONTH = _Field("month", 1, 12, _MONTHS)
_DAY_OF_WEEK = _Field("day of week", 0, 7, _DAYS)
_YEAR = _Field("year", _FIRST_YEAR, _LAST_YEAR)


@dataclass(frozen=True, slots=True)
class _MonthDays:
    """Which days of a month: plain ones, the last, those nearest to a day."""

    plain: frozenset[int]
    last: bool = False
    near: frozenset[int] = frozenset()

    def match(self, day: date) -> bool:
        if day.day in self.plain:
            return True
        length = calendar.monthrange(day.year, day.month)[1]
        if self.last and day.day == length:
            return True
        return any(day.day == _nearest_weekday(day, wanted, length) for wanted in self.near)


def _nearest_weekday(day: date, wanted: int, length: int) -> int:
    """The weekday of that month nearest to the wanted day; 0 when the month has no such day."""
    if wanted > length:
        return 0
    weekday = day.replace(day=wanted).weekday()
    if weekday == calendar.SATURDAY:
        return wanted - 1 if wanted > 1 else 3
    if weekday == calendar.SUNDAY:
        return wanted + 1 if wanted < length else wanted - 2
    return wanted


@dataclass(frozen=True, slots=True)
class _WeekDays:
    """Which days of the week, 0 is Sunday: plain ones, nth ones of the month, last ones."""

    plain: frozenset[int]
    nth: frozenset[tuple[int, int]] = frozenset()
    last: frozenset[int] = frozenset()

    def match(self, day: date) -> bool:
        weekday = day.isoweekday() % 7
        if weekday in self.plain or (weekday, (day.day + 6) // 7) in self.nth:
            return True
        length = calendar.monthrange(day.year, day.month)[1]
        return weekday in self.last and day.day + 7 > length


@dataclass(frozen=True, slots=True)
class Cron:
    """A schedule by the calendar. Made by `parse`."""

    text: str
    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    month_days: _MonthDays
    months: frozenset[int]
    week_days: _WeekDays
    years: frozenset[int]

    def next_after(self, after: float, zone: tzinfo = UTC) -> int | None:
        """The first tick later than `after`, both in seconds since 1970; None: there is none."""
        begin = int(after // 1) + 1
        for day in self._days(datetime.fromtimestamp(begin, zone).date()):
            for found in self._ticks(day, begin, zone):
                return found
        return None

    def last_until(self, now: float, since: float, zone: tzinfo = UTC) -> int | None:
        """The latest tick that is after `since` and not after `now`."""
        span = 60.0
        while span < 2 * (now - since):
            if found := self._latest(max(since, now - span), now, zone):
                return found
            span *= 8
        return self._latest(since, now, zone)

    def _latest(self, since: float, now: float, zone: tzinfo) -> int | None:
        found, tick = None, self.next_after(since, zone)
        while tick is not None and tick <= now:
            found, tick = tick, self.next_after(tick, zone)
        return found

    def _days(self, first: date) -> Iterator[date]:
        day = max(first, date(min(self.years), 1, 1))
        while day.year <= _LAST_YEAR:
            if day.year not in self.years:
                day = date(day.year + 1, 1, 1)
            elif day.month not in self.months:
                day = (day.replace(day=1) + timedelta(days=31)).replace(day=1)
            else:
                if self.month_days.match(day) and self.week_days.match(day):
                    yield day
                day += timedelta(days=1)

    def _ticks(self, day: date, begin: int, zone: tzinfo) -> Iterator[int]:
        """The ticks of a local day from `begin` on, the first of each of its parts."""
        every_hour = len(self.hours) == 24
        for part in _parts(day, zone):
            if part.skipped:
                if not every_hour and part.instant >= begin and self._time(*part.times) is not None:
                    yield part.instant
                continue
            if part.repeated and not every_hour:
                continue
            start, stop = part.times
            time = self._time(max(start, start + begin - part.instant), stop)
            if time is not None:
                yield part.instant + time - start

    def _time(self, at_least: int, below: int) -> int | None:
        """The first matching second of a day in that range."""
        for hour in self.hours[bisect_left(self.hours, at_least // 3600) :]:
            for minute in self.minutes:
                base = hour * 3600 + minute * 60
                if base + 59 < at_least:
                    continue
                index = bisect_left(self.seconds, at_least - base)
                if index < len(self.seconds):
                    found = base + self.seconds[index]
                    return found if found < below else None
        return None


def parse(text: str) -> Cron | Every:
    """Reads an expression; what is wrong with it is a ValueError."""
    if text.strip().lower().startswith("@every"):
        return _every(text.strip())
    nickname = _NICKNAMES.get(text.strip().lower())
    if nickname is None and text.strip().startswith("@"):
        raise ValueError(f'"{text}" is none of {", ".join(_NICKNAMES)}, @every')
    fields = (nickname or text).lower().split()
    if not 6 <= len(fields) <= 7:
        raise ValueError(
            f'"{text}" has {len(fields)} fields, not 6 or 7: '
            "second, minute, hour, day of month, month, day of week and perhaps year"
        )
    cron = Cron(
        text,
        tuple(sorted(_numbers(fields[0], _SECOND))),
        tuple(sorted(_numbers(fields[1], _MINUTE))),
        tuple(sorted(_numbers(fields[2], _HOUR))),
        _month_days(fields[3]),
        _numbers(fields[4], _MONTH),
        _week_days(fields[5]),
        _numbers(fields[6] if len(fields) == 7 else "*", _YEAR),
    )
    if next(cron._days(date(_FIRST_YEAR, 1, 1)), None) is None:
        raise ValueError(f'"{text}" never happens: no day has that date')
    return cron


def _every(text: str) -> Every:
    match = _EVERY.fullmatch(text)
    if match is None:
        raise ValueError(f'must be a duration like "@every 30s", not "{text}"')
    seconds = sum(units.duration(part) for part in _PART.findall(match[1]))
    if not _SHORTEST <= seconds <= _LONGEST:
        raise ValueError(f'must be between 100ms and 366d, not "{text}"')
    return Every(seconds)


# --- fields ---------------------------------------------------------------------------------------


def _numbers(text: str, field: _Field) -> frozenset[int]:
    return frozenset(n for item in _items(text, field) for n in _range(item, field))


def _items(text: str, field: _Field) -> list[str]:
    items = text.split(",")
    if "" in items:
        raise ValueError(f'{field.name}: "{text}" has an empty item')
    return items


def _range(item: str, field: _Field) -> range:
    """`*`, `?`, `n`, `a-b`, and any of them with a step."""
    span, slash, step = item.partition("/")
    width = _number(step, field, item, 1, field.most) if slash else 1
    if span in ("*", "?"):
        return range(field.least, field.most + 1, width)
    low, dash, high = span.partition("-")
    first = _value(low, field, item)
    if dash:
        # in a range that ends on it, Sunday is the seventh day
        last = 7 if field is _DAY_OF_WEEK and high == "sun" else _value(high, field, item)
    else:
        last = field.most if slash else first
    if first > last:
        raise ValueError(f'{field.name}: "{item}" runs backwards; write two ranges')
    return range(first, last + 1, width)


def _value(text: str, field: _Field, item: str) -> int:
    if text in field.names:
        return field.names.index(text) + (1 if field is _MONTH else 0)
    return _number(text, field, item, field.least, field.most)


def _number(text: str, field: _Field, item: str, least: int, most: int) -> int:
    if not re.fullmatch("[0-9]{1,4}", text):
        raise ValueError(f'{field.name}: "{item}" is not understood')
    if not least <= int(text) <= most:
        raise ValueError(f'{field.name}: "{item}" is not within {least}-{most}')
    return int(text)


def _month_days(text: str) -> _MonthDays:
    plain: set[int] = set()
    near: set[int] = set()
    last = False
    for item in _items(text, _DAY_OF_MONTH):
        if item == "l":
            last = True
        elif item.endswith("w"):
            near.add(_value(item[:-1], _DAY_OF_MONTH, item))
        else:
            plain.update(_range(item, _DAY_OF_MONTH))
    return _MonthDays(frozenset(plain), last, frozenset(near))


def _week_days(text: str) -> _WeekDays:
    plain: set[int] = set()
    nth: set[tuple[int, int]] = set()
    last: set[int] = set()
    for item in _items(text, _DAY_OF_WEEK):
        days, which = _which(item)
        found = {day % 7 for day in _range(days, _DAY_OF_WEEK)}
        if which == "":
            plain |= found
        elif which == "l":
            last |= found
        else:
            number = _number(which, _DAY_OF_WEEK, item, 1, 5)
            nth |= {(day, number) for day in found}
    return _WeekDays(frozenset(plain), frozenset(nth), frozenset(last))


def _which(item: str) -> tuple[str, str]:
    """ "5#2" → "5" and "2"; "5l" → "5" and "l"; "5" → "5" and ""."""
    days, hash_, which = item.partition("#")
    if not hash_ and len(item) > 1 and item.endswith("l"):
        return item[:-1], "l"
    if hash_ and not which:
        raise ValueError(f'day of week: "{item}" is not understood')
    return days, which


# --- where clocks change --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Part:
    """A stretch of a local day: its seconds of the day, and the instant of the first of them.

    `skipped`: no clock shows them; `instant` is when the gap ends. `repeated`: the second pass.
    """

    instant: int
    times: tuple[int, int]
    skipped: bool = False
    repeated: bool = False


def _parts(day: date, zone: tzinfo) -> Iterator[_Part]:
    start, stop = _midnight(day, zone), _midnight(day + timedelta(days=1), zone)
    before, after = _offset(start - 1, zone), _offset(stop - 1, zone)
    # seconds of this day = instant + offset - base
    base = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
    if before == after:
        yield _Part(start, (start + before - base, stop + before - base))
        return
    change = _change(start - 1, stop - 1, zone)
    old, new = change + before - base, change + after - base
    if change > start:
        yield _Part(start, (start + before - base, old))
    if new > old:
        yield _Part(change, (max(old, 0), min(new, _DAY)), skipped=True)
        yield _Part(change, (new, stop + after - base))
    else:
        yield _Part(change, (max(new, 0), old), repeated=True)
        yield _Part(change + old - new, (old, stop + after - base))


def _midnight(day: date, zone: tzinfo) -> int:
    """When the day begins; where its first minutes are skipped, when the gap ends."""
    naive = datetime(day.year, day.month, day.day, tzinfo=zone)
    first, second = int(naive.timestamp()), int(naive.replace(fold=1).timestamp())
    # for a time that does not exist, fold=1 is the earlier of the two (PEP 495)
    return _change(second - 1, first, zone) if second < first else first


def _offset(instant: int, zone: tzinfo) -> int:
    offset = datetime.fromtimestamp(instant, zone).utcoffset()
    assert offset is not None
    return int(offset.total_seconds())


def _change(low: int, high: int, zone: tzinfo) -> int:
    """The instant after `low` and not after `high` where the offset becomes that of `high`."""
    new = _offset(high, zone)
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(middle, zone) == new:
            high = middle
        else:
            low = middle
    return high
