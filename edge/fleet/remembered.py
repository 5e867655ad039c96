"""Where peers were when this node last ran: addresses to look at when nobody advertises himself.

`peers.json` beside the identity, schema 1. A hint like all others: who answers there is asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from edge.application.fields import Table, Where, integer, items, mapping, parsed, string
from edge.errors import ConfigError
from edge.fleet.keeping import id_text
from edge.fleet.static import split
from edge.platform.atomic import write_file

__all__ = ["MOST", "load", "save"]

# Peers that are remembered, and addresses of each.
MOST, _ADDRESSES_MOST = 16, 4
_BYTES_MOST = 64 << 10
_SCHEMA = 1

# id -> "host:port" of it
Places = Mapping[str, tuple[str, ...]]


def load(path: Path) -> Places:
    """Nothing of a file that is missing, damaged or of a newer version. Blocks."""
    try:
        with path.open("rb") as file:
            data = file.read(_BYTES_MOST)
        with Table(json.loads(data), Where(str(path))) as table:
            if table.need("schema", integer(1, 1 << 31)) > _SCHEMA:
                return {}
            return table.need("peers", mapping(items(_place), parsed(id_text)))
    except (OSError, ValueError, RecursionError, ConfigError):
        return {}


def save(path: Path, places: Places) -> None:
    """Durable when it returns; not at all where there is no identity any more. Blocks. Raises
    OSError.
    """
    if not path.parent.is_dir():
        return
    kept = {id: list(found[:_ADDRESSES_MOST]) for id, found in sorted(places.items())[:MOST]}
    write_file(path, json.dumps({"schema": _SCHEMA, "peers": kept}).encode(), mode=0o600)


def _place(value: object, where: Where) -> str:
    text = string(value, where)
    parsed(split)(text, where)
    return text
