"""Applications on this machine: a directory with spin.toml, a spin.toml, or a single Wasm file."""

from __future__ import annotations

import asyncio
import difflib
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge.application import manifest
from edge.application.fields import Where
from edge.application.model import (
    Application,
    Component,
    HttpTrigger,
    PackageSource,
    PathSource,
    Source,
    UrlSource,
    Wagi,
)
from edge.application.routes import Route
from edge.errors import BundleError, ConfigError
from edge.platform.files import exists, is_directory, unreadable
from edge.registry import wasm
from edge.registry.digest import Digest
from edge.registry.files import MountedFile, mounted_files, watched_places
from edge.registry.store import ContentStore

__all__ = ["MAX_WASM", "Fetch", "LocalApplication", "load", "single"]

# No component in use is near it; a server that sends without end is stopped by it.
MAX_WASM = 512 << 20

# (url, limit in bytes) -> body; raises PullError
Fetch = Callable[[str, int], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class LocalApplication:
    """An application whose every part is present on this machine."""

    application: Application
    sources: Mapping[str, Path]  # component -> its Wasm binary
    files: Mapping[str, tuple[MountedFile, ...]]  # component -> what its guest may read
    watched: tuple[Path, ...]  # a change to one of these, or below it, may change the application


async def load(
    path: Path, *, state_dir: Path, fetch: Fetch, profile: str | None = None
) -> LocalApplication:
    """Loads what `path` names. Mistakes are ConfigErrors or ComponentErrors with a place.

    Binaries from URLs come from `state_dir`, or by `fetch` and then stay there, by their digest.
    """
    found = await asyncio.to_thread(_read, path, profile)
    sources: dict[str, Path] = {}
    for id, component in found.application.components.items():
        where = found.where.key("component").key(id)
        sources[id] = await _source(component, found.root, where, state_dir, fetch)
    return await asyncio.to_thread(_complete, found, sources)


@dataclass(frozen=True, slots=True)
class _Found:
    application: Application
    root: Path
    where: Where
    manifest: Path | None


def _read(path: Path, profile: str | None) -> _Found:
    if is_directory(path):
        path = path / "spin.toml"
        if not exists(path):
            hint = "name a directory with a spin.toml, or a .wasm file"
            if exists(node := path.with_name("edge.toml")):
                hint = (
                    f"for the node that {node} configures: edge run --config, edge check --config"
                )
            raise ConfigError(f"{path.parent}: has no spin.toml", hint=hint)
    data = _bytes(path)
    if path.suffix == ".toml":
        return _from_manifest(path, data, profile)
    return _from_binary(path, data)


def _bytes(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: is not a file")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {unreadable(error)}") from error


def _from_manifest(path: Path, data: bytes, profile: str | None) -> _Found:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None
    application = manifest.read(text, file=str(path), profile=profile)
    return _Found(application, path.absolute().parent, Where(str(path)), path)


def _from_binary(path: Path, binary: bytes) -> _Found:
    application = single(path.stem, PathSource(str(path.absolute())), binary, str(path))
    return _Found(application, path.absolute().parent, Where(str(path)), None)


def single(name: str, source: Source, binary: bytes, shown: str) -> Application:
    """One component on "/...": it handles requests itself, or is a command run by Wagi."""
    command = wasm.handler(binary, shown) is wasm.Handler.COMMAND
    id = _component_id(name)
    trigger = HttpTrigger(
        id=f"{id}-http-trigger",
        route=Route.parse("/..."),
        component=id,
        wagi=Wagi() if command else None,
    )
    return Application(name, components={id: Component(id, source)}, http=(trigger,))


def _component_id(stem: str) -> str:
    words = re.findall("[a-z0-9]+", stem.lower())
    return "-".join(word if word[0].isalpha() else f"x{word}" for word in words) or "component"


async def _source(
    component: Component, root: Path, where: Where, state_dir: Path, fetch: Fetch
) -> Path:
    if component.dependencies:
        raise where.key("dependencies").error(
            "composing a component with its dependencies is not supported",
            "compose them into one file, as with `wac plug`, and use that as its source",
        )
    match component.source:
        case PathSource(path):
            return root / path
        case UrlSource(url, digest):
            return await _downloaded(url, digest, state_dir, fetch)
        case PackageSource(package):
            raise where.key("source").error(
                f"packages from a registry are not supported: {package}",
                "download it and name the file, or give its url and digest",
            )


async def _downloaded(url: str, digest: str, state_dir: Path, fetch: Fetch) -> Path:
    store, wanted = ContentStore(state_dir), Digest.parse(digest)
    if not await asyncio.to_thread(_holds, store, wanted):
        data = await fetch(url, MAX_WASM)
        actual = await asyncio.to_thread(Digest.of, data)
        if actual != wanted:
            raise BundleError(
                f"{url}: its digest is {actual}, not {digest}",
                hint="the file has changed on the server, or the digest was copied wrongly",
            )
        await asyncio.to_thread(store.add, data, "application/wasm")
    return store.path(wanted)


def _holds(store: ContentStore, digest: Digest) -> bool:
    # Hashed each time: a bad disk is noticed here and the file is fetched anew.
    try:
        store.verify(digest)
    except BundleError:
        return False
    return True


def _complete(found: _Found, sources: Mapping[str, Path]) -> LocalApplication:
    watched = [found.manifest] if found.manifest else []
    files: dict[str, tuple[MountedFile, ...]] = {}
    for id, component in found.application.components.items():
        where = found.where.key("component").key(id)
        _check_binary(component, sources[id], where.key("source"))
        files[id] = mounted_files(component, found.root, where)
        if isinstance(component.source, PathSource):
            watched.append(sources[id])
        watched += watched_places(component, found.root)
    return LocalApplication(found.application, dict(sources), files, tuple(dict.fromkeys(watched)))


def _other(path: Path) -> str | None:
    """What may have been meant by a file that is not there."""
    there = [other.name for other in path.parent.glob("*.wasm")]
    # What a build makes on its way is called alike: app.core.wasm.
    close = difflib.get_close_matches(path.name, there, n=1, cutoff=0.85)
    return f'did you mean "{close[0]}"?' if close else None


def _check_binary(component: Component, path: Path, where: Where) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(wasm.HEADER)
    except FileNotFoundError:
        build = component.build
        told = "build it: edge build" if build and build.commands else None
        hint = " ".join(filter(None, (_other(path), told))) or None
        raise where.error(f"{path} does not exist", hint) from None
    except OSError as error:
        raise where.error(f"{path}: {error.strerror}") from error
    wasm.kind(head, f"{where}: {path}")
