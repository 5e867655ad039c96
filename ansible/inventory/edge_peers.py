#!/usr/bin/env python3
"""Ansible inventory: the nodes of a fleet, from what `edge peers` says. Standard library only.

    ansible-inventory -i edge_peers.py --list
    EDGE_COMMAND="ssh pi edge" ansible-playbook -i edge_peers.py …    asks another machine's node
    EDGE_BROWSE=1 ansible-inventory -i edge_peers.py --list           asks the network, no node

Ansible evaluates {{ … }} in whatever an inventory says, on the machine that it runs on. So a value
that has other characters than such a value can have is nowhere in the answer.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

SECONDS = 60  # for the command, which may ask over a slow line
MOST = 1 << 24  # bytes of its answer

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
ID = re.compile(r"[a-z2-7]{52}")
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")

# Of peers in these states the group "edge" is made: there is something to be done with them.
LIVE = frozenset({"self", "alive", "suspect", "penalised", "unverified"})


class Problem(Exception):
    """What the person who runs Ansible is told, in one line."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Ansible inventory of the nodes of a fleet.")
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--list", action="store_true", help="every group and host")
    wanted.add_argument("--host", metavar="NAME", help="the variables of one host")
    options = parser.parse_args()
    try:
        answer = inventory(os.environ)
    except Problem as problem:
        sys.stderr.write(f"edge_peers: {problem}\n")
        return 1
    if options.host is not None:
        answer = answer["_meta"]["hostvars"].get(options.host, {})
    json.dump(answer, sys.stdout, indent=2)
    sys.stdout.write("\n")
    return 0


def inventory(environ: Mapping[str, str]) -> dict[str, Any]:
    command = shlex.split(environ.get("EDGE_COMMAND", "")) or ["edge"]
    if environ.get("EDGE_BROWSE", "") not in ("", "0"):
        hosts = [advertised(row) for row in rows(ask([*command, "peers", "--browse", "--json"]))]
    else:
        hosts = list(known(ask([*command, "peers", "--json"])))
    found = grouped(named(one for one in hosts if one is not None))
    for variables in found["_meta"]["hostvars"].values():
        # A command of another name may well bring us to another machine.
        if variables["edge_state"] == "self" and Path(command[0]).name == "edge":
            variables["ansible_connection"] = "local"
    return found


def ask(command: list[str]) -> Any:
    try:
        done = subprocess.run(  # noqa: S603 - the command is the user's own
            command, capture_output=True, check=False, timeout=SECONDS, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Problem(f"{shlex.join(command)}: {error}") from None
    if done.returncode:
        raise Problem(f"{shlex.join(command)}: {mistake(done.stderr) or done.returncode}")
    try:
        if len(done.stdout) > MOST:
            raise ValueError("is too long")
        return json.loads(done.stdout)
    except (ValueError, RecursionError) as error:
        raise Problem(f"{shlex.join(command)}: its answer {error}") from None


def mistake(stderr: bytes) -> str:
    """The last line, with the one before it if that is a hint only."""
    lines = stderr.decode(errors="replace").strip().splitlines()
    last = -2 if lines and lines[-1].startswith("hint: ") else -1
    return "; ".join(line.removeprefix("edge: ") for line in lines[last:])


def rows(found: Any) -> list[Any]:
    if not isinstance(found, list):
        raise Problem("the answer is not a list of nodes")
    return found


def known(found: Any) -> Iterator[dict[str, Any] | None]:
    """The node that was asked, and its peers: those it has authenticated say what they are."""
    if not isinstance(found, dict):
        raise Problem("the answer is not about a fleet")
    if found.get("fleet") is None:
        raise Problem("the node is of no fleet: `edge fleet join` changes that")
    if isinstance(found.get("node"), dict):
        yield host(found["node"], "self")
    for row in rows(found.get("peers")):
        yield host(row, row.get("state") if isinstance(row, dict) else None)


def advertised(row: Any) -> dict[str, Any] | None:
    found = host(row, "advertised")
    if found is not None and plain(row.get("fleet"), ID):
        found["edge_fleet"] = row["fleet"]
        return found
    return None


def host(row: Any, state: Any) -> dict[str, Any] | None:
    """A host's variables and its name; None for one that says odd things of itself."""
    if not isinstance(row, dict):
        return None
    found = {
        "name": row.get("name"),
        "edge_id": row.get("id"),
        "edge_state": state,
        "edge_version": row.get("version") or "unknown",
        "edge_arch": row.get("arch") or "unknown",
    }
    shapes = {"name": NAME, "edge_id": ID}
    if not all(plain(value, shapes.get(key, WORD)) for key, value in found.items()):
        sys.stderr.write(f"edge_peers: left out, it says odd things of itself: {found!r:.200}\n")
        return None
    found.update(counts(row))
    addresses = list(reachable(row.get("addresses")))
    if addresses:
        found["ansible_host"] = addresses[0]
    found["edge_addresses"] = addresses
    return found


def plain(value: Any, shape: re.Pattern[str]) -> bool:
    return isinstance(value, str) and shape.fullmatch(value) is not None


def counts(row: Mapping[str, Any]) -> dict[str, int]:
    keys = ("applications", "generation")
    return {f"edge_{key}": row[key] for key in keys if type(row.get(key)) is int}


def reachable(addresses: Any) -> Iterable[str]:
    """IP addresses without ports; those that need to know an interface come last."""
    found = []
    for text in addresses if isinstance(addresses, list) else []:
        if not isinstance(text, str):
            continue
        ip = text.rpartition(":")[0].removeprefix("[").removesuffix("]")
        try:
            parsed = ipaddress.ip_address(ip)
        except ValueError:
            continue
        # A scope may be any text.
        if re.fullmatch(r"[0-9A-Za-z.:]+(%[0-9A-Za-z._-]+)?", ip):
            found.append((parsed.is_link_local, ip))
    return [ip for _, ip in sorted(found, key=lambda pair: pair[0])]


def named(hosts: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By name; of several nodes with one name each has the head of its id as well."""
    every = list(hosts)
    times = [one["name"] for one in every]
    found = {}
    for one in every:
        name = one.pop("name")
        found[name if times.count(name) == 1 else f"{name}-{one['edge_id'][:8]}"] = one
    return found


def grouped(hosts: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """`edge`: who lives. `edge_<state>` and `edge_arch_<arch>`: of every node."""
    groups: dict[str, list[str]] = {"edge": []}
    for name, one in sorted(hosts.items()):
        if one["edge_state"] in LIVE:
            groups["edge"].append(name)
        for group in (f"edge_{one['edge_state']}", f"edge_arch_{one['edge_arch']}"):
            groups.setdefault(re.sub(r"\W", "_", group), []).append(name)
        if "edge_fleet" in one:
            groups.setdefault(f"edge_fleet_{one['edge_fleet'][:12]}", []).append(name)
    listed: dict[str, Any] = {group: {"hosts": names} for group, names in groups.items()}
    return {**listed, "_meta": {"hostvars": dict(sorted(hosts.items()))}}


if __name__ == "__main__":
    sys.exit(main())
