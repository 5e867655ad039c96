"""Values where a plain Python one would be ambiguous, and the two ways a host function fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class Err(Exception):
    """The error case of a `result`. A host function may raise or return it."""

    __slots__ = ("payload",)

    def __init__(self, payload: Any = None) -> None:
        super().__init__(payload)
        self.payload = payload

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Err) and self.payload == other.payload

    def __hash__(self) -> int:
        return hash((Err, self.payload))


class Ok:
    """The success case of a `result`. The engine makes one for each: nothing slow in here."""

    __slots__ = ("value",)
    __match_args__ = ("value",)

    def __init__(self, value: Any = None) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ok) and bool(self.value == other.value)

    def __hash__(self) -> int:
        return hash((Ok, self.value))

    def __repr__(self) -> str:
        return f"Ok({self.value!r})"


@dataclass(frozen=True, slots=True)
class Some:
    """A present value of an `option` whose payload is an option itself."""

    value: Any


class Trap(Exception):
    """The guest was stopped; raised by a host function, it stops the guest with this cause."""


class GuestHandle:
    """A handle of a resource that a guest defines; the engine makes them, hosts pass them on."""

    __slots__ = ()
