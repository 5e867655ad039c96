"""`edge doctor`: what is wrong with this machine or this node, and what to do about it.

A check is a function that says what it found. Each runs in a thread of its own until a deadline: a
disk that hangs, or a name server, keeps no other check from its answer. None of them changes
anything.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from edge.errors import EdgeError
from edge.node.doctor.findings import Finding, error, warning
from edge.node.doctor.machine import clock, disk, memory, power, space
from edge.node.doctor.network import broker, multicast, registries
from edge.node.doctor.process import addresses, kernel, pages
from edge.node.doctor.service import configuration, node, permissions, ports, unit
from edge.node.doctor.site import Site
from edge.node.doctor.stores import stores
from edge.node.doctor.trust import certificates

__all__ = ["CHECKS", "Check", "examine"]

Check = Callable[[Site], Iterable[Finding]]

# In the order in which they are shown: what others depend on first.
CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "configuration": configuration,
        "node": node,
        "clock": clock,
        "space": space,
        "disk": disk,
        "power": power,
        "memory": memory,
        "addresses": addresses,
        "pages": pages,
        "kernel": kernel,
        "unit": unit,
        "permissions": permissions,
        "ports": ports,
        "certificates": certificates,
        "multicast": multicast,
        "registries": registries,
        "broker": broker,
        "stores": stores,
    }
)

# Seconds for all of them together: a small board takes some for loading libraries alone. Those that
# wait for a network give up earlier, by themselves.
_DEADLINE = 20.0

# Of what the machine refused.
_AGAIN = "ask again as root"

_log = logging.getLogger("edge.doctor")


def examine(
    site: Site, checks: Mapping[str, Check] = CHECKS, deadline: float = _DEADLINE
) -> list[Finding]:
    """What each check found, in their order. Returns within the deadline, whatever hangs."""
    until = time.monotonic() + deadline
    done: queue.SimpleQueue[_Done] = queue.SimpleQueue()
    for name, check in checks.items():
        # Nobody waits for a thread that hangs, not even the interpreter at its end.
        work = threading.Thread(target=_run, args=(name, check, site, done), name=name, daemon=True)
        work.start()
    found: dict[str, list[Finding]] = {}
    while len(found) < len(checks):
        try:
            one = done.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            break
        found[one.check] = one.findings
    late = {name: [_late(name, deadline)] for name in checks if name not in found}
    return [finding for name in checks for finding in (found | late)[name]]


@dataclass(frozen=True, slots=True)
class _Done:
    check: str
    findings: list[Finding]


def _run(name: str, check: Check, site: Site, done: queue.SimpleQueue[_Done]) -> None:
    try:
        findings = list(check(site))
    except EdgeError as exc:
        findings = [warning(name, f"cannot be checked: {exc.message}", exc.hint or _AGAIN)]
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        where = f"{exc.filename}: " if exc.filename else ""
        findings = [warning(name, f"cannot be checked: {where}{reason}", _AGAIN)]
    except Exception as exc:
        _log.debug("%s failed", name, exc_info=True)
        found = f"cannot be checked: {type(exc).__name__}: {exc}"
        findings = [warning(name, found, f"`edge doctor {name} --debug` shows where")]
    done.put(_Done(name, findings))


def _late(name: str, deadline: float) -> Finding:
    return error(
        name,
        f"no answer within {deadline:g} s",
        "something that it asks hangs: a disk, a network file system, a name server; see `dmesg`",
    )
