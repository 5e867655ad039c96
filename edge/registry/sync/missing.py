"""What people are told who name an application that this node does not have."""

from __future__ import annotations

from collections.abc import Mapping

from edge.application.fields import did_you_mean
from edge.errors import ConfigError
from edge.registry.sync.record import Record

__all__ = ["not_deployed", "unknown"]

_PLACES = {"file": "edge.toml", "fleet": "the fleet's document", "deploy": "a deploy"}


def unknown(name: str, records: Mapping[str, Record]) -> ConfigError:
    known = [record.name for record in records.values() if record.wanted]
    hint = did_you_mean(name, known) or "`edge apps` lists them"
    return ConfigError(f'there is no application "{name}" on this node', hint=hint)


def not_deployed(name: str, records: Mapping[str, Record]) -> ConfigError:
    record = records.get(name)
    if record is None or record.wanted is None:
        return unknown(name, records)
    place = _PLACES[record.wanted.source]
    return ConfigError(f'"{name}" was not deployed: {place} wants it', hint="remove it there")
