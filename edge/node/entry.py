"""An application that somebody wants on a node, as the node API is told of it."""

from __future__ import annotations

from pathlib import Path

from edge import config
from edge.application.fields import Table, Where, mapping, parsed, string
from edge.application.mounts import application_name, mount
from edge.application.names import variable_name
from edge.application.options import given
from edge.registry.reference import Reference

__all__ = ["read_entry"]


def read_entry(value: object, where: Where) -> config.ApplicationEntry:
    """As an [[application]] of edge.toml, from a registry; files have absolute paths. Raises
    ConfigError.
    """
    with Table(value, where) as table:
        reference = table.need("reference", _reference)
        repository = reference.repository.rpartition("/")[2]
        return config.ApplicationEntry(
            table.get("name", parsed(application_name), repository),
            str(reference),
            mount=table.get("mount", mount, config.Mount()),
            variables=table.get("variables", mapping(string, parsed(variable_name)), {}),
            variables_files=table.get("variables_files", mapping(_path, parsed(variable_name)), {}),
            options=table.get("component", mapping(given), {}),
        )


def _reference(value: object, where: Where) -> Reference:
    return Reference.parse(string(value, where))


def _path(value: object, where: Where) -> Path:
    path = Path(string(value, where))
    if not path.is_absolute():
        raise where.error(f"{path}: must be an absolute path")
    return path
