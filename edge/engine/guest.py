"""A component made ready: loaded, compiled, linked. What `edge.invocation` instantiates for each
event.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from edge.engine import types as wit
from edge.engine._core import Code, Instance
from edge.engine.cache import CodeCache
from edge.engine.coremodule import parse_module
from edge.engine.coretypes import CoreFunc
from edge.engine.host import CoreFunction, HostFunction, Interface, Interfaces
from edge.engine.loader import load_plan
from edge.engine.plan import (
    CoreHost,
    GuestCall,
    HostCall,
    InstanceExport,
    Missing,
    Plan,
    ResourceDrop,
    Trampoline,
)
from edge.engine.plans import PlanCache
from edge.engine.pool import TABLE_ELEMENTS
from edge.engine.renewal import exposed
from edge.errors import ComponentError

# What the engine holds for an instance, apart from memories: no limit of a component counts it.
# A guest in Python takes 1 MiB.
MAX_OVERHEAD = 8 << 20

# Bytes. Reading a component takes up to 10 ms for each MiB, and seconds where it means to; the loop
# serves others meanwhile. Smaller: a thread for what takes no time.
LARGE = 1 << 20

CoreSignature = tuple[tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Component:
    """A named Wasm binary, ready to run. `digest`: sha256 of the binary, hex."""

    code: Code
    digest: str

    @property
    def exports(self) -> dict[str, int]:
        """Name ("wasi:http/incoming-handler@0.2.0#handle") → number for `Instance.call`."""
        exports: dict[str, int] = self.code.plan.exports
        return exports

    def instantiate(self, context: Any, memory: int) -> Instance:
        """A fresh instance. `context` goes to host functions; `memory`: bytes, of all memories
        together.

        Raises Trap when the guest's start fails, MemoryError when there is no room for it.
        """
        return Instance.create(self.code, context, memory)


async def load(
    binary: bytes,
    name: str,
    interfaces: Interfaces,
    cache: CodeCache,
    exports: tuple[Interface, ...] = (),
    progress: Callable[[str], None] | None = None,
    plans: PlanCache | None = None,
) -> Component:
    """Loads a component, or a core module that was never componentised.

    `exports`: interfaces that core modules may export. `plans`: of this host. Raises ComponentError
    when the binary is malformed or needs what this host does not do.
    """

    def prepared() -> tuple[str, Plan, bool]:
        digest = hashlib.sha256(binary).hexdigest()
        if plans and (known := plans.get(digest, binary)):
            return digest, known, True
        return digest, named_plan(binary, name, interfaces, exports), False

    digest, plan, known = await asyncio.to_thread(prepared) if len(binary) > LARGE else prepared()
    report = {} if progress is None else {"progress": progress}
    modules = await cache.modules(exposed(plan), name, **report)
    try:
        code = Code(plan, modules, Bindings(plan, interfaces))
    except ValueError as exc:
        raise ComponentError(f"{name}: {exc}") from exc
    if plans and not known:
        await asyncio.to_thread(plans.put, digest, binary, plan)
    return Component(code, digest)


def named_plan(
    binary: bytes, name: str, interfaces: Interfaces, exports: tuple[Interface, ...] = ()
) -> Plan:
    """`load_plan`, whose errors then say which component it was."""
    try:
        return load_plan(binary, interfaces, exports)
    except ComponentError as exc:
        exc.message = f"{name}: {exc.message}"
        raise


class Bindings:
    """What a host gives to one plan: the functions behind its trampolines and their core types."""

    def __init__(self, plan: Plan, interfaces: Interfaces) -> None:
        self._plan = plan
        self._interfaces = interfaces
        self._modules = [parse_module(wasm) for wasm in plan.modules]
        self._imported = dict(self._imported_types())
        modules = [self._modules[instance.module] for instance in plan.instances]
        self.memories = sum(module.memories for module in modules)
        self.tables = sum(len(module.tables) for module in modules)
        overhead = sum(module.overhead(TABLE_ELEMENTS) for module in modules)
        if overhead > MAX_OVERHEAD:
            raise ComponentError(
                f"unsupported component: it takes {overhead >> 20} MiB beside its memories",
                hint=f"{MAX_OVERHEAD >> 20} MiB of tables, globals and functions are the most",
            )

    @property
    def memory(self) -> InstanceExport | None:
        """The memory of a module that was never componentised."""
        exported = "memory" in self._modules[self._plan.instances[0].module].exports
        return InstanceExport(0, "memory") if exported else None

    def function(self, call: HostCall) -> HostFunction:
        interface = self._interfaces.find(call.interface or "$root")
        if interface is None:
            raise ComponentError(f"this host has no {call.interface}")
        return interface.functions[call.name]

    def core_function(self, call: CoreHost) -> CoreFunction:
        interface = self._interfaces.core(call.module)
        if interface is None:
            raise ComponentError(f"this host has no {call.module}")
        return interface.functions[call.name]

    def drop(self, resource: wit.ImportedResource) -> Callable[[Any], None] | None:
        """What to call when the last handle of a host's resource goes; None: nothing."""
        return getattr(self._interfaces.resource(resource), "drop", None)

    def import_names(self, module: int) -> list[tuple[str, str]]:
        return [(item.module, item.name) for item in self._modules[module].imports]

    def core_type(self, number: int) -> CoreSignature:
        """Parameters and results of the core function behind a trampoline."""
        match self._plan.trampolines[number]:
            case HostCall(func=func):
                return wit.core_signature(func, "lower")
            case GuestCall(lift=lift):
                return wit.core_signature(self._plan.lifts[lift].func, "lower")
            case ResourceDrop():
                return ("i32",), ()
            case CoreHost() | Missing():
                return self._imported.get(number, ((), ()))  # or nobody imports it
            case _:
                return ("i32",), ("i32",)

    def _imported_types(self) -> Iterator[tuple[int, CoreSignature]]:
        """What importing modules say of the trampolines they import."""
        for instance in self._plan.instances:
            imports = self._modules[instance.module].imports
            for item, declared in zip(instance.imports, imports, strict=True):
                if isinstance(item, Trampoline) and isinstance(declared.type, CoreFunc):
                    yield item.index, (declared.type.params, declared.type.results)
