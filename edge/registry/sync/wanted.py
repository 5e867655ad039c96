"""What is wanted of a node, and what sync asks of who runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from edge.config import ApplicationEntry
from edge.registry.digest import Digest
from edge.registry.local import LocalApplication

__all__ = ["Candidate", "Host", "Source", "Wanted"]

# Who asked for an application; for one name the first of these wins.
Source = Literal["file", "deploy", "fleet"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """One application, by who asked for it. `soak`: seconds that a new version is watched for."""

    entry: ApplicationEntry
    source: Source
    soak: float
    # A fleet's canaries go first: until this moment (trusted time) others keep what they have.
    not_before: float | None = None


class Candidate(Protocol):
    """A version that is loaded, compiled and linked, and serves nothing yet."""

    @property
    def digest(self) -> Digest | None:
        """Of its bundle's manifest; of what `path` held when it came from this machine."""


class Host(Protocol):
    """Runs applications. What it is given by sync never replaces a good version before it is good
    itself. All of it on the event loop.
    """

    async def prepare(
        self, wanted: Wanted, local: LocalApplication, digest: Digest | None, *, check: bool = True
    ) -> Candidate:
        """Loads and compiles; with `check`, an instance of each component is made and asked for its
        health. Nothing that is live changes. Raises EdgeError.
        """

    async def swap(self, changes: Mapping[str, Candidate | None]) -> None:
        """These names from now on, in one step; None removes one. Raises ConfigError, and changes
        nothing, when routes or mounts conflict: the message says with whom.
        """

    def watch(
        self, name: str, seconds: float, failed: Callable[[str], None], passed: Callable[[], None]
    ) -> None:
        """Watches the version that went live last: its error rate and its health. Calls one of
        both, once: `failed` with a reason, after the version before it has already been put back
        in its place. Another swap of the name ends the watch without a call.
        """

    def discard(self, candidate: Candidate) -> None:
        """It will not be swapped in."""
