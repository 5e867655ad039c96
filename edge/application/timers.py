"""`[[trigger.cron]]` and what `tool.edge.trigger.ID` adds to it: timers, checked. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, tzinfo
from typing import Literal, cast
from zoneinfo import ZoneInfo

from edge.application import cron
from edge.application.fields import Table, Where, did_you_mean, parsed
from edge.application.model import Application, TriggerDeclaration

__all__ = ["OPTIONS", "CronTrigger", "Missed", "Overlap", "read_cron"]

Overlap = Literal["skip", "queue", "allow"]
Missed = Literal["skip", "once"]

# The keys of `tool.edge.trigger.ID` that mean something to a timer.
OPTIONS = ("time_zone", "overlap", "jitter", "missed")


@dataclass(frozen=True, slots=True)
class CronTrigger:
    """When a component runs by itself.

    `overlap`: what a tick does while the one before it still runs: it is left out, waits (one at
    most), or runs beside it, up to `concurrency` at once. `jitter`: each tick is put off by a
    random time up to this, in seconds. `missed`: whether ticks that passed while the node was off,
    its clock was not set or was put forward are made up for by one.
    """

    id: str
    component: str
    schedule: cron.Cron | cron.Every
    zone: tzinfo
    overlap: Overlap = "skip"
    jitter: float = 0.0
    missed: Missed = "skip"
    concurrency: int = 1


def read_cron(application: Application, file: str = "spin.toml") -> tuple[CronTrigger, ...]:
    """Its timers in the order of the file. Raises ConfigError."""
    return tuple(
        _trigger(application, declared, Where(file, f"trigger.cron[{index}]"))
        for index, declared in enumerate(t for t in application.triggers if t.type == "cron")
    )


def _trigger(application: Application, declared: TriggerDeclaration, where: Where) -> CronTrigger:
    if declared.components or declared.component is None:
        raise where.error('a timer runs one component: write component = "…"')
    component = application.components[declared.component]
    given = component.options.triggers.get(declared.id, {})
    place = Where(where.file, f"component.{component.id}.tool.edge.trigger").key(declared.id)
    with Table(declared.fields, where) as table:
        schedule = table.need("cron_expression", parsed(cron.parse))
    for key in _foreign(given):
        hint = did_you_mean(key, OPTIONS) or f"known here: {', '.join(OPTIONS)}"
        raise place.key(key).error("a timer has no such option", hint)
    if isinstance(schedule, cron.Every):
        for key in ("time_zone", "missed"):
            if key in given:
                hint = "leave it out, or write the times as a cron expression"
                raise place.key(key).error("@every follows no clock on a wall", hint)
    return CronTrigger(
        id=declared.id,
        component=component.id,
        schedule=schedule,
        zone=_zone(given.get("time_zone", "UTC"), place.key("time_zone")),
        overlap=cast(Overlap, given.get("overlap", "skip")),
        jitter=cast(float, given.get("jitter", 0.0)),
        missed=cast(Missed, given.get("missed", "skip")),
        concurrency=component.options.concurrency,
    )


def _foreign(given: Mapping[str, object]) -> Iterator[str]:
    return (key for key in given if key not in OPTIONS)


def _zone(name: object, where: Where) -> tzinfo:
    if name == "UTC":
        return UTC  # which needs no tzdata
    try:
        return ZoneInfo(str(name))
    except (OSError, ValueError, LookupError):  # a folder, a path with "..", none of that name
        hint = 'an IANA name like "Europe/Berlin"; Debian keeps them in the package tzdata'
        raise where.error(f'"{name}" is no time zone', hint) from None
