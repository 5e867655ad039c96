"""Turns a Wasm binary, a component or a core module that was never one, into a plan.

Everything malformed or unsupported ends in a ComponentError that names it. Code is not validated
here: that is wasmtime's part, when it compiles the modules.
"""

from __future__ import annotations

from edge.engine import component
from edge.engine.host import Interface, Interfaces
from edge.engine.link import Linker
from edge.engine.plan import Plan
from edge.errors import ComponentError


def load_plan(binary: bytes, interfaces: Interfaces, exports: tuple[Interface, ...] = ()) -> Plan:
    """The plan of a binary for this host.

    `exports`: interfaces that a core module may export, by its functions' names; a component says
    itself what it exports.
    """
    if binary.startswith(component.MAGIC):
        return Linker(binary, interfaces).link(component.parse_component(binary))
    raise ComponentError("not a Wasm binary")
