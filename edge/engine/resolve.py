"""Makes types of their definitions, within limits of size and depth.

Equal types are made once: a component that writes a type ten thousand times costs one, and a
comparison ends at the first parts that differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edge.engine.definition import (
    FuncDefinition,
    HandleDefinition,
    ValueDefinition,
    ValueRef,
)
from edge.engine.scope import FuncType, Scope, ValueType
from edge.engine.types import (
    PRIMITIVES,
    Borrow,
    Enum,
    Flags,
    Func,
    List,
    Option,
    Own,
    Primitive,
    Record,
    Result,
    Tuple,
    Type,
    Variant,
)
from edge.errors import ComponentError

# A type is written out as a tree by whoever converts its values. WASI's largest has 130 nodes.
MAX_WEIGHT = 10_000
MAX_DEPTH = 100

_PRIMITIVES = {name: ValueType(Primitive(name)) for name in PRIMITIVES}

_MAKERS: Mapping[str, Callable[[tuple[str, ...], tuple[Any, ...]], Type]] = {
    "list": lambda _, parts: List(parts[0]),
    "record": lambda labels, parts: Record(tuple(zip(labels, parts, strict=True))),
    "tuple": lambda _, parts: Tuple(parts),
    "variant": lambda labels, parts: Variant(tuple(zip(labels, parts, strict=True))),
    "enum": lambda labels, _: Enum(labels),
    "flags": lambda labels, _: Flags(labels),
    "option": lambda _, parts: Option(parts[0]),
    "result": lambda _, parts: Result(*parts),
}


class Resolver:
    """The types of one binary."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        # kind, labels and the identities of the parts -> the type; it keeps the parts alive
        self._known: dict[tuple[object, ...], ValueType] = {}

    def value(self, scope: Scope, definition: ValueDefinition) -> ValueType:
        if definition.kind == "primitive":
            return _PRIMITIVES[definition.labels[0]]
        parts = tuple([self._part(scope, part) for part in definition.parts])
        key = (definition.kind, definition.labels, *map(id, parts))
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = _value(definition, parts)
        return known

    def handle(self, scope: Scope, definition: HandleDefinition) -> ValueType:
        resource = scope.resource(definition.resource)
        key = (definition.kind, resource)
        known = self._known.get(key)
        if known is None:
            borrows = definition.kind == "borrow"
            made = Borrow(resource) if borrows else Own(resource)
            known = self._known[key] = ValueType(made, borrows=borrows)
        return known

    def func(self, scope: Scope, definition: FuncDefinition) -> FuncType:
        params = [(name, self._required(scope, ref)) for name, ref in definition.params]
        result = self._part(scope, definition.result)
        if result is not None and result.borrows:
            raise ComponentError("malformed component: the result of a function holds a borrow")
        weight = sum(value.weight for _, value in params) + (result.weight if result else 0)
        types = tuple((name, value.type) for name, value in params)
        return FuncType(Func(types, result.type if result else None), weight)

    def _part(self, scope: Scope, ref: ValueRef | None) -> ValueType | None:
        return None if ref is None else self._required(scope, ref)

    def _required(self, scope: Scope, ref: ValueRef) -> ValueType:
        return _PRIMITIVES[ref] if isinstance(ref, str) else scope.get("type", ref, ValueType)


def _value(definition: ValueDefinition, parts: tuple[ValueType | None, ...]) -> ValueType:
    present = [part for part in parts if part is not None]
    weight = 1 + len(definition.labels) + sum(part.weight for part in present)
    depth = 1 + max((part.depth for part in present), default=0)
    if weight > MAX_WEIGHT or depth > MAX_DEPTH:
        raise ComponentError("unsupported component: a type is too large or nested too deeply")
    types = tuple(part.type if part else None for part in parts)
    made = _MAKERS[definition.kind](definition.labels, types)
    return ValueType(made, weight, depth, any(part.borrows for part in present))
