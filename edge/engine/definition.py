"""A component binary as parsed: its definitions in order, references still indices.

Plain values. Sorts are spelled as in the text format: "func", "type", "instance", "core func", …
Source: the component model's `Binary.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edge.engine.plan import Encoding

ValueRef = int | str  # a type index, or the name of a primitive type


@dataclass(frozen=True, slots=True)
class Target:
    """An item of an index space."""

    sort: str
    index: int


@dataclass(frozen=True, slots=True)
class Extern:
    """What an import or export is declared to be.

    `kind` is "core module", "func", "component", "instance", "resource" or "type"; `index` that of
    its type, with "type" of the type it equals; a resource has none.
    """

    kind: str
    index: int = 0


@dataclass(frozen=True, slots=True)
class ModuleDefinition:
    """A core module; the part of the file it takes."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class CoreInstantiation:
    """A core instance of a module; arguments name core instances."""

    module: int
    arguments: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class CoreBundle:
    """A core instance put together from items."""

    exports: tuple[tuple[str, Target], ...]


@dataclass(frozen=True, slots=True)
class ComponentDefinition:
    """A component, the outermost one or nested."""

    definitions: tuple[Definition, ...]


@dataclass(frozen=True, slots=True)
class Instantiation:
    """An instance of a component."""

    component: int
    arguments: tuple[tuple[str, Target], ...]


@dataclass(frozen=True, slots=True)
class Bundle:
    """An instance put together from items."""

    exports: tuple[tuple[str, Target], ...]


@dataclass(frozen=True, slots=True)
class ExportAlias:
    """An item of an instance, or of a core instance where the sort is a core one."""

    sort: str
    instance: int
    name: str


@dataclass(frozen=True, slots=True)
class OuterAlias:
    """An item of an enclosing scope."""

    sort: str
    count: int
    index: int


@dataclass(frozen=True, slots=True)
class ValueDefinition:
    """A value type; what labels and parts mean depends on the kind ("record", "list", …)."""

    kind: str
    labels: tuple[str, ...] = ()
    parts: tuple[ValueRef | None, ...] = ()


@dataclass(frozen=True, slots=True)
class HandleDefinition:
    """An owned or borrowed handle of a resource type."""

    kind: Literal["own", "borrow"]
    resource: int


@dataclass(frozen=True, slots=True)
class FuncDefinition:
    """A function type."""

    params: tuple[tuple[str, ValueRef], ...]
    result: ValueRef | None


@dataclass(frozen=True, slots=True)
class ResourceDefinition:
    """A resource type of this component; its representation is an i32."""

    destructor: int | None


@dataclass(frozen=True, slots=True)
class InstanceDefinition:
    """An instance type."""

    definitions: tuple[Definition, ...]


@dataclass(frozen=True, slots=True)
class ComponentTypeDefinition:
    """A component type: read over, since no component is ever imported."""


@dataclass(frozen=True, slots=True)
class Canonical:
    """Canonical options; items are indices."""

    encoding: Encoding = "utf8"
    memory: int | None = None
    realloc: int | None = None
    post_return: int | None = None


@dataclass(frozen=True, slots=True)
class LiftDefinition:
    """`canon lift`."""

    core: int
    options: Canonical
    type: int


@dataclass(frozen=True, slots=True)
class LowerDefinition:
    """`canon lower`."""

    func: int
    options: Canonical


@dataclass(frozen=True, slots=True)
class ResourceFunction:
    """`canon resource.new`, `resource.drop` or `resource.rep`."""

    kind: Literal["new", "drop", "rep"]
    resource: int


@dataclass(frozen=True, slots=True)
class Import:
    """An import of a component; in an instance type, what an instance of it exports."""

    name: str
    extern: Extern


@dataclass(frozen=True, slots=True)
class Export:
    """An export; with `extern` it is seen as that from then on."""

    name: str
    target: Target
    extern: Extern | None


Definition = (
    ModuleDefinition
    | CoreInstantiation
    | CoreBundle
    | ComponentDefinition
    | Instantiation
    | Bundle
    | ExportAlias
    | OuterAlias
    | ValueDefinition
    | HandleDefinition
    | FuncDefinition
    | ResourceDefinition
    | InstanceDefinition
    | ComponentTypeDefinition
    | LiftDefinition
    | LowerDefinition
    | ResourceFunction
    | Import
    | Export
)
