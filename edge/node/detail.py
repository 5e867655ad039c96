"""What an application of this node is made of, for people. JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edge.application.model import HttpTrigger
from edge.invocation.application import LiveApplication
from edge.node.services import show_trigger

__all__ = ["NOTHING", "detail"]

# Of an application that nothing serves.
NOTHING: dict[str, Any] = {"version": None, "description": None, "components": [], "triggers": []}


def detail(live: LiveApplication) -> dict[str, Any]:
    """`triggers`: in the order of their types, HTTP first; `on` is what a person reads."""
    application = live.application
    used = dict.fromkeys(one["component"] for one in _triggers(live) if one["component"])
    return {
        "version": application.version or None,
        "description": application.description or None,
        "components": [
            {"name": id, "description": application.components[id].description or None}
            for id in used
        ],
        "triggers": list(_triggers(live)),
    }


def _triggers(live: LiveApplication) -> Iterator[dict[str, Any]]:
    for trigger in live.application.http:
        yield {
            "type": "http",
            "id": trigger.id,
            "component": trigger.component,
            "on": _route(trigger),
        }
    for kind, declared in live.triggers.items():
        for other in declared.triggers:
            yield {
                "type": kind,
                "id": other.id,
                "component": other.component,
                "on": show_trigger(kind, other),
            }


def _route(trigger: HttpTrigger) -> str:
    return "private" if trigger.route is None else trigger.route.text
