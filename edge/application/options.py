"""`[component.X.tool.edge]`: what edge adds to Spin's manifest. Spin itself ignores the table.

The defaults of a component's limits live here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from edge.application.fields import (
    Reader,
    Table,
    Where,
    choice,
    integer,
    items,
    mapping,
    raw_table,
    string,
)
from edge.application.quantities import octets, seconds

__all__ = ["Options", "given", "options"]

MiB = 1 << 20
# A guest's memory is counted in pages of this size.
PAGE = 1 << 16
# A wasm32 memory ends here, and the pool's slots with it.
MAX_MEMORY = 4 << 30


@dataclass(frozen=True, slots=True)
class Options:
    """How a component runs. Times in seconds, sizes in bytes; 0 for the last three: no limit."""

    timeout: float = 30.0  # from instantiation to the end; once a body streams: without progress
    queue_timeout: float = 5.0  # waiting for a slot
    memory: int = 64 * MiB  # of one instance, all its memories together
    concurrency: int = 16
    queue: int = 64
    reuse: int = 1  # invocations per instance, one at a time; 1 is a fresh one for each
    scratch: int = 0  # writable files per invocation, in memory
    # Asked before a new version goes live. None: not asked. "" where nobody stated a path: /healthz
    # is, and who does not know it is healthy, too.
    health: str | None = ""
    request_size: int = 0  # bodies stream: a limit protects the guest, not the node
    response_size: int = 0
    outbound_connections: int = 16  # open at once, per invocation
    # trigger id -> its table, checked for its keys and types; the trigger's owner gives defaults
    triggers: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


def options(value: object, where: Where) -> Options:
    with Table(value, where) as table:
        read = {name: table.get(name, reader, _DEFAULTS[name]) for name, reader in _READERS.items()}
        triggers = table.optional("trigger", mapping(_trigger)) or {}
    return Options(**read, triggers=triggers)  # type: ignore[arg-type]


def given(value: object, where: Where) -> dict[str, object]:
    """Only what is written of such a table, by the names that `Options` has for it."""
    table = raw_table(value, where)
    read = options(value, where)
    found = {name: getattr(read, name) for name in _READERS if name in table}
    return found | ({"triggers": read.triggers} if "trigger" in table else {})


def _health(value: object, where: Where) -> str | None:
    path = string(value, where)
    if path and not path.startswith("/"):
        raise where.error(
            f'must be a path like "/healthz", not "{path}"', 'write "" to ask nothing'
        )
    return path or None


def _trigger(value: object, where: Where) -> Mapping[str, object]:
    with Table(value, where) as table:
        found = {key: table.optional(key, reader) for key, reader in _TRIGGER_READERS.items()}
    return {key: read for key, read in found.items() if key in table}


_DAY = 86400.0
_ANY_SIZE = octets(at_least=0, at_most=1 << 50)
_READERS: Mapping[str, Reader[object]] = {
    "timeout": seconds(at_least=0.001, at_most=_DAY),
    "queue_timeout": seconds(at_least=0, at_most=_DAY),
    "memory": octets(at_least=PAGE, at_most=MAX_MEMORY),
    "concurrency": integer(1, 65536),
    "queue": integer(0, 1 << 20),
    "reuse": integer(1, 1 << 30),
    "scratch": _ANY_SIZE,
    "health": _health,
    "request_size": _ANY_SIZE,
    "response_size": _ANY_SIZE,
    "outbound_connections": integer(0, 65536),
}
_TRIGGER_READERS: Mapping[str, Reader[object]] = {
    # messages
    "ordered": choice("topic", "all", "none"),
    "share": string,
    "reply_topic": string,
    "retries": integer(0, 1000),
    "retry_time": seconds(at_least=0, at_most=_DAY),
    "responses": items(string),
    "dead_letter": string,
    # timers
    "time_zone": string,
    "overlap": choice("skip", "queue", "allow"),
    "jitter": seconds(at_least=0, at_most=_DAY),
    "missed": choice("skip", "once"),
}
_DEFAULTS: Mapping[str, object] = {f.name: f.default for f in fields(Options)}
