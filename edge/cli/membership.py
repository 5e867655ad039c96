"""`edge fleet init`, `token`, `join`, `leave`, `revoke` and `members`: who is of a fleet."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge.cli.common import Verbs
from edge.cli.node import (
    ask,
    json_argument,
    say,
    say_json,
    socket_argument,
    table,
)
from edge.errors import ConfigError
from edge.platform.files import unreadable

_log = logging.getLogger("edge")

# Characters of a token's file.
_TOKEN_MAX = 8 << 10
_HEAD = ["NAME", "ID", "JOINED", "UNTIL", ""]


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    parser = _verb(
        verbs,
        common,
        "init",
        "found a fleet, with its authority on this node",
        "Founds a fleet. This node gets its authority, which lets others in and revokes them, and"
        " becomes the first of it.",
    )
    parser.add_argument("--name", metavar="NAME", help="of the fleet (default: edge)")
    parser.set_defaults(run=_init)
    _add_token(verbs, common)
    parser = _verb(
        verbs,
        common,
        "join",
        "become a node of a fleet",
        "Joins the fleet that a token is of.",
    )
    parser.add_argument(
        "token",
        metavar="TOKEN",
        help="what `edge fleet token` printed; @FILE reads it from a file, - from standard input",
    )
    parser.set_defaults(run=_join)
    parser = _verb(
        verbs,
        common,
        "leave",
        "be a node of no fleet",
        "Ends the membership: this node's key and certificate are removed.",
    )
    parser.add_argument(
        "--dissolve",
        action="store_true",
        help="also where the fleet's authority is: it is removed for ever",
    )
    parser.set_defaults(run=_leave)
    parser = _verb(
        verbs,
        common,
        "revoke",
        "exclude a node from the fleet",
        "Excludes a node: its certificate counts nowhere any more. Asked where the authority is;"
        " the others hear of it from each other.",
    )
    parser.add_argument(
        "who", metavar="ID|NAME", help="its name, its id, or the first eight characters of that"
    )
    parser.set_defaults(run=_revoke)
    parser = _verb(
        verbs,
        common,
        "members",
        "list who has a certificate",
        "Lists the nodes that got a certificate of the fleet. Asked where the authority is.",
    )
    json_argument(parser)
    parser.set_defaults(run=_members)


def _add_token(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    parser = _verb(
        verbs,
        common,
        "token",
        "let a node join",
        "Prints a token: who has it may join, once and soon. Asked where the authority is.",
    )
    parser.add_argument(
        "--uses", type=int, metavar="N", help="how many nodes may join with it (default: 1)"
    )
    parser.add_argument("--life", metavar="TIME", help="how long it is good (default: 1h)")
    parser.add_argument(
        "--address",
        action="append",
        metavar="HOST[:PORT]",
        help="where nodes reach this one (default: its addresses)",
    )
    json_argument(parser)
    parser.set_defaults(run=_token)


def _verb(
    verbs: Verbs, common: argparse.ArgumentParser, name: str, help: str, description: str
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, parents=[common], help=help, description=description)
    socket_argument(parser)
    return parser


def _do(options: argparse.Namespace, verb: str, **body: Any) -> Any:
    given = {key: value for key, value in body.items() if value is not None}
    return ask(options, lambda node: node.result(f"/v1/fleet/{verb}", given))


def _init(options: argparse.Namespace) -> int:
    found = _do(options, "init", name=options.name)
    _log.info("founded; its authority is on this node: back that up, or nobody joins any more")
    say(_known(found))
    return 0


def _token(options: argparse.Namespace) -> int:
    found = _do(options, "token", uses=options.uses, life=options.life, addresses=options.address)
    if options.json:
        say_json(found)
        return 0
    nodes = "one node" if found["uses"] == 1 else f"{found['uses']} nodes"
    _log.info("for %s, until %s, at %s", nodes, found["expires"], ", ".join(found["addresses"]))
    if not found["clock"]:
        _log.warning("the clock of this node is not set: the token ends by what it takes for now")
    say(found["token"])
    return 0


def _join(options: argparse.Namespace) -> int:
    say(_known(_do(options, "join", token=_text(options.token))))
    return 0


def _leave(options: argparse.Namespace) -> int:
    _do(options, "leave", dissolve=options.dissolve)
    _log.info("this node is in no fleet any more")
    return 0


def _revoke(options: argparse.Namespace) -> int:
    say(_do(options, "revoke", who=options.who)["id"])
    _log.info("revoked; the other nodes hear of it from each other")
    return 0


def _members(options: argparse.Namespace) -> int:
    found = ask(options, lambda node: node.get("/v1/fleet/members"))
    if options.json:
        say_json(found)
    else:
        say("\n".join(table([_HEAD, *map(_row, found)])))
    return 0


def _row(member: Mapping[str, Any]) -> list[str]:
    note = "revoked" if member["revoked"] else "authority" if member["authority"] else ""
    return [member["name"], member["id"], member["since"], member["until"], note]


def _known(about: Mapping[str, Any]) -> str:
    return f"node {about['node']} of fleet {about['name']}"


def _text(token: str) -> str:
    """Of the command line, which others on this machine may see, or of a file."""
    if token == "-":  # noqa: S105
        return sys.stdin.read(_TOKEN_MAX)
    if not token.startswith("@"):
        return token
    path = Path(token[1:])
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(_TOKEN_MAX)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {unreadable(error)}") from error
