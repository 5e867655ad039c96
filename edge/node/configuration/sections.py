"""The sections of `edge.toml` that say how a node serves and what it follows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from edge import config
from edge.application import options
from edge.application.addresses import RedisAddress
from edge.application.fields import (
    Reader,
    Table,
    Where,
    boolean,
    choice,
    integer,
    items,
    mapping,
    string,
)
from edge.application.quantities import octets, seconds
from edge.application.topics import check_topic
from edge.node.configuration.files import Files
from edge.node.configuration.values import (
    Readers,
    address,
    addresses,
    apart,
    as_it_is,
    given,
    matching,
    peer,
    reference,
    section,
    share,
    together,
    whole_seconds,
)
from edge.spin.store_settings import key_value, network, secret, sqlite, store_label

__all__ = [
    "fleet", "home_assistant", "http", "limits", "mirror", "mqtt", "node", "page", "stores", "sync",
    "traces",
]  # fmt: skip

_DAY = 86_400.0
# Of a collector, whose path is OTLP's. No password: OTEL_EXPORTER_OTLP_HEADERS is for that.
_COLLECTOR = re.compile(r"(https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?)/?")
_MiB = 1 << 20
_GiB = 1 << 30
# A UNIX socket's path has no more bytes, with the zero at its end.
_SOCKET_PATH = 107

_NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_INTERFACE = re.compile(r"[^\s/]{1,15}")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")


def node(files: Files) -> Reader[config.Node]:
    readers: Readers = {
        "name": matching(_NODE_NAME, "a name: letters, digits, . _ and -"),
        "labels": mapping(string, matching(_LABEL, "a label: letters, digits, . _ / and -")),
        "state_dir": files.path,
        "socket": files.path,
        "group": string,
        "credentials_dir": files.path,
    }

    def finish(table: Table, found: dict[str, Any]) -> None:
        if "socket" in found and len(bytes(found["socket"])) > _SOCKET_PATH:
            place = table.where.key("socket")
            raise place.error(f"{found['socket']}: longer than {_SOCKET_PATH} bytes")

    return section(config.Node, readers, finish)


def http(files: Files) -> Reader[config.Http]:
    readers: Readers = {
        "listen": addresses,
        "tls_certificate": files.file,
        "tls_key": files.secret_file,
        "workers": integer(1, _WORKERS),
        "limits": section(config.HttpSettings, _HTTP_LIMITS, as_it_is),
    }

    def finish(table: Table, found: dict[str, Any]) -> None:
        together(table, "tls_certificate", "tls_key")
        for key in ("tls_certificate", "tls_key"):
            if key in found:
                found[key] = str(found[key])
        if "limits" in found:
            found["settings"] = found.pop("limits")
        if "tls_key" in found:
            files.certificate(found["tls_certificate"], found["tls_key"], table.where)

    return section(lambda **found: config.Http(**{**_LISTEN, **found}), readers, finish)


# More than the cores of any board; each takes memory, and has its share of every limit.
_WORKERS = 64
_LISTEN = {"listen": config.Daemon().http.listen}
_PATIENCE = seconds(at_least=0.1, at_most=_DAY)
_HTTP_LIMITS: Readers = {
    "backlog": integer(1, 65_535),
    "max_connections": integer(1, 1 << 20),
    "max_head": octets(at_least=1024, at_most=1 << 20),
    "max_target": octets(at_least=256, at_most=1 << 20),
    "max_headers": integer(8, 10_000),
    "max_body": octets(at_least=0, at_most=1 << 50),
    "head_timeout": _PATIENCE,
    "idle_timeout": _PATIENCE,
    "body_timeout": _PATIENCE,
    "write_timeout": _PATIENCE,
    "tls_timeout": _PATIENCE,
    "half_closed_timeout": _PATIENCE,
    "drain_bytes": octets(at_least=0, at_most=_GiB),
    "drain_timeout": _PATIENCE,
}


def mqtt(files: Files) -> Reader[config.Mqtt]:
    readers: Readers = {
        "url": _mqtt_url,
        "username": string,
        "password": secret,
        "password_file": files.secret_file,
        "ca_file": files.authority,
        "certificate_file": files.file,
        "key_file": files.secret_file,
        "client_id": string,
        "protocol": choice("5", "3.1.1"),
        "keepalive": whole_seconds(5, 65_535),
        "session_expiry": whole_seconds(0, 0xFFFF_FFFE),
        "share_expiry": whole_seconds(0, 0xFFFF_FFFE),
        "status_topic": string,
        "will_delay": whole_seconds(0, 0xFFFF_FFFE),
        "receive_maximum": integer(1, 4096),
        "max_packet": octets(at_least=1024, at_most=268_435_455),
        "connect_timeout": seconds(at_least=0.1, at_most=3600),
        "confirm_timeout": seconds(at_least=0.1, at_most=3600),
        "reconnect_max": seconds(at_least=0.01, at_most=_DAY),
    }

    def finish(table: Table, found: dict[str, Any]) -> None:
        apart(table, "password", "password_file")
        together(table, "certificate_file", "key_file")
        for key in ("password_file", "ca_file", "certificate_file", "key_file"):
            if key in found:
                found[key] = str(found[key])
        if "key_file" in found:
            files.certificate(found["certificate_file"], found["key_file"], table.where)
        in_url = config.parse_mqtt_url(found["url"])[1] if found.get("url") else {}
        files.holds_secret |= "password" in found or "password" in in_url

    return section(config.Mqtt, readers, finish)


def _mqtt_url(value: object, where: Where) -> str:
    text = secret(value, where)
    config.parse_mqtt_url(text, str(where))
    return text


def fleet(files: Files) -> Reader[config.Fleet]:
    readers: Readers = {
        "document": reference,
        "keys": items(files.key),
        "peers": items(peer),
        "discovery": boolean,
        "interfaces": items(matching(_INTERFACE, "the name of a network interface")),
        "join_token_file": files.passing,
        "listen": address,
        "upload": octets(at_least=0, at_most=1 << 40),
    }
    return section(config.Fleet, readers, as_it_is)


def sync(value: object, where: Where) -> config.Sync:
    return section(config.Sync, _SYNC, as_it_is)(value, where)


_SYNC: Readers = {
    "interval": seconds(at_least=1, at_most=30 * _DAY),
    "jitter": share,
    "soak": seconds(at_least=0, at_most=30 * _DAY),
    "minimum_events": integer(1, 1 << 30),
    "error_rate": share,
    "health_interval": seconds(at_least=0.1, at_most=_DAY),
    "timeout": seconds(at_least=1, at_most=_DAY),
}


def mirror(value: object, where: Where) -> config.Mirror:
    readers: Readers = {"listen": _listen, "accept_pushes": boolean}
    return section(config.Mirror, readers, _mirror)(value, where)


def _mirror(table: Table, found: dict[str, Any]) -> None:
    address: config.Address | None = found.get("listen")
    if address is not None and not _loopback(address.host):
        raise table.where.key("listen").error(
            f"{address}: whoever reaches it reads every bundle; only loopback is served",
            'write "127.0.0.1:7465"',
        )


def _listen(value: object, where: Where) -> config.Address | None:
    return None if value == "" else address(value, where)


def page(files: Files) -> Reader[config.Page]:
    readers: Readers = {
        "listen": _listen,
        "password": _page_password,
        "password_file": files.secret_file,
    }

    def finish(table: Table, found: dict[str, Any]) -> None:
        apart(table, "password", "password_file")
        files.holds_secret |= "password" in found
        listen: config.Address | None = found.get("listen")
        known = "password" in found or "password_file" in found
        if listen is not None and not known and not _loopback(listen.host):
            raise table.where.key("listen").error(
                f"{listen}: beyond this machine the page needs a password",
                'add password_file = "page-password"',
            )

    return section(config.Page, readers, finish)


def _page_password(value: object, where: Where) -> str:
    text = secret(value, where)
    if len(text) < config.Page.SHORTEST:
        raise where.error(f"has fewer than {config.Page.SHORTEST} characters")
    return text


def _loopback(host: str) -> bool:
    return host.lower() in ("localhost", "::1") or bool(re.fullmatch(r"127(\.[0-9]{1,3}){3}", host))


def home_assistant(value: object, where: Where) -> config.HomeAssistant:
    readers: Readers = {
        "enabled": boolean,
        "prefix": _discovery_prefix,
        "interval": seconds(at_least=1, at_most=_DAY),
    }
    return section(config.HomeAssistant, readers, as_it_is)(value, where)


def traces(value: object, where: Where) -> config.Traces:
    readers: Readers = {"endpoint": _collector, "ratio": share}
    return section(config.Traces, readers, as_it_is)(value, where)


def _collector(value: object, where: Where) -> str:
    text = string(value, where)
    match = _COLLECTOR.fullmatch(text)
    if match is None:
        raise where.error(
            f'"{text[:80]}" is not the URL of a collector', 'write "http://HOST:4318"'
        )
    return match[1]


def _discovery_prefix(value: object, where: Where) -> str:
    try:
        return check_topic(string(value, where))
    except ValueError as error:
        raise where.error(str(error)) from None


def limits(value: object, where: Where) -> dict[str, Any]:
    """`limits`, `quota`, `defaults` and `blocked` of the daemon, as far as they are given."""
    readers: Readers = {
        "memory": octets(at_least=_MiB, at_most=1 << 50),
        "instances": integer(1, 1 << 20),
        "queue": integer(0, 1 << 20),
        "quota": octets(at_least=_MiB, at_most=1 << 60),
        "component": _defaults,
        "block_networks": items(network),
    }
    with Table(value, where) as table:
        found = given(table, readers)
    rest = {"quota": found.pop("quota", None), "defaults": found.pop("component", None)}
    networks: Iterable[Any] = found.pop("block_networks", None) or ()
    rest["blocked"] = tuple(str(one) for some in networks for one in some)
    given_limits = {k: v for k, v in found.items() if v is not None}
    return {
        "limits": config.Limits(**given_limits),
        **{key: one for key, one in rest.items() if one is not None},
    }


def _defaults(value: object, where: Where) -> dict[str, object]:
    found = options.given(value, where)
    if "triggers" in found:
        raise where.key("trigger").error("triggers have options of their own, not defaults")
    return found


def stores(files: Files) -> Reader[config.Stores]:
    def type(table: Table) -> str:
        return table.get("type", choice("sqlite", "redis"), "sqlite")

    def only_sqlite(table: Table) -> str:
        return table.get("type", choice("sqlite"), "sqlite")

    readers: Readers = {
        "key_value": mapping(key_value(type, _no_path), store_label),
        "sqlite": mapping(sqlite(only_sqlite, _no_path), store_label),
        "open": integer(1, 4096),
        "idle": seconds(at_least=0.1, at_most=_DAY),
        "queue": integer(1, 1 << 20),
    }

    def finish(_table: Table, found: dict[str, Any]) -> None:
        plain = config.Stores()
        for name in ("key_value", "sqlite"):
            found[name] = {**getattr(plain, name), **found.get(name, {})}
        urls = [store.url for store in found["key_value"].values() if store.url]
        files.holds_secret |= any(RedisAddress.parse(url).password for url in urls)

    return section(config.Stores, readers, finish)


def _no_path(_value: object, where: Where) -> str:
    raise where.error(
        "one file would be shared by all applications",
        "node.state_dir says where the files are, one for each application",
    )
