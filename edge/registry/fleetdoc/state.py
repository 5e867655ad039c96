"""What a node knows of its fleet's document between two runs: `fleet.json`, schema 1.

The document itself is in it, so that a node without a network knows what it is to run. Blocks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edge.application.fields import Table, Where, integer, mapping, parsed, string
from edge.errors import EdgeError
from edge.platform.atomic import write_file
from edge.registry.digest import Digest
from edge.registry.disk import explained
from edge.registry.fleetdoc import document as documents
from edge.registry.fleetdoc.document import Document, Target
from edge.registry.manifest import read_json

__all__ = ["State", "Waiting", "load", "save"]

_SCHEMA = 1
_YEAR_9000 = 221_845_392_000


@dataclass(frozen=True, slots=True)
class Waiting:
    """An application that others try first. `since`: when this node first saw it (trusted time)."""

    since: float
    before: Target | None = None  # what runs until then


@dataclass(frozen=True, slots=True)
class State:
    """The document that a node follows, and how far it is with it."""

    reference: str  # what it came from: another one begins anew
    document: Document
    manifest: Digest  # what carried it
    since: float  # when this node first saw it (trusted time)
    waiting: Mapping[str, Waiting] = field(default_factory=dict)


def load(path: Path) -> State | None:
    """None without a file. Damaged is a BundleError; of a newer version, another EdgeError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise EdgeError(f"{path}: {(error.strerror or '').lower()}") from error
    return read_json(data, str(path), _state)


def save(path: Path, state: State) -> None:
    """Durable when it returns; or an EdgeError. Variables may be secrets: for the owner only."""
    document = {
        "schema": _SCHEMA,
        "reference": state.reference,
        "manifest": str(state.manifest),
        "since": int(state.since),
        "document": json.loads(state.document.to_bytes()),
        "waiting": {name: _waiting_json(wait) for name, wait in state.waiting.items()},
    }
    data = json.dumps(document, sort_keys=True, indent=1).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with explained(path.parent, len(data)):
            write_file(path, data, mode=0o600)
    except OSError as error:
        raise EdgeError(f"{path}: {(error.strerror or '').lower()}") from error


def _waiting_json(wait: Waiting) -> dict[str, object]:
    found: dict[str, object] = {"since": int(wait.since)}
    return found | ({"before": wait.before.to_json()} if wait.before else {})


def _state(value: object, where: Where) -> State:
    with Table(value, where) as table:
        if (schema := table.need("schema", integer(1, 1 << 31))) != _SCHEMA:
            raise EdgeError(
                f"{where}: has schema {schema}, this version knows {_SCHEMA}",
                hint="a newer version wrote it: install that one, or restore a backup",
            )
        return State(
            reference=table.need("reference", string),
            document=table.need("document", documents.read_document),
            manifest=table.need("manifest", parsed(Digest.parse)),
            since=table.need("since", integer(0, _YEAR_9000)),
            waiting=table.need("waiting", mapping(_waiting)),
        )


def _waiting(value: object, where: Where) -> Waiting:
    with Table(value, where) as table:
        return Waiting(
            since=table.need("since", integer(0, _YEAR_9000)),
            before=table.optional("before", documents.read_target),
        )
