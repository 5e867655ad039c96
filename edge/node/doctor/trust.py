"""Certificates: until when they are good, by the last date that is known."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from edge.fleet.names import Refused
from edge.node.doctor.findings import Finding, error, ok, warning
from edge.node.doctor.site import Site
from edge.platform.files import exists, unreadable

__all__ = ["certificates"]

_Choice = Callable[[Iterable[int]], int]

DAY = 86400.0
# Those that somebody has to replace: time to do so.
_SOON = 21 * DAY
# A node's own is renewed by itself two months before; when it was not, something is wrong.
_RENEWED = 30 * DAY


def certificates(site: Site) -> Iterator[Finding]:
    found = [*_of_servers(site), *_of_authorities(site), *_of_fleet(site)]
    yield from found or [ok("certificates", "none are used")]


def _of_servers(site: Site) -> Iterator[Finding]:
    """Those that the node shows: the whole chain has to be good."""
    http, mqtt = site.settings.http, site.settings.mqtt
    named = {
        "http.tls_certificate": http.tls_certificate,
        "mqtt.certificate_file": mqtt.certificate_file,
    }
    for key, name in named.items():
        if name is not None:
            advice = f"replace the file that {key} names, then `systemctl restart edge`"
            yield _of_file(site, key, Path(name), advice, max, min)


def _of_authorities(site: Site) -> Iterator[Finding]:
    """Those that others are checked by: one that is good is enough."""
    named = {f'registry."{r.name}".ca_file': r.ca_file for r in site.settings.registries}
    if site.settings.mqtt.ca_file is not None:
        named["mqtt.ca_file"] = Path(site.settings.mqtt.ca_file)
    for key, path in named.items():
        if path is not None:
            advice = f"replace the file that {key} names by the authority's new certificate"
            yield _of_file(site, key, path, advice, min, max)


def _of_file(
    site: Site, key: str, path: Path, advice: str, begins: _Choice, ends: _Choice
) -> Finding:
    # Its library takes long to load, and most nodes have no certificate.
    from edge.fleet.certificates import dates

    what = f"{key} {path}"
    try:
        begin, end = zip(*dates(path.read_bytes()), strict=True)
    except OSError as exc:
        advice = "ask again as root; a credential of the service is read by the node only"
        return warning("certificates", f"{what}: {unreadable(exc)}", advice)
    except Refused as exc:
        return error("certificates", f"{what}: {exc}", advice)
    return _judged(site, what, (begins(begin), ends(end)), _SOON, advice)


def _of_fleet(site: Site) -> Iterator[Finding]:
    from edge.fleet.keeping import DIRECTORY, Kept

    kept = Kept(site.state_dir / DIRECTORY)
    if not os.access(site.state_dir, os.X_OK) and exists(site.state_dir):
        yield ok("certificates", "a fleet's is not looked at: this user may not")
    elif kept.exists():
        member = kept.membership()
        advice = (
            "is the board with the fleet's authority there (`edge peers`)? It renews this; once it"
            " has expired, join again: `edge fleet token` there, `edge fleet join` here"
        )
        what = f"the node's certificate in the fleet {member.fleet_name}"
        yield _judged(site, what, (0, member.until), _RENEWED, advice)


def _judged(site: Site, what: str, valid: tuple[int, int], soon: float, advice: str) -> Finding:
    now, (begin, end) = site.clock()(), valid
    if now < begin:
        found = f"{what}: begins to be valid in {_days(begin - now)}"
        return error("certificates", found, f"is the clock right? Otherwise {advice}")
    if now > end:
        return error("certificates", f"{what}: expired {_days(now - end)} ago", advice)
    if end - now < soon:
        return warning("certificates", f"{what}: expires in {_days(end - now)}", advice)
    return ok("certificates", f"{what}: good for {_days(end - now)}")


def _days(seconds: float) -> str:
    whole = int(seconds // DAY)
    return f"{whole} day{'s' * (whole != 1)}" if whole else "less than a day"
