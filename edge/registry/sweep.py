"""When to collect, and how hard: after a change, and when there is no room for the next bundle.

Blocks: not for the event loop.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

from edge.application.units import show_size
from edge.errors import BundleError, ConfigError
from edge.registry.collect import Collected, Contents, collect, contents
from edge.registry.digest import Digest
from edge.registry.manifest import MAX_MANIFEST, read
from edge.registry.reference import Reference
from edge.registry.store import ContentStore

__all__ = ["FLOOR", "MakeRoom", "sweep"]

# Versions that each tag keeps before its newest, to go back to.
FLOOR = 1

# Signatures and other artifacts about a manifest, by the names that the distribution specification
# and cosign give them: sha256-<hex>, sha256-<hex>.sig
_ABOUT = re.compile(r"sha256-([0-9a-f]{64})(?:\.[a-z]+)?")


def sweep(
    store: ContentStore, keep: Iterable[Digest] = (), *, floor: int = FLOOR
) -> Collected | None:
    """Removes what is not needed any more. None: somebody is writing, and nothing was done.

    Each tag keeps what it stands for and `floor` versions before it; `keep` are manifests that
    stay anyway: what is live, and what a node would go back to. What was only about something that
    goes, like its signatures, goes with it.
    """
    kept = frozenset(keep)
    named = contents(store)
    reader = cache(lambda digest: tuple(named(digest)))  # each manifest is asked for twice
    return collect(
        store, reader, floor=floor, keep=kept, stale=lambda: _orphans(store, reader, kept, floor)
    )


@dataclass(frozen=True, slots=True)
class MakeRoom:
    """For a bundle that does not fit: what nothing needs goes, then versions to go back to.

    `keep`: asked each time; `note` is told what went. Calling it returns whether anything did.
    """

    store: ContentStore
    keep: Callable[[], Iterable[Digest]] = tuple
    note: Callable[[str], None] = lambda _: None

    def __call__(self) -> bool:
        kept = frozenset(self.keep())
        for floor, what in ((FLOOR, "that nothing needs"), (0, "of older versions")):
            done = sweep(self.store, kept, floor=floor)
            if done and done.blobs:
                blobs = "1 blob" if done.blobs == 1 else f"{done.blobs} blobs"
                self.note(f"no room: removed {blobs} {what}, {show_size(done.bytes)}")
                return True
        return False


def _orphans(
    store: ContentStore, reader: Contents, kept: frozenset[Digest], floor: int
) -> Iterable[str]:
    """The names of what is about something that will not be here any more."""
    about: dict[str, tuple[Digest, Digest]] = {}  # name -> what it is about, what it is
    reached = set(kept)
    try:
        for name, history in store.tags.all().items():
            if history and (subject := _subject(store, name, history[0])):
                about[name] = subject, history[0]
            else:
                for digest in history[: floor + 1]:
                    reached.update((digest, *reader(digest)))
    except BundleError:  # it might be what they are about
        return ()
    before = -1
    while len(reached) != before:  # there may be something about them as well
        before = len(reached)
        reached |= {digest for subject, digest in about.values() if subject in reached}
    return [name for name, (subject, _) in about.items() if subject not in reached]


def _subject(store: ContentStore, name: str, digest: Digest) -> Digest | None:
    """What a name is about, by its tag or by its manifest; None for what stands for itself."""
    try:
        reference = Reference.parse(name)
        if match := _ABOUT.fullmatch(reference.tag or ""):
            return Digest(match[1])
        if reference.digest is None:
            return None
        found = read(store.read(digest, MAX_MANIFEST), name)
    except (ConfigError, BundleError):
        return None
    return found.subject.digest if found.subject else None
