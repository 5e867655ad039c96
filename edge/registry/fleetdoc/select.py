"""Which of a document's applications are a node's, and who goes first. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from edge.config import Node
from edge.registry.fleetdoc.document import Document, Rollout, Selector, Target

__all__ = ["fits", "is_canary", "selected", "share"]


def selected(document: Document, node: Node) -> Mapping[str, Target]:
    """What a node is to run, by name: the first target of a name that selects it."""
    found: dict[str, Target] = {}
    for target in document.targets:
        if target.name not in found and fits(target.select, node):
            found[target.name] = target
    return found


def fits(selector: Selector, node: Node) -> bool:
    if selector.names and not _any(selector.names, node.name):
        return False
    return all(node.labels.get(key) in values for key, values in selector.labels.items())


def is_canary(rollout: Rollout, application: str, node: str) -> bool:
    """Whether a node is among those that go first: it is always the same ones, others for each
    application, and more of them when the percentage grows.
    """
    return share(application, node) < rollout.canary / 100 or _any(rollout.nodes, node)


def share(application: str, node: str) -> float:
    """A number from 0 to 1, 1 excluded, as even as a hash is."""
    digest = hashlib.sha256(f"{application}\0{node}".encode(errors="surrogateescape")).digest()
    # 53 bits are exact as a float.
    return (int.from_bytes(digest[:8], "big") >> 11) / (1 << 53)


def _any(patterns: Iterable[str], name: str) -> bool:
    return any(_matches(pattern, name) for pattern in patterns)


def _matches(pattern: str, name: str) -> bool:
    """Without backtracking: patterns come from strangers."""
    first, *rest = pattern.split("*")
    if not rest:
        return pattern == name
    *middle, last = rest
    if not name.startswith(first):
        return False
    position = len(first)
    for piece in middle:
        found = name.find(piece, position)
        if found < 0:
            return False
        position = found + len(piece)
    return len(name) - position >= len(last) and name.endswith(last)
