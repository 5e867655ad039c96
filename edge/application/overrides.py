"""Options that a node gives to components over, or under, those that their application brings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

from edge.application.fields import did_you_mean
from edge.application.model import Application, Component
from edge.application.options import Options
from edge.errors import ConfigError

__all__ = ["overridden"]

# option -> its value, as `options.given` reads it
Given = Mapping[str, object]


def overridden(
    application: Application, defaults: Given, overrides: Mapping[str, Given]
) -> Application:
    """The application with `overrides` by component, and `defaults` where its own options have
    their default. ConfigError for a component or trigger that it has not.
    """
    for id in overrides:
        _known("component", id, application.components, application.name)
    components = {
        id: _component(application, component, defaults, overrides.get(id, {}))
        for id, component in application.components.items()
    }
    return replace(application, components=components)


def _component(
    application: Application, component: Component, defaults: Given, given: Given
) -> Component:
    found: dict[str, Any] = {**_unset(component.options, defaults), **given}
    if "triggers" in found:
        own = {t.id for t in application.triggers if t.component == component.id}
        for id in found["triggers"]:
            _known("trigger", id, own, f"{application.name}: component {component.id}")
        found["triggers"] = _merged(component.options.triggers, found["triggers"])
    return replace(component, options=replace(component.options, **found)) if found else component


def _unset(options: Options, defaults: Given) -> dict[str, object]:
    plain = {f.name: f.default for f in fields(Options)}
    return {n: v for n, v in defaults.items() if getattr(options, n) == plain[n]}


def _merged(
    own: Mapping[str, Mapping[str, object]], given: Mapping[str, Mapping[str, object]]
) -> dict[str, Mapping[str, object]]:
    return {**own, **{id: {**own.get(id, {}), **table} for id, table in given.items()}}


def _known(kind: str, id: str, known: Iterable[str], where: str) -> None:
    names = sorted(known)
    if id not in names:
        others = f"there is {', '.join(names)}" if names else None
        raise ConfigError(f'{where}: has no {kind} "{id}"', hint=did_you_mean(id, names) or others)
