"""What triggers other than HTTP hand over: an event, and what became of it."""

from __future__ import annotations

import enum
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Kind = Literal["mqtt", "redis", "cron"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Event:
    """One message or tick.

    `id`: the same whenever the event is delivered again. `source`: a URI reference, as in
    CloudEvents. `type`: such as `dev.edge.mqtt.message`. `subject`: the topic, the channel, the
    trigger's id. `time`: seconds since 1970, None while the clock is not set. `attributes`:
    CloudEvents extensions, named by 1 to 20 of a-z and 0-9.
    """

    kind: Kind
    id: str
    source: str
    type: str
    subject: str
    data: bytes = b""
    content_type: str | None = None
    time: float | None = None
    attributes: tuple[tuple[str, str], ...] = ()
    # Of its invocation, where the node traces: a Span.
    span: Any = field(default=None, compare=False, repr=False)


class Status(enum.Enum):
    """What becomes of an event."""

    DONE = "done"
    REJECTED = "rejected"  # final: trying again would not help
    FAILED = "failed"  # may be tried again
    BUSY = "busy"  # the node had no room: tried again, and no attempt of the guest's


@dataclass(frozen=True, slots=True)
class Outcome:
    """`reason`: one printable line, for the log and the dead letter; it may hold up to 200
    characters of what the guest said. `reply`: the body it answered with, None when that was empty.
    """

    status: Status
    reason: str = ""
    reply: bytes | None = None
    content_type: str | None = None
    trace: tuple[tuple[str, str], ...] = ()  # goes with the reply


DONE = Outcome(Status.DONE)

# Runs one event in one component. The outcome comes at once when the guest ended within its first
# slice; otherwise as a coroutine, which its caller awaits or runs as a task of its own. Raises
# nothing but CancelledError.
EventHandler = Callable[[Event], Outcome | Coroutine[Any, Any, Outcome]]
