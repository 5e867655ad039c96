"""How a host interface is written: its WIT text and the Python functions and classes behind it.

Knows no particular interface. An interface binds by name, kebab case to snake case (a Python
keyword gets a trailing underscore):

    get-stdout                   functions["get-stdout"](context, *arguments)
    [method]input-stream.read    resources["input-stream"].read(object, *arguments)
    [static]fields.from-list     resources["fields"].from_list(context, *arguments), a staticmethod
    [constructor]fields          resources["fields"].new(context, *arguments), a staticmethod

A class of `resources` may have `drop(self)`: called when an owned handle is dropped and, newest
first, for the handles left when the instance ends; it neither raises nor waits. A function that
must wait returns a coroutine.
"""

from __future__ import annotations

import hashlib
import keyword
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edge.engine import wit
from edge.engine.types import Func, ImportedResource, track
from edge.engine.values import Err, GuestHandle, Ok, Some, Trap
from edge.engine.wit import Kind

__all__ = [
    "CoreFunction",
    "CoreInterface",
    "Err",
    "GuestHandle",
    "HostFunction",
    "Interface",
    "Interfaces",
    "Ok",
    "Some",
    "Trap",
]


@dataclass(frozen=True, slots=True)
class HostFunction:
    """A declared function and what runs when a guest calls it."""

    type: Func
    call: Callable[..., Any]
    kind: Kind


class Interface:
    """A host interface: what it declares and what implements it.

    A declared function without an implementation is a TypeError here, at import time. With
    `guest=True` it is an interface that guests implement: nothing stands behind it here.
    """

    __slots__ = ("declaration", "fingerprint", "functions", "name", "resources")

    def __init__(
        self,
        text: str,
        *,
        uses: tuple[Interface, ...] = (),
        functions: Mapping[str, Callable[..., Any]] | None = None,
        resources: Mapping[str, type] | None = None,
        guest: bool = False,
    ) -> None:
        types = {used.name: used.declaration.types for used in uses}
        self.declaration: wit.Declaration = wit.parse(text, types)
        self.name: str = self.declaration.name
        self.resources = dict(resources or {})
        self.functions = {} if guest else self._bind(dict(functions or {}))
        # Of all that a plan can depend on here.
        self.fingerprint: bytes = _digest(
            text.encode(),
            *(used.fingerprint for used in uses),
            repr((guest, sorted(self.resources))).encode(),
        )

    def resource(self, name: str) -> type | None:
        """The class bound to a resource that this interface defines."""
        return self.resources.get(name)

    def _bind(self, functions: dict[str, Callable[..., Any]]) -> dict[str, HostFunction]:
        declared = self.declaration.functions
        unknown = {*functions, *self.resources} - {*declared, *self.declaration.resources}
        if unknown:
            raise TypeError(f"{self.name} does not declare {', '.join(sorted(unknown))}")
        return {
            name: HostFunction(item.type, self._implementation(name, item, functions), item.kind)
            for name, item in declared.items()
        }

    def _implementation(
        self, name: str, item: wit.Declared, functions: dict[str, Callable[..., Any]]
    ) -> Callable[..., Any]:
        if item.resource is None:
            call = functions.get(name)
        else:
            call = getattr(self.resources.get(item.resource), _attribute(name), None)
        if not callable(call):
            raise TypeError(f"{self.name} declares {name}, which nothing implements")
        implementation: Callable[..., Any] = call
        return implementation


@dataclass(frozen=True, slots=True)
class CoreFunction:
    """A plain core function: `call(context, memory, *integers)`, integers unsigned.

    `params` and `results` spell its core type, `i` for an i32 and `I` for an i64.
    """

    params: str
    results: str
    call: Callable[..., int | None]


@dataclass(frozen=True, slots=True)
class CoreInterface:
    """A module of plain core functions, such as preview 1."""

    module: str
    functions: Mapping[str, CoreFunction] = field(default_factory=dict)

    @property
    def fingerprint(self) -> bytes:
        types = sorted((name, f.params, f.results) for name, f in self.functions.items())
        return _digest(repr((self.module, types)).encode())


class Interfaces:
    """What a host offers; asked by the names that binaries use."""

    __slots__ = ("_core", "_interfaces")

    def __init__(self, items: Iterable[Interface | CoreInterface] = ()) -> None:
        self._interfaces: dict[str, Interface] = {}
        self._core: dict[str, CoreInterface] = {}
        for item in items:
            self._add(item)

    def find(self, name: str) -> Interface | None:
        """The interface that serves an import of this name, in any compatible version."""
        return self._interfaces.get(track(name))

    def core(self, module: str) -> CoreInterface | None:
        return self._core.get(module)

    def resource(self, resource: ImportedResource) -> type | None:
        """The class of a host's resource."""
        interface = self.find(resource.interface)
        return interface.resource(resource.name) if interface else None

    @property
    def fingerprint(self) -> bytes:
        """Of all that is declared: a plan made for these interfaces is right while it is equal."""
        every: dict[str, Interface | CoreInterface] = {**self._interfaces, **self._core}
        return _digest(*(every[name].fingerprint for name in sorted(every)))

    def _add(self, item: Interface | CoreInterface) -> None:
        known: set[str] = {*self._interfaces, *self._core}
        name = item.name if isinstance(item, Interface) else item.module
        if name in known:
            raise ValueError(f"two interfaces are named {name}")
        if isinstance(item, Interface):
            self._interfaces[name] = item
        else:
            self._core[name] = item


def _digest(*parts: bytes) -> bytes:
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part).digest())
    return total.digest()


def _attribute(name: str) -> str:
    if name.startswith("[constructor]"):
        return "new"
    snake = name.partition(".")[2].replace("-", "_")
    return f"{snake}_" if keyword.iskeyword(snake) else snake
