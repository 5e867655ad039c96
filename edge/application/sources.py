"""Where a Wasm binary comes from, and what a component's imports are satisfied with."""

from __future__ import annotations

import re

from edge.application.fields import (
    Reader,
    Table,
    Where,
    check,
    choice,
    items,
    parsed,
    raw_table,
    show,
    string,
)
from edge.application.model import Dependency, PackageSource, PathSource, Source, UrlSource
from edge.application.names import kebab

__all__ = ["read_dependencies", "read_source"]

_DIGEST = re.compile("sha256:[0-9a-f]{64}")
_PACKAGE = re.compile(r"[a-z][a-z0-9-]*:[a-z][a-z0-9-]*")
_VERSIONED = re.compile(r"(?P<package>[^/@]+)(?:/(?P<interface>[^@]+))?(?:@(?P<version>.+))?")
# The grants of a component that a dependency may be given.
_INHERITABLE = (
    "ai_models",
    "allowed_outbound_hosts",
    "environment",
    "files",
    "key_value_stores",
    "sqlite_databases",
    "variables",
)


def read_source(value: object, where: Where) -> Source:
    if isinstance(value, str):
        return PathSource(value)
    if not isinstance(value, dict):
        raise where.error(f"must be a path or a table, not {show(value)}")
    with Table(value, where) as table:
        if "url" in table:
            return _url_source(table)
        if "package" in table:
            return _package_source(table)
        raise where.error("needs a url with its digest, or a package with its version")


def _url_source(table: Table) -> UrlSource:
    return UrlSource(table.need("url", check(_url)), table.need("digest", check(_digest)))


def _package_source(table: Table) -> PackageSource:
    return PackageSource(
        table.need("package", check(_package)),
        table.need("version", string),
        table.optional("registry", string),
    )


def _url(text: str) -> None:
    if not text.startswith(("https://", "http://")):
        raise ValueError(f'must be a URL with http:// or https://, not "{text}"')


def _digest(text: str) -> None:
    if not _DIGEST.fullmatch(text):
        raise ValueError(f'must be "sha256:" and 64 hexadecimal digits, not "{text}"')


def _package(text: str) -> None:
    if not _PACKAGE.fullmatch(text):
        raise ValueError(f'must be a package like "space:name", not "{text}"')


def read_dependencies(*, inherits: bool | None) -> Reader[dict[str, Dependency]]:
    """A component's `dependencies`. `inherits`: what the component says for all of them."""

    def read(value: object, where: Where) -> dict[str, Dependency]:
        return {
            parsed(_dependency_name)(name, where.key(name)): _dependency(
                name, one, where.key(name), inherits=inherits
            )
            for name, one in raw_table(value, where).items()
        }

    return read


def _dependency_name(text: str) -> str:
    """ "space:name", "space:name/interface@1.2.3" or a plain name."""
    if ":" not in text and "/" not in text:
        return kebab(text)
    match = _VERSIONED.fullmatch(text)
    if match is None or not _PACKAGE.fullmatch(match["package"]):
        raise ValueError('must be a name like "space:name/interface@1.2.3" or "plain-name"')
    return text


def _dependency(name: str, value: object, where: Where, *, inherits: bool | None) -> Dependency:
    if isinstance(value, str):
        return Dependency(_package_of(name, value, None, where), None, bool(inherits))
    with Table(value, where) as table:
        own = table.optional("inherit_configuration", _inherits)
        if own is not None and inherits is not None:
            raise where.key("inherit_configuration").error(
                "the component says dependencies_inherit_configuration for all its dependencies"
            )
        export = table.optional("export", string)
        if export is not None and ":" in name and "/" not in name:
            raise where.key("export").error("needs a dependency that names one interface")
        source = _dependency_source(name, table)
    return Dependency(source, export, bool(inherits) if own is None else own)


def _dependency_source(name: str, table: Table) -> Source | str:
    if "path" in table:
        return PathSource(table.need("path", string))
    if "url" in table:
        return _url_source(table)
    if "component" in table:
        return table.need("component", parsed(kebab))
    version = table.need("version", string)
    package = table.optional("package", check(_package))
    source = _package_of(name, version, package, table.where)
    return PackageSource(source.package, version, table.optional("registry", string))


def _package_of(name: str, version: str, package: str | None, where: Where) -> PackageSource:
    match = _VERSIONED.fullmatch(name)
    if package is None and (match is None or ":" not in match["package"]):
        raise where.error('missing key "package"', f'"{name}" does not name a package itself')
    return PackageSource(package or (match["package"] if match else name), version)


def _inherits(value: object, where: Where) -> bool | tuple[str, ...]:
    return value if isinstance(value, bool) else items(choice(*_INHERITABLE))(value, where)
