"""Evaluates what components and instance types have in common: types, aliases, imports.

An import is matched against what satisfies it: the host for the outermost component, the arguments
for a nested one. An instance type is evaluated anew for each instance it is matched with, so its
abstract resources become that instance's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from edge.engine.definition import (
    ComponentTypeDefinition,
    Definition,
    ExportAlias,
    Extern,
    FuncDefinition,
    HandleDefinition,
    Import,
    InstanceDefinition,
    OuterAlias,
    ValueDefinition,
)
from edge.engine.resolve import Resolver
from edge.engine.scope import (
    SORTS,
    Callee,
    ComponentType,
    FuncType,
    Imported,
    Instance,
    InstanceType,
    Scope,
    ValueType,
)
from edge.engine.sorts import unsupported
from edge.engine.types import (
    DefinedResource,
    ImportedResource,
    Resource,
    same_func,
    spell_func,
    track,
)
from edge.errors import ComponentError

MAX_DEPTH = 32  # instantiations and instance types within each other
# Definitions evaluated, and type nodes of functions lifted or lowered: bounds the time that loading
# takes. A Spin application in Python needs 17,000.
MAX_STEPS = 500_000
SCOPE_STEPS = 20  # what an instance costs, in definitions

WORLD = "$root"  # the name that stands for the world where an interface's is needed


class Supply(Protocol):
    """What satisfies imports, or what an export is compared with."""

    def func(self, name: str, type_: FuncType) -> Callee: ...

    def same(self, name: str, type_: object) -> None: ...

    def resource(self, name: str) -> Resource: ...

    def instance(self, name: str) -> Supply: ...


@dataclass(frozen=True, slots=True)
class Hosted:
    """The host: whatever is asked for is there until somebody calls it."""

    interface: str | None
    seen: set[str]

    def func(self, name: str, type_: FuncType) -> Callee:
        return Imported(type_, self.interface, name)

    def same(self, name: str, type_: object) -> None:
        """Compared where a function that uses it is."""

    def resource(self, name: str) -> Resource:
        return ImportedResource(track(self.interface or WORLD), name)

    def instance(self, name: str) -> Supply:
        if self.interface is not None:
            raise unsupported("an instance within an imported interface")
        self.seen.add(name)
        return Hosted(name, self.seen)


@dataclass(frozen=True, slots=True)
class Given:
    """Items of this binary: arguments of an instantiation, exports of an instance."""

    items: Mapping[str, Any]

    def func(self, name: str, type_: FuncType) -> Callee:
        found: Callee = self._get(name, "function", Callee)
        if not same_func(found.type.func, type_.func):
            raise ComponentError(
                f"malformed component: {name!r} is a {spell_func(found.type.func)}"
                f" where a {spell_func(type_.func)} is expected"
            )
        return found

    def same(self, name: str, type_: object) -> None:
        if not _same_type(self.items.get(name), type_):
            raise ComponentError(f"malformed component: {name!r} is not the type it should be")

    def resource(self, name: str) -> Resource:
        found: Resource = self._get(name, "resource", ImportedResource, DefinedResource)
        return found

    def instance(self, name: str) -> Supply:
        return Given(self._get(name, "instance", Instance).exports)

    def _get(self, name: str, what: str, *kinds: type) -> Any:
        found = self.items.get(name)
        if not isinstance(found, kinds):
            raise ComponentError(f"malformed component: no {what} is given as {name!r}")
        return found


class Evaluator:
    """Evaluates definitions in a scope. Knows those that may stand in an instance type."""

    def __init__(self) -> None:
        self._resolver = Resolver()
        self._steps = MAX_STEPS
        self._depth = 0
        self.declarations: dict[type, Callable[[Scope, Any], None]] = {
            ValueDefinition: self._value,
            HandleDefinition: self._handle,
            FuncDefinition: self._func,
            InstanceDefinition: self._instance_type,
            ComponentTypeDefinition: self._component_type,
            ExportAlias: self._export_alias,
            OuterAlias: self._outer_alias,
            Import: self._declaration,
        }

    def evaluate(
        self,
        scope: Scope,
        definitions: tuple[Definition, ...],
        handlers: Mapping[type, Callable[[Scope, Any], None]],
    ) -> None:
        self.spend(SCOPE_STEPS + len(definitions))
        with self._deeper():
            for definition in definitions:
                handler = handlers.get(type(definition))
                if handler is None:
                    raise ComponentError("malformed component: a definition is out of place")
                handler(scope, definition)

    def spend(self, steps: int) -> None:
        self._steps -= steps
        if self._steps < 0:
            raise ComponentError("unsupported component: it is too large")

    def admit(self, scope: Scope, name: str, extern: Extern, supply: Supply) -> Any:
        """What an import or export comes to, seen as it is declared."""
        match extern.kind:
            case "func":
                func = scope.get("type", extern.index, FuncType)
                self.spend(func.weight)
                return supply.func(name, func)
            case "type":
                type_ = scope.item("type", extern.index)
                self.spend(type_.weight if isinstance(type_, FuncType) else 1)
                supply.same(name, type_)
                return type_
            case "resource":
                return supply.resource(name)
            case "instance":
                expected = scope.get("type", extern.index, InstanceType)
                return self._conform(expected, supply.instance(name))
            case kind:
                raise unsupported(f"an imported or typed {kind} ({name!r})")

    def _conform(self, expected: InstanceType, supply: Supply) -> Instance:
        scope = Scope(parent=expected.scope, supply=supply)
        self.evaluate(scope, expected.definition.definitions, self.declarations)
        return Instance(scope.exports)

    def admit_import(self, scope: Scope, definition: Import) -> Any:
        """Takes what a scope imports into its index space."""
        extern = definition.extern
        item = self.admit(scope, definition.name, extern, scope.supply)
        scope.add("type" if extern.kind == "resource" else extern.kind, item)
        return item

    def _declaration(self, scope: Scope, definition: Import) -> None:
        scope.export(definition.name, self.admit_import(scope, definition))

    def _value(self, scope: Scope, definition: ValueDefinition) -> None:
        scope.add("type", self._resolver.value(scope, definition))

    def _handle(self, scope: Scope, definition: HandleDefinition) -> None:
        scope.add("type", self._resolver.handle(scope, definition))

    def _func(self, scope: Scope, definition: FuncDefinition) -> None:
        scope.add("type", self._resolver.func(scope, definition))

    def _instance_type(self, scope: Scope, definition: InstanceDefinition) -> None:
        scope.add("type", InstanceType(definition, scope))

    def _component_type(self, scope: Scope, _: ComponentTypeDefinition) -> None:
        scope.add("type", ComponentType())

    def _outer_alias(self, scope: Scope, definition: OuterAlias) -> None:
        if definition.sort not in ("type", "component", "core module"):
            raise ComponentError(f"malformed component: an outer alias of a {definition.sort}")
        scope.add(definition.sort, scope.outer(definition))

    def _export_alias(self, scope: Scope, definition: ExportAlias) -> None:
        sort, name = definition.sort, definition.name
        item = scope.get("instance", definition.instance, Instance).exports.get(name)
        if not isinstance(item, SORTS.get(sort, ())):
            raise ComponentError(f"malformed component: an instance exports no {sort} {name!r}")
        scope.add(sort, item)

    @contextmanager
    def _deeper(self) -> Iterator[None]:
        if self._depth == MAX_DEPTH:
            raise ComponentError("unsupported component: it is nested too deeply")
        self._depth += 1
        yield
        self._depth -= 1


def _same_type(found: object, expected: object) -> bool:
    match found, expected:
        case ValueType(), ValueType():
            return found.type == expected.type
        case FuncType(), FuncType():
            return same_func(found.func, expected.func)
        case ((ImportedResource() | DefinedResource()), _):
            return found == expected
    return found is expected
