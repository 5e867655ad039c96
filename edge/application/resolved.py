"""An application with the values of its variables: what each component gets and may reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge.application.hosts import AllowedHosts
from edge.application.model import Application, Component
from edge.application.templates import resolve
from edge.errors import ConfigError

__all__ = ["Resolved", "resolve_components"]


@dataclass(frozen=True, slots=True)
class Resolved:
    """The part of a component that depends on variables."""

    variables: Mapping[str, str]
    hosts: AllowedHosts


def resolve_components(
    application: Application, given: Mapping[str, str]
) -> Mapping[str, Resolved]:
    """Every component by its id. `given` are values for the application's variables.

    A missing or unknown variable, or a host that is none with its value, is a ConfigError.
    """
    values = resolve(application.variables, given)
    ids = tuple(application.components)
    return {id: _resolved(c, values, ids) for id, c in application.components.items()}


def _resolved(component: Component, values: Mapping[str, str], ids: tuple[str, ...]) -> Resolved:
    try:
        hosts = AllowedHosts.parse(
            component.allowed_outbound_hosts, variables=values, components=ids
        )
    except ValueError as error:
        raise ConfigError(f"component {component.id}: allowed_outbound_hosts: {error}") from None
    return Resolved({n: t.render(values) for n, t in component.variables.items()}, hosts)
