"""Reading `[[trigger.<type>]]`: HTTP triggers in full, the others as declarations."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import count

from edge.application.fields import (
    Reader,
    Table,
    Where,
    boolean,
    choice,
    integer,
    items,
    mapping,
    parsed,
    raw_table,
    show,
    string,
)
from edge.application.model import HttpTrigger, StaticResponse, TriggerDeclaration, Wagi
from edge.application.names import kebab
from edge.application.routes import Route

__all__ = ["Inline", "RawTrigger", "identified", "read_declaration", "read_http"]

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\U0010ffff]*")
_FRAMING = ("connection", "content-length", "keep-alive", "transfer-encoding", "upgrade")


@dataclass(frozen=True, slots=True)
class RawTrigger:
    """A trigger before it is read; its id is known."""

    type: str
    id: str
    table: Mapping[str, object]
    where: Where


def identified(value: object, where: Where) -> tuple[RawTrigger, ...]:
    """Every trigger in the order of the file. One without an id gets the one Spin gives it."""
    found = list(_entries(value, where))
    taken: set[str] = set()
    for _, table, place in found:
        if id := _own_id(table, place):
            if id in taken:
                raise place.key("id").error(f'another trigger has the id "{id}"')
            taken.add(id)
    return tuple(
        RawTrigger(type, _own_id(table, place) or _new_id(type, table, taken), table, place)
        for type, table, place in found
    )


def _entries(value: object, where: Where) -> Iterator[tuple[str, Mapping[str, object], Where]]:
    for type, entries in raw_table(value, where).items():
        place = where.key(type)
        if not isinstance(entries, list):
            raise place.error(f"must be a list, not {show(entries)}", f"write [[trigger.{type}]]")
        for index, entry in enumerate(entries):
            yield type, raw_table(entry, place.item(index)), place.item(index)


def _own_id(table: Mapping[str, object], where: Where) -> str:
    return string(table.get("id", ""), where.key("id"))


def _new_id(type: str, table: Mapping[str, object], taken: set[str]) -> str:
    component = table.get("component")
    id = f"{component}-{type}-trigger"
    if not isinstance(component, str) or id in taken:
        id = _free(f"{type}-trigger", taken)
    taken.add(id)
    return id


def _free(prefix: str, taken: Collection[str]) -> str:
    return next(id for n in count(1) if (id := f"{prefix}{n}") not in taken)


class Inline:
    """Components that are written inside of triggers; each gets the id Spin gives it."""

    def __init__(self, taken: Collection[str]) -> None:
        self._taken = taken
        self.found: dict[str, tuple[object, Where]] = {}

    def reference(self, trigger: RawTrigger) -> Reader[str]:
        """Reads a component's id, or a component itself, which is then known by a new id."""
        roles = trigger.table.get("components")
        alone = "component" in trigger.table and not roles

        def read(value: object, where: Where) -> str:
            if isinstance(value, str):
                return parsed(kebab)(value, where)
            if not isinstance(value, dict):
                raise where.error(f"must be a component's id or a table, not {show(value)}")
            id = self._new_id(trigger.id if alone else "")
            self.found[id] = (value, where)
            return id

        return read

    def _new_id(self, trigger_id: str) -> str:
        taken = {*self._taken, *self.found}
        natural = f"{trigger_id}-component"
        try:
            return natural if kebab(natural) not in taken else _free("inline-component", taken)
        except ValueError:
            return _free("inline-component", taken)


def read_http(trigger: RawTrigger, inline: Inline) -> HttpTrigger:
    with Table(trigger.table, trigger.where) as table:
        table.optional("id", string)
        table.optional("dependencies", _no_dependencies)
        found = HttpTrigger(
            id=trigger.id,
            route=table.need("route", _route),
            component=table.optional("component", inline.reference(trigger)),
            response=table.optional("static_response", _static_response),
            wagi=table.optional("executor", _executor),
        )
    if (found.component is None) == (found.response is None):
        both = "both" if found.component else "neither"
        raise trigger.where.error(f"needs either a component or a static_response, it has {both}")
    if found.response and found.wagi:
        raise trigger.where.key("executor").error("a static_response runs no component")
    return found


def read_declaration(trigger: RawTrigger, inline: Inline) -> TriggerDeclaration:
    reference = inline.reference(trigger)

    def one_or_more(value: object, where: Where) -> tuple[str, ...]:
        if isinstance(value, list):
            return items(reference)(value, where)
        return (reference(value, where),)

    with Table(trigger.table, trigger.where) as table:
        table.optional("id", string)
        table.optional("dependencies", _no_dependencies)
        return TriggerDeclaration(
            id=trigger.id,
            type=trigger.type,
            component=table.optional("component", reference),
            components=table.optional("components", mapping(one_or_more)) or {},
            fields=table.rest(),
        )


def _no_dependencies(value: object, where: Where) -> None:
    if raw_table(value, where):
        raise where.error(
            "composing middleware into a trigger is not supported",
            "compose the components into one file, as with `wac plug`, and use that",
        )


def _route(value: object, where: Where) -> Route | None:
    if isinstance(value, str):
        return parsed(Route.parse)(value, where)
    if not isinstance(value, dict):
        raise where.error(f"must be a path or {{ private = true }}, not {show(value)}")
    with Table(value, where) as table:
        if not table.need("private", boolean):
            raise where.error("must be a path or { private = true }, not { private = false }")
    return None


def _executor(value: object, where: Where) -> Wagi | None:
    with Table(value, where) as table:
        if table.need("type", choice("http", "wagi", "spin")) != "wagi":
            return None
        if table.get("entrypoint", string, "_start") != "_start":
            raise where.key("entrypoint").error('only "_start" is supported')
        return Wagi(table.get("argv", string, Wagi().argv))


def _static_response(value: object, where: Where) -> StaticResponse:
    with Table(value, where) as table:
        return StaticResponse(
            # an informational status would promise an answer that never comes
            table.get("status_code", integer(200, 599), 200),
            table.optional("headers", _headers) or (),
            table.get("body", string, "").encode(),
        )


def _headers(value: object, where: Where) -> tuple[tuple[bytes, bytes], ...]:
    return tuple(
        (_header_name(name, where.key(name)), _header_value(text, where.key(name)))
        for name, text in raw_table(value, where).items()
    )


def _header_name(name: str, where: Where) -> bytes:
    if not _HEADER_NAME.fullmatch(name):
        raise where.error("not the name of a header")
    if (lower := name.lower()) in _FRAMING:
        raise where.error("the server sets this header itself")
    return lower.encode()


def _header_value(value: object, where: Where) -> bytes:
    if not _HEADER_VALUE.fullmatch(text := string(value, where)):
        raise where.error("a header has no line breaks or control characters")
    return text.encode()
