"""Recognises, by their bytes, the small modules with which `wit-component` ties a component's knot.

A module's imports must exist before it does, but a lowered function needs the module's memory. So
the module imports stand-ins: a *shim* whose functions call through a table, which a *fixup* fills
later; the fixup, or a module made for it, then calls the module's `_initialize`. A module that does
anything else, or the same in another way, is not recognised.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge.engine.binary import Reader
from edge.engine.coremodule import (
    CODE,
    ELEMENT,
    EXPORT,
    FUNCTION,
    IMPORT,
    START,
    TABLE,
    TYPE,
    CoreModule,
)
from edge.engine.coretypes import CoreFunc, CoreTable

_LOCAL_GET, _I32_CONST, _CALL_INDIRECT, _END = 0x20, 0x41, 0x11, 0x0B
_NOTHING = CoreFunc((), ())
_FILL_FROM_ZERO = bytes([0, _I32_CONST, 0, _END])  # active, table 0, offset `i32.const 0`


@dataclass(frozen=True, slots=True)
class Shim:
    """Exported functions that each call one slot of the exported table, and do nothing else."""

    slots: Mapping[str, int]
    table: str
    size: int  # of the table, at least


@dataclass(frozen=True, slots=True)
class Fixup:
    """Fills an imported table from its first slot on, then starts. Imports by their index."""

    table: int
    functions: tuple[int, ...]
    start: int | None


def read_shim(module: CoreModule) -> Shim | None:
    if module.sections.keys() != {TYPE, FUNCTION, TABLE, EXPORT, CODE}:
        return None
    slots = _slots(module)
    if slots is None:
        return None
    tables = [name for name, (kind, _) in module.exports.items() if kind == "table"]
    functions = {name: i for name, (kind, i) in module.exports.items() if kind == "func"}
    if len(tables) != 1 or len(functions) + 1 != len(module.exports):
        return None
    table = module.type_of("table", 0)
    if not isinstance(table, CoreTable) or table.element != "ref 0x70":
        return None
    size = table.limits.minimum
    if any(index >= len(slots) or slots[index] >= size for index in functions.values()):
        return None
    return Shim({name: slots[index] for name, index in functions.items()}, tables[0], size)


def read_fixup(module: CoreModule) -> Fixup | None:
    if module.sections.keys() - {START} != {TYPE, IMPORT, ELEMENT}:
        return None
    functions = [i for i, item in enumerate(module.imports) if isinstance(item.type, CoreFunc)]
    tables = [i for i, item in enumerate(module.imports) if isinstance(item.type, CoreTable)]
    reader = module.section(ELEMENT)
    if reader is None or len(tables) != 1 or len(functions) + 1 != len(module.imports):
        return None
    if reader.count() != 1 or reader.bytes(len(_FILL_FROM_ZERO)) != _FILL_FROM_ZERO:
        return None
    filled = reader.vector(Reader.u32)
    if reader or any(index >= len(functions) for index in filled):
        return None
    start = _start(module, functions)
    return Fixup(tables[0], tuple([functions[index] for index in filled]), start)


def read_start(module: CoreModule) -> int | None:
    """The import that a module calls when it starts, if it does nothing else."""
    if module.sections.keys() != {TYPE, IMPORT, START} or len(module.imports) != 1:
        return None
    return _start(module, [0])


def _start(module: CoreModule, functions: list[int]) -> int | None:
    """The import a module starts with; `functions` are those imports that are functions."""
    reader = module.section(START)
    if reader is None:
        return None
    index = reader.u32()
    if reader or index >= len(functions):
        return None
    # Nobody else looks at a module that is left out of the plan; the engine calls this unchecked.
    start = functions[index]
    return start if module.imports[start].type == _NOTHING else None


def _slots(module: CoreModule) -> list[int] | None:
    """The slot that each function calls with its own arguments."""
    reader = module.section(CODE)
    if reader is None:
        return None
    slots: list[int] = []
    for index in range(reader.count()):
        slot = _slot(module, index, reader.part(reader.u32()))
        if slot is None:
            return None
        slots.append(slot)
    return slots


def _slot(module: CoreModule, index: int, body: Reader) -> int | None:
    type_ = module.type_of("func", index)
    if not isinstance(type_, CoreFunc) or body.u8() != 0:  # no locals
        return None
    for parameter in range(len(type_.params)):
        if body.u8() != _LOCAL_GET or body.u32() != parameter:
            return None
    if body.u8() != _I32_CONST:
        return None
    slot = body.s33()
    if slot < 0 or body.u8() != _CALL_INDIRECT:
        return None
    called = body.u32()
    if called >= len(module.types) or module.types[called] != type_ or body.u32() != 0:
        return None
    return slot if body.u8() == _END and not body else None
