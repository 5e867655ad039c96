"""What is counted of the messages of one broker, since its first connection."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Counts"]


@dataclass(slots=True)
class Counts:
    """`received`: messages, and those that came again; `published`: replies and dead letters that
    the broker has; `again`: attempts after the first; `dead`: messages given up.
    """

    received: int = 0
    published: int = 0
    again: int = 0
    dead: int = 0
