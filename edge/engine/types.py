"""The component model's value and function types, and their layout in a 32-bit memory.

Values only: knows neither binaries nor guests. Source: the component model's `CanonicalABI.md`
(alignment, element size, flattening).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

MAX_FLAT_PARAMS = 16
MAX_FLAT_RESULTS = 1

CoreType = Literal["i32", "i64", "f32", "f64"]
CoreSignature = tuple[tuple[CoreType, ...], tuple[CoreType, ...]]  # parameters, results
Direction = Literal["lift", "lower"]


@dataclass(frozen=True, slots=True)
class Primitive:
    """A type without parts: bool, the integers and floats, char, string."""

    name: str


@dataclass(frozen=True, slots=True)
class List:
    """A sequence of any length."""

    element: Type


@dataclass(frozen=True, slots=True)
class Record:
    """Named fields, at least one."""

    fields: tuple[tuple[str, Type], ...]


@dataclass(frozen=True, slots=True)
class Tuple:
    """Fields without names, at least one."""

    elements: tuple[Type, ...]


@dataclass(frozen=True, slots=True)
class Variant:
    """One of several cases, each with or without a payload."""

    cases: tuple[tuple[str, Type | None], ...]


@dataclass(frozen=True, slots=True)
class Enum:
    """One of several names."""

    cases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Option:
    """A payload or nothing."""

    payload: Type


@dataclass(frozen=True, slots=True)
class Result:
    """Success or failure, each with or without a payload."""

    ok: Type | None
    err: Type | None


@dataclass(frozen=True, slots=True)
class Flags:
    """A set of up to 32 names."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ImportedResource:
    """A resource type of the host: the interface's track (see `track`) and the name in it."""

    interface: str
    name: str


@dataclass(frozen=True, slots=True)
class DefinedResource:
    """A resource type that a guest defines: an index into `Plan.resources`."""

    id: int


Resource = ImportedResource | DefinedResource


@dataclass(frozen=True, slots=True)
class Own:
    """A handle that owns its resource."""

    resource: Resource


@dataclass(frozen=True, slots=True)
class Borrow:
    """A handle lent for the duration of one call."""

    resource: Resource


Type = Primitive | List | Record | Tuple | Variant | Enum | Option | Result | Flags | Own | Borrow


@dataclass(frozen=True, slots=True)
class Func:
    """A function's type. Several named results do not exist here: the loader refuses them."""

    params: tuple[tuple[str, Type], ...]
    result: Type | None


PRIMITIVES: dict[str, tuple[int, CoreType]] = {  # name -> (size in bytes, core type)
    "bool": (1, "i32"),
    "s8": (1, "i32"),
    "u8": (1, "i32"),
    "s16": (2, "i32"),
    "u16": (2, "i32"),
    "s32": (4, "i32"),
    "u32": (4, "i32"),
    "s64": (8, "i64"),
    "u64": (8, "i64"),
    "f32": (4, "f32"),
    "f64": (8, "f64"),
    "char": (4, "i32"),
    "string": (8, "i32"),
}

_VERSION = re.compile(r"(?P<name>[^@]*)@(?P<major>\d+)\.(?P<minor>\d+)\.\d+(\+[0-9A-Za-z.-]+)?")


def track(name: str) -> str:
    """The name of an interface with its version reduced to what is compatible.

    `wasi:io/streams@0.2.6` → `wasi:io/streams@0.2`, `a:b/c@1.3.0` → `a:b/c@1`. A patch release of
    0.0 and a prerelease stand for themselves; a name without a version, or with a track already,
    stays.
    """
    match = _VERSION.fullmatch(name)
    if match is None:
        return name
    major, minor = match["major"], match["minor"]
    if major != "0":
        return f"{match['name']}@{major}"
    return f"{match['name']}@0.{minor}" if minor != "0" else name


def same_func(a: Func, b: Func) -> bool:
    """Whether two functions take and give the same types; the names of parameters do not count."""
    return a.result == b.result and [t for _, t in a.params] == [t for _, t in b.params]


def size(type_: Type) -> int:
    """Bytes a value takes in memory, its own padding included."""
    return layout(type_)[0]


def align(type_: Type) -> int:
    """The alignment of a value in memory, in bytes."""
    return layout(type_)[1]


def layout(type_: Type) -> tuple[int, int]:
    """Size and alignment of a value in memory, in bytes."""
    match type_:
        case Primitive("string"):
            return 8, 4
        case Primitive(name):
            return PRIMITIVES[name][0], PRIMITIVES[name][0]
        case List():
            return 8, 4
        case Own() | Borrow():
            return 4, 4
        case Flags(names):
            width = flags_size(len(names))
            return width, width
        case Record() | Tuple():
            return _record_layout(_parts(type_))
        case _:
            return _variant_layout(cases(type_))


def flags_size(count: int) -> int:
    """Bytes of a bit set of so many names (at most 32)."""
    return 1 if count <= 8 else 2 if count <= 16 else 4


def discriminant_size(count: int) -> int:
    """Bytes of the number that says which of so many cases a variant is."""
    return 1 if count <= 1 << 8 else 2 if count <= 1 << 16 else 4


def cases(type_: Type) -> tuple[Type | None, ...]:
    """The payloads of a variant, or of what the ABI treats as one: enum, option, result."""
    match type_:
        case Variant(named):
            return tuple(payload for _, payload in named)
        case Enum(names):
            return (None,) * len(names)
        case Option(payload):
            return None, payload
        case Result(ok, err):
            return ok, err
    raise TypeError(f"{type_} has no cases")


