"""Bundles that no Spin wrote: one component, served on "/...".

    Wasm artifacts (CNCF)      one layer, a Wasm binary
    images for wasi/wasm       a file system with the binary in it, as container runtimes run it

Blocks: not for the event loop.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edge.application.fields import Table, Where, items, raw_table, string
from edge.application.model import Application, PathSource, Wagi
from edge.application.names import environment_name
from edge.errors import BundleError
from edge.registry import archive
from edge.registry.digest import Digest
from edge.registry.files import MountedFile
from edge.registry.local import MAX_WASM, LocalApplication, single
from edge.registry.manifest import Manifest, read_json
from edge.registry.store import ContentStore

__all__ = ["read"]

_BINARIES = ("application/wasm", "application/vnd.wasm.content.layer.v1+wasm")
_LAYERS = (
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar",
)
_TITLE = "org.opencontainers.image.title"
# An image's configuration holds its history; more is no configuration.
_MAX_CONFIG = 4 << 20
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_KNOWN = "known are Spin applications, Wasm artifacts of one layer and images for wasi/wasm"


def read(store: ContentStore, manifest: Manifest, name: str) -> LocalApplication:
    """A bundle without a locked application. What it is not is a BundleError about `name`."""
    kinds = {layer.media_type for layer in manifest.layers}
    if kinds and kinds <= set(_BINARIES):
        if len(manifest.layers) != 1:
            raise BundleError(f"{name}: has {len(manifest.layers)} Wasm binaries, not one")
        return _artifact(store, manifest, name)
    if kinds and kinds <= set(_LAYERS):
        return _image(store, manifest, name)
    found = ", ".join(sorted(kinds)) or "no layers"
    raise BundleError(f"{name}: is no application: it has {found}", hint=_KNOWN)


def _artifact(store: ContentStore, manifest: Manifest, name: str) -> LocalApplication:
    (layer,) = manifest.layers
    return _served(store, layer.digest, _name(manifest, name), name, {})


def _name(manifest: Manifest, name: str) -> str:
    """What data of the application is kept under: the same for all its versions."""
    title = manifest.annotations.get(_TITLE, "").removesuffix(".wasm")
    last = name.rpartition("/")[2].partition("@")[0].partition(":")[0]
    return title if title and title.isprintable() else last or "application"


def _served(
    store: ContentStore, binary: Digest, title: str, name: str, files: Mapping[str, Digest]
) -> LocalApplication:
    application = single(title, PathSource(str(binary)), store.read(binary, MAX_WASM), name)
    (id,) = application.components
    mounted = tuple(MountedFile(f"/{path}", store.path(files[path])) for path in sorted(files))
    return LocalApplication(application, {id: store.path(binary)}, {id: mounted}, ())


# Images


@dataclass(frozen=True, slots=True)
class _Config:
    """What an image's configuration says about how to run it."""

    platform: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    directory: str


def _image(store: ContentStore, manifest: Manifest, name: str) -> LocalApplication:
    data = store.read(manifest.config.digest, _MAX_CONFIG)
    config = read_json(data, f"{name}: config", _read_config)
    if not re.fullmatch(r"(wasi|wasip[12])/wasm(32)?|[Ww]asip[12]/wasm", config.platform):
        raise BundleError(f"{name}: is a container image for {config.platform}", hint=_KNOWN)
    files: dict[str, Digest] = {}
    for layer in manifest.layers:
        members = archive.unpack(store, layer.digest, f"{name}: {layer.digest}")
        files = _merged(files, members)
    path = _entry(config, files, name)
    found = _served(store, files.pop(path), _name(manifest, name), f"{name}: {path}", files)
    return replace(found, application=_configured(found.application, config, name))


def _read_config(value: object, where: Where) -> _Config:
    with Table(value, where) as table:
        platform = f"{table.get('os', string, '?')}/{table.get('architecture', string, '?')}"
        inner = table.optional("config", _maybe_table)
        table.rest()
    place = where.key("config")
    with Table(inner or {}, place) as config:
        entry = config.optional("Entrypoint", _strings) or ()
        rest = config.optional("Cmd", _strings) or ()
        variables = config.optional("Env", _strings) or ()
        directory = config.get("WorkingDir", string, "")
        config.rest()
    environment = dict(_variable(text, place.key("Env")) for text in variables)
    return _Config(platform, entry + rest, environment, directory)


def _maybe_table(value: object, where: Where) -> dict[str, object]:
    return {} if value is None else raw_table(value, where)


def _strings(value: object, where: Where) -> tuple[str, ...]:
    return () if value is None else items(string)(value, where)


def _variable(text: str, where: Where) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    try:
        if not equals or "\0" in value:
            raise ValueError("not a name, =, and a value")
        return environment_name(name), value
    except ValueError as error:
        raise where.error(f"{text[:100]!a}: {error}") from None


def _merged(lower: Mapping[str, Digest], layer: Mapping[str, Digest]) -> dict[str, Digest]:
    """A layer upon those below it: what it has replaces, what it marks as gone is gone."""
    gone: set[str] = set()  # files, and directories with all that is below them
    emptied: set[str] = set()
    added: dict[str, Digest] = {}
    for path, digest in layer.items():
        directory, _, base = path.rpartition("/")
        if base == _OPAQUE:
            emptied.add(directory)
        elif base.startswith(_WHITEOUT):
            gone.add(f"{directory}/{base.removeprefix(_WHITEOUT)}".lstrip("/"))
        else:
            added[path] = digest
    # A file where a directory was, and the other way round.
    replaced = {*gone, *added, *(parent for path in added for parent in _parents(path))}
    kept = {
        path: digest
        for path, digest in lower.items()
        if path not in replaced
        and not any(parent in gone or parent in added for parent in _parents(path))
        and not any(parent in emptied for parent in (*_parents(path), ""))
    }
    return kept | added


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]


def _entry(config: _Config, files: Mapping[str, Digest], name: str) -> str:
    """The binary: the first word of the command, or the only one there is."""
    if config.command:
        path = _joined(config.directory, config.command[0])
        if path not in files:
            raise BundleError(f"{name}: its command {config.command[0]!a} is not in the image")
        return path
    found = [path for path in files if path.endswith(".wasm")]
    if len(found) != 1:
        raise BundleError(f"{name}: has no command, and {len(found)} files that end in .wasm")
    return found[0]


def _joined(directory: str, path: str) -> str:
    whole = Path("/", directory, path)
    return "/".join(part for part in whole.parts[1:] if part != ".")


def _configured(application: Application, config: _Config, name: str) -> Application:
    """The application with what the image says: environment and arguments."""
    ((id, component),) = application.components.items()
    (trigger,) = application.http
    arguments = config.command[1:]
    if trigger.wagi and arguments:
        if any(set(text) & set(" $") or not text for text in arguments):
            raise BundleError(f"{name}: its command has arguments with spaces or $, or empty ones")
        wagi = Wagi(" ".join(("${SCRIPT_NAME}", *arguments, "${ARGS}")))
        trigger = replace(trigger, wagi=wagi)
    component = replace(component, environment=config.environment)
    return replace(application, components={id: component}, http=(trigger,))
