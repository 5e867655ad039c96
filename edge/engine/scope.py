"""What the indices of a component binary stand for once it is linked, and the index spaces.

A component is evaluated, not only checked: types are the concrete ones of this host and of this
instance. So two types are the same when they are equal, whichever way an alias or an import took.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from edge.engine.coremodule import CoreModule
from edge.engine.definition import (
    ComponentDefinition,
    InstanceDefinition,
    ModuleDefinition,
    OuterAlias,
)
from edge.engine.plan import CoreItem, InstanceExport
from edge.engine.types import DefinedResource, Func, ImportedResource, Type
from edge.errors import ComponentError

E = TypeVar("E")


@dataclass(frozen=True, slots=True)
class ValueType:
    """A value type. `weight`: its nodes as a tree; `borrows`: whether a borrow is among them."""

    type: Type
    weight: int = 1
    depth: int = 1
    borrows: bool = False


@dataclass(frozen=True, slots=True)
class FuncType:
    """A function type. `weight`: that of its parameters and result together."""

    func: Func
    weight: int


@dataclass(frozen=True, slots=True)
class InstanceType:
    """An instance type and the scope its outer aliases refer to."""

    definition: InstanceDefinition
    scope: Scope


@dataclass(frozen=True, slots=True)
class ComponentType:
    """A component type; nothing is known of it, since nothing may use it."""


@dataclass(frozen=True, slots=True)
class Callee:
    """A component-level function."""

    type: FuncType


@dataclass(frozen=True, slots=True)
class Imported(Callee):
    """A function that the host is asked for; interface None: the world imports it."""

    interface: str | None
    name: str


@dataclass(frozen=True, slots=True)
class Lifted(Callee):
    """A guest's function, an index into the plan's lifts."""

    lift: int


@dataclass(frozen=True, slots=True)
class Instance:
    """A component-level instance."""

    exports: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Component:
    """A component and the scope its outer aliases refer to."""

    definition: ComponentDefinition
    scope: Scope | None


@dataclass(frozen=True, slots=True)
class CoreExports:
    """A core instance: an index into the plan's instances and the outline of its module."""

    index: int
    module: CoreModule

    def item(self, name: str) -> tuple[str, CoreItem] | None:
        """An item with its sort."""
        kind, _ = self.module.exports.get(name, (None, 0))
        return None if kind is None else (f"core {kind}", InstanceExport(self.index, name))


@dataclass(frozen=True, slots=True)
class CoreItems:
    """A core instance put together from items of others."""

    items: Mapping[str, tuple[str, CoreItem]]

    def item(self, name: str) -> tuple[str, CoreItem] | None:
        return self.items.get(name)


# What each sort's index space holds. Core items (functions, memories, …) are plain `CoreItem`s.
SORTS: Mapping[str, tuple[type, ...]] = {
    "func": (Callee,),
    "type": (
        ValueType,
        FuncType,
        InstanceType,
        ComponentType,
        ImportedResource,
        DefinedResource,
    ),
    "component": (Component,),
    "instance": (Instance,),
    "core module": (ModuleDefinition,),
}


@dataclass(slots=True, eq=False)
class Scope:
    """The index spaces of one component instance, or of one instance type while it is matched."""

    parent: Scope | None = None
    supply: Any = None  # what satisfies its imports, see `edge.engine.evaluate`
    imports: set[str] = field(default_factory=set)
    exports: dict[str, Any] = field(default_factory=dict)
    component: int | None = None  # the plan's number of this component instance, once it has one
    _spaces: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, sort: str, item: object) -> None:
        self._spaces.setdefault(sort, []).append(item)

    def item(self, sort: str, index: int) -> Any:
        space = self._spaces.get(sort, ())
        if index >= len(space):
            raise ComponentError(f"malformed component: no {sort} has index {index}")
        return space[index]

    def get(self, sort: str, index: int, kind: type[E]) -> E:
        item = self.item(sort, index)
        if not isinstance(item, kind):
            found, wanted = _words(type(item)), _words(kind)
            raise ComponentError(
                f"malformed component: {sort} {index} is a {found}, not a {wanted}"
            )
        return item

    def resource(self, index: int) -> ImportedResource | DefinedResource:
        item = self.item("type", index)
        if not isinstance(item, ImportedResource | DefinedResource):
            raise ComponentError(f"malformed component: type {index} is no resource")
        return item

    def outer(self, alias: OuterAlias) -> Any:
        scope: Scope | None = self
        for _ in range(alias.count):
            if scope is None:  # the binary may count to 2^32
                break
            scope = scope.parent
        if scope is None:
            raise ComponentError(f"malformed component: no scope is {alias.count} levels outside")
        return scope.item(alias.sort, alias.index)

    def export(self, name: str, item: object) -> None:
        if name in self.exports:
            raise ComponentError(f"malformed component: two exports are named {name!r}")
        self.exports[name] = item


def _words(kind: type) -> str:
    return "".join(f" {c.lower()}" if c.isupper() else c for c in kind.__name__).strip()
