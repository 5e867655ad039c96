"""What a Wasm binary comes to once it is loaded: core modules and how they are wired.

Plain values without behaviour. A plan holds no reference to a host: it names interfaces and
functions; the engine binds them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edge.engine.types import Func, Resource

Encoding = Literal["utf8", "utf16", "latin1+utf16"]


@dataclass(frozen=True, slots=True)
class InstanceExport:
    """An export of a core instance (index into `Plan.instances`)."""

    instance: int
    name: str


@dataclass(frozen=True, slots=True)
class Trampoline:
    """A core function that the engine provides (index into `Plan.trampolines`)."""

    index: int


CoreItem = InstanceExport | Trampoline


@dataclass(frozen=True, slots=True)
class CoreInstance:
    """A module to instantiate; its imports in the order of its import section.

    Instances are created in the order of `Plan.instances`.
    """

    module: int
    imports: tuple[CoreItem, ...]


@dataclass(frozen=True, slots=True)
class Options:
    """The canonical options of one lift or lower.

    Items may belong to core instances created later than the function they serve: look them up
    when it is called.
    """

    memory: InstanceExport | None = None
    realloc: InstanceExport | None = None
    post_return: InstanceExport | None = None
    encoding: Encoding = "utf8"


@dataclass(frozen=True, slots=True)
class HostCall:
    """A host function lowered into a guest.

    `interface` is the import's full name as the binary has it, None for a function that the world
    itself imports; `component` is the component instance whose handles the call uses.
    """

    interface: str | None
    name: str
    func: Func
    options: Options
    component: int


@dataclass(frozen=True, slots=True)
class GuestCall:
    """A function that one component lifts (index into `Plan.lifts`), lowered into another.

    `options` and `component` are the caller's; the lift has the callee's.
    """

    lift: int
    options: Options
    component: int


@dataclass(frozen=True, slots=True)
class ResourceNew:
    """`resource.new`: representation → handle."""

    resource: Resource
    component: int


@dataclass(frozen=True, slots=True)
class ResourceRep:
    """`resource.rep`: handle → representation."""

    resource: Resource
    component: int


@dataclass(frozen=True, slots=True)
class ResourceDrop:
    """`resource.drop`: gives up a handle, owned or borrowed."""

    resource: Resource
    component: int


@dataclass(frozen=True, slots=True)
class CoreHost:
    """A plain core function of the host (preview 1), imported by a core module."""

    module: str
    name: str


@dataclass(frozen=True, slots=True)
class Missing:
    """An import that nobody provides: traps when called. The importing module has its type."""

    module: str
    name: str


AnyTrampoline = HostCall | GuestCall | ResourceNew | ResourceRep | ResourceDrop | CoreHost | Missing


@dataclass(frozen=True, slots=True)
class Lift:
    """A guest function that can be called from outside its component."""

    core: InstanceExport
    func: Func
    options: Options
    component: int


@dataclass(frozen=True, slots=True)
class GuestResource:
    """A resource type that a component instance defines; its representation is an i32."""

    component: int
    destructor: InstanceExport | None


@dataclass(frozen=True, slots=True)
class Plan:
    """A loaded binary. Every index is within bounds, every reference of the kind its place needs.

    `exports` maps `interface#function` (or a world's own `function`) to an index into `lifts`;
    `components` counts the component instances; `imports` names the imported interfaces in full;
    `initialize` are functions (`_initialize`) to call once, in order, when all instances exist.
    `globals`: those that code sets, see edge.engine.renewal; None: it can change more than them and
    the memory.
    """

    modules: tuple[bytes, ...]
    instances: tuple[CoreInstance, ...]
    trampolines: tuple[AnyTrampoline, ...]
    lifts: tuple[Lift, ...]
    resources: tuple[GuestResource, ...]
    exports: dict[str, int]
    components: int
    imports: frozenset[str]
    initialize: tuple[InstanceExport, ...] = ()
    globals: tuple[InstanceExport, ...] | None = None
