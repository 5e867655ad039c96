"""Spin's locked application: JSON in, an `Application` out, or an error that names the place.

It is translated to the form of the application manifest and read by that one's readers, so that
both are as strict; places in errors are those of the locked application. Pure.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from edge.application.fields import (
    Reader,
    Table,
    Where,
    boolean,
    integer,
    items,
    mapping,
    parsed,
    raw_table,
    show,
    string,
)
from edge.application.manifest import read_application
from edge.application.model import Application
from edge.registry.digest import Digest
from edge.registry.manifest import read_json

__all__ = ["MAX_LOCKED", "Locked", "read"]

# A line for each of 100,000 files; it is held in memory as a whole.
MAX_LOCKED = 16 << 20

# The format needs eight levels, what an author writes into a trigger a few more.
_MAX_DEPTH = 64
_VERSIONS = (0, 1)
_UNDERSTOOD = ("host_requirements", "component_host_requirements")
# Spin's `middleware` is a component composed into another one when it starts.
_SUPPORTED = ("local_service_chaining",)
_COMPOSE = "compose them before: `spin registry push` does it without --compose=false"

# Key of a component's metadata -> key of the application manifest.
_GRANTS = {
    "description": "description",
    "allowed_outbound_hosts": "allowed_outbound_hosts",
    "allowed_http_hosts": "allowed_http_hosts",
    "key_value_stores": "key_value_stores",
    "databases": "sqlite_databases",
    "ai_models": "ai_models",
    "build": "build",
}
_ABOUT = ("name", "version", "description", "authors")
# What tools leave in an application's metadata and what says nothing about how to run it.
_IGNORED = ("origin", "profile", "oci_image_digest")

_Raw = dict[str, object]


@dataclass(frozen=True, slots=True)
class Locked:
    """An application whose paths are digests.

    Sources are `PathSource("sha256:…")`, files are placements from "sha256:…" to a path of the
    guest. `inline` is the content that travels within the locked application.
    """

    application: Application
    inline: Mapping[Digest, bytes] = field(default_factory=dict)


def read(data: bytes, name: str = "locked.json") -> Locked:
    """Reads a locked application. `name` is the one in errors, every one a BundleError."""
    return read_json(data, name, _read)


@dataclass(frozen=True, slots=True)
class _Place(Where):
    """A place whose keys and items stand somewhere else than the table that is read says."""

    elsewhere: Mapping[str | int, Where] = field(default_factory=dict)

    @classmethod
    def at(cls, where: Where, elsewhere: Mapping[str | int, Where]) -> _Place:
        return cls(where.file, where.keys, where.mistakes, elsewhere)

    def key(self, name: str) -> Where:
        return self.elsewhere.get(name) or self._here.key(name)

    def item(self, index: int) -> Where:
        return self.elsewhere.get(index) or self._here.item(index)

    @property
    def _here(self) -> Where:
        return Where(self.file, self.keys, self.mistakes)


class _Part(NamedTuple):
    """A trigger or a component in the form of the manifest, and where it stands."""

    id: str
    type: str
    table: _Raw
    where: Where
    notes: tuple[str, ...] = ()


def _read(value: object, where: Where) -> Locked:
    inline: dict[Digest, bytes] = {}
    with Table(_plain(value, where), where) as table:
        table.need("spin_lock_version", _version)
        table.optional("must_understand", items(_understood))
        table.optional("host_requirements", _requirements)
        metadata = table.optional("metadata", raw_table) or {}
        variables = table.optional("variables", mapping(_variable)) or {}
        triggers = table.need("triggers", items(_trigger))
        components = table.need("components", items(_component(inline)))
    _check_ids(components)
    about = where.key("metadata")
    document = {
        "application": _about(metadata, about),
        "variables": variables,
        "trigger": _by_type(triggers),
        "component": {part.id: part.table for part in components},
    }
    place = _place(where, about, triggers, components)
    with Table(document, place) as translated:
        application = read_application(translated)
    if len(application.components) != len(components):
        raise where.key("triggers").error("a component is written inside of a trigger")
    notes = (*application.notes, *_unknown(metadata, about, (*_ABOUT, "trigger", "triggers")))
    for part in components:
        notes += part.notes
    return Locked(replace(application, notes=notes), inline)


def _place(
    where: Where, about: Where, triggers: tuple[_Part, ...], components: tuple[_Part, ...]
) -> Where:
    by_type: dict[str | int, Where] = {
        type: _Place.at(
            where.key("triggers"),
            dict(enumerate(part.where for part in triggers if part.type == type)),
        )
        for type in _by_type(triggers)
    }
    return _Place.at(
        where,
        {
            "application": _Place.at(about, {"trigger": about.key("triggers")}),
            "trigger": _Place.at(where.key("triggers"), by_type),
            "component": _Place.at(where.key("components"), {p.id: p.where for p in components}),
        },
    )


def _plain(value: object, where: Where, depth: int = 0) -> object:
    """Without `null`, which stands for what is not there; with text that is text."""
    if depth > _MAX_DEPTH:
        raise where.error("is nested too deeply")
    if isinstance(value, dict):
        present = {_text(key, where): item for key, item in value.items() if item is not None}
        return {key: _plain(item, where.key(key), depth + 1) for key, item in present.items()}
    if isinstance(value, list):
        return [_plain(item, where.item(i), depth + 1) for i, item in enumerate(value)]
    return _text(value, where) if isinstance(value, str) else value


def _text(value: str, where: Where) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise where.error("holds half of a surrogate pair, which is not text") from None
    return value


# What the whole application needs


def _version(value: object, where: Where) -> int:
    version = integer(0, 1 << 31)(value, where)
    if version not in _VERSIONS:
        raise where.error(f"must be 0 or 1, not {version}", "a newer version of edge may know it")
    return version


def _understood(value: object, where: Where) -> str:
    if (text := string(value, where)) not in _UNDERSTOOD:
        raise where.error(
            f"it must not be run by who does not understand {show(text)}",
            "a newer version of edge may understand it",
        )
    return text


def _requirements(value: object, where: Where) -> None:
    for name, needed in raw_table(value, where).items():
        if needed != "optional" and name not in _SUPPORTED:
            hint = _COMPOSE if name == "middleware" else "a newer version of edge may have it"
            raise where.key(name).error("it needs what this host does not have", hint)


def _about(metadata: _Raw, where: Where) -> _Raw:
    found = {key: metadata[key] for key in _ABOUT if key in metadata}
    if "triggers" in metadata:
        found["trigger"] = metadata["triggers"]
    elif "trigger" in metadata:
        # As it was written before an application could have several types of trigger.
        settings = dict(raw_table(metadata["trigger"], where.key("trigger")))
        type = string(settings.pop("type", ""), where.key("trigger").key("type"))
        found["trigger"] = {type: settings}
    return found


def _variable(value: object, where: Where) -> _Raw:
    table = raw_table(value, where)
    if "required" in table:
        boolean(table["required"], where.key("required"))
    return table if "default" in table else {**table, "required": True}


# Triggers


def _trigger(value: object, where: Where) -> _Part:
    with Table(value, where) as table:
        id = table.need("id", string)
        type = table.need("trigger_type", string)
        config = table.need("trigger_config", raw_table)
        table.optional("trigger_dependencies", _no_dependencies)
    place = _Place.at(where.key("trigger_config"), {"id": where.key("id")})
    if "id" in config:
        raise Where.key(place, "id").error("unknown key", "the id stands beside trigger_config")
    if "component" in config:
        string(config["component"], place.key("component"))
    return _Part(id, type, {**config, "id": id}, place)


def _by_type(triggers: tuple[_Part, ...]) -> dict[str, list[_Raw]]:
    found: dict[str, list[_Raw]] = {}
    for part in triggers:
        found.setdefault(part.type, []).append(part.table)
    return found


def _no_dependencies(value: object, where: Where) -> None:
    if raw_table(value, where):
        raise where.error("composing components is not supported", _COMPOSE)


# Components


def _component(inline: dict[Digest, bytes]) -> Reader[_Part]:
    def read(value: object, where: Where) -> _Part:
        with Table(value, where) as table:
            id = table.need("id", string)
            metadata = table.optional("metadata", raw_table) or {}
            found: _Raw = {
                "source": table.need("source", _source(inline)),
                "files": list(table.optional("files", items(_file(inline))) or ()),
                "environment": table.optional("env", raw_table) or {},
                "variables": table.optional("config", raw_table) or {},
            }
            table.optional("dependencies", _no_dependencies)
            table.optional("trigger_dependencies", _no_dependencies)
            table.optional("host_requirements", _requirements)
        _check_files(found["files"], where.key("files"))
        found |= {own: metadata[key] for key, own in _GRANTS.items() if key in metadata}
        if "edge" in metadata:
            found["tool"] = {"edge": metadata["edge"]}
        about = where.key("metadata")
        elsewhere: dict[str | int, Where] = {own: about.key(k) for k, own in _GRANTS.items()}
        elsewhere |= {"environment": where.key("env"), "variables": where.key("config")}
        notes = tuple(_unknown(metadata, about, (*_GRANTS, "edge")))
        return _Part(id, "", found, _Place.at(where, {**elsewhere, "tool": about}), notes)

    return read


def _source(inline: dict[Digest, bytes]) -> Reader[str]:
    def read(value: object, where: Where) -> str:
        with Table(value, where) as table:
            if (kind := table.need("content_type", string)) != "application/wasm":
                raise where.key("content_type").error(
                    f'must be "application/wasm", not {show(kind)}'
                )
            return _content(table, inline)

    return read


def _file(inline: dict[Digest, bytes]) -> Reader[_Raw]:
    def read(value: object, where: Where) -> _Raw:
        with Table(value, where) as table:
            path = table.need("path", parsed(_path))
            return {"source": _content(table, inline), "destination": path}

    return read


def _path(text: str) -> str:
    """The guest's absolute path; Spin writes it without the first slash."""
    if "\0" in text or {"", ".", ".."} & set((parts := text.removeprefix("/")).split("/")):
        raise ValueError(f'must be the path of a file without "." and "..", not {show(text)}')
    return f"/{parts}"


