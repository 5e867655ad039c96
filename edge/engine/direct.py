"""Removes the detours of `wit-component` from a plan: imports lead to their functions directly.

A component made of one real module then imports functions of the host only, so all of it that can
be prepared is prepared once. A guest can tell by one thing: a function that its start calls works,
where it would trap while the table was still empty.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from edge.engine.coremodule import START, CoreModule
from edge.engine.coretypes import CoreExtern
from edge.engine.plan import (
    CoreItem,
    GuestCall,
    HostCall,
    InstanceExport,
    Options,
    Plan,
    Trampoline,
)
from edge.engine.shim import Shim, read_fixup, read_shim, read_start

Outlines = Sequence[CoreModule]  # of `Plan.modules`
CoreTypeOf = Callable[[CoreItem], CoreExtern | None]
Late = Callable[[InstanceExport], InstanceExport]


@dataclass(frozen=True, slots=True)
class _Knot:
    """A shim's instance, that of the one fixup that fills it, and what its functions stand for.

    `start`: the import that the fixup calls in the end.
    """

    shim: int
    fixup: int
    start: int | None
    targets: Mapping[InstanceExport, CoreItem]


def link_directly(plan: Plan, outlines: Outlines, core_type: CoreTypeOf) -> Plan:
    """The same plan without those shims and fixups that nothing needs any more."""
    knots = {knot.fixup: knot for knot in _knots(plan, outlines, core_type)}
    targets = {old: new for knot in knots.values() for old, new in knot.targets.items()}
    plan = _rewired(plan, targets)
    unused, calls = _unused(plan, outlines, knots)
    return _without(replace(plan, initialize=tuple(calls)), unused)


def _knots(plan: Plan, outlines: Outlines, core_type: CoreTypeOf) -> Iterator[_Knot]:
    uses = Counter(item for instance in plan.instances for item in instance.imports)
    shims: dict[int, Shim] = {}
    for index, instance in enumerate(plan.instances):
        if shim := read_shim(outlines[instance.module]):
            shims[index] = shim
        elif fixup := read_fixup(outlines[instance.module]):
            table = instance.imports[fixup.table]
            if not isinstance(table, InstanceExport) or uses[table] != 1:
                continue
            shim = shims.get(table.instance)
            if shim and shim.table == table.name and len(fixup.functions) <= shim.size:
                filled = [instance.imports[number] for number in fixup.functions]
                targets = _targets(table.instance, shim, filled, core_type)
                yield _Knot(table.instance, index, fixup.start, targets)


def _targets(
    index: int, shim: Shim, filled: Sequence[CoreItem], core_type: CoreTypeOf
) -> dict[InstanceExport, CoreItem]:
    """What each function of the shim calls. One of another type than its target would trap."""
    pairs = [
        (InstanceExport(index, name), filled[slot])
        for name, slot in shim.slots.items()
        if slot < len(filled)
    ]
    return {old: new for old, new in pairs if core_type(old) == core_type(new)}


def _rewired(plan: Plan, targets: Mapping[InstanceExport, CoreItem]) -> Plan:
    def wire(importer: int, item: CoreItem) -> CoreItem:
        target = targets.get(item, item) if isinstance(item, InstanceExport) else item
        # A module can only import from instances that exist before it.
        early = isinstance(target, Trampoline) or target.instance < importer
        return target if early else item

    def late(item: InstanceExport) -> InstanceExport:
        target = targets.get(item, item)
        return target if isinstance(target, InstanceExport) else item

    return _rewritten(plan, wire, late) if targets else plan


def _unused(
    plan: Plan, outlines: Outlines, knots: Mapping[int, _Knot]
) -> tuple[set[int], list[InstanceExport]]:
    """Instances that can go, and what to call in their stead when all the others exist.

    A function may be called at the end if no code of the guest would run between now and then.
    """
    idle = _idle(plan, outlines, knots)
    unused: set[int] = set()
    calls: list[InstanceExport] = []
    runs = False
    for index in reversed(range(len(plan.instances))):
        instance = plan.instances[index]
        drops, start = idle.get(index, (set(), None))
        called = None if start is None else instance.imports[start]
        if START not in outlines[instance.module].sections:
            unused |= drops
        elif isinstance(called, InstanceExport) and not runs:
            unused |= drops
            calls.insert(0, called)
        else:
            runs = True
    return unused, calls


def _idle(
    plan: Plan, outlines: Outlines, knots: Mapping[int, _Knot]
) -> dict[int, tuple[set[int], int | None]]:
    """Instances that do nothing but to start: what goes with them, and the import they call."""
    used = set(_used_instances(plan, knots))
    idle: dict[int, tuple[set[int], int | None]] = {}
    for index, instance in enumerate(plan.instances):
        knot, start = knots.get(index), read_start(outlines[instance.module])
        if start is not None:
            idle[index] = {index}, start
        elif knot and knot.shim not in used:
            idle[index] = {knot.shim, index}, knot.start
    return idle


def _used_instances(plan: Plan, knots: Mapping[int, _Knot]) -> Iterator[int]:
    """Instances that something refers to, apart from what a fixup fills its table with."""
    for index, instance in enumerate(plan.instances):
        imports: tuple[CoreItem, ...] = instance.imports
        if index in knots:
            start = knots[index].start
            imports = () if start is None else (imports[start],)
        yield from (item.instance for item in imports if isinstance(item, InstanceExport))
    yield from (item.instance for item in _late_items(plan))


def _late_items(plan: Plan) -> Iterator[InstanceExport]:
    """What is looked up when a function is called."""
    lowered = [t.options for t in plan.trampolines if isinstance(t, HostCall | GuestCall)]
    for options in (*lowered, *[lift.options for lift in plan.lifts]):
        yield from filter(None, (options.memory, options.realloc, options.post_return))
    yield from (lift.core for lift in plan.lifts)
    yield from filter(None, (resource.destructor for resource in plan.resources))


def _without(plan: Plan, unused: set[int]) -> Plan:
    """The plan without some instances, to which nothing that is left refers."""
    if not unused:
        return plan
    kept = [index for index in range(len(plan.instances)) if index not in unused]
    used = sorted({plan.instances[index].module for index in kept})
    modules = {old: new for new, old in enumerate(used)}
    instances = {old: new for new, old in enumerate(kept)}

    def late(item: InstanceExport) -> InstanceExport:
        return InstanceExport(instances[item.instance], item.name)

    def wire(_: int, item: CoreItem) -> CoreItem:
        return late(item) if isinstance(item, InstanceExport) else item

    left = [plan.instances[index] for index in kept]
    left = [replace(instance, module=modules[instance.module]) for instance in left]
    outlived = replace(
        plan, modules=tuple(plan.modules[old] for old in used), instances=tuple(left)
    )
    return _rewritten(outlived, wire, late)


def _rewritten(plan: Plan, wire: Callable[[int, CoreItem], CoreItem], late: Late) -> Plan:
    """`wire` maps what an instance imports (with the instance's index), `late` everything else."""

    def maybe(item: InstanceExport | None) -> InstanceExport | None:
        return None if item is None else late(item)

    def options(old: Options) -> Options:
        items = maybe(old.memory), maybe(old.realloc), maybe(old.post_return)
        return Options(*items, old.encoding)

    return replace(
        plan,
        instances=tuple(
            replace(instance, imports=tuple([wire(index, item) for item in instance.imports]))
            for index, instance in enumerate(plan.instances)
        ),
        trampolines=tuple(
            replace(t, options=options(t.options)) if isinstance(t, HostCall | GuestCall) else t
            for t in plan.trampolines
        ),
        lifts=tuple(
            replace(lift, core=late(lift.core), options=options(lift.options))
            for lift in plan.lifts
        ),
        resources=tuple(
            replace(resource, destructor=maybe(resource.destructor)) for resource in plan.resources
        ),
        initialize=tuple(map(late, plan.initialize)),
    )
