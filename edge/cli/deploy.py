"""`edge deploy`, `undeploy`, `rollback` and `sync`: what a running node should run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge.application.mounts import application_name, mount_host, mount_path
from edge.cli.common import Verbs, argument, pairs, text_values
from edge.cli.node import Progress, ask, json_argument, place, say, say_json, short, socket_argument
from edge.errors import ConfigError
from edge.registry.reference import Reference


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    _add_deploy(verbs, common)
    parser = verbs.add_parser(
        "undeploy",
        parents=[common],
        help="take an application off the node",
        description="Takes an application off the node. Its data stays, for when it comes back.",
    )
    _name(parser)
    parser.add_argument("--purge", action="store_true", help="remove its data as well")
    parser.set_defaults(run=_undeploy)
    parser = verbs.add_parser(
        "rollback",
        parents=[common],
        help="go back to the version before",
        description="Puts the version before back, and keeps it: the one that was live is not"
        " tried again until its reference moves, or `edge sync --retry`.",
    )
    _name(parser)
    json_argument(parser)
    parser.set_defaults(run=_rollback)
    parser = verbs.add_parser(
        "sync",
        parents=[common],
        help="look for new versions now",
        description="Looks at the registries now, not at the next interval, and waits until what is"
        " new is live or refused.",
    )
    _name(parser, nargs="?", help="only this application (default: all)")
    parser.add_argument(
        "--retry", action="store_true", help="try versions again that were rolled back"
    )
    json_argument(parser)
    parser.set_defaults(run=_sync)


def _add_deploy(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser(
        "deploy",
        parents=[common],
        help="run an application on the node",
        description="Adds an application to what the node runs, or changes one. Waits until it is"
        " live; when it cannot be, nothing has changed.",
    )
    parser.add_argument(
        "reference",
        type=argument(_reference),
        metavar="REF",
        help="what a registry has, like registry.example/team/app:1.0; a tag is followed",
    )
    parser.add_argument(
        "--name",
        type=argument(application_name),
        help="its name on this node (default: the last part of the repository)",
    )
    parser.add_argument(
        "--mount",
        type=argument(mount_path),
        metavar="PATH",
        help="where its routes begin (default: as before, at first /)",
    )
    parser.add_argument(
        "--host", type=argument(mount_host), metavar="HOST", help="only for requests to this host"
    )
    parser.add_argument(
        "--variable",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a variable of the application; NAME=@FILE takes it from a file, now",
    )
    parser.add_argument(
        "--variable-file",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="as --variable NAME=@FILE, but the node reads the file whenever it loads the"
        " application: the value is not kept in its state",
    )
    socket_argument(parser)
    json_argument(parser)
    parser.set_defaults(run=_deploy)


def _name(parser: argparse.ArgumentParser, **options: Any) -> None:
    parser.add_argument("name", **{"metavar": "NAME", "help": "as `edge apps` shows it", **options})
    socket_argument(parser)


def _reference(text: str) -> Reference:
    if Path(text).exists():
        raise ConfigError(
            f"{text}: is on this disk, and a node runs what a registry has",
            hint=f"push it first: edge push {text} REF",
        )
    return Reference.parse(text)


def _deploy(options: argparse.Namespace) -> int:
    body = _entry(options)
    return _show(options, ask(options, lambda node: node.result("/v1/deploy", body, Progress())))


def _entry(options: argparse.Namespace) -> dict[str, Any]:
    """As an [[application]] of edge.toml."""
    given = {
        "reference": str(options.reference),
        "name": options.name,
        "mount": _mount(options),
        "variables": text_values("--variable", options.variable),
        "variables_files": {
            name: str(Path(path).absolute())
            for name, path in pairs("--variable-file", options.variable_file).items()
        },
    }
    return {key: value for key, value in given.items() if value}


def _mount(options: argparse.Namespace) -> dict[str, str] | None:
    if options.mount is None and options.host is None:
        return None
    host = {} if options.host is None else {"host": options.host}
    return {"path": options.mount or "/", **host}


def _undeploy(options: argparse.Namespace) -> int:
    body = {"name": options.name, "purge": options.purge}
    ask(options, lambda node: node.result("/v1/undeploy", body))
    kept = "with its data" if options.purge else "its data is kept"
    say(f"{options.name}: gone, {kept}")
    return 0


def _rollback(options: argparse.Namespace) -> int:
    body = {"name": options.name}
    return _show(options, ask(options, lambda node: node.result("/v1/rollback", body)))


def _sync(options: argparse.Namespace) -> int:
    body = {"retry": options.retry} | ({"name": options.name} if options.name else {})
    found = ask(options, lambda node: node.result("/v1/sync", body))
    if options.json:
        say_json(found)
    else:
        for application in found:
            say(_line(application))
    return int(any(application["state"] == "failed" for application in found))


def _show(options: argparse.Namespace, application: Mapping[str, Any]) -> int:
    if options.json:
        say_json(application)
    else:
        say(_line(application))
    return 0


def _line(application: Mapping[str, Any]) -> str:
    reason = f": {application['reason']}" if application["reason"] else ""
    where, version = place(application["mount"]), short(application["digest"])
    return f"{application['name']}: {application['state']} at {where}, {version}{reason}"
