"""What a node was told to run and what it runs: values, their changes, and their JSON. Pure.

live       what a boot returns to
trial      what has replaced it and is still watched; it becomes `live`, or is refused
previous   what a rollback by hand returns to, the newest first
refused    what failed, until the reference stands for something else
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from edge.application.fields import Reader, Table, Where, integer, items, mapping, parsed, string
from edge.config import ApplicationEntry
from edge.errors import EdgeError
from edge.registry.digest import Digest
from edge.registry.manifest import read_json
from edge.registry.sync.entries import Identity, entry_reader, entry_to_json, identity

__all__ = ["App", "Refusal", "State", "Version", "dump", "parse"]

T = TypeVar("T")

_SCHEMA = 1
# The content store keeps as many before the newest of each name.
_PREVIOUS = 1
# Of one application at a time; they end when its reference moves on to something good.
_REFUSALS = 8
# Of a node, while it watches one version: a power cut may be one of them, three are not.
_BOOTS = 3


@dataclass(frozen=True, slots=True)
class Version:
    """A bundle of the content store, as it was configured. `since`: trusted Unix time."""

    digest: Digest
    entry: ApplicationEntry
    since: float
    # Compared far more often than made, and not for free.
    identity: Identity = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "identity", identity(self.digest, self.entry))


@dataclass(frozen=True, slots=True)
class Refusal:
    """A version that is not tried again by itself."""

    identity: Identity
    reason: str
    since: float


@dataclass(frozen=True, slots=True)
class App:
    """One application. Each method returns what it is afterwards."""

    live: Version | None = None
    trial: Version | None = None
    previous: tuple[Version, ...] = ()
    refused: tuple[Refusal, ...] = ()
    boots: int = 0  # while `trial` was watched
    fleet: bool = False  # the fleet wanted it last: it stays until the fleet's document says other

    def refusal(self, wanted: Identity) -> Refusal | None:
        return next((r for r in self.refused if r.identity == wanted), None)

    def tried(self, version: Version) -> App:
        again = self.trial is not None and self.trial.identity == version.identity
        return replace(self, trial=version, boots=self.boots if again else 0)

    def booted(self, now: float) -> App:
        """A version that ends the whole node is not tried for ever."""
        if self.trial is None:
            return self
        if self.boots + 1 < _BOOTS:
            return replace(self, boots=self.boots + 1)
        reason = f"the node ended {_BOOTS} times while this version was watched"
        return self.failed(self.trial, reason, now)

    def lives(self, version: Version) -> App:
        """It is good; what was before may be returned to, and nothing is refused any more."""
        previous = self.previous
        if self.live and self.live.digest != version.digest:
            previous = (self.live, *(v for v in previous if v.digest != version.digest))
        return App(version, None, previous[:_PREVIOUS], fleet=self.fleet)

    def failed(self, version: Version, reason: str, now: float) -> App:
        """What was tried is no more, and is not tried again."""
        trial = None if self.trial == version else self.trial
        refusal = Refusal(version.identity, reason, now)
        others = tuple(r for r in self.refused if r.identity != version.identity)
        return replace(self, trial=trial, boots=0, refused=(refusal, *others)[:_REFUSALS])

    def went_back(self, version: Version, reason: str, now: float) -> App:
        """By hand: from `live` to an earlier version."""
        assert self.live is not None
        app = self.failed(self.live, reason, now)
        earlier = tuple(v for v in self.previous if v.digest != version.digest)
        return replace(app, live=version, trial=None, previous=earlier)


@dataclass(frozen=True, slots=True)
class State:
    """Everything that a node remembers of its applications."""

    deployed: Mapping[str, ApplicationEntry] = field(default_factory=dict)
    apps: Mapping[str, App] = field(default_factory=dict)
    # References that were not in the content store before sync brought them: it removes them too.
    pulled: frozenset[str] = frozenset()
    purging: frozenset[str] = frozenset()  # applications whose data is to be removed

    def app(self, name: str) -> App:
        return self.apps.get(name) or App()

    @property
    def former(self) -> frozenset[Digest]:
        """What a rollback returns to, whatever was tried and refused since."""
        return frozenset(v.digest for app in self.apps.values() for v in app.previous)

    def booted(self, now: float) -> State:
        return replace(self, apps={name: app.booted(now) for name, app in self.apps.items()})

    def change(self, name: str, change: Callable[[App], App]) -> State:
        return replace(self, apps={**self.apps, name: change(self.app(name))})

    def deploy(self, entry: ApplicationEntry) -> State:
        return replace(self, deployed={**self.deployed, entry.name: entry})

    def undeploy(self, name: str) -> State:
        return replace(self, deployed={n: e for n, e in self.deployed.items() if n != name})

    def forget(self, name: str) -> State:
        return replace(self, apps={n: app for n, app in self.apps.items() if n != name})


# JSON


def dump(state: State) -> bytes:
    document: dict[str, object] = {
        "schema": _SCHEMA,
        "deployed": {name: entry_to_json(entry) for name, entry in state.deployed.items()},
        "applications": {name: _app_json(app) for name, app in state.apps.items()},
        "pulled": sorted(state.pulled),
    }
    if state.purging:
        document["purging"] = sorted(state.purging)
    return json.dumps(document, sort_keys=True, indent=1).encode()


def _app_json(app: App) -> dict[str, object]:
    told: dict[str, object] = {
        "live": app.live and _version_json(app.live),
        "trial": app.trial and _version_json(app.trial),
        "previous": [_version_json(version) for version in app.previous],
        "refused": [_refusal_json(refusal) for refusal in app.refused],
        "source": "fleet" if app.fleet else None,
        "boots": app.boots,
    }
    return {key: value for key, value in told.items() if value}


def _version_json(version: Version) -> dict[str, object]:
    entry = entry_to_json(version.entry)
    return {"digest": str(version.digest), "since": int(version.since), "entry": entry}


def _refusal_json(refusal: Refusal) -> dict[str, object]:
    digest, configuration = refusal.identity
    told = {"digest": str(digest), "configuration": configuration, "reason": refusal.reason}
    return {**told, "since": int(refusal.since)}


def parse(data: bytes, name: str) -> State:
    """BundleError for what is damaged; another EdgeError for what a newer version wrote."""
    return read_json(data, name, _state)


def _state(value: object, where: Where) -> State:
    with Table(value, where) as table:
        if (schema := table.need("schema", integer(1, 1 << 31))) != _SCHEMA:
            raise EdgeError(
                f"{where}: has schema {schema}, this version knows {_SCHEMA}",
                hint="a newer version wrote it: install that one, or restore a backup",
            )
        return State(
            deployed=table.need("deployed", _named(entry_reader)),
            apps=table.need("applications", _named(_app)),
            pulled=frozenset(table.need("pulled", items(string))),
            purging=frozenset(table.optional("purging", items(string)) or ()),
        )


def _named(reader: Callable[[str], Reader[T]]) -> Reader[dict[str, T]]:
    """A table whose values know the key that they stand at."""

    def read(value: object, where: Where) -> dict[str, T]:
        found = mapping(lambda item, _: item)(value, where)
        return {name: reader(name)(item, where.key(name)) for name, item in found.items()}

    return read


def _app(name: str) -> Reader[App]:
    version = _version(name)

    def read(value: object, where: Where) -> App:
        with Table(value, where) as table:
            return App(
                table.optional("live", version),
                table.optional("trial", version),
                table.get("previous", items(version), ()),
                table.get("refused", items(_refusal), ()),
                table.get("boots", integer(0, _BOOTS), 0),
                table.get("source", string, "") == "fleet",
            )

    return read


def _version(name: str) -> Reader[Version]:
    entry = entry_reader(name)

    def read(value: object, where: Where) -> Version:
        with Table(value, where) as table:
            return Version(
                table.need("digest", parsed(Digest.parse)),
                table.need("entry", entry),
                table.need("since", integer(0, 1 << 53)),
            )

    return read


def _refusal(value: object, where: Where) -> Refusal:
    with Table(value, where) as table:
        return Refusal(
            Identity(
                table.need("digest", parsed(Digest.parse)), table.need("configuration", string)
            ),
            table.need("reason", string),
            table.need("since", integer(0, 1 << 53)),
        )
