"""Which application a request is for: by its host, by the deepest mount, by its route.

Pure and immutable: a change makes another table that shares what did not change. Knows no HTTP.

    host      mounts of that host; hosts without any share the mounts that name none
    path      the deepest mount whose path is a prefix, at the end of a segment: its 404 is final
    route     where several applications share a mount, the best of all their routes
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from edge.application.routes import Route, Router
from edge.config import Mount
from edge.errors import ConfigError

__all__ = ["Mounted", "Table", "host_of"]

T = TypeVar("T")

_Change = tuple[set[str], "dict[str, Mounted[T]]"]


@dataclass(frozen=True, slots=True)
class Mounted(Generic[T]):
    """An application as the table sees it. `routes`: those that requests reach."""

    mount: Mount
    routes: tuple[Route, ...]
    target: T


class Table(Generic[T]):
    """All applications of a node, by name."""

    __slots__ = ("_hosts", "applications", "only")

    def __init__(self) -> None:
        self.applications: Mapping[str, Mounted[T]] = {}
        # Where the only application with routes is on "/" for every host: nothing to look up.
        self.only: T | None = None
        self._hosts: Mapping[str | None, _Host[T]] = {}

    def change(self, changes: Mapping[str, Mounted[T] | None]) -> Table[T]:
        """The table with these applications in the place of those of the same name; None removes
        one. Raises ConfigError when a route belongs to another application already.
        """
        found: Table[T] = Table()
        found.applications = {**self.applications}
        # host -> mount -> what leaves it, and what comes
        hosts: dict[str | None, dict[Mount, _Change[T]]] = {}
        for name, mounted in changes.items():
            before = found.applications.pop(name, None)
            if before is not None and before.routes:
                mounts = hosts.setdefault(before.mount.host, {})
                mounts.setdefault(before.mount, (set(), {}))[0].add(name)
            if mounted is None:
                continue
            found.applications[name] = mounted
            if mounted.routes:
                mounts = hosts.setdefault(mounted.mount.host, {})
                mounts.setdefault(mounted.mount, (set(), {}))[1][name] = mounted
        known = {**self._hosts}
        for host, mounts in hosts.items():
            known[host] = known.get(host, _Host()).change(mounts)
            if not known[host].sites:
                del known[host]
        found._hosts = known
        found.only = _only(known)
        return found

    def find(self, authority: str, path: str) -> tuple[T, str] | None:
        """Who answers a path of a host, and the path of the mount, "" for "/"."""
        hosts = self._hosts
        host = None
        if None not in hosts or len(hosts) > 1:
            host = hosts.get(host_of(authority))
        if host is None:
            host = hosts.get(None)
            if host is None:
                return None
        return host.find(path)


@dataclass(frozen=True, slots=True)
class _Host(Generic[T]):
    """The mounts of one host. `depth`: segments of the deepest."""

    sites: Mapping[str, _Site[T]] = field(default_factory=dict)  # "" for "/"
    depth: int = 0

    def change(self, mounts: Mapping[Mount, _Change[T]]) -> _Host[T]:
        sites = {**self.sites}
        for mount, (removed, added) in mounts.items():
            path = mount.path.rstrip("/")
            sites[path] = sites.get(path, _Site()).change(mount, removed, added)
            if not sites[path].names:
                del sites[path]
        return _Host(sites, max((path.count("/") for path in sites), default=0))

    def find(self, path: str) -> tuple[T, str] | None:
        sites = self.sites
        if self.depth:
            # No more of the path than mounts are deep: its other segments may be thousands.
            parts = path.split("/", self.depth + 1)[: self.depth + 1]
            while len(parts) > 1:
                base = "/".join(parts)
                if base in sites:
                    target = sites[base].find(path[len(base) :])
                    return None if target is None else (target, base)
                parts.pop()
        site = sites.get("")
        target = None if site is None else site.find(path)
        return None if target is None else (target, "")


class _Site(Generic[T]):
    """The applications of one mount. Their routes are looked up by their first segment, so that a
    thousand applications which share "/" cost a request no more than one, and a change little.
    """

    __slots__ = ("_only", "_owners", "_routers", "_routes", "names")

    def __init__(self) -> None:
        self.names: Mapping[str, Mounted[T]] = {}
        self._only: T | None = None
        self._owners: Mapping[str, str] = {}  # pattern -> application
        # first segment (None: routes where it differs) -> routes and their applications
        self._routes: Mapping[str | None, tuple[tuple[Route, str], ...]] = {}
        # Of those first segments that were asked for: to make one takes a tenth of a millisecond.
        self._routers: dict[str | None, Router[str]] = {}

    def change(self, mount: Mount, removed: set[str], added: Mapping[str, Mounted[T]]) -> _Site[T]:
        found: _Site[T] = _Site()
        found.names = {**{n: m for n, m in self.names.items() if n not in removed}, **added}
        found._only = next(iter(found.names.values())).target if len(found.names) == 1 else None
        found._owners, found._routes, found._routers = self._owners, self._routes, self._routers
        gone = {n for n in removed if n not in added or added[n].routes != self.names[n].routes}
        new = {n: m for n, m in added.items() if n in gone or n not in self.names}
        if gone or new:
            found._reroute(mount, gone, new, self.names)
        return found

    def find(self, path: str) -> T | None:
        if self._only is not None:
            return self._only
        name = self._match(path.lstrip("/").partition("/")[0], path) or self._match(None, path)
        return None if name is None else self.names[name].target

    def _match(self, first: str | None, path: str) -> str | None:
        router = self._routers.get(first)
        if router is None:
            routes = self._routes.get(first)
            if routes is None:
                return None
            router = self._routers[first] = Router(routes)
        match = router.match(path)
        return None if match is None else match.target

    def _reroute(
        self,
        mount: Mount,
        gone: Iterable[str],
        new: Mapping[str, Mounted[T]],
        before: Mapping[str, Mounted[T]],
    ) -> None:
        owners, routes, routers = {**self._owners}, {**self._routes}, {**self._routers}
        touched = set()
        for name in gone:
            for route in before[name].routes:
                owners.pop(route.pattern, None)
                touched.add(route.first)
        for first in touched:
            routes[first] = tuple(pair for pair in routes[first] if pair[1] not in gone)
        for name, mounted in new.items():
            for route in mounted.routes:
                owner = owners.setdefault(route.pattern, name)
                if owner != name:
                    raise _conflict(name, route, owner, mount)
                routes[route.first] = (*routes.get(route.first, ()), (route, name))
                touched.add(route.first)
        for first in touched:
            routers.pop(first, None)
            # In the order of their names: what was deployed first makes no difference.
            routes[first] = tuple(sorted(routes[first], key=lambda pair: pair[1]))
            if not routes[first]:
                del routes[first]
        self._owners, self._routes, self._routers = owners, routes, routers


def _only(hosts: Mapping[str | None, _Host[T]]) -> T | None:
    if len(hosts) != 1 or None not in hosts or list(hosts[None].sites) != [""]:
        return None
    return hosts[None].sites[""]._only


def _conflict(name: str, route: Route, owner: str, mount: Mount) -> ConfigError:
    return ConfigError(
        f"application {name}: its route {route.text} is that of application {owner} "
        f"(mount {mount.host or ''}{mount.path})",
        hint="give one of them another mount",
    )


def host_of(authority: str) -> str:
    """The host of "Host:8080", as mounts name it."""
    host = authority.lower()
    if host.rfind(":") > host.rfind("]"):
        host = host.rpartition(":")[0]
    return host.strip("[]").removesuffix(".")
