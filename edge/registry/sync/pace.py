"""When sync looks again. Knows no clock; times in seconds."""

from __future__ import annotations

import random
from dataclasses import dataclass

from edge import config
from edge.errors import PullError

__all__ = ["Pace", "Pause"]

# A first pause after a failure: networks come up a moment after the node does.
_FIRST = 2.0
# What failed at its own fault costs a compilation each time, and seldom mends by itself.
_LONGEST = 3600.0


@dataclass(frozen=True, slots=True)
class Pause:
    """A registry that does not answer is asked by one application, not by each.

    `asked`: the reference that it was asked for.
    """

    error: PullError
    asked: str
    failures: int
    until: float

    def told(self, reference: str) -> PullError:
        """Its error, as one who asks for another reference would get it."""
        return PullError(self.error.message.replace(self.asked, reference, 1), hint=self.error.hint)


@dataclass(frozen=True, slots=True)
class Pace:
    """How often, with full jitter: nodes that were started together drift apart."""

    settings: config.Sync
    rng: random.Random

    def look(self) -> float:
        """Until all tags are looked at again."""
        jitter = self.settings.jitter * self.rng.uniform(-1, 1)
        return self.settings.interval * (1 + jitter)

    def undelivered(self, failures: int) -> float:
        """Until what was not delivered is asked for again: never later than the next look."""
        longest = min(_FIRST * 2.0 ** min(failures - 1, 16), self.settings.interval)
        return self.rng.uniform(0, longest)

    def bad(self, failures: int) -> float:
        """Until what could not be made live is tried again."""
        longest = min(self.settings.interval * 2.0 ** min(failures - 1, 16), _LONGEST)
        return longest * self.rng.uniform(0.5, 1)
