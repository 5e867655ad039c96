"""Fleet documents as values, and their JSON: strict, because a node that understands only a part
would run something that nobody asked for.

Knows no node and no registry. The schema is in docs/fleet.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from edge.application.fields import Table, Where, check, integer, items
from edge.application.mounts import application_name, mount
from edge.application.quantities import seconds
from edge.application.units import show_duration
from edge.config import ApplicationEntry, Mount
from edge.errors import BundleError
from edge.registry.digest import Digest
from edge.registry.fleetdoc import readers
from edge.registry.manifest import read_json
from edge.registry.reference import Reference

__all__ = [
    "FLEET",
    "MAX_DOCUMENT",
    "MAX_GENERATION",
    "Document",
    "Rollout",
    "Selector",
    "Target",
    "read",
    "read_document",
    "read_target",
    "show_time",
    "targets",
]

FLEET = "application/vnd.edge.fleet.v1+json"
SCHEMA = 1
# Ten thousand applications of a few hundred bytes each.
MAX_DOCUMENT = 4 << 20
MAX_TARGETS = 20_000
# Beyond it numbers of JSON are not the same number to every reader.
MAX_GENERATION = (1 << 53) - 1
_YEAR = 366 * 86400.0
_NO_COMPONENTS: Mapping[str, tuple[readers.Table, readers.Table]] = {}

# component -> its options as they were written
Components = Mapping[str, Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class Selector:
    """Which nodes: all of what is given must fit; nothing given: every node."""

    names: tuple[str, ...] = ()  # one of them; "*" stands for any characters
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # each: one of its values


@dataclass(frozen=True, slots=True)
class Rollout:
    """Who goes first, and how many seconds the others wait from when they first saw it."""

    canary: int = 0  # percent of the nodes
    nodes: tuple[str, ...] = ()  # these too; "*" as in a selector
    soak: float = 0.0


@dataclass(frozen=True, slots=True)
class Target:
    """An application, the nodes that are to run it, and how it reaches them."""

    entry: ApplicationEntry
    select: Selector = field(default_factory=Selector)
    rollout: Rollout | None = None
    component: Components = field(default_factory=dict)  # the entry has them as they were read

    @property
    def name(self) -> str:
        return self.entry.name

    def to_json(self) -> dict[str, Any]:
        entry = self.entry
        found: dict[str, Any] = {
            "name": entry.name,
            "reference": entry.reference,
            "mount": _mount_json(entry.mount),
            "variables": dict(entry.variables),
            "variables_credentials": dict(entry.variables_credentials),
            "component": {name: dict(options) for name, options in self.component.items()},
            "select": _selector_json(self.select),
            "rollout": _rollout_json(self.rollout) if self.rollout else None,
        }
        return {key: value for key, value in found.items() if value}


@dataclass(frozen=True, slots=True)
class Document:
    """What a fleet runs. For one name the first target that selects a node counts there."""

    fleet: str
    generation: int
    targets: tuple[Target, ...] = ()
    expires: datetime | None = None  # nobody takes it up after that

    def to_bytes(self) -> bytes:
        """The same document always gives the same bytes."""
        found: dict[str, Any] = {
            "schema": SCHEMA,
            "fleet": self.fleet,
            "generation": self.generation,
            "applications": [target.to_json() for target in self.targets],
        }
        if self.expires:
            found["expires"] = show_time(self.expires)
        return json.dumps(found, sort_keys=True, indent=1, ensure_ascii=False).encode()

    @property
    def digest(self) -> Digest:
        """Of what it says: two documents that differ only in how they are written are the same."""
        return Digest.of(self.to_bytes())


def read(data: bytes, name: str) -> Document:
    """The document of a registry. All that is wrong with it is a BundleError about `name`."""
    if len(data) > MAX_DOCUMENT:
        raise BundleError(f"{name}: has more than {MAX_DOCUMENT} bytes")
    found = read_json(data, name, read_document)
    try:
        found.to_bytes()
    except UnicodeEncodeError:  # JSON can write what no text is
        raise BundleError(f"{name}: has characters that are not Unicode") from None
    return found


def read_target(value: object, where: Where) -> Target:
    """One of its applications."""
    with Table(value, where) as table:
        component = table.get("component", readers.components, _NO_COMPONENTS)
        entry = ApplicationEntry(
            name=table.need("name", check(application_name)),
            reference=str(table.need("reference", readers.configured(Reference.parse))),
            mount=table.get("mount", mount, Mount()),
            variables=table.get("variables", readers.variables, {}),
            variables_credentials=table.get("variables_credentials", readers.credentials, {}),
            options={name: read for name, (read, _) in component.items()},
        )
        for name in entry.variables.keys() & entry.variables_credentials.keys():
            place = where.key("variables_credentials").key(name)
            raise place.error("has a value in variables already")
        return Target(
            entry,
            table.get("select", _selector, Selector()),
            table.optional("rollout", _rollout),
            {name: written for name, (_, written) in component.items()},
        )


def show_time(moment: datetime) -> str:
    """By RFC 3339, whole seconds, in UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_document(value: object, where: Where) -> Document:
    """Of parsed JSON."""
    with Table(value, where) as table:
        table.need("schema", _schema)
        return Document(
            fleet=table.need("fleet", check(application_name)),
            generation=table.need("generation", integer(1, MAX_GENERATION)),
            targets=table.get("applications", targets, ()),
            expires=table.optional("expires", readers.time),
        )


def _schema(value: object, where: Where) -> None:
    if integer(1, 1 << 31)(value, where) != SCHEMA:
        raise where.error(
            f"is {value}, this version knows {SCHEMA}", "it is for a newer version: install that"
        )


def targets(value: object, where: Where) -> tuple[Target, ...]:
    """Its applications, in the order that counts."""
    if isinstance(value, list) and len(value) > MAX_TARGETS:
        raise where.error(f"more than {MAX_TARGETS} entries")
    return items(read_target)(value, where)


def _selector(value: object, where: Where) -> Selector:
    with Table(value, where) as table:
        return Selector(
            names=table.get("names", readers.patterns, ()),
            labels=table.get("labels", readers.labels, {}),
        )


def _rollout(value: object, where: Where) -> Rollout:
    with Table(value, where) as table:
        return Rollout(
            canary=table.get("canary", integer(0, 100), 0),
            nodes=table.get("nodes", readers.patterns, ()),
            soak=table.need("soak", seconds(at_least=0, at_most=_YEAR)),
        )


def _mount_json(where: Mount) -> dict[str, str] | None:
    if where == Mount():
        return None
    return {"path": where.path} | ({"host": where.host} if where.host else {})


def _selector_json(selector: Selector) -> dict[str, Any]:
    found: dict[str, Any] = {
        "names": list(selector.names),
        "labels": {key: list(values) for key, values in selector.labels.items()},
    }
    return {key: value for key, value in found.items() if value}


def _rollout_json(rollout: Rollout) -> dict[str, Any]:
    found = {"canary": rollout.canary, "nodes": list(rollout.nodes)}
    present: dict[str, Any] = {key: value for key, value in found.items() if value}
    return present | {"soak": show_duration(rollout.soak)}
