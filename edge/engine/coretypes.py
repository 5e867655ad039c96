"""The types of what core modules import and export: how they are written, which satisfies which.

Source: WebAssembly's core specification, binary format of types and import matching.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edge.engine.binary import Reader
from edge.errors import ComponentError

KINDS = ("func", "table", "memory", "global", "tag")

_NUMBERS = {0x7F: "i32", 0x7E: "i64", 0x7D: "f32", 0x7C: "f64", 0x7B: "v128"}
_NULLABLE, _NOT_NULL = 0x63, 0x64
_HEAP_TYPES = range(0x69, 0x75)  # one-byte reference types, `funcref` (0x70) among them
_GARBAGE_COLLECTED = (0x4E, 0x4F, 0x50, 0x5E, 0x5F)
_MEMORY_FLAGS = {0x2: "shared memory (threads)", 0x4: "memory64", 0x8: "custom page sizes"}


@dataclass(frozen=True, slots=True)
class CoreFunc:
    """A function. Numbers are spelled by name, references by their code."""

    params: tuple[str, ...]
    results: tuple[str, ...]

    def __str__(self) -> str:
        return f"a function ({', '.join(self.params)}) -> ({', '.join(self.results)})"


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of a table in elements, or of a memory in pages of 64 KiB."""

    minimum: int
    maximum: int | None = None

    def __str__(self) -> str:
        return f"{self.minimum}..{'' if self.maximum is None else self.maximum}"

    def within(self, other: Limits) -> bool:
        if self.minimum < other.minimum:
            return False
        return other.maximum is None or (self.maximum is not None and self.maximum <= other.maximum)


@dataclass(frozen=True, slots=True)
class CoreTable:
    """A table of references."""

    element: str
    limits: Limits

    def __str__(self) -> str:
        return f"a table of {self.limits} {self.element}"


@dataclass(frozen=True, slots=True)
class CoreMemory:
    """A memory of 32-bit addresses."""

    limits: Limits

    def __str__(self) -> str:
        return f"a memory of {self.limits} pages"


@dataclass(frozen=True, slots=True)
class CoreGlobal:
    """A global variable."""

    type: str
    mutable: int

    def __str__(self) -> str:
        return f"a global {'mut ' if self.mutable else ''}{self.type}"


@dataclass(frozen=True, slots=True)
class CoreTag:
    """An exception's tag."""

    type: CoreFunc

    def __str__(self) -> str:
        return f"a tag {self.type}"


CoreExtern = CoreFunc | CoreTable | CoreMemory | CoreGlobal | CoreTag
ANY_MEMORY = CoreMemory(Limits(0))


def satisfies(found: CoreExtern | None, wanted: CoreExtern) -> bool:
    """Whether an item of the first type can be imported as one of the second."""
    match found, wanted:
        case CoreMemory(), CoreMemory():
            return found.limits.within(wanted.limits)
        case CoreTable(), CoreTable():
            return found.element == wanted.element and found.limits.within(wanted.limits)
    return found == wanted


def value_type(reader: Reader) -> str:
    code = reader.u8()
    if code in _NUMBERS:
        return _NUMBERS[code]
    if code in (_NULLABLE, _NOT_NULL):
        heap = reader.s33()
        if heap >= 0:
            raise ComponentError("unsupported core module: it uses typed function references")
        # (ref null func) and funcref are one type
        return f"ref {heap & 0x7F:#x}" + (" not null" if code == _NOT_NULL else "")
    if code in _HEAP_TYPES:
        return f"ref {code:#x}"
    raise reader.error(f"unknown value type {code:#x}")


def func_type(reader: Reader) -> CoreFunc:
    """An entry of a type section."""
    form = reader.u8()
    if form in _GARBAGE_COLLECTED:
        raise ComponentError("unsupported core module: it uses garbage-collected types")
    if form != 0x60:
        raise reader.error(f"unknown type form {form:#x}")
    params = reader.vector(value_type)
    return CoreFunc(params, reader.vector(value_type))


def type_at(types: tuple[CoreFunc, ...], index: int) -> CoreFunc:
    if index >= len(types):
        raise ComponentError("malformed core module: a type index is out of bounds")
    return types[index]


def kind(reader: Reader) -> str:
    code = reader.u8()
    if code >= len(KINDS):
        raise reader.error(f"unknown kind {code}")
    return KINDS[code]


def extern(reader: Reader, types: tuple[CoreFunc, ...]) -> CoreExtern:
    """What an import is declared to be."""
    what = kind(reader)
    if what == "func":
        return type_at(types, reader.u32())
    if what == "tag":
        return tag_type(reader, types)
    return _PLAIN[what](reader)


def table_type(reader: Reader) -> CoreTable:
    return CoreTable(value_type(reader), _limits(reader, reader.u8()))


def memory_type(reader: Reader) -> CoreMemory:
    flags = reader.u8()
    for bit, name in _MEMORY_FLAGS.items():
        if flags & bit:
            raise ComponentError(f"unsupported core module: it uses {name}")
    return CoreMemory(_limits(reader, flags))


def global_type(reader: Reader) -> CoreGlobal:
    return CoreGlobal(value_type(reader), reader.u8())


def tag_type(reader: Reader, types: tuple[CoreFunc, ...]) -> CoreTag:
    reader.expect(0x00, "an exception's tag")
    return CoreTag(type_at(types, reader.u32()))


_PLAIN: dict[str, Callable[[Reader], CoreExtern]] = {
    "table": table_type,
    "memory": memory_type,
    "global": global_type,
}


def _limits(reader: Reader, flags: int) -> Limits:
    if flags > 1:
        raise reader.error(f"unknown limits {flags:#x}")
    return Limits(reader.u32(), reader.u32() if flags else None)
