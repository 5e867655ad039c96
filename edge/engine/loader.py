"""Turns a Wasm binary, a component or a core module that was never one, into a plan.

Everything malformed or unsupported ends in a ComponentError that names it. Code is not validated
here: that is wasmtime's part, when it compiles the modules.
"""

from __future__ import annotations

import re

from edge.engine import component, coremodule
from edge.engine.bare import plan_module
from edge.engine.direct import link_directly
from edge.engine.host import Interface, Interfaces
from edge.engine.link import Linker
from edge.engine.plan import Plan
from edge.engine.renewal import with_globals
from edge.errors import ComponentError

# WASI 0.3 is made of asynchronous functions and streams, so most of it does not even parse here.
_NEXT_WASI = re.compile(rb"wasi:[a-z]+/[a-z-]+@0\.3\b")
_NEXT_HTTP = re.compile(r"wasi:http/[a-z-]+@0\.3\b")
MAX_MESSAGE = 1_000  # characters

_HINT = "build it for WASI 0.2"


def load_plan(binary: bytes, interfaces: Interfaces, exports: tuple[Interface, ...] = ()) -> Plan:
    """The plan of a binary for this host.

    `exports`: interfaces that a core module may export, by its functions' names; a component says
    itself what it exports.
    """
    try:
        if binary.startswith(component.MAGIC):
            return with_globals(_load_component(binary, interfaces))
        if binary.startswith(coremodule.MAGIC):
            return with_globals(plan_module(binary, interfaces, exports))
    except ComponentError as exc:
        if len(exc.message) <= MAX_MESSAGE:
            raise
        # Names come from the binary and may be as long as it.
        raise ComponentError(f"{exc.message[:MAX_MESSAGE]}…", hint=exc.hint) from None
    if binary[:1_000].lstrip().startswith((b"(module", b"(component")):
        raise ComponentError("not a Wasm binary: it is text", hint="run `wasm-tools parse` on it")
    raise ComponentError("not a Wasm binary, or one of an unknown version")


def _load_component(binary: bytes, interfaces: Interfaces) -> Plan:
    try:
        linker = Linker(binary, interfaces)
        plan = linker.link(component.parse_component(binary))
    except ComponentError as exc:
        if found := _NEXT_WASI.search(binary):
            message = f"{exc.message}; it speaks {found[0].decode()}"
            raise ComponentError(message, hint=_HINT) from exc
        raise
    for name in (*plan.imports, *plan.exports):
        if _NEXT_HTTP.match(name):
            raise ComponentError(f"unsupported component: it needs {name}", hint=_HINT)
    return link_directly(plan, linker.modules, linker.core_type)
