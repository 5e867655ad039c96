"""`allowed_outbound_hosts`: where a component may connect to. What is not listed is denied.

An entry is `<scheme>://<host>[:<port>]`:

    scheme  letters, or *
    host    a name, *.domain, an IP address, a network like 10.0.0.0/8, *, or `self`
    port    a number, A..B (B itself is not in it), or *; the scheme's own if it has one

Decides on names and addresses as given; resolves nothing.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from edge.application.templates import Template

__all__ = ["CHAINING_SUFFIX", "AllowedHosts", "chained_component", "parse_entry"]

# http://<component>.spin.internal is another component of the same application.
CHAINING_SUFFIX = ".spin.internal"

_DEFAULT_PORTS: Mapping[str, int] = {
    "postgres": 5432,
    "mysql": 3306,
    "redis": 6379,
    "mqtt": 1883,
    "http": 80,
    "https": 443,
}
_ANY_PORT = range(65536)
_OWN = ("self", "self.alt")
# What an entry becomes when the variable in it is empty: an endpoint that is optional.
_NOTHING = ("", "http://", "https://")
_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?:\.(?!-)[a-z0-9_-]{1,63})*\.?")
# The last label is a number: a URL parser reads such a host as an IPv4 address.
_LIKE_IPV4 = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry. A scheme or host of None is any; a host with a leading dot is any subdomain.

    `own`: the entry is about requests to the component's own origin and no host at all.
    """

    text: str
    scheme: str | None
    host: str | Network | None
    ports: range
    own: bool = False

    def allows(self, scheme: str, host: str | Address, port: int | None) -> bool:
        if self.scheme not in (None, scheme):
            return False
        if port is None:
            port = _DEFAULT_PORTS.get(scheme)
        # Any port is allowed also where nobody knows which one it would be.
        return self.allows_host(host) and (port in self.ports or self.ports == _ANY_PORT)

    def allows_host(self, host: str | Address) -> bool:
        if self.host is None:
            return not self.own
        if isinstance(self.host, str):
            if isinstance(host, str):
                return host.endswith(self.host) if self.host[0] == "." else host == self.host
            return False
        return not isinstance(host, str) and host in self.host

    def for_components(self, ids: Iterable[str]) -> tuple[Entry, ...]:
        """`*.spin.internal` stands for the components there are, not for any name below it."""
        if self.host != CHAINING_SUFFIX:
            return (self,)
        return tuple(replace(self, host=id + CHAINING_SUFFIX) for id in ids)


@dataclass(frozen=True, slots=True)
class AllowedHosts:
    """The grants of one component."""

    entries: tuple[Entry, ...] = ()

    @classmethod
    def parse(
        cls,
        texts: Iterable[str],
        *,
        variables: Mapping[str, str] | None = None,
        components: Iterable[str] = (),
    ) -> AllowedHosts:
        """Reads the entries with their templates filled in; a mistake is a ValueError.

        `components`: the ids that `*.spin.internal` stands for.
        """
        ids = tuple(components)
        parsed = [_parse_template(text, variables or {}) for text in texts]
        return cls(tuple(e for one in parsed if one is not None for e in one.for_components(ids)))

    def allows(self, scheme: str, host: str, port: int | None = None) -> bool:
        """May the component connect there? `host`: a name or address, IPv6 with or without []."""
        try:
            known = host_of(host)
        except ValueError:
            return False
        return any(entry.allows(scheme.lower(), known, port) for entry in self.entries)

    def allows_self(self, scheme: str) -> bool:
        """May it make requests to its own origin, `http://self` or a relative URL?"""
        return any(
            entry.scheme in (None, scheme) and entry.host is None  # "self" or any
            for entry in self.entries
        )

    def allows_name(self, host: str) -> bool:
        """May it ask for the addresses of this name: is there any grant that could use them?"""
        try:
            known = host_of(host)
        except ValueError:
            return False
        return any(
            entry.allows_host(known) or isinstance(entry.host, Network) for entry in self.entries
        )

    def __bool__(self) -> bool:
        return bool(self.entries)


