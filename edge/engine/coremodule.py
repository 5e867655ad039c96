"""What the loader must know of a core module: the types of its imports and exports.

Reads neither code nor data; wasmtime validates those when it compiles the module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from edge.engine.binary import Reader
from edge.engine.coretypes import (
    CoreExtern,
    CoreFunc,
    CoreGlobal,
    CoreMemory,
    CoreTable,
    CoreTag,
    extern,
    func_type,
    global_type,
    kind,
    memory_type,
    table_type,
    tag_type,
    type_at,
)
from edge.errors import ComponentError

T = TypeVar("T")

MAGIC = b"\0asm\x01\0\0\0"
CUSTOM, TYPE, IMPORT, FUNCTION, TABLE, MEMORY, GLOBAL, EXPORT, START, ELEMENT, CODE = range(11)
TAG = 13

_END = 0x0B
_CONSTANTS: dict[int, Callable[[Reader], object]] = {  # instruction -> reads its immediate
    0x23: Reader.u32,  # global.get
    0x41: Reader.s33,  # i32.const
    0x42: lambda r: r.signed(64),  # i64.const
    0x43: lambda r: r.skip(4),  # f32.const
    0x44: lambda r: r.skip(8),  # f64.const
    0xD0: Reader.s33,  # ref.null
    0xD2: Reader.u32,  # ref.func
    0xFD: lambda r: r.skip(17),
    **dict.fromkeys((0x6A, 0x6B, 0x6C, 0x7C, 0x7D, 0x7E), lambda _: None),  # add, sub, mul
}


@dataclass(frozen=True, slots=True)
class CoreImport:
    """One import of a core module."""

    module: str
    name: str
    type: CoreExtern


@dataclass(slots=True)
class CoreModule:
    """A core module's outline."""

    binary: bytes
    sections: dict[int, tuple[int, int]] = field(default_factory=dict)  # code -> start, end
    types: tuple[CoreFunc, ...] = ()
    imports: tuple[CoreImport, ...] = ()
    memories: int = 0  # its own, not those it imports
    exports: dict[str, tuple[str, int]] = field(default_factory=dict)  # name -> kind, index
    _spaces: dict[str, tuple[CoreExtern, ...]] = field(default_factory=dict)

    def overhead(self, table_elements: int) -> int:
        """Bytes that an instance takes of the host beside its memories, at most.

        `table_elements`: the limit of each table.
        """
        functions, globals_ = (
            reader.count() if (reader := self.section(code)) else 0 for code in (FUNCTION, GLOBAL)
        )
        tables = sum(
            min(table.limits.maximum or table_elements, table_elements) for table in self.tables
        )
        # What wasmtime's VMContext has for each, if every function can be referred to.
        return 64 * len(self.imports) + 32 * functions + 16 * globals_ + 8 * tables

    @property
    def tables(self) -> tuple[CoreTable, ...]:
        """Its own tables, not those it imports."""
        return self.items(TABLE, _table)

    def section(self, code: int) -> Reader | None:
        """A reader over a section, which is not a custom one."""
        return Reader(self.binary, *self.sections[code]) if code in self.sections else None

    def items(self, code: int, item: Callable[[Reader], T]) -> tuple[T, ...]:
        """What a section holds: nothing if it is absent."""
        section = self.section(code)
        if section is None:
            return ()
        items = section.vector(item)
        section.finish(f"section {code}")
        return items

    def export_type(self, name: str) -> CoreExtern | None:
        """The type of an export, None where there is none of that name."""
        if name not in self.exports:
            return None
        return self.type_of(*self.exports[name])

    def type_of(self, what: str, index: int) -> CoreExtern:
        """The type of an item of an index space, which is read when it is first needed."""
        if what not in self._spaces:
            self._spaces[what] = _space(self, what)
        space = self._spaces[what]
        if index >= len(space):
            raise ComponentError(f"malformed core module: no {what} has index {index}")
        return space[index]


def parse_module(binary: bytes) -> CoreModule:
    """The outline of a core module; `binary` begins with the preamble."""
    reader = Reader(binary)
    if reader.bytes(len(MAGIC)) != MAGIC:
        raise reader.error("not a core module")
    module = CoreModule(binary)
    _split(reader, module.sections)
    module.types = module.items(TYPE, func_type)
    module.imports = module.items(IMPORT, lambda r: _import(r, module.types))
    module.memories = len(module.items(MEMORY, memory_type))
    for name, item in module.items(EXPORT, _export):
        if name in module.exports:
            raise ComponentError(f"malformed core module: two exports are named {name!r}")
        module.exports[name] = item
    return module


def _split(reader: Reader, sections: dict[int, tuple[int, int]]) -> None:
    while reader:
        code = reader.u8()
        part = reader.part(reader.u32())
        if code > TAG or code in sections:
            raise reader.error(f"unexpected section {code}")
        if code != CUSTOM:
            sections[code] = part.position, part.end


def _import(reader: Reader, types: tuple[CoreFunc, ...]) -> CoreImport:
    return CoreImport(reader.name(), reader.name(), extern(reader, types))


def _export(reader: Reader) -> tuple[str, tuple[str, int]]:
    return reader.name(), (kind(reader), reader.u32())


def _space(module: CoreModule, what: str) -> tuple[CoreExtern, ...]:
    class_, section, item = _SPACES[what]
    imported = [i.type for i in module.imports if isinstance(i.type, class_)]
    return (*imported, *module.items(section, lambda r: item(r, module.types)))


def _table(reader: Reader) -> CoreTable:
    if reader.peek() != 0x40:  # a table whose elements are given an initial value
        return table_type(reader)
    reader.bytes(2)
    table = table_type(reader)
    _skip_constant(reader)
    return table


def _global(reader: Reader) -> CoreGlobal:
    type_ = global_type(reader)
    _skip_constant(reader)
    return type_


def _skip_constant(reader: Reader) -> None:
    while (instruction := reader.u8()) != _END:
        if instruction not in _CONSTANTS:
            raise ComponentError(
                f"unsupported core module: a constant uses instruction {instruction:#x}"
            )
        _CONSTANTS[instruction](reader)


# kind -> class of its types, section that defines items, how one is read
_SPACES: dict[str, tuple[type, int, Callable[[Reader, tuple[CoreFunc, ...]], CoreExtern]]] = {
    "func": (CoreFunc, FUNCTION, lambda reader, types: type_at(types, reader.u32())),
    "table": (CoreTable, TABLE, lambda reader, _: _table(reader)),
    "memory": (CoreMemory, MEMORY, lambda reader, _: memory_type(reader)),
    "global": (CoreGlobal, GLOBAL, lambda reader, _: _global(reader)),
    "tag": (CoreTag, TAG, tag_type),
}
