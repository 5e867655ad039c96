"""Parses a component binary into its definitions. Resolves nothing: indices stay indices.

Source: the component model's `Binary.md`. What this engine cannot do (asynchronous functions,
streams, threads, values, …) is refused here, by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from edge.engine.binary import BoundedReader, Budget
from edge.engine.definition import (
    Bundle,
    Canonical,
    ComponentDefinition,
    CoreBundle,
    CoreInstantiation,
    Definition,
    Export,
    Import,
    Instantiation,
    LiftDefinition,
    LowerDefinition,
    ModuleDefinition,
    ResourceFunction,
    Target,
)
from edge.engine.plan import Encoding
from edge.engine.sorts import (
    alias,
    core_sort,
    extern,
    extern_name,
    flag,
    target,
    unsupported,
)
from edge.engine.typesection import type_definition
from edge.errors import ComponentError

MAGIC = b"\0asm\x0d\0\x01\0"
MAX_DEPTH = 32  # of components and types within each other; real ones reach 4
MAX_ITEMS = 300_000  # definitions, labels, arguments; a Spin application in Python has 7,200

_ENCODINGS: dict[int, Encoding] = {0x00: "utf8", 0x01: "utf16", 0x02: "latin1+utf16"}
_OPTIONS = {0x03: "memory", 0x04: "realloc", 0x05: "post-return"}
_UNSUPPORTED_OPTIONS = {0x06: "async", 0x07: "callback", 0x08: "core-type", 0x09: "gc"}
_UNSUPPORTED_BUILTINS = (  # first code -> what the codes from there on are about
    (0x05, "tasks"),
    (0x0E, "streams"),
    (0x15, "futures"),
    (0x1C, "error-context"),
    (0x1F, "waitables and back-pressure"),
    (0x26, "threads"),
)
_LAST_BUILTIN = 0x42


def parse_component(binary: bytes) -> ComponentDefinition:
    """The definitions of a component; ComponentError for everything malformed or unsupported."""
    return _component(BoundedReader(binary, Budget(items=MAX_ITEMS, depth=MAX_DEPTH)))


def _component(reader: BoundedReader) -> ComponentDefinition:
    if reader.bytes(len(MAGIC)) != MAGIC:
        raise reader.error("not a component of a known version")
    definitions: list[Definition] = []
    while reader:
        section = reader.u8()
        definitions += _section(section, reader.part(reader.u32()))
    return ComponentDefinition(tuple(definitions))


def _section(code: int, reader: BoundedReader) -> tuple[Definition, ...]:
    if code == 0x00:
        return ()
    if code == 0x01:
        return (ModuleDefinition(reader.position, reader.end),)
    if code == 0x04:
        return (reader.nested(_component),)
    if code == 0x09:
        raise unsupported("a component start function")
    if code not in _SECTIONS:
        raise reader.error(f"unknown section {code}")
    definitions = reader.vector(_SECTIONS[code])
    reader.finish("a section")
    return definitions


def _core_instance(reader: BoundedReader) -> Definition:
    if flag(reader):
        return CoreBundle(reader.vector(lambda r: (r.name(), _core_target(r))))
    return CoreInstantiation(reader.u32(), reader.vector(_core_argument))


def _core_target(reader: BoundedReader) -> Target:
    return Target(core_sort(reader), reader.u32())


def _core_argument(reader: BoundedReader) -> tuple[str, int]:
    name = reader.name()
    reader.expect(0x12, "a core instance")
    return name, reader.u32()


def _instance(reader: BoundedReader) -> Definition:
    if flag(reader):
        return Bundle(reader.vector(lambda r: (extern_name(r), target(r))))
    return Instantiation(reader.u32(), reader.vector(lambda r: (r.name(), target(r))))


def _core_type(_: BoundedReader) -> NoReturn:
    raise unsupported("core types")


def _value(_: BoundedReader) -> NoReturn:
    raise unsupported("values")


def _canonical(reader: BoundedReader) -> Definition:
    code = reader.u8()
    if code not in _CANONICAL:
        raise _unknown_builtin(reader, code)
    return _CANONICAL[code](reader)


def _lift(reader: BoundedReader) -> Definition:
    reader.expect(0x00, "a function")
    return LiftDefinition(reader.u32(), _options(reader), reader.u32())


def _lower(reader: BoundedReader) -> Definition:
    reader.expect(0x00, "a function")
    return LowerDefinition(reader.u32(), _options(reader))


def _options(reader: BoundedReader) -> Canonical:
    given = reader.vector(_option)
    options = dict(given)
    if len(options) != len(given):
        raise reader.error("a canonical option is given twice")
    return Canonical(
        _ENCODINGS[options.get("encoding", 0x00)],
        options.get("memory"),
        options.get("realloc"),
        options.get("post-return"),
    )


def _option(reader: BoundedReader) -> tuple[str, int]:
    code = reader.u8()
    if code in _ENCODINGS:
        return "encoding", code
    if code in _OPTIONS:
        return _OPTIONS[code], reader.u32()
    if code in _UNSUPPORTED_OPTIONS:
        raise unsupported(f"the canonical option {_UNSUPPORTED_OPTIONS[code]}")
    raise reader.error(f"unknown canonical option {code:#x}")


def _unknown_builtin(reader: BoundedReader, code: int) -> ComponentError:
    about = [name for first, name in _UNSUPPORTED_BUILTINS if first <= code <= _LAST_BUILTIN]
    if not about:
        return reader.error(f"unknown built-in {code:#x}")
    return unsupported(f"{about[-1]} (built-in {code:#04x})")


def _import(reader: BoundedReader) -> Definition:
    return Import(extern_name(reader), extern(reader))


def _export(reader: BoundedReader) -> Definition:
    name, exported = extern_name(reader), target(reader)
    return Export(name, exported, extern(reader) if flag(reader) else None)


_CANONICAL: dict[int, Callable[[BoundedReader], Definition]] = {
    0x00: _lift,
    0x01: _lower,
    0x02: lambda r: ResourceFunction("new", r.u32()),
    0x03: lambda r: ResourceFunction("drop", r.u32()),
    0x04: lambda r: ResourceFunction("rep", r.u32()),
}
_SECTIONS: dict[int, Callable[[BoundedReader], Definition]] = {
    0x02: _core_instance,
    0x03: _core_type,
    0x05: _instance,
    0x06: alias,
    0x07: type_definition,
    0x08: _canonical,
    0x0A: _import,
    0x0B: _export,
    0x0C: _value,
}
