"""What the content store holds, as a registry sees it: repositories, their manifests and blobs.

Only what a tag leads to is shown, and only whole: what is half here, or here for another reason
(the files of an archive, a component of a `spin.toml`), is nobody else's business. Blocks: not for
the event loop. Knows nothing of HTTP.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from edge.errors import BundleError, ConfigError
from edge.registry.digest import Digest
from edge.registry.manifest import MAX_MANIFEST, Descriptor, Index, Manifest, read
from edge.registry.reference import DEFAULT_TAG, Reference
from edge.registry.store import ContentStore
from edge.registry.tags import History

__all__ = ["Ambiguous", "Held", "Holdings", "Repository"]

# Parsed manifests that are remembered; they are small, and asked for again at each blob.
_REMEMBERED = 128


class Ambiguous(Exception):
    """A tag that means different things in several registries: their names."""

    def __init__(self, registries: Iterable[str]) -> None:
        self.registries = tuple(registries)


@dataclass(frozen=True, slots=True)
class Repository:
    """One repository of one registry, as far as it is here."""

    registry: str
    name: str
    tags: dict[str, Digest] = field(default_factory=dict)
    digests: set[Digest] = field(default_factory=set)  # of tags now and before, and without a tag
    blobs: dict[Digest, Descriptor] = field(default_factory=dict)  # once they were asked for


@dataclass(frozen=True, slots=True)
class Held:
    """A manifest that is here."""

    descriptor: Descriptor
    parsed: Manifest | Index


class Holdings:
    """A store's repositories. `own`: this registry's name in references to what was pushed here;
    `ourselves`: whether a registry's name is another one for it.
    """

    def __init__(
        self, store: ContentStore, own: Callable[[], str], ourselves: Callable[[str], bool]
    ) -> None:
        self._store, self._own, self._ourselves = store, own, ourselves
        self._manifest = lru_cache(_REMEMBERED)(self._parsed)
        self._last: tuple[object, Mapping[str, list[Repository]]] = (None, {})

    def names(self) -> list[str]:
        """Every repository, without its registry, in order."""
        return sorted(self._repositories())

    def everything(self) -> list[Repository]:
        """Every repository of every registry."""
        return [found for several in self._repositories().values() for found in several]

    def find(self, name: str, registry: str | None = None) -> list[Repository]:
        """The repositories of that name, of one registry or of all. None is an empty list.

        A name may begin with its registry: not every client can say it in another way.
        """
        known = self._repositories()
        if registry is not None and not self._ourselves(registry):
            return [found for found in known.get(name, ()) if found.registry == registry]
        if name in known:
            return known[name]
        first, _, rest = name.partition("/")
        return [found for found in known.get(rest, ()) if found.registry == first]

    def tagged(self, repositories: Iterable[Repository], tag: str) -> Digest | None:
        """What a tag stands for. Raises Ambiguous."""
        found = {r.registry: r.tags[tag] for r in repositories if tag in r.tags}
        # What was pulled from here, by any name, may be older than what was pushed.
        if (own := found.get(self._own())) is not None:
            return own
        if len(set(found.values())) > 1:
            raise Ambiguous(sorted(found))
        return next(iter(found.values()), None)

    def manifest(self, repositories: Iterable[Repository], digest: Digest) -> Held | None:
        """A manifest of one of them, or of an index of theirs, if all that it names is here."""
        if any(digest in repository.digests for repository in repositories):
            return self.held(digest)
        theirs = any(held.descriptor.digest == digest for held in self._manifests(repositories))
        return self.held(digest) if theirs else None

    def held(self, digest: Digest) -> Held | None:
        """A manifest, if it is here with everything that it names."""
        top = None
        for found in self._walk((digest,)):
            if found is None:
                return None
            if isinstance(found.parsed, Manifest) and not self._has(found.parsed):
                return None
            top = top or found
        return top

    def blob(self, repositories: Iterable[Repository], digest: Digest) -> int | None:
        """The size of a blob that a manifest of theirs names, or that is one."""
        for repository in repositories:
            blob = self._blobs(repository).get(digest)
            if blob is not None and self._store.has(blob):
                return blob.size
        return None

    def referrers(self, repositories: Iterable[Repository], subject: Digest) -> list[Held]:
        """The manifests of theirs that are about another one, in order."""
        found = {
            manifest.descriptor.digest: manifest
            for manifest in self._manifests(repositories)
            if manifest.parsed.subject and manifest.parsed.subject.digest == subject
        }
        return [found[digest] for digest in sorted(found) if self.held(digest)]

    def _blobs(self, repository: Repository) -> Mapping[Digest, Descriptor]:
        """Every blob that its manifests name, and they themselves."""
        if repository.blobs:
            return repository.blobs
        found: dict[Digest, Descriptor] = {}
        whole = True
        for manifest in self._walk(repository.digests):
            if manifest is None:
                whole = False  # it may come back
                continue
            named = manifest.parsed.blobs if isinstance(manifest.parsed, Manifest) else ()
            found |= {blob.digest: blob for blob in (manifest.descriptor, *named)}
        if whole:
            repository.blobs.update(found)
        return found

    def _has(self, manifest: Manifest) -> bool:
        return all(map(self._store.has, manifest.blobs))

    def _manifests(self, repositories: Iterable[Repository]) -> Iterator[Held]:
        """What is here of all of them, whole or not."""
        digests = [digest for repository in repositories for digest in repository.digests]
        return (found for found in self._walk(digests) if found is not None)

    def _walk(self, digests: Iterable[Digest]) -> Iterator[Held | None]:
        """These manifests and those of their indexes, each once; None for what is not here."""
        ahead = list(dict.fromkeys(digests))
        seen = set(ahead)
        for digest in ahead:  # it grows meanwhile
            found = self._known(digest)
            yield found
            if found is not None and isinstance(found.parsed, Index):
                new = [e.digest for e in found.parsed.manifests if e.digest not in seen]
                seen.update(new)
                ahead += dict.fromkeys(new)

    def _known(self, digest: Digest) -> Held | None:
        try:
            found = self._manifest(digest)
        except BundleError:  # not here, damaged, or no manifest at all
            return None
        return found if self._store.has(found.descriptor) else None

    def _parsed(self, digest: Digest) -> Held:
        data = self._store.read(digest, MAX_MANIFEST)
        parsed = read(data, str(digest))
        return Held(Descriptor(parsed.media_type, digest, len(data)), parsed)

    def _repositories(self) -> Mapping[str, list[Repository]]:
        tags = self._store.tags.all()
        known, found = self._last
        if tags is not known:
            found = _grouped(tags)
            self._last = tags, found
        return found


def _grouped(tags: Mapping[str, History]) -> Mapping[str, list[Repository]]:
    found: dict[tuple[str, str], Repository] = {}
    for name, history in tags.items():
        try:
            reference = Reference.parse(name)
        except ConfigError:  # a name that was never a reference
            continue
        place = reference.registry, reference.repository
        repository = found.setdefault(place, Repository(*place))
        repository.digests.update(history)
        if history and reference.digest is None:
            if reference.tag:
                repository.tags[reference.tag] = history[0]
            else:  # a pull by that name; what was pushed says its tag
                repository.tags.setdefault(DEFAULT_TAG, history[0])
    grouped = defaultdict(list)
    for repository in found.values():
        grouped[repository.name].append(repository)
    return grouped