def chained_component(authority: str) -> str | None:
    """The component that `<id>.spin.internal[:port]` means; None for every other authority."""
    host = authority.rpartition(":")[0] if ":" in authority else authority
    id, _, rest = host.lower().partition(".")
    return id if id and f".{rest}" == CHAINING_SUFFIX else None


def parse_entry(text: str) -> Entry:
    """Reads an entry without templates; a mistake is a ValueError."""
    if text == "insecure:allow-all":
        raise ValueError('"insecure:allow-all" is not accepted: "*://*:*" allows everything')
    scheme, found, rest = text.strip().partition("://")
    if not found:
        raise ValueError(f'"{text}" has no scheme: <scheme>://<host>[:<port>], "*" stands for any')
    try:
        host, port = _split_port(rest)
        own = host.strip().removesuffix("/") in _OWN
        return Entry(
            text, _scheme(scheme), None if own else _host(host), _ports(port, scheme), own=own
        )
    except ValueError as error:
        raise ValueError(f'"{text}": {error}') from None


def host_of(text: str) -> str | Address:
    """A name in lower case and ASCII, or an address; ValueError for what is neither."""
    if text.startswith("[") and text.endswith("]"):
        return ipaddress.IPv6Address(text[1:-1])
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return _name(text)


def _parse_template(text: str, variables: Mapping[str, str]) -> Entry | None:
    template = Template.parse(text)
    if not template.names:
        return parse_entry(text)
    filled = template.render(variables)
    try:
        return None if filled in _NOTHING else parse_entry(filled)
    except ValueError:
        # Not what is wrong with it: that may be a secret.
        raise ValueError(
            f'"{text}": is not <scheme>://<host>[:<port>] once its variables are filled in'
        ) from None


def _split_port(rest: str) -> tuple[str, str]:
    """Host and port. The colons of "ff00::/8" or "[::1]" are not before a port."""
    host, colon, port = rest.rpartition(":")
    if not colon:
        return rest, ""
    if not port:
        return host, ""
    try:
        _host(rest)
    except ValueError:
        port, slash, path = port.partition("/")
        if slash and path:
            raise ValueError("must not have a path") from None
        return host, port
    return rest, ""


def _scheme(text: str) -> str | None:
    if text == "*":
        return None
    if text.startswith("{"):
        raise ValueError("lists of schemes are not supported, write an entry for each")
    if not (text.isascii() and text.isalpha()):
        raise ValueError(f'scheme "{text}" must consist of letters, or be "*"')
    return text.lower()


def _host(text: str) -> str | Network | None:
    text = text.strip()
    if text == "*":
        return None
    if text.startswith("{"):
        raise ValueError("lists of hosts are not supported, write an entry for each")
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        text = text.removesuffix("/")
    if "/" in text:
        raise ValueError("must not have a path")
    if text.startswith("*."):
        return "." + _name(text[2:])
    if "*" in text:
        raise ValueError('"*" may stand for the whole host or for what is before the first "."')
    host = host_of(text)
    return host if isinstance(host, str) else ipaddress.ip_network(host)


def _name(text: str) -> str:
    name = text.lower()
    if not name.isascii():
        try:
            name = name.encode("idna").decode("ascii").lower()
        except UnicodeError:
            raise ValueError(f'"{text}" is not a host name') from None
    if not _NAME.fullmatch(name) or len(name) > 254:
        raise ValueError(f'"{text}" is not a host name')
    if _LIKE_IPV4.fullmatch(name):
        raise ValueError(f'"{text}" is not an address: write four numbers with dots between')
    return name


def _ports(text: str, scheme: str) -> range:
    if not text:
        if (default := _DEFAULT_PORTS.get(scheme.lower())) is None:
            raise ValueError(f'needs a port, "{scheme}" has no usual one; ":*" is any')
        return range(default, default + 1)
    if text == "*":
        return _ANY_PORT
    if text.startswith("{"):
        raise ValueError("lists of ports are not supported, write an entry for each")
    first, dots, end = text.partition("..")
    if not dots:
        return range(_port(text), _port(text) + 1)
    if _port(first) >= _port(end):
        raise ValueError(f'port range "{text}" is empty: its end is not in it')
    return range(_port(first), _port(end))


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535):
        raise ValueError(f'"{text}" is not a port')
    return int(text)
