"""`edge doctor`: what is wrong with this machine or its node, and what to do about it."""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge.cli.common import Verbs
from edge.cli.node import json_argument, say, say_json, socket_argument
from edge.errors import ConfigError

if TYPE_CHECKING:
    from edge.node.doctor.findings import Finding

_DESCRIPTION = """\
Examines this machine and its node, whether that runs or not, and says what to do about what it
finds. The checks: configuration, node, clock, space, disk, power, memory, addresses, pages,
kernel, unit, permissions, ports, certificates, multicast, registries, broker, stores.
"""

_EPILOG = """\
examples:
  edge doctor                    everything, in some seconds
  sudo edge doctor               with what only root may see: permissions, who has a port
  edge doctor clock broker       only these
  edge doctor --json | jq '.findings[] | select(.status != "ok")'

Nothing is changed. The exit code is 1 when there is an error; a warning is none.
"""


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser(
        "doctor",
        parents=[common],
        help="what is wrong with this machine or its node, and what to do",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checks", nargs="*", metavar="CHECK", help="only these (default: all)")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="default /etc/edge/edge.toml, if it is there"
    )
    socket_argument(parser)
    json_argument(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from edge.node.doctor import CHECKS, examine
    from edge.node.doctor.site import visit

    unknown = [name for name in options.checks if name not in CHECKS]
    if unknown:
        known = ", ".join(CHECKS)
        raise ConfigError(f'doctor: there is no check "{unknown[0]}"', hint=f"there are {known}")
    named = options.socket or os.environ.get("EDGE_SOCKET")
    site = visit(options.config, Path(named) if named else None)
    checks = {name: CHECKS[name] for name in CHECKS if name in (options.checks or CHECKS)}
    found = examine(site, checks)
    well = all(one.status != "error" for one in found)
    if options.json:
        say_json({"ok": well, "findings": [one.to_json() for one in found]})
    else:
        say("\n".join(_lines(found)))
    return _leave(0 if well else 1)


def _leave(code: int) -> int:
    """Python would wait at its end for threads that read what hangs."""
    if threading.active_count() > 1:
        sys.stdout.flush()
        os._exit(code)
    return code


def _lines(found: Sequence[Finding]) -> Iterator[str]:
    width = max(len(one.check) for one in found)
    for one in found:
        yield f"{one.status:<7}  {one.check:<{width}}  {one.found}"
        if one.advice:
            yield f"{'':<7}  {'':<{width}}  → {one.advice}"
    errors, warnings = (sum(one.status == s for one in found) for s in ("error", "warning"))
    yield ""
    yield f"{_counted(errors, 'error')}, {_counted(warnings, 'warning')}"


def _counted(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'s' * (number != 1)}"
