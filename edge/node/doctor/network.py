"""What a node reaches: its neighbours by multicast, registries, the broker."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import IPv4Interface
from typing import TYPE_CHECKING

from edge.errors import ConfigError, EdgeError, Refused
from edge.fleet.interfaces import Interface, followed
from edge.fleet.netlink import interfaces
from edge.node.doctor.findings import Finding, error, ok, warning
from edge.node.doctor.listeners import holder
from edge.node.doctor.site import Site
from edge.node.doctor.waiting import complete

if TYPE_CHECKING:
    from edge.registry.sync.registries import Registries

__all__ = ["broker", "multicast", "registries"]

# RFC 6762.
_GROUP, _PORT = "224.0.0.251", 5353
# Seconds for a packet of this machine to come back to it.
_BACK = 1.0
# Interfaces that are tried.
_INTERFACES = 6
# Seconds that registries and the broker get, each.
_PATIENCE = 6.0
# Repositories that are asked for at once, and in all.
_AT_ONCE, _MOST = 8, 32


def multicast(site: Site) -> Iterator[Finding]:
    fleet = site.settings.fleet
    if not fleet.discovery:
        yield ok("multicast", "not used: [fleet] discovery is off")
        return
    here = followed(interfaces(), fleet.interfaces)
    if not here:
        yield warning(
            "multicast",
            "no network interface is up that leads to peers",
            "`ip address` shows what there is; name one with interfaces in [fleet]",
        )
    yield from (_heard(one) for one in here[:_INTERFACES])


def _heard(one: Interface) -> Finding:
    """Whether what is sent to the group on an interface comes back to this machine."""
    advice = (
        f"let UDP port {_PORT} pass on {one.name} (`nft list ruleset`, `ufw allow 5353/udp`),"
        " or name the other nodes: peers in [fleet]"
    )
    if not any(isinstance(address, IPv4Interface) for address in one.addresses):
        return ok("multicast", f"{one.name}: has IPv6 only, which is not tried")
    try:
        back = _loops(one.index)
    except OSError as exc:
        who = holder(_PORT, protocol="udp")
        by = f" ({who} has port {_PORT})" if who and exc.errno == errno.EADDRINUSE else ""
        return warning(
            "multicast", f"{one.name}: {os.strerror(exc.errno or 0).lower()}{by}", advice
        )
    if not back:
        return warning("multicast", f"{one.name}: what is sent there does not come back", advice)
    return ok("multicast", f"{one.name}: sends and hears; `edge peers --browse` shows who answers")


def _loops(index: int) -> bool:
    member = struct.pack("4s4si", socket.inet_aton(_GROUP), b"\0" * 4, index)
    query = _query(f"edge-doctor-{secrets.token_hex(4)}")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((_GROUP, _PORT))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, member)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        sock.sendto(query, (_GROUP, _PORT))
        until = time.monotonic() + _BACK
        while (left := until - time.monotonic()) > 0:
            sock.settimeout(left)
            try:
                if sock.recv(9000) == query:
                    return True
            except TimeoutError:
                break
    return False


def _query(name: str) -> bytes:
    """For the address of a host that nobody is (RFC 1035, §4.1)."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in (name, "local"))
    return struct.pack("!6H", 0, 0, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", 1, 1)


def registries(site: Site) -> Iterator[Finding]:
    names = _named(site)
    if not names:
        yield ok("registries", "none are named")
        return
    yield from complete(_asked(site, dict(list(names.items())[:_MOST])))


def _named(site: Site) -> dict[str, bool]:
    """References, one of each repository; False: of a registry of which nothing is known but its
    name.
    """
    settings = site.settings
    wanted = [entry.reference for entry in settings.applications]
    wanted += [settings.fleet.document, *(app["reference"] for app in site.answer.apps)]
    found = {text.partition("@")[0].rpartition(":")[0]: text for text in wanted if text}
    known = dict.fromkeys(found.values(), True)
    for registry in settings.registries:
        host, _, repository = registry.name.partition("/")
        below = (f"{registry.name}/", f"{registry.name}:")
        if not any(text.startswith(below) for text in known):
            known[f"{host}/{repository or 'edge-doctor'}:probe"] = False
    return known


async def _asked(site: Site, names: dict[str, bool]) -> list[Finding]:
    from edge.registry.client import Patience
    from edge.registry.credentials import docker_config
    from edge.registry.sync.registries import Registries

    patience = Patience(total=_PATIENCE, attempts=1, connect=_PATIENCE, exchange=_PATIENCE)
    own = site.user == os.geteuid()
    places = asyncio.Semaphore(_AT_ONCE)
    async with (
        Registries(
            site.settings.registries,
            docker=docker_config(os.environ) if own else None,
            credentials=site.credentials,
            patience=patience,
            clock=site.clock(),
        ) as clients,
        asyncio.TaskGroup() as group,
    ):
        tasks = [
            group.create_task(_resolved(clients, text, places, known=known), name=text)
            for text, known in names.items()
        ]
    return [task.result() for task in tasks]


async def _resolved(
    clients: Registries, text: str, places: asyncio.Semaphore, *, known: bool
) -> Finding:
    from edge.registry.answers import NotFound
    from edge.registry.reference import Reference

    reference = Reference.parse(text)
    where = text if known else reference.registry
    try:
        async with places, asyncio.timeout(_PATIENCE):
            await (await clients.client(reference)).resolve(reference)
    except ConfigError as exc:
        return warning("registries", f"{where}: not asked: {exc.message}", exc.hint or _UNREAD)
    except TimeoutError:
        return error("registries", f"{where}: no answer within {_PATIENCE:g} s", _WAY)
    except Refused as exc:
        # Nobody named a repository there: one that is not found, or not for all, is an answer.
        if known or not (isinstance(exc, NotFound) or _is_denied(exc)):
            return error("registries", exc.message, _advice(exc, reference.registry))
    except EdgeError as exc:
        return error("registries", exc.message, exc.hint or _WAY)
    return ok("registries", f"{where}: answers")


def _is_denied(refused: Refused) -> bool:
    return "access denied" in refused.message or "a user and a password" in refused.message


def _advice(refused: Refused, registry: str) -> str:
    """In terms of edge.toml, where the client's are those of a command line."""
    table = f'[registry."{registry}"]'
    if refused.hint is None or _is_denied(refused):
        return f"check username and password_file in {table}, and what the registry lets them do"
    advice = refused.hint.replace("--registry-ca FILE", f"ca_file in {table}")
    return advice.replace("--insecure", f"insecure = true in {table}")


# What else may be wrong with a password that is not there.
_UNREAD = "a credential of the service is read by the node only: `edge status` and `edge logs`"
_WAY = "is the network there (`ip route`), the name known (`getent hosts NAME`), the service up?"


def broker(site: Site) -> Iterator[Finding]:
    if not site.settings.mqtt.url:
        yield ok("broker", "none is named")
        return
    yield complete(_connected(site))


async def _connected(site: Site) -> Finding:
    from edge.spin.broker import Broker, BrokerError
    from edge.triggers.mqtt.access import Access

    settings = site.settings.mqtt
    # A name of its own: with the node's, the broker would throw the node out.
    access = Access(settings, f"edge-doctor-{secrets.token_hex(4)}", site.credentials)
    connection = None
    try:
        async with asyncio.timeout(_PATIENCE + 1):
            options = await asyncio.to_thread(access.options, settings.protocol, "probe")
            connection = Broker(options)
            await connection.connect(_PATIENCE)
    except BrokerError as exc:
        if exc.reason == "version":
            return ok("broker", f"{access.where}: answers, with an older MQTT")
        return error("broker", exc.message, exc.hint or _WAY)
    except ConfigError as exc:
        return warning("broker", f"{access.where}: not asked: {exc.message}", exc.hint or _UNREAD)
    except TimeoutError:
        text = f"{access.where}: a file that [mqtt] names cannot be read in time"
        return error("broker", text, "is it on a network file system, or no file?")
    finally:
        if connection is not None:
            await connection.disconnect(1.0)
    return ok("broker", f"{access.where}: answers")
