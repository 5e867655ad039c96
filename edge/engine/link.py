"""Links a component: instantiates it on paper, nested components and all, into a plan.

Source: the component model's `Binary.md` and `CanonicalABI.md`. Definitions are evaluated in their
order, so at every step it is known which host or guest function a function is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from edge.engine import canonical, plan
from edge.engine.coremodule import CoreImport, CoreModule, parse_module
from edge.engine.coretypes import ANY_MEMORY, CoreExtern, CoreFunc
from edge.engine.definition import (
    Bundle,
    Canonical,
    ComponentDefinition,
    CoreBundle,
    CoreInstantiation,
    Export,
    ExportAlias,
    Import,
    Instantiation,
    LiftDefinition,
    LowerDefinition,
    ModuleDefinition,
    ResourceDefinition,
    ResourceFunction,
    Target,
)
from edge.engine.evaluate import WORLD, Evaluator, Given, Hosted, Supply
from edge.engine.host import Interfaces
from edge.engine.plan import CoreItem, InstanceExport, Options, Trampoline
from edge.engine.scope import (
    SORTS,
    Callee,
    Component,
    CoreExports,
    CoreItems,
    FuncType,
    Imported,
    Instance,
    Lifted,
    Scope,
)
from edge.engine.sorts import CORE_ITEMS, unsupported
from edge.engine.types import DefinedResource, Resource
from edge.errors import ComponentError

T = TypeVar("T")

MAX_INSTANCES = 1_000  # core instances; a guest in Python has 14
MAX_COMPONENTS = 256  # component instances with handles or functions


class Linker(Evaluator):
    """One component being linked; what is collected becomes the plan."""

    def __init__(self, binary: bytes, interfaces: Interfaces) -> None:
        super().__init__()
        self.binary = binary
        self.interfaces = interfaces
        self.modules: list[CoreModule] = []
        self.instances: list[plan.CoreInstance] = []
        self.trampolines: list[plan.AnyTrampoline] = []
        self.lifts: list[plan.Lift] = []
        self.resources: list[plan.GuestResource] = []
        self._trampoline_types: list[CoreFunc] = []
        self._module_indices: dict[ModuleDefinition, int] = {}
        self._components = 0
        self._definitions: dict[type, Callable[[Scope, Any], None]] = {
            **self.declarations,
            Import: self._import,
            ExportAlias: self._alias,
            ModuleDefinition: lambda scope, d: scope.add("core module", d),
            CoreInstantiation: self._core_instantiation,
            CoreBundle: self._core_bundle,
            ComponentDefinition: self._component,
            Instantiation: self._instantiation,
            Bundle: self._bundle,
            ResourceDefinition: self._resource,
            LiftDefinition: self._lift,
            LowerDefinition: self._lower,
            ResourceFunction: self._resource_function,
            Export: self._export,
        }

    def link(self, definition: ComponentDefinition) -> plan.Plan:
        imports: set[str] = set()
        root = self._instantiate(Component(definition, None), Hosted(None, imports))
        return plan.Plan(
            modules=tuple(module.binary for module in self.modules),
            instances=tuple(self.instances),
            trampolines=tuple(self.trampolines),
            lifts=tuple(self.lifts),
            resources=tuple(self.resources),
            exports=_exports(root),
            components=self._components,
            imports=frozenset(imports),
        )

    # components and their instances

    def _instantiate(self, component: Component, supply: Supply) -> Instance:
        scope = Scope(parent=component.scope, supply=supply)
        self.evaluate(scope, component.definition.definitions, self._definitions)
        return Instance(scope.exports)

    def _number(self, scope: Scope) -> int:
        """The component instance's number. One without handles and functions has none."""
        if scope.component is None:
            if self._components == MAX_COMPONENTS:
                raise unsupported(f"more than {MAX_COMPONENTS} component instances")
            scope.component = self._components
            self._components += 1
        return scope.component

    def _import(self, scope: Scope, definition: Import) -> None:
        if definition.name in scope.imports:
            raise _malformed(f"two imports are named {definition.name!r}")
        scope.imports.add(definition.name)
        self.admit_import(scope, definition)

    def _export(self, scope: Scope, definition: Export) -> None:
        name, target = definition.name, definition.target
        item = _item(scope, target)
        if definition.extern is not None:
            item = self.admit(scope, name, definition.extern, Given({name: item}))
        scope.export(name, item)
        scope.add(target.sort, item)

    def _component(self, scope: Scope, definition: ComponentDefinition) -> None:
        scope.add("component", Component(definition, scope))

    def _instantiation(self, scope: Scope, definition: Instantiation) -> None:
        component = scope.get("component", definition.component, Component)
        arguments = _items(scope, definition.arguments)
        scope.add("instance", self._instantiate(component, Given(arguments)))

    def _bundle(self, scope: Scope, definition: Bundle) -> None:
        scope.add("instance", Instance(_items(scope, definition.exports)))

    def _alias(self, scope: Scope, definition: ExportAlias) -> None:
        if definition.sort in CORE_ITEMS:
            scope.add(definition.sort, _core_export(scope, definition))
        else:
            self._export_alias(scope, definition)

    # core instances

    def _core_instantiation(self, scope: Scope, definition: CoreInstantiation) -> None:
        if len(self.instances) == MAX_INSTANCES:
            raise unsupported(f"more than {MAX_INSTANCES} core instances")
        found = scope.get("core module", definition.module, ModuleDefinition)
        index = self._module(found)
        module = self.modules[index]
        self.spend(len(module.imports))
        arguments = _named(
            (name, _core_instance(scope, number)) for name, number in definition.arguments
        )
        imports = tuple([self._core_argument(arguments, wanted) for wanted in module.imports])
        scope.add("core instance", CoreExports(len(self.instances), module))
        self.instances.append(plan.CoreInstance(index, imports))

    def _module(self, definition: ModuleDefinition) -> int:
        if definition not in self._module_indices:
            self._module_indices[definition] = len(self.modules)
            self.modules.append(parse_module(self.binary[definition.start : definition.end]))
        return self._module_indices[definition]

    def _core_argument(self, arguments: Mapping[str, Any], wanted: CoreImport) -> CoreItem:
        instance = arguments.get(wanted.module)
        found = instance.item(wanted.name) if instance else None
        name = f"the import {wanted.module!r} {wanted.name!r} of a core module"
        if found is None:
            raise _malformed(f"{name} is not given")
        item: CoreItem = found[1]
        canonical.check_core(self.core_type(item), wanted.type, name)
        return item

    def _core_bundle(self, scope: Scope, definition: CoreBundle) -> None:
        items = _named(
            (name, (target.sort, self._core_item(scope, target)))
            for name, target in definition.exports
        )
        scope.add("core instance", CoreItems(items))

    def _core_item(self, scope: Scope, target: Target) -> CoreItem:
        if target.sort not in CORE_ITEMS:
            raise _malformed(f"a {target.sort} in a core instance")
        item: CoreItem = scope.item(target.sort, target.index)
        return item

    def core_type(self, item: CoreItem) -> CoreExtern | None:
        if isinstance(item, Trampoline):
            return self._trampoline_types[item.index]
        return self.modules[self.instances[item.instance].module].export_type(item.name)

    # canonical definitions

    def _lift(self, scope: Scope, definition: LiftDefinition) -> None:
        type_ = scope.get("type", definition.type, FuncType)
        self.spend(type_.weight)
        core = self._guest_item(
            scope, "core func", definition.core, canonical.core_func(type_.func, "lift")
        )
        freed = canonical.post_return(type_.func)
        options = self._options(scope, definition.options, freed)
        canonical.check_options(type_.func, options, "lift", f"the export {core.name!r}")
        scope.add("func", Lifted(type_, len(self.lifts)))
        self.lifts.append(plan.Lift(core, type_.func, options, self._number(scope)))

    def _lower(self, scope: Scope, definition: LowerDefinition) -> None:
        callee = scope.get("func", definition.func, Callee)
        self.spend(callee.type.weight)
        func = callee.type.func
        options = self._options(scope, definition.options, None)
        canonical.check_options(func, options, "lower", f"a call of {_name(callee)}")
        trampoline = self._call(callee, options, self._number(scope))
        self._trampoline(scope, trampoline, canonical.core_func(func, "lower"))

    def _call(self, callee: Callee, options: Options, component: int) -> plan.AnyTrampoline:
        if isinstance(callee, Lifted):
            return plan.GuestCall(callee.lift, options, component)
        assert isinstance(callee, Imported)
        interface = self.interfaces.find(callee.interface or WORLD)
        function = interface.functions.get(callee.name) if interface else None
        if function is None:
            return plan.Missing(callee.interface or WORLD, callee.name)
        func = callee.type.func
        canonical.check_host(_name(callee), func, function.type)
        return plan.HostCall(callee.interface, callee.name, func, options, component)

    def _options(self, scope: Scope, given: Canonical, freed: CoreFunc | None) -> Options:
        """`freed`: the type of a post-return function, None where there may be none."""
        if given.realloc is not None and given.memory is None:
            raise _malformed("a realloc function is given without a memory")
        if given.post_return is not None and freed is None:
            raise _malformed("a post-return function is given to a lowered function")
        return Options(
            self._optional_item(scope, "core memory", given.memory, ANY_MEMORY),
            self._optional_item(scope, "core func", given.realloc, canonical.REALLOC),
            self._optional_item(scope, "core func", given.post_return, freed),
            given.encoding,
        )

    def _optional_item(
        self, scope: Scope, sort: str, index: int | None, expected: CoreExtern | None
    ) -> InstanceExport | None:
        if index is None or expected is None:
            return None
        return self._guest_item(scope, sort, index, expected)

    def _guest_item(
        self, scope: Scope, sort: str, index: int, expected: CoreExtern
    ) -> InstanceExport:
        """A core item of a module: what the engine itself provides is not called by the engine."""
        item: CoreItem = scope.item(sort, index)
        if isinstance(item, Trampoline):
            raise unsupported("a canonical function in the place of a module's")
        canonical.check_core(self.core_type(item), expected, f"the export {item.name!r}")
        return item

    def _resource(self, scope: Scope, definition: ResourceDefinition) -> None:
        destructor = self._optional_item(
            scope, "core func", definition.destructor, canonical.DESTRUCTOR
        )
        scope.add("type", DefinedResource(len(self.resources)))
        self.resources.append(plan.GuestResource(self._number(scope), destructor))

    def _resource_function(self, scope: Scope, definition: ResourceFunction) -> None:
        resource = scope.resource(definition.resource)
        component = self._number(scope)
        if definition.kind != "drop" and not self._owns(component, resource):
            raise _malformed(f"resource.{definition.kind} of another component's resource")
        make = _RESOURCE_FUNCTIONS[definition.kind]
        core = canonical.RESOURCE_FUNCTIONS[definition.kind]
        self._trampoline(scope, make(resource, component), core)

    def _owns(self, component: int, resource: Resource) -> bool:
        return (
            isinstance(resource, DefinedResource)
            and self.resources[resource.id].component == component
        )

    def _trampoline(self, scope: Scope, trampoline: plan.AnyTrampoline, type_: CoreFunc) -> None:
        scope.add("core func", Trampoline(len(self.trampolines)))
        self.trampolines.append(trampoline)
        self._trampoline_types.append(type_)


