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

_VERSION = re.compile(r"(?P<name>[^@]*)@(?P<major>\d+)\.(?P<minor>\d+)\.\d+(\+[^@]*)?")


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


def core_signature(
    func: Func, direction: Literal["lift", "lower"]
) -> tuple[tuple[CoreType, ...], tuple[CoreType, ...]]:
    """Parameters and results of the core function behind a lifted or lowered function."""
    params = tuple(core for _, type_ in func.params for core in flatten(type_))
    results = flatten(func.result) if func.result is not None else ()
    if len(params) > MAX_FLAT_PARAMS:
        params = ("i32",)
    if len(results) > MAX_FLAT_RESULTS:
        if direction == "lower":
            return (*params, "i32"), ()
        results = ("i32",)
    return params, results


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
