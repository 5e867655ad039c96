"""Authentication to a registry: it asks (401), we answer by password or by a token of its server.

Knows no HTTP library: it is handed a callable that fetches a token.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit

from edge.application.fields import Table, Where, integer, string
from edge.errors import BundleError, Refused
from edge.registry.credentials import Credential
from edge.registry.manifest import read_json

__all__ = ["Authenticator", "Challenge", "TokenRequest", "challenges"]

# What the specification of token servers says of an answer that does not say how long it holds.
_DEFAULT_SECONDS = 60
# A token is not used when it may end on the way.
_SLACK = 10.0

_SCHEME = re.compile(r"[\s,]*([A-Za-z][A-Za-z0-9-]*)(?=[\s,]|$)")
_PARAMETER = re.compile(r'[\s,]*([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")  # token68 of RFC 9110 §11.2, more freely


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate that a registry offers. `scheme` is in lower case."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What to ask a token server: a GET, or a POST of `form`."""

    url: str
    authorization: str | None = field(default=None, repr=False)
    form: Mapping[str, str] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class _Token:
    value: str = field(repr=False)
    until: float  # of the loop's clock


class Authenticator:
    """What to put into Authorization for one registry. `scope` is a repository and actions.

    `find` knows our credential; `fetch` returns what a token server answers, or raises PullError.
    """

    def __init__(
        self,
        registry: str,
        find: Callable[[], Awaitable[Credential | None]],
        fetch: Callable[[TokenRequest], Awaitable[bytes]],
    ) -> None:
        self._registry = registry
        self._find, self._fetch = find, fetch
        self._basic: str | None = None
        self._bearer: Challenge | None = None
        self._tokens: dict[str, _Token] = {}

    async def known(self, scope: str) -> str | None:
        """The header by what the registry has asked for so far; None when it has not asked."""
        if self._basic or self._bearer is None:
            return self._basic
        token = self._tokens.get(scope)
        if token is None or token.until <= asyncio.get_running_loop().time():
            token = self._tokens[scope] = await self._token(self._bearer, scope)
        return f"Bearer {token.value}"

    async def answer(self, headers: Iterable[str], scope: str) -> str:
        """The header for a request that was answered by 401. Raises Refused if there is none."""
        offered = {challenge.scheme: challenge for challenge in challenges(headers)}
        self._tokens.pop(scope, None)
        if "bearer" in offered:
            self._bearer = offered["bearer"]
        elif "basic" in offered:
            self._basic = await self._password()
        else:
            names = ", ".join(sorted(offered)) or "nothing"
            raise Refused(f"{self._registry}: offers {names} to log in, not Basic or Bearer")
        return await self.known(scope) or ""

    async def _password(self) -> str:
        credential = await self._find()
        if credential is None or credential.identity_token:
            raise Refused(f"{self._registry}: asks for a user and a password", hint=self.hint)
        return credential.basic

    @property
    def hint(self) -> str:
        return f"log in with `docker login {self._registry}`, or give --username, --password-file"

    async def _token(self, challenge: Challenge, scope: str) -> _Token:
        started = asyncio.get_running_loop().time()
        request = self._request(challenge, scope, await self._find())
        data = await self._fetch(request)
        try:
            value, seconds = read_json(data, f"{self._registry}: token", _token_answer)
        except BundleError as error:
            raise Refused(error.message) from None
        # A short one is used for half of its life rather than never.
        return _Token(value, started + max(seconds - _SLACK, seconds / 2))

    def _request(
        self, challenge: Challenge, scope: str, credential: Credential | None
    ) -> TokenRequest:
        realm = self._realm(challenge)
        asked = {"scope": scope}
        if service := challenge.parameters.get("service"):
            asked["service"] = service
        if credential and credential.identity_token:
            return TokenRequest(realm, form=asked | _refresh(credential.identity_token))
        query = urlencode(asked)
        url = f"{realm}{'&' if '?' in realm else '?'}{query}"
        return TokenRequest(url, credential.basic if credential else None)

    def _realm(self, challenge: Challenge) -> str:
        """A password goes there: by TLS, or to the registry's own host."""
        realm = challenge.parameters.get("realm", "")
        try:
            parts = urlsplit(realm)
            own = urlsplit(f"//{self._registry}").hostname
            trusted = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname == own)
        except ValueError:
            trusted = False
        if not trusted or not parts.hostname or parts.username or parts.fragment:
            raise Refused(f"{self._registry}: its token server {realm!a} is not one to trust")
        return realm


def challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """From WWW-Authenticate: several headers, several challenges in each. What is odd is left."""
    return tuple(challenge for header in headers for challenge in _challenges(header))


def _challenges(header: str) -> Iterable[Challenge]:
    at = 0
    while scheme := _SCHEME.match(header, at):
        at = scheme.end()
        parameters: dict[str, str] = {}
        while parameter := _PARAMETER.match(header, at):
            name, quoted, plain = parameter.groups()
            value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            parameters.setdefault(name.lower(), value)
            at = parameter.end()
        yield Challenge(scheme[1].lower(), parameters)


def _refresh(identity_token: str) -> dict[str, str]:
    return {
        "grant_type": "refresh_token",
        "refresh_token": identity_token,
        "client_id": "edge",
    }


def _token_answer(value: object, where: Where) -> tuple[str, float]:
    with Table(value, where) as table:
        token = table.optional("token", string) or table.optional("access_token", string) or ""
        seconds = table.get("expires_in", integer(0, 1 << 40), _DEFAULT_SECONDS)
        table.rest()
    if not _TOKEN.fullmatch(token):
        raise where.error("its server answers without a usable one")
    return token, float(seconds or _DEFAULT_SECONDS)
