"""Parses the type definitions of a component binary, instance types and what they declare included.

Source: the component model's `Binary.md`, "Type Definitions".
"""

from __future__ import annotations

import re
from collections.abc import Callable

from edge.engine.binary import BoundedReader
from edge.engine.definition import (
    ComponentTypeDefinition,
    Definition,
    FuncDefinition,
    HandleDefinition,
    Import,
    InstanceDefinition,
    ResourceDefinition,
    ValueDefinition,
    ValueRef,
)
from edge.engine.sorts import alias, extern, extern_name, flag, unsupported

MAX_FLAGS = 32

_WORD = r"([a-z][a-z0-9]*|[A-Z][A-Z0-9]*)"
# A word can be read in one way only, or a label of many numbers took exponential time to refuse.
_NEXT_WORD = r"[0-9]*([a-z][a-z0-9]*|[A-Z][A-Z0-9]*)?"
_LABEL = re.compile(rf"(?=.{{1,256}}$){_WORD}(-(?=[A-Za-z0-9]){_NEXT_WORD})*")

_PRIMITIVES = {
    0x7F: "bool",
    0x7E: "s8",
    0x7D: "u8",
    0x7C: "s16",
    0x7B: "u16",
    0x7A: "s32",
    0x79: "u32",
    0x78: "s64",
    0x77: "u64",
    0x76: "f32",
    0x75: "f64",
    0x74: "char",
    0x73: "string",
}
_UNSUPPORTED = {
    0x3E: "a resource with an asynchronous destructor",
    0x43: "an asynchronous function",
    0x63: "a map",
    0x64: "an error-context",
    0x65: "a future",
    0x66: "a stream",
    0x67: "a list of fixed length",
}


def type_definition(reader: BoundedReader) -> Definition:
    code = reader.u8()
    if code in _PRIMITIVES:
        return ValueDefinition("primitive", (_PRIMITIVES[code],))
    if code in _UNSUPPORTED:
        raise unsupported(_UNSUPPORTED[code])
    if code not in _DEFINITIONS:
        raise reader.error(f"unknown type {code:#x}")
    return _DEFINITIONS[code](reader)


def _value(reader: BoundedReader) -> ValueRef:
    code = reader.peek()
    if code in _PRIMITIVES:
        reader.u8()
        return _PRIMITIVES[code]
    index = reader.s33()
    if index >= 0:
        return index
    raise unsupported(_UNSUPPORTED[code]) if code in _UNSUPPORTED else reader.error("unknown type")


def _optional(reader: BoundedReader) -> ValueRef | None:
    return _value(reader) if flag(reader) else None


def _label(reader: BoundedReader) -> str:
    label = reader.name()
    if not _LABEL.fullmatch(label):
        raise reader.error("a label is not in kebab case")
    return label


def _field(reader: BoundedReader) -> tuple[str, ValueRef]:
    return _label(reader), _value(reader)


def _case(reader: BoundedReader) -> tuple[str, ValueRef | None]:
    case = _label(reader), _optional(reader)
    reader.expect(0x00, "the end of a case")
    return case


def _labelled(
    kind: str, part: Callable[[BoundedReader], tuple[str, ValueRef | None]]
) -> Callable[[BoundedReader], Definition]:
    def read(reader: BoundedReader) -> Definition:
        parts = reader.vector(part)
        labels = _distinct(reader, tuple(label for label, _ in parts))
        return ValueDefinition(kind, labels, tuple(value for _, value in parts))

    return read


def _names(kind: str, most: int) -> Callable[[BoundedReader], Definition]:
    def read(reader: BoundedReader) -> Definition:
        labels = _distinct(reader, reader.vector(_label))
        if len(labels) > most:
            raise unsupported(f"{kind} with more than {most} names")
        return ValueDefinition(kind, labels)

    return read


def _distinct(reader: BoundedReader, labels: tuple[str, ...]) -> tuple[str, ...]:
    if not labels:
        raise reader.error("a type has no parts")
    if len({label.lower() for label in labels}) != len(labels):
        raise reader.error("two parts of a type have one name")
    return labels


def _tuple(reader: BoundedReader) -> Definition:
    parts = reader.vector(_value)
    if not parts:
        raise reader.error("a type has no parts")
    return ValueDefinition("tuple", parts=parts)


def _func(reader: BoundedReader) -> Definition:
    params = reader.vector(_field)
    if params:
        _distinct(reader, tuple(name for name, _ in params))
    if not flag(reader):
        return FuncDefinition(params, _value(reader))
    if reader.u8():
        raise unsupported("a function with several named results")
    return FuncDefinition(params, None)


def _resource(reader: BoundedReader) -> Definition:
    if reader.u8() != 0x7F:
        raise unsupported("a resource whose representation is no i32")
    return ResourceDefinition(reader.u32() if flag(reader) else None)


def _declaration(reader: BoundedReader) -> Definition:
    code = reader.u8()
    if code == 0x00:
        raise unsupported("core types")
    if code not in _DECLARATIONS:
        raise reader.error(f"unknown declaration {code:#x}")
    return _DECLARATIONS[code](reader)


def _extern_declaration(reader: BoundedReader) -> Definition:
    return Import(extern_name(reader), extern(reader))


def _instance(reader: BoundedReader) -> Definition:
    return InstanceDefinition(reader.nested(lambda r: r.vector(_declaration)))


def _component(reader: BoundedReader) -> Definition:
    reader.nested(lambda r: r.vector(_component_declaration))
    return ComponentTypeDefinition()


def _component_declaration(reader: BoundedReader) -> Definition:
    if reader.peek() != 0x03:
        return _declaration(reader)
    reader.u8()
    return _extern_declaration(reader)


_DECLARATIONS: dict[int, Callable[[BoundedReader], Definition]] = {
    0x01: type_definition,
    0x02: alias,
    0x04: _extern_declaration,
}
_DEFINITIONS: dict[int, Callable[[BoundedReader], Definition]] = {
    0x72: _labelled("record", _field),
    0x71: _labelled("variant", _case),
    0x70: lambda r: ValueDefinition("list", parts=(_value(r),)),
    0x6F: _tuple,
    0x6E: _names("flags", MAX_FLAGS),
    0x6D: _names("enum", 1 << 31),
    0x6B: lambda r: ValueDefinition("option", parts=(_value(r),)),
    0x6A: lambda r: ValueDefinition("result", parts=(_optional(r), _optional(r))),
    0x69: lambda r: HandleDefinition("own", r.u32()),
    0x68: lambda r: HandleDefinition("borrow", r.u32()),
    0x42: _instance,
    0x41: _component,
    0x40: _func,
    0x3F: _resource,
}
