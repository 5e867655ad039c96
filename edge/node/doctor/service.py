"""The node as it is installed: its configuration, its unit, its files, its ports."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Iterator
from pathlib import Path

from edge.node.doctor.findings import Finding, error, ok, warning
from edge.node.doctor.listeners import ports
from edge.node.doctor.site import Site

__all__ = ["configuration", "node", "permissions", "ports", "unit"]

# States of an application in which nothing is to be done.
_WELL = ("live", "soaking", "waiting")
# Applications, or files, that are named one by one.
_MOST = 5
# Seconds that systemctl gets.
_PATIENCE = 3.0

_UNIT = "edge.service"
_RELOAD = "`systemctl daemon-reload && systemctl restart edge`"


def configuration(site: Site) -> Iterator[Finding]:
    check = f"`edge check --config {site.file}`"
    if site.mistake is not None:
        advice = site.mistake.hint or f"mend it; {check} says whether it is right"
        for line in site.mistake.message.split("\n"):
            if line.endswith("permission denied") and os.geteuid() != 0:
                yield warning("configuration", line, "ask again as root")
            else:
                yield error("configuration", line, advice)
    yield from (warning("configuration", note, check) for note in site.notes)
    if site.mistake is None and not site.notes:
        there = f"{site.file}: no mistakes" if site.file else "no edge.toml: the defaults"
        yield ok("configuration", there)


def node(site: Site) -> Iterator[Finding]:
    status, problem = site.answer.status, site.answer.problem
    if status is None:
        assert problem is not None
        state = _state(site)
        found = f"{problem.message}; the service is {state}" if state else problem.message
        advice = "`edge logs -n 50` says why" if state or not problem.hint else problem.hint
        if state in ("active", "failed"):
            yield error("node", found, advice)
        else:
            yield warning("node", found, "`systemctl start edge`" if state else advice)
        return
    ill = [app for app in site.answer.apps if app["state"] not in _WELL]
    for app in ill[:_MOST]:
        reason = f": {app['reason']}" if app["reason"] else ""
        yield warning(
            "node",
            f"{app['name']} is {app['state']}{reason}",
            f"`edge logs --application {app['name']}`; `edge sync --retry {app['name']}`",
        )
    if len(ill) > _MOST:
        yield warning("node", f"{len(ill) - _MOST} more are not live", "`edge apps`")
    yield from (warning("node", note, "`edge status`") for note in status["notes"])
    if not ill and not status["notes"]:
        runs = sum(status["applications"].values())
        yield ok("node", f"{status['name']} answers, with {runs} application{'s' * (runs != 1)}")


def _state(site: Site) -> str | None:
    """Of its service; None: it is none, or nobody can be asked."""
    found = _shown(site, "LoadState", "ActiveState")
    return found.get("ActiveState") if found.get("LoadState") == "loaded" else None


def _shown(site: Site, *properties: str) -> dict[str, str]:
    """What the service manager says of the service, where it runs this machine."""
    if not (site.root / "run/systemd/system").is_dir() or shutil.which("systemctl") is None:
        return {}
    text = asyncio.run(_systemctl("show", _UNIT, f"--property={','.join(properties)}"))
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


async def _systemctl(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "systemctl", *arguments, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL
    )
    try:
        async with asyncio.timeout(_PATIENCE):
            out, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return ""
    return out.decode(errors="replace")


def unit(site: Site) -> Iterator[Finding]:
    found = [*_replaced(site), *_outdated(site.root)]
    if _shown(site, "NeedDaemonReload").get("NeedDaemonReload") == "yes":
        found.append(warning("unit", "its files have changed since systemd read them", _RELOAD))
    there = f"{_UNIT} and its drop-ins are those of this version"
    yield from found or [
        ok("unit", there if site.installed else "edge is not installed as a service")
    ]


def _replaced(site: Site) -> Iterator[Finding]:
    own = site.root / "etc/systemd/system" / _UNIT
    if own.is_symlink() and own.readlink() == Path("/dev/null"):
        yield warning("unit", f"{_UNIT} is masked: it does not start", "`systemctl unmask edge`")
    elif own.is_file() and site.installed:
        yield warning(
            "unit",
            f"{own} replaces the unit of the package, and does not follow its updates",
            f"put what is yours into a drop-in (`systemctl edit edge`), remove it, {_RELOAD}",
        )


def _outdated(root: Path) -> Iterator[Finding]:
    """Copies of drop-ins of an earlier version."""
    for place in ("edge.service.d", "edge.socket.d"):
        for copy in sorted((root / "etc/systemd/system" / place).glob("*.conf")):
            names = (copy.name, f"{copy.stem}.socket.conf") if "socket" in place else (copy.name,)
            shipped = [root / "usr/share/edge/drop-ins" / name for name in names]
            there = [path for path in shipped if path.exists()]
            if there and all(path.read_bytes() != copy.read_bytes() for path in there):
                yield warning(
                    "unit",
                    f"{copy} is not the one of this version",
                    f"`diff {copy} {there[-1]}`; copy that one, then {_RELOAD}",
                )


def permissions(site: Site) -> Iterator[Finding]:
    found = [*_of_state(site), *_of_socket(site), *_of_credentials(site)]
    there = "is the node's, and nobody else's" if site.state_dir.exists() else "is not there yet"
    yield from found or [ok("permissions", f"{site.state_dir} {there}")]


def _of_state(site: Site) -> Iterator[Finding]:
    place, user = site.state_dir, site.user
    if not place.exists():
        return
    name = _name(user)
    mend = f"`chown -R {name}: {place}`"
    if place.stat().st_mode & 0o022:
        yield error(
            "permissions",
            f"{place}: others may write there, where code is kept that runs natively",
            f"`chmod go-w {place}`; remove {place}/code",
        )
    if user == 0:
        return
    try:
        others = [path for path in (place, *sorted(place.iterdir())) if path.stat().st_uid != user]
    except PermissionError:
        found = f"{place}: this user may not look into it"
        yield warning("permissions", found, "ask again as root, or as the user of the node")
        return
    for path in others[:_MOST]:
        owner = _name(path.stat().st_uid)
        yield error("permissions", f"{path}: belongs to {owner}, the node is {name}", mend)


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _of_socket(site: Site) -> Iterator[Finding]:
    problem = site.answer.problem
    if problem is not None and "permission denied" in problem.message:
        yield error("permissions", problem.message, problem.hint or "ask again as root")
    path = site.settings.node.socket
    if path.is_socket() and path.stat().st_mode & 0o007:
        found = f"{path}: everybody on this machine may command the node"
        yield error("permissions", found, f"`chmod o= {path}`; a restart mends it, too")


def _of_credentials(site: Site) -> Iterator[Finding]:
    place = site.root / "etc/edge/credentials"
    if not site.installed:
        return
    if not place.is_dir():
        yield error(
            "permissions",
            f"{place}: is not there, and the service does not start without it",
            f"`install -d -m 0700 {place}`",
        )
    elif place.stat().st_mode & 0o077:
        found = f"{place}: others may look into it"
        yield warning("permissions", found, f"`chmod 0700 {place}`")