def _content(table: Table, inline: dict[Digest, bytes]) -> str:
    """The digest of what is named by it or held inline."""
    if "source" in table:
        raise table.where.key("source").error(
            "a bundle names its content by digest", "this is an application on somebody's disk"
        )
    data = table.optional("inline", parsed(_base64))
    digest = table.optional("digest", parsed(Digest.parse))
    if data is None:
        if digest is None:
            raise table.where.error("needs a digest or inline content")
        return str(digest)
    actual = Digest.of(data)
    if digest not in (None, actual):
        raise table.where.key("inline").error(f"its digest is {actual}, not {digest}")
    inline[actual] = data
    return str(actual)


def _base64(text: str) -> bytes:
    """With or without padding: Spin writes none."""
    padded = text if text.endswith("=") else text + "=" * (-len(text) % 4)
    try:
        return binascii.a2b_base64(padded.encode(), strict_mode=True)
    except binascii.Error as error:
        raise ValueError(f"is not base64: {error}") from None


# Checks and notes


def _check_ids(components: tuple[_Part, ...]) -> None:
    seen: set[str] = set()
    for part in components:
        if part.id in seen:
            raise part.where.key("id").error(f"another component has the id {show(part.id)}")
        seen.add(part.id)


def _check_files(files: object, where: Where) -> None:
    assert isinstance(files, list)
    paths = {str(file["destination"]) for file in files}
    for path in paths:
        parent = path
        while parent := parent.rpartition("/")[0]:
            if parent in paths:
                raise where.error(f'"{parent}" would be both a file and a directory')


def _unknown(metadata: _Raw, where: Where, known: tuple[str, ...]) -> Iterator[str]:
    """Metadata is free: what has to be understood is said elsewhere."""
    for key in metadata:
        if key not in (*known, *_IGNORED):
            yield f"{where.key(key).keys} means nothing to edge"
