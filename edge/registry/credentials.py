"""Who we are to a registry: what `docker login` and its helpers know.

Reads Docker's `config.json`: `auths`, `credHelpers`, `credsStore`. Writes nothing.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge.application.fields import Table, Where, mapping, parsed, raw_table, string
from edge.errors import BundleError, ConfigError
from edge.registry.manifest import read_json

__all__ = ["Credential", "DockerConfig", "docker_config"]

# A helper may ask a key ring that asks a person.
_HELPER_SECONDS = 30.0
# What Docker's own helpers say when they know nothing, which is no failure.
_NOTHING = "credentials not found"
# The user name by which helpers mark a token that stands for the user.
_TOKEN_USER = "<token>"  # noqa: S105
_HUB = ("docker.io", "index.docker.io", "registry-1.docker.io")

_PROGRAM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_KEY = re.compile(r"(?:https?://)?(?P<host>[^/]+)(?:/(?:v[12]/?)?)?")


@dataclass(frozen=True, slots=True)
class Credential:
    """A name and a password, or a token that a token server exchanges for others."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str | None = field(default=None, repr=False)

    @property
    def basic(self) -> str:
        """As the value of an Authorization header."""
        pair = f"{self.username}:{self.password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"


@dataclass(frozen=True, slots=True)
class DockerConfig:
    """The part of `config.json` that says who we are; empty: nobody anywhere."""

    auths: Mapping[str, Credential] = field(default_factory=dict)  # host -> …
    helpers: Mapping[str, str] = field(default_factory=dict)  # host -> the helper's name
    store: str | None = None  # the helper for every other host

    @classmethod
    def load(cls, path: Path) -> DockerConfig:
        """Empty without a file. Mistakes are ConfigErrors that never show a secret. Blocks."""
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return cls()
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from error
        try:
            return read_json(data, str(path), _config)
        except BundleError as error:
            raise ConfigError(error.message, hint=error.hint) from None

    async def find(self, registry: str) -> Credential | None:
        """Helpers first, as Docker does. A helper that fails is a ConfigError."""
        helper = self.helpers.get(_host(registry)) or self.store
        if helper and (found := await _ask(helper, registry)):
            return found
        return self.auths.get(_host(registry))


def docker_config(environment: Mapping[str, str]) -> Path | None:
    """Where `config.json` is expected; None where nobody is at home."""
    if directory := environment.get("DOCKER_CONFIG"):
        return Path(directory) / "config.json"
    home = environment.get("HOME")
    return Path(home) / ".docker" / "config.json" if home else None


def _host(registry: str) -> str:
    return _HUB[0] if registry in _HUB else registry


def _config(value: object, where: Where) -> DockerConfig:
    with Table(value, where) as table:
        config = DockerConfig(
            auths=_by_host(table.get("auths", mapping(_auth), {})),
            helpers=_by_host(table.get("credHelpers", mapping(parsed(_program)), {})),
            store=table.optional("credsStore", parsed(_program)) or None,
        )
        table.rest()
    return config


def _by_host(found: Mapping[str, str | Credential | None]) -> dict[str, Any]:
    """Docker's keys are hosts, and URLs of earlier versions of the protocol."""
    matches = ((_KEY.fullmatch(key), value) for key, value in found.items())
    return {_host(m["host"].lower()): value for m, value in matches if m and value}


def _program(name: str) -> str:
    if name and not _PROGRAM.fullmatch(name):
        raise ValueError(f"{name!a} is not the name of a credential helper")
    return name


def _auth(value: object, where: Where) -> Credential | None:
    """None for the empty entries that Docker leaves where a helper knows more."""
    table = raw_table(value, where)
    texts = {
        key: string(table[key], where.key(key))
        for key in ("auth", "username", "password", "identitytoken")
        if isinstance(table.get(key), str)
    }
    username, password = texts.get("username", ""), texts.get("password", "")
    if texts.get("auth"):
        username, password = _decoded(texts["auth"], where.key("auth"))
    if not username and not texts.get("identitytoken"):
        return None
    return Credential(username, password, texts.get("identitytoken") or None)


def _decoded(text: str, where: Where) -> tuple[str, str]:
    try:
        username, colon, password = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        colon = ""
    if not colon:
        raise where.error("is not base64 of USER:PASSWORD", "log in again: docker login")
    return username, password.rstrip("\0")


async def _ask(helper: str, registry: str) -> Credential | None:
    """By Docker's protocol: the registry on standard input, JSON back."""
    program = f"docker-credential-{helper}"
    server = "https://index.docker.io/v1/" if registry in _HUB else registry
    code, output = await _output(program, server)
    if code:
        text = output.decode(errors="replace").strip()
        if _NOTHING in text:
            return None
        raise ConfigError(f"{program}: {text[:200] or f'ends with {code}'}")
    try:
        return read_json(output, program, _answer)
    except BundleError as error:
        raise ConfigError(error.message) from None


async def _output(program: str, text: str) -> tuple[int, bytes]:
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(program, "get", stdin=pipe, stdout=pipe)
    except OSError as error:
        raise ConfigError(
            f"{program}: {os.strerror(error.errno or 0).lower()}",
            hint="Docker's config.json names this credential helper; install it or log in again",
        ) from error
    try:
        async with asyncio.timeout(_HELPER_SECONDS):
            output, _ = await process.communicate(text.encode())
    except TimeoutError:
        raise ConfigError(f"{program}: does not answer in {_HELPER_SECONDS:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, output


def _answer(value: object, where: Where) -> Credential:
    with Table(value, where) as table:
        username, secret = table.need("Username", string), table.need("Secret", string)
        table.rest()
    if username == _TOKEN_USER:
        return Credential(identity_token=secret)
    return Credential(username, secret)
