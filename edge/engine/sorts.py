"""The parts of a component binary that types and sections share: sorts, names, bounds.

Source: the component model's `Binary.md`.
"""

from __future__ import annotations

import re

from edge.engine.binary import BoundedReader
from edge.engine.definition import ExportAlias, Extern, OuterAlias, Target
from edge.errors import ComponentError

_CORE_SORTS = {
    0x00: "core func",
    0x01: "core table",
    0x02: "core memory",
    0x03: "core global",
    0x04: "core tag",
    0x10: "core type",
    0x11: "core module",
    0x12: "core instance",
}
_SORTS = {0x01: "func", 0x02: "value", 0x03: "type", 0x04: "component", 0x05: "instance"}
_EXTERNS = frozenset({"func", "component", "instance", "core module"})
_NAME = re.compile(r"[!-~]{1,1000}")  # wider than the grammar: such names are printed and compared
CORE_ITEMS = frozenset({"core func", "core table", "core memory", "core global", "core tag"})


def unsupported(what: str) -> ComponentError:
    return ComponentError(f"unsupported component: it uses {what}")


def flag(reader: BoundedReader) -> bool:
    value = reader.u8()
    if value > 1:
        raise reader.error(f"expected 0 or 1, found {value:#x}")
    return value == 1


def core_sort(reader: BoundedReader) -> str:
    code = reader.u8()
    if code not in _CORE_SORTS:
        raise reader.error(f"unknown core sort {code:#x}")
    return _CORE_SORTS[code]


def sort(reader: BoundedReader) -> str:
    code = reader.u8()
    if code == 0x00:
        return core_sort(reader)
    if code not in _SORTS:
        raise reader.error(f"unknown sort {code:#x}")
    return _SORTS[code]


def target(reader: BoundedReader) -> Target:
    return Target(sort(reader), reader.u32())


def extern_name(reader: BoundedReader) -> str:
    """The name of an import or export. Attributes are read over."""
    form = reader.u8()
    if form > 0x02:
        raise reader.error(f"unknown form of a name {form:#x}")
    name = reader.name()
    if not _NAME.fullmatch(name):
        raise reader.error("an import or export has no valid name")
    if form == 0x02:
        reader.vector(lambda r: (r.u8(), r.name()))
    return name


def extern(reader: BoundedReader) -> Extern:
    """What an import or export is declared to be."""
    kind = sort(reader)
    if kind == "type":
        return Extern("resource") if flag(reader) else Extern("type", reader.u32())
    if kind in _EXTERNS:
        return Extern(kind, reader.u32())
    if kind == "value":
        raise unsupported("values")
    raise reader.error(f"a {kind} cannot be imported or exported")


def alias(reader: BoundedReader) -> ExportAlias | OuterAlias:
    what = sort(reader)
    kind = reader.u8()
    if kind == 0x02:
        return OuterAlias(what, reader.u32(), reader.u32())
    if kind > 0x02 or (kind == 0x01) != (what in CORE_ITEMS):
        raise reader.error(f"unknown alias {kind:#x} of a {what}")
    return ExportAlias(what, reader.u32(), reader.name())
