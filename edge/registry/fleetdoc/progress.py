"""From one generation to the next: what a node runs now, and what it still waits for. Pure.

Times are trusted ones, in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from edge.config import Node
from edge.errors import BundleError
from edge.registry.digest import Digest
from edge.registry.fleetdoc.document import Document, Rollout, Target
from edge.registry.fleetdoc.select import fits, is_canary, selected
from edge.registry.fleetdoc.state import State, Waiting
from edge.registry.sync.wanted import Wanted

__all__ = ["Now", "advance", "check_newer", "now_wanted", "shifted"]


class Now(NamedTuple):
    """What is wanted of a node at a moment."""

    wanted: tuple[Wanted, ...]
    waiting: Mapping[str, float]  # application -> when it gets what is newer

    @property
    def next_change(self) -> float | None:
        return min(self.waiting.values(), default=None)


def check_newer(known: State, document: Document) -> None:
    """Raises BundleError for what must not follow what this node has seen."""
    seen = known.document
    if document.fleet != seen.fleet:
        raise BundleError(
            f'is of the fleet "{document.fleet}", this node follows "{seen.fleet}"',
            hint="to move a node, name another document in its edge.toml",
        )
    if document.generation < seen.generation:
        raise BundleError(
            f"is generation {document.generation}, this node has seen {seen.generation} already",
            hint="to go back, push what was before as a new generation",
        )
    if document.generation == seen.generation and document.digest != seen.digest:
        raise BundleError(
            f"is generation {seen.generation}, as which this node has seen another document",
            hint="each document needs a generation of its own: push it again with a higher one",
        )


def advance(
    known: State | None,
    document: Document,
    *,
    reference: str,
    manifest: Digest,
    node: Node,
    now: float,
) -> State:
    """The state with a document that may follow. A node that follows none yet waits for nothing:
    it has nothing that could be better.
    """
    if known is None or known.reference != reference:
        return State(reference, document, manifest, now)
    waiting = {
        name: wait
        for name, target in selected(document, node).items()
        if (wait := _wait(known, name, target, node, now))
    }
    same = document.digest == known.document.digest
    return State(reference, document, manifest, known.since if same else now, waiting)


def _wait(known: State, name: str, target: Target, node: Node, now: float) -> Waiting | None:
    if target.rollout is None or is_canary(target.rollout, name, node.name):
        return None
    current = selected(known.document, node).get(name)
    pending = known.waiting.get(name)
    before = current
    if current and pending and (_due(current, pending, node) or now) > now:
        before = pending.before
    if before and before.entry == target.entry:
        return None
    # Somebody else's application changed: this one has waited for a part of its time.
    if pending and current and current.entry == target.entry:
        return pending
    return Waiting(now, before)


def now_wanted(state: State, node: Node, now: float, soak: float) -> Now:
    """`soak`: how long a new version is watched; a canary watches for as long as others wait."""
    wanted: list[Wanted] = []
    waiting: dict[str, float] = {}
    for name, target in selected(state.document, node).items():
        due = _due(target, state.waiting.get(name), node)
        if due is None or due <= now:
            wanted.append(Wanted(target.entry, "fleet", _watched(target.rollout, name, node, soak)))
            continue
        waiting[name] = due
        before = state.waiting[name].before
        if before and fits(before.select, node):
            wanted.append(Wanted(before.entry, "fleet", soak))
        else:
            wanted.append(Wanted(target.entry, "fleet", soak, not_before=due))
    return Now(tuple(wanted), waiting)


def _due(target: Target, wait: Waiting | None, node: Node) -> float | None:
    """When what waits is taken; None: it does not wait."""
    rollout = target.rollout
    if wait is None or rollout is None or is_canary(rollout, target.name, node.name):
        return None
    return wait.since + rollout.soak


def _watched(rollout: Rollout | None, name: str, node: Node, soak: float) -> float:
    if rollout and is_canary(rollout, name, node.name):
        return max(soak, rollout.soak)
    return soak


def shifted(state: State, seconds: float) -> State:
    """As if everything that waits had been seen later: for a clock that has just been set."""
    waiting = {n: replace(wait, since=wait.since + seconds) for n, wait in state.waiting.items()}
    return replace(state, waiting=waiting)
