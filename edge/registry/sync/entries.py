"""Entries of applications as JSON, and what tells one version of an application from another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from edge.application.fields import Reader, Table, Where, mapping, parsed, raw_table, string
from edge.config import ApplicationEntry, Mount
from edge.registry.digest import Digest

__all__ = ["Identity", "entry_reader", "entry_to_json", "fingerprint", "identity"]

_TEXTS: Reader[dict[str, str]] = mapping(string)
_PATHS: Reader[dict[str, Path]] = mapping(parsed(Path))
_OPTIONS: Reader[dict[str, dict[str, object]]] = mapping(raw_table)


class Identity(NamedTuple):
    """The same content may be good with one configuration and fail with another."""

    digest: Digest
    configuration: str


def identity(digest: Digest, entry: ApplicationEntry) -> Identity:
    return Identity(digest, fingerprint(entry))


def fingerprint(entry: ApplicationEntry) -> str:
    """Of all that is configured of an application but where it comes from."""
    told = entry_to_json(replace(entry, reference=None, path=None))
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def entry_to_json(entry: ApplicationEntry) -> dict[str, object]:
    """All but its name, and without what is as by default."""
    mount = {"path": entry.mount.path, "host": entry.mount.host}
    told: dict[str, object] = {
        "reference": entry.reference,
        "path": str(entry.path) if entry.path else None,
        "mount": {key: value for key, value in mount.items() if value is not None},
        "variables": _plain(entry.variables),
        "variables_files": {k: str(path) for k, path in entry.variables_files.items()},
        "variables_credentials": _plain(entry.variables_credentials),
        "options": _plain(entry.options),
    }
    if entry.mount == Mount():
        del told["mount"]
    return {key: value for key, value in told.items() if value}


def _plain(value: object) -> object:
    """Of mappings and sequences of any kind, those that JSON has."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def entry_reader(name: str) -> Reader[ApplicationEntry]:
    def read(value: object, where: Where) -> ApplicationEntry:
        with Table(value, where) as table:
            return ApplicationEntry(
                name,
                table.optional("reference", string),
                table.optional("path", parsed(Path)),
                table.get("mount", _mount, Mount()),
                table.get("variables", _TEXTS, {}),
                table.get("variables_files", _PATHS, {}),
                table.get("variables_credentials", _TEXTS, {}),
                table.get("options", _OPTIONS, {}),
            )

    return read


def _mount(value: object, where: Where) -> Mount:
    with Table(value, where) as table:
        return Mount(table.get("path", string, "/"), table.optional("host", string))
