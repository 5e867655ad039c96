"""An application that somebody wants on a node, as the node API is told of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TypeVar

from edge import config
from edge.application.fields import Table, Where, mapping, parsed, string
from edge.application.mounts import application_name, mount
from edge.application.names import kebab, variable_name
from edge.application.options import given
from edge.registry.reference import Reference

__all__ = ["read_entry"]

T = TypeVar("T")

_VARIABLE = parsed(variable_name)


def read_entry(
    value: object, where: Where, deployed: Callable[[str], config.ApplicationEntry | None]
) -> config.ApplicationEntry:
    """As an [[application]] of edge.toml, from a registry; files have absolute paths. Raises
    ConfigError.

    `deployed`: an application as it was deployed before; what is not given stays so, and variables
    are added to those it had.
    """
    with Table(value, where) as table:
        reference = table.need("reference", _reference)
        repository = reference.repository.rpartition("/")[2]
        name = table.get("name", parsed(application_name), repository)
        before = deployed(name) or config.ApplicationEntry(name)
        values = table.optional("variables", mapping(string, _VARIABLE)) or {}
        files = table.optional("variables_files", mapping(_path, _VARIABLE)) or {}
        return config.ApplicationEntry(
            name,
            str(reference),
            mount=table.get("mount", mount, before.mount),
            variables=_without(before.variables, files) | values,
            variables_files=_without(before.variables_files, values) | files,
            options=table.get("component", mapping(given, parsed(kebab)), before.options),
        )


def _without(before: Mapping[str, T], others: Collection[str]) -> dict[str, T]:
    return {name: value for name, value in before.items() if name not in others}


def _reference(value: object, where: Where) -> Reference:
    return Reference.parse(string(value, where))


def _path(value: object, where: Where) -> Path:
    path = Path(string(value, where))
    if not path.is_absolute():
        raise where.error(f"{path}: must be an absolute path")
    return path
