"""Which globals an instance has to be given back so that it is as it was made, beside its memory.

An instance is memories, globals, tables and segments that were dropped or not: the specification's
store, the rest never changes. Code that sets a table or drops a segment rules renewing out.
"""

from __future__ import annotations

from dataclasses import replace

from edge.engine._core import globals_set
from edge.engine.binary import Reader
from edge.engine.coremodule import CODE, EXPORT, GLOBAL, MAGIC, CoreModule, parse_module
from edge.engine.coretypes import CoreGlobal
from edge.engine.plan import CoreInstance, CoreItem, InstanceExport, Plan

# How a module exports its globals to the host. A name that a guest uses itself is left to it.
PREFIX = "edge:global:"

# Globals that code sets, of all core instances: a guest in Python has 268, of which it sets nearly
# all once, as it starts. Each is looked at before and after an event.
GLOBALS_MAX = 1024

_TYPES = {"i32", "i64", "f32", "f64"}
_GLOBAL_KIND = 3


def with_globals(plan: Plan) -> Plan:
    """The same plan that says which globals its code sets."""
    outlines = [parse_module(binary) for binary in plan.modules]
    numbers = [_numbers(outline) for outline in outlines]
    names = [_names(outline, set_here) for outline, set_here in zip(outlines, numbers, strict=True)]
    found: dict[InstanceExport, None] = {}
    for index, instance in enumerate(plan.instances):
        set_here = numbers[instance.module]
        if set_here is None:
            return replace(plan, globals=None)
        if not set_here:
            continue
        imported = _imported(instance, outlines[instance.module])
        for number in set_here:
            place: CoreItem | None
            if number < len(imported):
                place = imported[number]
            else:
                place = InstanceExport(index, names[instance.module][number])
            if not isinstance(place, InstanceExport):
                return replace(plan, globals=None)
            found[place] = None
        if len(found) > GLOBALS_MAX:
            return replace(plan, globals=None)
    return replace(plan, globals=tuple(found))


def exposed(plan: Plan) -> tuple[bytes, ...]:
    """The modules of a plan, each with those of its globals exported that the plan names."""
    wanted: dict[int, set[int]] = {}
    for item in plan.globals or ():
        if item.name.startswith(PREFIX):
            module = plan.instances[item.instance].module
            wanted.setdefault(module, set()).add(int(item.name.removeprefix(PREFIX)))
    return tuple(
        _exporting(binary, sorted(wanted[number])) if number in wanted else binary
        for number, binary in enumerate(plan.modules)
    )


def _numbers(outline: CoreModule) -> list[int] | None:
    code = outline.sections.get(CODE)
    if code is None:
        return []
    imported = sum(isinstance(item.type, CoreGlobal) for item in outline.imports)
    own = outline.section(GLOBAL)
    numbers = globals_set(
        memoryview(outline.binary)[slice(*code)], imported + (own.count() if own else 0)
    )
    if numbers is None or len(numbers) > GLOBALS_MAX or _taken(outline):
        return None
    if any(
        not isinstance(type_ := outline.type_of("global", number), CoreGlobal)
        or type_.type not in _TYPES
        for number in numbers
    ):
        return None
    return numbers


def _taken(outline: CoreModule) -> bool:
    """The guest uses names of ours itself."""
    return any(name.startswith(PREFIX) for name in outline.exports)


def _names(outline: CoreModule, numbers: list[int] | None) -> dict[int, str]:
    """By which name the host finds each of these globals of a module: its own, or one of ours."""
    known = {index: name for name, (kind, index) in outline.exports.items() if kind == "global"}
    return {number: known.get(number, f"{PREFIX}{number}") for number in numbers or ()}


def _imported(instance: CoreInstance, outline: CoreModule) -> list[CoreItem]:
    """What stands for the globals that a module imports."""
    return [
        place
        for item, place in zip(outline.imports, instance.imports, strict=True)
        if isinstance(item.type, CoreGlobal)
    ]


def _exporting(binary: bytes, globals_: list[int]) -> bytes:
    """A module with more exports."""
    outline = parse_module(binary)
    entries = b"".join(
        _name(f"{PREFIX}{number}") + bytes([_GLOBAL_KIND]) + _leb(number) for number in globals_
    )
    before, start, end = _exports(binary)
    reader = Reader(binary, start, end)
    count = reader.u32() if start < end else 0
    body = _leb(count + len(globals_)) + binary[reader.position : end] + entries
    assert len(outline.exports) == count
    return binary[:before] + bytes([EXPORT]) + _leb(len(body)) + body + binary[end:]


def _exports(binary: bytes) -> tuple[int, int, int]:
    """Where the export section is, or would be: its head, its content, its end."""
    reader = Reader(binary, len(MAGIC))
    while reader:
        before = reader.position
        code = reader.u8()
        part = reader.part(reader.u32())
        if code == EXPORT:
            return before, part.position, part.end
        if code in _AFTER:
            return before, before, before
    return reader.position, reader.position, reader.position


_AFTER = {8, 9, 10, 11, 12}  # start, elements, code, data, count of data


def _name(text: str) -> bytes:
    raw = text.encode()
    return _leb(len(raw)) + raw


def _leb(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
