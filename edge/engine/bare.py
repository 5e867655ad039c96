"""Plans a core module that was never made a component: its imports carry the component's names.

`wit-bindgen` names a core function after the WIT function (`wasi:http/types@0.2.0`,
`[method]fields.get`), so the host's declarations say how to call it. Preview 1 is plain core
functions. What the host does not have traps when it is called.
"""

from __future__ import annotations

from edge.engine import canonical
from edge.engine.coremodule import CoreImport, CoreModule, parse_module
from edge.engine.coretypes import ANY_MEMORY, CoreExtern, CoreFunc
from edge.engine.evaluate import WORLD
from edge.engine.host import CoreFunction, Interface, Interfaces
from edge.engine.plan import (
    AnyTrampoline,
    CoreHost,
    CoreInstance,
    HostCall,
    InstanceExport,
    Lift,
    Missing,
    Options,
    Plan,
    ResourceDrop,
    Trampoline,
)
from edge.engine.types import Func, ImportedResource, track
from edge.errors import ComponentError

_DROP = "[resource-drop]"
_REALLOC = ("cabi_realloc", "canonical_abi_realloc")  # the second in wit-bindgen before 0.3
_NUMBERS = {"i": "i32", "I": "i64"}
_NOTHING = CoreFunc((), ())


def plan_module(binary: bytes, interfaces: Interfaces, exports: tuple[Interface, ...]) -> Plan:
    """The plan of a core module. `exports`: interfaces whose functions it may export."""
    module = parse_module(binary)
    options = _options(module)
    trampolines = tuple([_trampoline(item, interfaces, options) for item in module.imports])
    lifts = _lifts(module, {interface.name: interface for interface in exports}, options)
    imports = tuple(Trampoline(index) for index in range(len(trampolines)))
    return Plan(
        modules=(binary,),
        instances=(CoreInstance(0, imports),),
        trampolines=trampolines,
        lifts=tuple(lifts.values()),
        resources=(),
        exports={name: index for index, name in enumerate(lifts)},
        components=1,
        imports=frozenset(item.module for item in module.imports),
        initialize=(_export(module, "_initialize", _NOTHING),)
        if "_initialize" in module.exports
        else (),
    )


def _options(module: CoreModule) -> Options:
    memory = _export(module, "memory", ANY_MEMORY) if "memory" in module.exports else None
    realloc = next((name for name in _REALLOC if name in module.exports), None)
    if memory is None or realloc is None:
        return Options(memory)
    return Options(memory, _export(module, realloc, canonical.REALLOC))


def _export(module: CoreModule, name: str, expected: CoreExtern) -> InstanceExport:
    canonical.check_core(module.export_type(name), expected, f"the export {name!r}")
    return InstanceExport(0, name)


def _trampoline(item: CoreImport, interfaces: Interfaces, options: Options) -> AnyTrampoline:
    if not isinstance(item.type, CoreFunc):
        raise ComponentError(
            f"unsupported core module: it imports {item.module!r} {item.name!r}, {item.type}",
            hint="only functions can be imported",
        )
    if core := interfaces.core(item.module):
        return _core_host(item, core.functions.get(item.name))
    if interface := interfaces.find(item.module):
        return _host(item, interface, options)
    return Missing(item.module, item.name)


def _core_host(item: CoreImport, function: CoreFunction | None) -> AnyTrampoline:
    if function is None:
        return Missing(item.module, item.name)
    offered = CoreFunc(_core_types(function.params), _core_types(function.results))
    canonical.check_core(item.type, offered, f"the import {item.name!r}")
    return CoreHost(item.module, item.name)


def _core_types(letters: str) -> tuple[str, ...]:
    return tuple(_NUMBERS[letter] for letter in letters)


def _host(item: CoreImport, interface: Interface, options: Options) -> AnyTrampoline:
    what = f"the import {item.module}#{item.name}"
    if item.name.startswith(_DROP):
        resource = interface.declaration.types.get(item.name.removeprefix(_DROP))
        if isinstance(resource, ImportedResource):
            canonical.check_core(item.type, canonical.RESOURCE_FUNCTIONS["drop"], what)
            return ResourceDrop(resource, component=0)
    function = interface.functions.get(item.name)
    if function is None:
        return Missing(item.module, item.name)
    canonical.check_core(item.type, canonical.core_func(function.type, "lower"), what)
    canonical.check_options(function.type, options, "lower", what)
    name = None if item.module == WORLD else item.module
    return HostCall(name, item.name, function.type, options, component=0)


def _lifts(
    module: CoreModule, interfaces: dict[str, Interface], options: Options
) -> dict[str, Lift]:
    """The exports that can be called, by name."""
    lifts: dict[str, Lift] = {}
    for name, (kind, _) in module.exports.items():
        func = _exported_type(name, interfaces) if kind == "func" else None
        if func is not None:
            lifts[name] = _lift(module, name, func, options)
    return lifts


def _exported_type(name: str, interfaces: dict[str, Interface]) -> Func | None:
    if name == "_start":
        return Func((), None)
    interface, _, function = name.rpartition("#")
    known = interfaces.get(track(interface or WORLD))
    declared = known.declaration.functions.get(function) if known else None
    return declared.type if declared else None


def _lift(module: CoreModule, name: str, func: Func, options: Options) -> Lift:
    core = _export(module, name, canonical.core_func(func, "lift"))
    post_return = f"cabi_post_{name}"
    freed = None
    if post_return in module.exports:
        freed = _export(module, post_return, canonical.post_return(func))
    options = Options(options.memory, options.realloc, freed)
    canonical.check_options(func, options, "lift", f"the export {name!r}")
    return Lift(core, func, options, component=0)
