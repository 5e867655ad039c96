"""References: which content of which registry. Strict, so that no text of a person or a document
becomes an odd URL or path.

`registry.example:5000/team/app:1.2@sha256:…`; the grammar is that of the OCI distribution
specification, and the registry is never left out.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace

from edge.errors import ConfigError
from edge.registry.digest import Digest

__all__ = ["Reference", "is_repository", "is_tag", "looks_like_reference"]

# As other tools do when neither tag nor digest is given.
DEFAULT_TAG = "latest"

# Registries refuse longer names: registry and repository together.
_MAX_NAME = 255

_LABEL = "[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_REGISTRY = re.compile(
    rf"(?:{_LABEL}(?:\.{_LABEL})*|\[(?P<v6>[0-9a-fA-F:.]{{2,45}})\])(?::(?P<port>[0-9]{{1,5}}))?"
)
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")

_HINT = 'write it like "registry.example/team/app:1.0"'


@dataclass(frozen=True, slots=True)
class Reference:
    """A tag or digest in a repository of a registry. With both, the digest says what is meant."""

    registry: str  # host or host:port, in lower case
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Raises ConfigError, with a hint, for what is not exactly a reference."""
        name, at, digest = text.partition("@")
        registry, slash, rest = name.partition("/")
        if not slash or not _names_a_registry(registry):
            raise _no_registry(text)
        if "://" in text:
            raise _wrong(text, "is a URL", f"leave the scheme out; {_HINT}")
        repository, colon, tag = rest.partition(":")
        _check_names(text, registry, repository)
        if colon and not _TAG.fullmatch(tag):
            raise _wrong(text, f"{tag!a} is not a tag", "letters, digits, _ . and -, at most 128")
        try:
            parsed = Digest.parse(digest) if at else None
        except ValueError as error:
            raise _wrong(text, str(error)) from None
        return cls(registry.lower(), repository, tag if colon else None, parsed)

    @property
    def wanted(self) -> str:
        """What to ask the registry for: the digest, or the tag."""
        return str(self.digest) if self.digest else self.tag or DEFAULT_TAG

    @property
    def name(self) -> str:
        """Registry and repository."""
        return f"{self.registry}/{self.repository}"

    def at(self, digest: Digest) -> Reference:
        """Exactly that content of the same repository."""
        return replace(self, tag=None, digest=digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.name}{tag}@{self.digest}" if self.digest else f"{self.name}{tag}"


def is_repository(text: str) -> bool:
    """Whether it can be the name of a repository, without a registry."""
    return bool(_REPOSITORY.fullmatch(text)) and len(text) < _MAX_NAME


def is_tag(text: str) -> bool:
    return bool(_TAG.fullmatch(text))


def looks_like_reference(text: str) -> bool:
    """Whether a text that is not the path of something existing was meant as a reference.

    `app.d/x.wasm` and `app.d/spin.toml` are paths with a typing mistake; what ends in a digest that
    is none is a reference with one.
    """
    if "@sha256:" in text:
        return True
    if text.endswith((".wasm", ".toml")):
        return False
    try:
        Reference.parse(text)
    except ConfigError:
        return False
    return True


def _names_a_registry(text: str) -> bool:
    return "." in text or ":" in text or text == "localhost"


def _check_names(text: str, registry: str, repository: str) -> None:
    if not _is_registry(registry):
        raise _wrong(text, f"{registry!a} is not a registry: a host, or a host and a port")
    if not _REPOSITORY.fullmatch(repository):
        hint = "names are lower case" if repository.lower() != repository else _HINT
        raise _wrong(text, f"{repository!a} is not the name of a repository", hint)
    if len(registry) + 1 + len(repository) > _MAX_NAME:
        raise _wrong(text, f"registry and repository have more than {_MAX_NAME} characters")
    if registry == "docker.io" and "/" not in repository:
        raise _wrong(
            text, "Docker Hub has no such repository", f'write "docker.io/library/{repository}"'
        )


def _is_registry(text: str) -> bool:
    match = _REGISTRY.fullmatch(text)
    if not match or not 0 < int(match["port"] or 443) < 65536:
        return False
    try:
        return match["v6"] is None or bool(ipaddress.IPv6Address(match["v6"]))
    except ValueError:
        return False


def _no_registry(text: str) -> ConfigError:
    path = text.lstrip("./")
    hint = f'for Docker Hub write "docker.io/{path}"' if "/" in path else _HINT
    return _wrong(text, "names no registry", hint)


def _wrong(text: str, why: str, hint: str = _HINT) -> ConfigError:
    shown = text if len(text) <= 300 else f"{text[:300]}…"
    return ConfigError(f"reference {shown!a}: {why}", hint=hint)
