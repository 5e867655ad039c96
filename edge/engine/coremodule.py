"""What the loader must know of a core module: the types of its imports and exports.

Reads neither code nor data; wasmtime validates those when it compiles the module.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edge.engine.binary import Reader
from edge.errors import ComponentError

MAGIC = b"\0asm\x01\0\0\0"
CUSTOM, TYPE, IMPORT, FUNCTION, TABLE, MEMORY, GLOBAL, EXPORT, START, ELEMENT, CODE = range(11)
LAST_SECTION = 13  # tags

KINDS = ("func", "table", "memory", "global", "tag")
_NUMBERS = {0x7F: "i32", 0x7E: "i64", 0x7D: "f32", 0x7C: "f64", 0x7B: "v128"}
_REFERENCES = range(0x69, 0x75)  # one-byte heap types, `funcref` and `externref` among them
_MEMORY_FLAGS = {0x2: "shared memory (threads)", 0x4: "memory64", 0x8: "custom page sizes"}


@dataclass(frozen=True, slots=True)
class CoreFunc:
    """A core function's type. References are spelled by their heap type, numbers by name."""

    params: tuple[str, ...]
    results: tuple[str, ...]

    def __str__(self) -> str:
        return f"({', '.join(self.params)}) -> ({', '.join(self.results)})"


CoreExtern = CoreFunc | str  # a string is one of KINDS, of which the detail does not matter


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
    imported: tuple[CoreFunc, ...] = ()  # the functions among the imports
    exports: dict[str, tuple[str, int]] = field(default_factory=dict)  # name -> kind, index
    memories: int = 0  # defined, not imported
    functions: tuple[int, ...] | None = None  # type indices, read when first needed

    def section(self, code: int) -> Reader | None:
        """A reader over a section, which is not custom."""
        return Reader(self.binary, *self.sections[code]) if code in self.sections else None

    def export_type(self, name: str) -> CoreExtern | None:
        """The type of an export, None where there is none of that name."""
        kind, index = self.exports.get(name, (None, 0))
        return self.function_type(index) if kind == "func" else kind

    def function_type(self, index: int) -> CoreFunc:
        if index < len(self.imported):
            return self.imported[index]
        if self.functions is None:
            self.functions = self._functions()
        index -= len(self.imported)
        if index >= len(self.functions):
            raise ComponentError("malformed core module: a function index is out of bounds")
        return _type_at(self.types, self.functions[index])

    def _functions(self) -> tuple[int, ...]:
        section = self.section(FUNCTION)
        return section.vector(Reader.u32) if section else ()


def parse_module(binary: bytes) -> CoreModule:
    """The outline of a core module; `binary` begins with the preamble."""
    reader = Reader(binary)
    if reader.bytes(len(MAGIC)) != MAGIC:
        raise reader.error("not a core module")
    module = CoreModule(binary)
    _split(reader, module.sections)
    if section := module.section(TYPE):
        module.types = section.vector(_function_type)
        section.finish("a type section")
    if section := module.section(IMPORT):
        module.imports = section.vector(lambda r: _import(r, module.types))
        section.finish("an import section")
        module.imported = tuple(i.type for i in module.imports if isinstance(i.type, CoreFunc))
    if section := module.section(MEMORY):
        module.memories = len(section.vector(lambda r: _limits(r, memory=True)))
    if section := module.section(EXPORT):
        _exports(section, module.exports)
    return module


def value_type(reader: Reader) -> str:
    code = reader.u8()
    if code in _NUMBERS:
        return _NUMBERS[code]
    if code in (0x63, 0x64):  # ref null, ref
        heap = reader.s33()
        if heap >= 0:
            raise ComponentError("unsupported core module: it uses typed function references")
        return f"ref {code:#x} {heap}"
    if code in _REFERENCES:
        return f"ref {code:#x}"
    raise reader.error(f"unknown value type {code:#x}")


def _split(reader: Reader, sections: dict[int, tuple[int, int]]) -> None:
    while reader:
        code = reader.u8()
        part = reader.part(reader.u32())
        if code > LAST_SECTION or code in sections:
            raise reader.error(f"unexpected section {code}")
        if code != CUSTOM:
            sections[code] = part.position, part.end


def _type_at(types: tuple[CoreFunc, ...], index: int) -> CoreFunc:
    if index >= len(types):
        raise ComponentError("malformed core module: a type index is out of bounds")
    return types[index]


def _function_type(reader: Reader) -> CoreFunc:
    form = reader.u8()
    if form in (0x4E, 0x4F, 0x50, 0x5E, 0x5F):
        raise ComponentError("unsupported core module: it uses garbage-collected types")
    if form != 0x60:
        raise reader.error(f"unknown type form {form:#x}")
    params = reader.vector(value_type)
    return CoreFunc(params, reader.vector(value_type))


def _import(reader: Reader, types: tuple[CoreFunc, ...]) -> CoreImport:
    module, name = reader.name(), reader.name()
    kind = _kind(reader)
    if kind == "func":
        return CoreImport(module, name, _type_at(types, reader.u32()))
    _skip_type(reader, kind)
    return CoreImport(module, name, kind)


def _kind(reader: Reader) -> str:
    code = reader.u8()
    if code >= len(KINDS):
        raise reader.error(f"unknown kind {code}")
    return KINDS[code]


def _skip_type(reader: Reader, kind: str) -> None:
    if kind == "table":
        value_type(reader)
        _limits(reader)
    elif kind == "memory":
        _limits(reader, memory=True)
    elif kind == "global":
        value_type(reader)
        reader.u8()
    else:
        reader.u8()
        reader.u32()


def _limits(reader: Reader, *, memory: bool = False) -> None:
    flags = reader.u8()
    if memory:
        for bit, name in _MEMORY_FLAGS.items():
            if flags & bit:
                raise ComponentError(f"unsupported core module: it uses {name}")
    if flags > 1:
        raise reader.error(f"unknown limits {flags:#x}")
    reader.u32()
    if flags:
        reader.u32()


def _exports(reader: Reader, exports: dict[str, tuple[str, int]]) -> None:
    for _ in range(reader.count()):
        name = reader.name()
        if name in exports:
            raise reader.error(f"two exports are named {name!r}")
        exports[name] = _kind(reader), reader.u32()
    reader.finish("an export section")
