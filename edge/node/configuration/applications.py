"""`[[application]]` and `[registry."…"]`: what runs here, and from whom."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from edge import config
from edge.application import options
from edge.application.fields import (
    Reader,
    Table,
    Where,
    boolean,
    choice,
    items,
    mapping,
    parsed,
    show,
    string,
)
from edge.application.mounts import application_name, mount
from edge.application.names import kebab, variable_name
from edge.errors import ConfigError
from edge.node.configuration.files import Files
from edge.node.configuration.values import Readers, apart, given, reference, section, together
from edge.registry.reference import Reference
from edge.spin.store_settings import secret

__all__ = ["application", "registry", "registry_name"]


def application(files: Files) -> Reader[config.ApplicationEntry]:
    readers: Readers = {
        "reference": reference,
        "path": files.application,
        "mount": mount,
        "variables": mapping(secret, parsed(variable_name)),
        "variables_files": mapping(files.file, parsed(variable_name)),
        "variables_credentials": mapping(files.credential, parsed(variable_name)),
        "component": mapping(options.given, parsed(kebab)),
    }

    def read(value: object, where: Where) -> config.ApplicationEntry:
        with Table(value, where) as table:
            found = given(table, readers)
            name = table.needed("name", parsed(application_name), "")
        if "component" in found:
            found["options"] = found.pop("component")
        _one_source(table)
        _each_once(found, where)
        return config.ApplicationEntry(name, **found)

    return read


def _one_source(table: Table) -> None:
    apart(table, "reference", "path")
    if "reference" not in table and "path" not in table:
        raise table.where.error(
            'missing key "reference"', 'or "path", for an application on this machine'
        )


def _each_once(found: Mapping[str, Any], where: Where) -> None:
    seen: dict[str, str] = {}
    for kind in ("variables", "variables_files", "variables_credentials"):
        for name in found.get(kind) or ():
            if name in seen:
                raise where.key(kind).key(name).error(f"has a value in {seen[name]} already")
            seen[name] = kind


def registry(files: Files) -> Reader[config.Registry]:
    """Without its name, which is that of its table."""
    readers: Readers = {
        "insecure": boolean,
        "ca_file": files.authority,
        "username": string,
        "password": secret,
        "password_file": files.secret_file,
        "signatures": choice("required", "warn", "off"),
        "keys": items(files.key),
    }

    def finish(table: Table, found: dict[str, Any]) -> None:
        apart(table, "password", "password_file")
        together(table, "username", "password" if "password" in table else "password_file")
        files.holds_secret |= "password" in found
        if found.get("insecure") and "ca_file" in found:
            raise table.where.error("insecure and ca_file exclude each other")
        signed = found.get("signatures", "off") != "off"
        if signed and not found.get("keys"):
            raise table.where.key("keys").error("missing: whose signatures count")
        if not signed and found.get("keys"):
            files.note(table.where.key("keys"), 'not used: signatures is "off"')

    return section(partial(config.Registry, ""), readers, finish)


def registry_name(value: object, where: Where) -> str:
    """A registry, or a repository of one and what is below it."""
    text = string(value, where)
    try:
        if "/" in text:
            found = Reference.parse(text)
            if found.tag is None and found.digest is None:
                return found.name
        else:
            return Reference.parse(f"{text}/x").registry
    except ConfigError:
        pass
    raise where.error(
        f"{show(text)} is not a registry", 'write it like [registry."registry.example:5000"]'
    )
