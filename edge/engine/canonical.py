"""What a canonical lift or lower needs of the core module it connects to.

Source: the component model's `CanonicalABI.md`, "Canonical Definitions".
"""

from __future__ import annotations

from edge.engine.coretypes import CoreExtern, CoreFunc, satisfies
from edge.engine.plan import Options
from edge.engine.types import (
    Direction,
    Func,
    core_signature,
    has_pointers,
    same_func,
    spell_func,
    spills_params,
    spills_result,
)
from edge.errors import ComponentError

REALLOC = CoreFunc(("i32",) * 4, ("i32",))
RESOURCE_FUNCTIONS = {
    "new": CoreFunc(("i32",), ("i32",)),
    "rep": CoreFunc(("i32",), ("i32",)),
    "drop": CoreFunc(("i32",), ()),
}
DESTRUCTOR = RESOURCE_FUNCTIONS["drop"]


def core_func(func: Func, direction: Direction) -> CoreFunc:
    """The core function that stands for a component-level one."""
    return CoreFunc(*core_signature(func, direction))


def post_return(func: Func) -> CoreFunc:
    """The function that frees what a lifted function returned."""
    return CoreFunc(core_signature(func, "lift")[1], ())


def check_core(found: CoreExtern | None, expected: CoreExtern, what: str) -> None:
    """Refuses a core item of another type than its place needs."""
    if not satisfies(found, expected):
        raise ComponentError(f"malformed component: {what} is {found}, not {expected}")


def check_options(func: Func, options: Options, direction: Direction, what: str) -> None:
    """Refuses a function whose values need memory, or allocation, that the options lack."""
    given = any(has_pointers(type_) for _, type_ in func.params)
    taken = func.result is not None and has_pointers(func.result)
    realloc = given or spills_params(func) if direction == "lift" else taken
    memory = realloc or given or taken or spills_params(func) or spills_result(func)
    for needed, option, name in (
        (memory, options.memory, "a memory"),
        (realloc, options.realloc, "a realloc function"),
    ):
        if needed and option is None:
            raise ComponentError(
                f"malformed component: {what} needs {name}, its type is {spell_func(func)}"
            )


def check_host(name: str, wanted: Func, offered: Func) -> None:
    """Refuses an import that the host has with another type."""
    if not same_func(wanted, offered):
        raise ComponentError(
            f"unsupported component: it imports {name} as {spell_func(wanted)},"
            f" the host has {spell_func(offered)}"
        )
