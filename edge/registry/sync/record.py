"""What sync knows of one application while the node runs, beside what the state remembers."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field

from edge.errors import EdgeError, PullError, Refused
from edge.registry.sync.entries import Identity, identity
from edge.registry.sync.state import App, Version
from edge.registry.sync.status import AppStatus, Health
from edge.registry.sync.wanted import Wanted

__all__ = ["Record", "is_transient"]


@dataclass(slots=True, eq=False)
class Record:
    """One application by its name. Times but `since` are the loop's."""

    name: str
    wanted: Wanted | None = None
    serving: Version | None = None
    soaking: bool = False
    error: EdgeError | None = None
    told: str = ""  # the last error that the log has, while there is one
    failures: int = 0  # in a row
    due: float = math.inf
    failed: Identity | None = None  # could not be made live, and is not tried before `retry`
    retry: float = 0.0
    since: float | None = None
    # Failed while it was watched; the state says so too, unless its disk is full.
    refused: dict[Identity, str] = field(default_factory=dict)
    claims: int = 0  # commands that work on it, or wait for that
    # At the start of a node: set when the one before it in edge.toml has had its turn, and when it
    # has had its own. Of two that want the same route the first one gets it.
    follows: asyncio.Event | None = None
    passed: asyncio.Event | None = None
    work: asyncio.Task[None] | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def needs_look(self) -> bool:
        """Whether time may change anything: what a digest names does not move."""
        wanted = self.wanted
        if wanted is None or self.serving is None or self.error or wanted.not_before is not None:
            return True
        reference = wanted.entry.reference
        moves = reference is not None and "@" not in reference
        return moves or not (self.soaking or self.refused or self.is_what(wanted))

    @property
    def brings_itself(self) -> bool:
        """Whether it does not serve, and no registry is needed for what is wanted."""
        return self.serving is None and (self.wanted is None or self.wanted.entry.path is not None)

    def succeeded(self) -> None:
        """What is wanted is live, or is known to be no good."""
        self.error, self.failures, self.failed = None, 0, None

    def forget_failures(self) -> None:
        self.failures, self.failed = 0, None
        self.refused.clear()

    def refusal(self, app: App, wanted: Identity) -> str | None:
        """Why that version is not tried, if so."""
        found = app.refusal(wanted)
        return found.reason if found else self.refused.get(wanted)

    def status(self, app: App, now: float) -> AppStatus:
        """`now`: trusted time."""
        wanted, serving = self.wanted, self.serving
        entry = wanted.entry if wanted else serving.entry if serving else None
        assert entry is not None
        state, reason = self._health(app, now)
        before = (app.live,) if self.soaking else app.previous
        return AppStatus(
            self.name,
            entry.reference,
            wanted.source if wanted else "file",
            serving.entry.mount if serving else entry.mount,
            serving.digest if serving else None,
            next((version.digest for version in before if version), None),
            state,
            reason,
            self.since,
        )

    def _health(self, app: App, now: float) -> tuple[Health, str]:
        told = _told(self.error) if self.error else ""
        if self.wanted and self.wanted.not_before and now < self.wanted.not_before:
            return "waiting", "the canaries of its fleet have a newer version"
        if self.soaking:
            return "soaking", told
        if self.error and not is_transient(self.error):
            return "failed", told
        if self.serving is None:
            return "pending", told
        refused = next(iter(app.refused), None)
        reason = refused.reason if refused else next(iter(self.refused.values()), None)
        return ("rolled back", reason) if reason else ("live", told)

    def is_what(self, wanted: Wanted) -> bool:
        """Whether what serves is configured as it is wanted."""
        serving = self.serving
        if serving is None:
            return False
        same = serving.entry is wanted.entry or serving.entry == wanted.entry
        return same or serving.identity == identity(serving.digest, wanted.entry)


def is_transient(error: Exception) -> bool:
    """Whether it was only not delivered."""
    return isinstance(error, PullError) and not isinstance(error, Refused)


def _told(error: EdgeError) -> str:
    return f"{error.message} ({error.hint})" if error.hint else error.message
