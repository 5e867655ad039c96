"""fleet.toml, as people write it, into a document.

    fleet = "site-a"
    expires = "90d"                  # from now, or a date with a time zone
    [[application]]                  # as in the document, in the order that counts

Blocks only to read the file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from edge.application.fields import Table, Where, check, integer, together
from edge.application.mounts import application_name
from edge.application.quantities import seconds
from edge.errors import ConfigError
from edge.registry.digest import Digest
from edge.registry.fleetdoc import readers
from edge.registry.fleetdoc.document import (
    MAX_DOCUMENT,
    MAX_GENERATION,
    Document,
    Target,
    targets,
)
from edge.registry.reference import Reference

__all__ = ["Draft", "load", "numbered", "pinned"]

_DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Draft:
    """A document that has no generation yet, unless its author gave it one."""

    document: Document
    generation: int | None


def load(path: Path, now: float) -> Draft:
    """Raises ConfigError with a line for each mistake. `now`: unix seconds, for what expires."""
    try:
        value = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: {(error.strerror or '').lower()}") from error
    except ValueError as error:  # of TOML, and of UTF-8
        raise ConfigError(f"{path}: {error}") from error
    mistakes: list[ConfigError] = []
    where = Where(str(path), mistakes=mistakes)
    try:
        draft = _draft(value, where, now)
    except ConfigError as error:
        mistakes.append(error)
    if mistakes:
        raise together(mistakes)
    return draft


def numbered(draft: Draft, known: Document | None) -> Document | None:
    """The document with its generation, one above what is there; None if that says the same.

    `known`: what its reference stands for now. Raises ConfigError for a generation that is not new.
    """
    document = draft.document
    if known is not None:
        if known.fleet != document.fleet:
            raise ConfigError(
                f'fleet: is "{document.fleet}", there is a document of "{known.fleet}"',
                hint="each fleet has a tag of its own",
            )
        if draft.generation is None and replace(known, generation=1) == document:
            return None
    last = known.generation if known else 0
    generation = draft.generation or last + 1
    if generation <= last:
        raise ConfigError(
            f"generation: is {generation}, there is {last} already", hint="leave it out"
        )
    document = replace(document, generation=generation)
    if len(document.to_bytes()) > MAX_DOCUMENT:
        raise ConfigError(f"the document has more than {MAX_DOCUMENT} bytes")
    return document


async def pinned(
    document: Document,
    resolve: Callable[[Reference], Awaitable[Digest]],
    *,
    follow_tags: bool = False,
) -> Document:
    """With the digest of each reference: all nodes are to get the same, and of each other, too,
    when the registry does not answer. `follow_tags`: only where canaries go first.
    """
    found: dict[str, str] = {}

    async def pin(target: Target) -> Target:
        reference = Reference.parse(target.entry.reference or "")
        if reference.digest or (follow_tags and target.rollout is None):
            return target
        text = str(reference)
        if text not in found:
            found[text] = str(replace(reference, digest=await resolve(reference)))
        return replace(target, entry=replace(target.entry, reference=found[text]))

    return replace(document, targets=tuple([await pin(target) for target in document.targets]))


def _draft(value: object, where: Where, now: float) -> Draft:
    with Table(value, where) as table:
        document = Document(
            fleet=table.needed("fleet", check(application_name), ""),
            generation=1,
            targets=table.get("application", targets, ()),
            expires=table.optional("expires", lambda v, w: _expires(v, w, now)),
        )
        return Draft(document, table.optional("generation", integer(1, MAX_GENERATION)))


def _expires(value: object, where: Where, now: float) -> datetime:
    if isinstance(value, datetime):
        return readers.time(value.isoformat(), where)
    if isinstance(value, str) and "T" in value:
        return readers.time(value, where)
    left = seconds(at_least=60, at_most=3660 * _DAY)(value, where)
    return datetime.fromtimestamp(int(now), UTC) + timedelta(seconds=left)
