"""The functions by which guests handle events other than HTTP requests, and which one a component
has: the trigger's own, or `wasi:http/incoming-handler`.

Source: Spin's `fermyon:spin/inbound-redis` and the worlds of its MQTT trigger 0.7 and its cron
trigger 2.0, whose handlers are functions of the world itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edge.engine.host import Interface
from edge.engine.plan import Plan
from edge.engine.types import Func, Result, same_func, spell_func
from edge.errors import ComponentError
from edge.invocation.event import Event, Kind

__all__ = ["HANDLERS", "Entry", "Handler", "event_entry"]

# What a component declares says how to call it; for core modules these do.
_WORLD = Interface(
    """interface $root {
      record mqtt-metadata { topic: string }
      record cron-metadata { timestamp: u64 }
      variant error { other(string) }
      handle-message: func(message: list<u8>, metadata: mqtt-metadata) -> result<_, error>;
      handle-cron-event: func(metadata: cron-metadata) -> result<_, error>;
    }""",
    guest=True,
)
_REDIS = Interface(
    """interface fermyon:spin/inbound-redis {
      enum error { success, error }
      handle-message: func(message: list<u8>) -> result<_, error>;
    }""",
    guest=True,
)
HANDLERS = (_WORLD, _REDIS)
"""Interfaces that guests implement: the `exports` of `guest.load`."""

HTTP = "wasi:http/incoming-handler@0.2"


@dataclass(frozen=True, slots=True)
class Handler:
    """A trigger's own handler: what it is called, its type, and the arguments for an event."""

    export: str
    type: Func
    arguments: Callable[[Event], tuple[Any, ...]]


_NATIVE: Mapping[Kind, Handler] = {
    "mqtt": Handler(
        "handle-message",
        _WORLD.declaration.functions["handle-message"].type,
        lambda event: (event.data, (event.subject,)),
    ),
    "redis": Handler(
        "fermyon:spin/inbound-redis#handle-message",
        _REDIS.declaration.functions["handle-message"].type,
        lambda event: (event.data,),
    ),
    "cron": Handler(
        "handle-cron-event",
        _WORLD.declaration.functions["handle-cron-event"].type,
        lambda event: ((int(event.time or 0),),),
    ),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """The number of the function to call; `native` is None for wasi:http."""

    export: int
    native: Handler | None


def event_entry(kind: Kind, component: str, plan: Plan) -> Entry:
    """By what a component handles events of a kind. Raises ComponentError when it cannot."""
    native = _NATIVE[kind]
    number = plan.exports.get(native.export)
    if number is not None:
        _check_type(component, native, plan.lifts[number].func)
        return Entry(number, native)
    http = [n for name, n in plan.exports.items() if name.startswith(HTTP)]
    if len(http) == 1:
        return Entry(http[0], None)
    raise ComponentError(
        f"component {component}: exports {', '.join(plan.exports) or 'nothing'}, "
        f"where {native.export} or {'one ' if http else ''}{HTTP} is needed",
        hint="any wasi:http component can serve a trigger: it gets events as CloudEvents by POST",
    )


def _check_type(component: str, wanted: Handler, found: Func) -> None:
    # What the error is made of is the guest's affair.
    result = found.result
    if isinstance(result, Result) and result.ok is None:
        found_type = Func(found.params, wanted.type.result)
        if same_func(found_type, wanted.type):
            return
    raise ComponentError(
        f"component {component}: exports {wanted.export}: {spell_func(found)}, "
        f"where {spell_func(wanted.type)} is needed"
    )
