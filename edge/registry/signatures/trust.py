"""Which bundles a node runs: those that somebody signed whom its configuration trusts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

from edge.config import Registry
from edge.errors import BundleError, PullError, Refused
from edge.registry.digest import Digest
from edge.registry.reference import Reference
from edge.registry.source import Source
from edge.registry.store import ContentStore

if TYPE_CHECKING:
    from edge.registry.signatures.verify import Attached, Question

__all__ = ["Trust"]

# Of the reasons why nothing counts, as many are told.
_MAX_REASONS = 3
# A registry that answers slowly enough could be listened to for ever.
_SECONDS = 120.0


class Trust:
    """The policy of each registry and repository. The longest name that fits counts.

    `clock`: trusted time in seconds since 1970. Signatures that counted stay in `store`, so a node
    verifies without a network what it has verified before.
    """

    def __init__(
        self, registries: Iterable[Registry], clock: Callable[[], float], store: ContentStore
    ) -> None:
        self._registries = tuple(registries)
        self._clock = clock
        self._store = store

    def requires(self, reference: str | None) -> bool:
        """Whether what a reference stands for must be signed."""
        if reference is None:
            return False
        entry = policy(self._registries, Reference.parse(reference))
        return entry is not None and entry.signatures == "required"

    async def check(
        self,
        client: Source | None,
        reference: Reference,
        digest: Digest,
        *,
        keys: Sequence[Path] = (),
    ) -> str | None:
        """Whether `digest`, which is a manifest's, may be used as what `reference` stands for.

        None when it is signed or need not be, a line for people when it is not signed and that is
        only to be said. Otherwise raises BundleError with the reason, PullError when the registry
        does not deliver what is missing, ConfigError for a key that cannot be read.

        `client` None: by what is in the store, without a network. `keys`: one of these must have
        signed, whatever the configuration says.
        """
        entry = policy(self._registries, reference)
        required = bool(keys) or (entry is not None and entry.signatures == "required")
        if not required and (entry is None or entry.signatures == "off"):
            return None
        files = keys or (entry.keys if entry else ())
        try:
            await verify(client, reference, digest, files, self._clock(), self._store)
        except (BundleError, PullError) as error:
            if required:
                raise
            return f"{error.message}; used all the same: signatures are not required of it"
        return None


def policy(registries: Iterable[Registry], reference: Reference) -> Registry | None:
    """The entry whose name is the reference's repository, or the longest one above it."""
    fitting = [e for e in registries if f"{reference.name}/".startswith(f"{e.name.lower()}/")]
    return max(fitting, key=lambda entry: len(entry.name), default=None)


async def verify(
    client: Source | None,
    reference: Reference,
    digest: Digest,
    keys: Sequence[Path],
    now: float,
    store: ContentStore,
) -> None:
    """Returns when one of the keys has signed; otherwise as `Trust.check` for one that must be."""
    question = await asyncio.to_thread(_question, reference, digest, keys, now)
    reasons = await asyncio.to_thread(_ask_store, store, question)
    if reasons is None:
        return
    if client is not None:
        try:
            async with asyncio.timeout(_SECONDS):
                reasons = await _ask_others(client, store, question)
        except TimeoutError:
            raise PullError(f"{reference}: its signatures do not arrive in time") from None
    if reasons is not None:
        raise _refusal(question, reasons, offline=client is None)


async def _ask_others(client: Source, store: ContentStore, question: Question) -> list[str] | None:
    """The registry; neighbours, too, when it does not answer."""
    from edge.registry.signatures import attached

    about = client, question.reference, question.digest

    async def is_signed_here() -> bool:
        return await _ask(attached.of_neighbours(*about), store, question) is None

    if client.is_silent(question.reference) and await is_signed_here():
        return None
    try:
        return await _ask(attached.of_registry(*about), store, question)
    except Refused:
        raise
    except PullError:
        if await is_signed_here():
            return None
        raise


async def _ask(
    attachments: AsyncGenerator[Attached | BundleError, None],
    store: ContentStore,
    question: Question,
) -> list[str] | None:
    """As `objections`, of all that is there; what counts is kept."""
    from edge.registry.signatures import attached, verify

    reasons: list[str] = []
    about = question.reference, question.digest
    async with aclosing(attachments) as everything:
        async for found in everything:
            if isinstance(found, BundleError):
                reasons.append(verify.line(found.message))
                continue
            said = await asyncio.to_thread(verify.objections, found, question)
            if said is None:
                await asyncio.to_thread(attached.keep, store, *about, found)
                return None
            reasons += said
    return reasons


def _question(reference: Reference, digest: Digest, paths: Sequence[Path], now: float) -> Question:
    # The library of the keys takes megabytes, which only those pay who check signatures.
    from edge.registry.signatures.keys import load_all
    from edge.registry.signatures.verify import Question

    return Question(reference, digest, load_all(paths), now)


def _ask_store(store: ContentStore, question: Question) -> list[str] | None:
    """As `objections`, of all that was kept."""
    from edge.registry.signatures import attached, verify

    reasons: list[str] = []
    for found in attached.of_store(store, question.reference, question.digest):
        said = verify.objections(found, question)
        if said is None:
            return None
        reasons += said
    return reasons


def _refusal(question: Question, reasons: Iterable[str], *, offline: bool) -> BundleError:
    what = f"{question.reference.name}@{question.digest}"
    different = list(dict.fromkeys(reasons))
    if not different:
        where = "no signature of it is here" if offline else "its registry has no signature of it"
        return BundleError(f"{what}: is not signed: {where}", hint=f"edge sign {what} --key K")
    from edge.registry.signatures.verify import FOREIGN

    # What a trusted key has signed says more than what strangers have.
    told = sorted(different, key=lambda reason: reason == FOREIGN)[:_MAX_REASONS]
    names = ", ".join(key.name for key in question.keys)
    hint = f"trusted here: {names}" if names else "no key is trusted here"
    return BundleError(f"{what}: no signature of it counts: {'; '.join(told)}", hint=hint)
