"""Whether the node can listen where it should, and who does so instead."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from edge.config import Address
from edge.node.doctor.findings import Finding, error, ok, warning
from edge.node.doctor.site import Site
from edge.platform.files import exists

__all__ = ["holder", "ports"]

_LISTENING = "0A"  # TCP_LISTEN, in /proc/net/tcp
# Below it only root opens ports, unless the kernel says otherwise.
_PRIVILEGED = 1024


def ports(site: Site) -> Iterator[Finding]:
    status = site.answer.status
    if status is not None:
        urls = (url for key in ("listening", "mirror", "page") for url in status.get(key, ()))
        yield ok("ports", f"the node listens on {', '.join(urls)}")
        return
    asked = list(_asked(site))
    found = [one for section, address in asked for one in _tried(site, section, address)]
    yield from found or [ok("ports", f"{', '.join(str(address) for _, address in asked)}: free")]


def _asked(site: Site) -> Iterator[tuple[str, Address]]:
    """Which section of edge.toml asks for which address."""
    settings = site.settings
    yield from (("http", address) for address in settings.http.listen)
    if settings.mirror.listen is not None:
        yield "mirror", settings.mirror.listen
    if settings.page.listen is not None:
        yield "page", settings.page.listen
    if exists(settings.node.state_dir / "identity"):
        yield "fleet", settings.fleet.listen


def _tried(site: Site, section: str, address: Address) -> Iterator[Finding]:
    if address.port == 0:
        return
    if problem := _cannot_listen(address):
        who = holder(address.port, site.root)
        if problem == errno.EADDRINUSE and who is not None and who.startswith("systemd "):
            return  # a socket unit: it hands it over
        taken = f"{who or 'another program'} listens there"
        reason = taken if problem == errno.EADDRINUSE else os.strerror(problem).lower()
        advice = f"stop it, or choose another address: listen in [{section}]"
        if problem == errno.EADDRNOTAVAIL:
            advice = f"`ip address` shows what there is; listen in [{section}]"
        if problem not in (errno.EACCES, errno.EPERM):
            yield error("ports", f"{address}: {reason}", advice)
            return
    if address.port < _first_free(site.root) and site.user != 0:
        yield warning(
            "ports",
            f"{address}: only root opens ports below {_first_free(site.root)}",
            "`systemctl enable --now edge.socket`: systemd opens 80 and hands it over",
        )


def _cannot_listen(address: Address) -> int:
    """The number of the error; 0: it can."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((address.host, address.port))
    except socket.gaierror:
        return errno.EADDRNOTAVAIL
    except OSError as exc:
        return exc.errno or errno.EINVAL
    return 0


def _first_free(root: Path) -> int:
    try:
        return int((root / "proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    except (OSError, ValueError):
        return _PRIVILEGED


def holder(port: int, root: Path = Path("/"), *, protocol: str = "tcp") -> str | None:
    """Which program has a port, as far as this user may know."""
    wanted = {f"socket:[{inode}]" for inode in _inodes(port, root, protocol)}
    for process in (root / "proc").glob("[0-9]*"):
        try:
            if any(str(fd.readlink()) in wanted for fd in (process / "fd").iterdir()):
                name = (process / "comm").read_text().strip()
                return f"{name} (process {process.name})"
        except OSError:  # it has ended, or is somebody else's
            continue
    return None


def _inodes(port: int, root: Path, protocol: str) -> Iterator[str]:
    for name in (protocol, f"{protocol}6"):
        try:
            lines = (root / "proc/net" / name).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            listens = protocol != "tcp" or fields[3] == _LISTENING
            if listens and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]