def flatten(type_: Type) -> tuple[CoreType, ...]:
    """The core values that a value becomes when it is passed without memory."""
    match type_:
        case Primitive("string") | List():
            return "i32", "i32"
        case Primitive(name):
            return (PRIMITIVES[name][1],)
        case Own() | Borrow() | Flags():
            return ("i32",)
        case Record() | Tuple():
            return tuple(core for part in _parts(type_) for core in flatten(part))
        case _:
            return ("i32", *_join(flatten(p) for p in cases(type_) if p is not None))


def flat_count(type_: Type) -> int:
    """How many core values `flatten` gives, without making them."""
    match type_:
        case Primitive("string") | List():
            return 2
        case Primitive() | Own() | Borrow() | Flags():
            return 1
        case Record() | Tuple():
            return sum(map(flat_count, _parts(type_)))
        case _:
            return 1 + max(flat_count(p) if p is not None else 0 for p in cases(type_))


def core_signature(func: Func, direction: Direction) -> CoreSignature:
    """Parameters and results of the core function behind a lifted or lowered function."""
    params: tuple[CoreType, ...] = ("i32",)
    results: tuple[CoreType, ...] = ()
    if not spills_params(func):
        params = tuple(core for _, type_ in func.params for core in flatten(type_))
    if spills_result(func):
        return (params, ("i32",)) if direction == "lift" else ((*params, "i32"), ())
    if func.result is not None:
        results = flatten(func.result)
    return params, results


def spills_params(func: Func) -> bool:
    """Whether the parameters are too many to pass without memory."""
    return sum(flat_count(type_) for _, type_ in func.params) > MAX_FLAT_PARAMS


def spills_result(func: Func) -> bool:
    """Whether the result is too large to pass without memory."""
    return func.result is not None and flat_count(func.result) > MAX_FLAT_RESULTS


def has_pointers(type_: Type) -> bool:
    """Whether a value keeps parts elsewhere in memory: a string or a list is in it."""
    match type_:
        case Primitive(name):
            return name == "string"
        case List():
            return True
        case Record() | Tuple():
            return any(map(has_pointers, _parts(type_)))
        case Own() | Borrow() | Flags():
            return False
        case _:
            return any(p is not None and has_pointers(p) for p in cases(type_))


def spell(type_: Type) -> str:
    """A type as WIT writes it; what WIT can only name (a record, a variant, …) with its parts."""
    match type_:
        case Primitive(name):
            return name
        case List(element):
            return f"list<{spell(element)}>"
        case Option(payload):
            return f"option<{spell(payload)}>"
        case Tuple(elements):
            return f"tuple<{', '.join(map(spell, elements))}>"
        case Result(ok, err):
            return f"result<{_payload(ok)}, {_payload(err)}>"
        case Record(fields):
            return f"record {{{', '.join(f'{name}: {spell(t)}' for name, t in fields)}}}"
        case Variant(named):
            return f"variant {{{', '.join(_case(*case) for case in named)}}}"
        case Enum(names) | Flags(names):
            return f"{type(type_).__name__.lower()} {{{', '.join(names)}}}"
        case Own(resource) | Borrow(resource):
            return f"{type(type_).__name__.lower()}<{_resource(resource)}>"


def spell_func(func: Func) -> str:
    """A function type as WIT writes it."""
    params = ", ".join(f"{name}: {spell(type_)}" for name, type_ in func.params)
    return f"func({params})" + (f" -> {spell(func.result)}" if func.result is not None else "")


def _payload(type_: Type | None) -> str:
    return "_" if type_ is None else spell(type_)


def _case(name: str, payload: Type | None) -> str:
    return name if payload is None else f"{name}({spell(payload)})"


def _resource(resource: Resource) -> str:
    if isinstance(resource, DefinedResource):
        return f"resource {resource.id}"
    return f"{resource.interface}.{resource.name}"


def _parts(type_: Record | Tuple) -> tuple[Type, ...]:
    if isinstance(type_, Tuple):
        return type_.elements
    return tuple(field for _, field in type_.fields)


def _aligned(offset: int, alignment: int) -> int:
    return (offset + alignment - 1) & -alignment


def _record_layout(parts: Iterable[Type]) -> tuple[int, int]:
    offset, alignment = 0, 1
    for part in parts:
        part_size, part_align = layout(part)
        offset = _aligned(offset, part_align) + part_size
        alignment = max(alignment, part_align)
    return _aligned(offset, alignment), alignment


def _variant_layout(payloads: tuple[Type | None, ...]) -> tuple[int, int]:
    tag = discriminant_size(len(payloads))
    layouts = [layout(payload) for payload in payloads if payload is not None]
    payload_size = max((s for s, _ in layouts), default=0)
    payload_align = max((a for _, a in layouts), default=1)
    alignment = max(tag, payload_align)
    return _aligned(_aligned(tag, payload_align) + payload_size, alignment), alignment


def _join(payloads: Iterable[tuple[CoreType, ...]]) -> list[CoreType]:
    joined: list[CoreType] = []
    for payload in payloads:
        for index, core in enumerate(payload):
            if index == len(joined):
                joined.append(core)
            elif joined[index] != core:
                joined[index] = "i32" if {joined[index], core} == {"i32", "f32"} else "i64"
    return joined