_RESOURCE_FUNCTIONS: Mapping[str, Callable[[Resource, int], plan.AnyTrampoline]] = {
    "new": plan.ResourceNew,
    "rep": plan.ResourceRep,
    "drop": plan.ResourceDrop,
}


def _malformed(message: str) -> ComponentError:
    return ComponentError(f"malformed component: {message}")


def _name(callee: Callee) -> str:
    if not isinstance(callee, Imported):
        return "a component's function"
    return f"{callee.interface}#{callee.name}" if callee.interface else callee.name


def _named(pairs: Iterable[tuple[str, T]]) -> dict[str, T]:
    named: dict[str, T] = {}
    for name, item in pairs:
        if name in named:
            raise _malformed(f"two items are named {name!r}")
        named[name] = item
    return named


def _items(scope: Scope, named: tuple[tuple[str, Target], ...]) -> dict[str, Any]:
    return _named((name, _item(scope, target)) for name, target in named)


def _item(scope: Scope, target: Target) -> Any:
    if target.sort not in SORTS:
        raise _malformed(f"a {target.sort} is no item of a component")
    return scope.item(target.sort, target.index)


def _core_instance(scope: Scope, index: int) -> CoreExports | CoreItems:
    instance: CoreExports | CoreItems = scope.item("core instance", index)
    return instance


def _core_export(scope: Scope, alias: ExportAlias) -> CoreItem:
    found = _core_instance(scope, alias.instance).item(alias.name)
    if found is None or found[0] != alias.sort:
        raise _malformed(f"a core instance exports no {alias.sort} {alias.name!r}")
    return found[1]


def _exports(root: Instance) -> dict[str, int]:
    """Functions under `name` or `interface#name`; what merely passes an import on is left out."""
    functions: list[tuple[str, int]] = []
    for name, item in root.exports.items():
        members = (
            {f"{name}#{n}": i for n, i in item.exports.items()}
            if isinstance(item, Instance)
            else {name: item}
        )
        functions += [(n, i.lift) for n, i in members.items() if isinstance(i, Lifted)]
    return _named(functions)
