"""`edge invoke`: runs an application's component once, on the node that has it, or here."""

from __future__ import annotations

import argparse
import asyncio
import base64
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from edge.cli.common import Verbs, argument
from edge.cli.node import ask, socket_argument
from edge.errors import ConfigError
from edge.node.client import NodeClient
from edge.platform.files import unreadable

_EPILOG = """\
examples:
  edge invoke hello --path /world                      a request, as at the application's mount
  edge invoke thermostat --trigger readings --subject sensors/kitchen/temperature --data 31.5
  edge invoke report --trigger nightly                 a tick, now
  edge invoke . --path /world                          the application of this folder, no node

NAME is an application of the node, or a path: ".", a folder, a spin.toml, a .wasm file. An event's
answer is shown and not published. The exit code is 1 when the answer's status is 400 or above, or
when the event failed.
"""


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser(
        "invoke",
        parents=[common],
        help="run something of an application once",
        description="Sends a request to an application, or an event to one of its triggers.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help='as `edge apps` shows it; or a path, like "."')
    parser.add_argument("--component", metavar="ID", help="this one, whatever the routes say")
    parser.add_argument("--trigger", metavar="ID", help="an event for this trigger")
    parser.add_argument("--subject", metavar="TOPIC", help="the event's topic or channel")
    parser.add_argument(
        "--data", "-d", metavar="DATA", help="the body; @FILE takes it from a file, - from stdin"
    )
    parser.add_argument(
        "--path",
        type=argument(_path),
        metavar="PATH",
        help="of the request, below the mount, perhaps with a ?query (default: /)",
    )
    parser.add_argument(
        "--method", "-X", metavar="METHOD", help="of the request (default: GET; POST with data)"
    )
    parser.add_argument(
        "--header",
        "-H",
        action="append",
        default=[],
        type=argument(_header),
        metavar="NAME: VALUE",
        help="of the request",
    )
    parser.add_argument(
        "--verbose", "-v", action="store_true", help="show status, headers and time on stderr"
    )
    socket_argument(parser)
    _here_arguments(parser)
    parser.set_defaults(run=run)


def _here_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("an application of this machine, by its path")
    group.add_argument(
        "--variable",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a variable of the application; NAME=@FILE takes it from a file",
    )
    group.add_argument(
        "--runtime-config-file",
        "--runtime-config",
        type=Path,
        metavar="FILE",
        help="Spin's runtime-config.toml",
    )
    group.add_argument(
        "--state-dir",
        type=Path,
        metavar="DIR",
        help="what it keeps (default: nothing, each time begins with nothing kept)",
    )


def _path(text: str) -> str:
    if not text.startswith("/") or not text.isascii() or any(c <= " " for c in text):
        raise ConfigError(f'{text!a}: is not a path like "/x?y=z"', hint="encode what is not ASCII")
    return text


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise ConfigError(f'{text!a}: is not a header like "accept: text/plain"')
    return name.strip(), value.strip()


def run(options: argparse.Namespace) -> int:
    body = _call(options)
    if _is_path(options.name):
        # Brings the engine along, which a question to a node does without.
        from edge.cli import invoke_here

        return asyncio.run(_show(invoke_here.parts(options, body), options))
    for name in ("variable", "runtime_config_file", "state_dir"):
        if getattr(options, name):
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{option}: the node has that of {options.name}", hint=_PATH)
    return ask(options, lambda node: _invoke(node, options, body))


# Where a name was given, and a path was perhaps meant.
_PATH = 'for an application of this machine: its path, like "." or "./folder"'


def _is_path(name: str) -> bool:
    """Whether it is one, rather than an application's name."""
    return name in (".", "..") or "/" in name or name.endswith((".toml", ".wasm"))


def _call(options: argparse.Namespace) -> dict[str, Any]:
    request = (options.path, options.method, options.component)
    if options.trigger is not None and any(request):
        raise ConfigError("--trigger: an event has no --path, --method or --component")
    data = _data(options.data)
    given = {
        "name": options.name,
        "component": options.component,
        "trigger": options.trigger,
        "subject": options.subject,
        "path": options.path,
        "method": options.method or ("POST" if options.data is not None else None),
        "headers": options.header,
        "data": base64.b64encode(data).decode(),
    }
    return {key: value for key, value in given.items() if value}


def _data(given: str | None) -> bytes:
    if given is None:
        return b""
    if given == "-":
        return sys.stdin.buffer.read()
    if not given.startswith("@"):
        return given.encode(errors="surrogateescape")
    try:
        return Path(given[1:]).read_bytes()
    except OSError as exc:
        raise ConfigError(f"--data {given}: {unreadable(exc)}") from exc


async def _invoke(node: NodeClient, options: argparse.Namespace, body: Mapping[str, Any]) -> int:
    return await _show(node.lines("/v1/invoke", body), options)


async def _show(parts: AsyncIterator[Mapping[str, Any]], options: argparse.Namespace) -> int:
    code, last = 0, b""
    async for part in parts:
        if "data" in part:
            last = base64.b64decode(part["data"])
            sys.stdout.buffer.write(last)
            sys.stdout.buffer.flush()
        elif "status" in part:
            code = int(part["status"] >= 400)
            _tell(options, f"status {part['status']}", *_shown(part["headers"]))
        elif "outcome" in part:
            code = int(part["outcome"] != "done")
            if code:
                sys.stderr.write(f"edge: the event was not handled: {_why(part)}\n")
            _tell(options, part["outcome"])
        elif "seconds" in part:
            if last and not last.endswith(b"\n") and sys.stdout.isatty():
                _tell(options, "")  # a line of its own, where both are seen
            _tell(options, f"{part['seconds'] * 1000:.3g} ms")
    return code


def _shown(headers: list[list[str]]) -> list[str]:
    return [f"{name}: {value}" for name, value in headers]


def _why(part: Mapping[str, Any]) -> str:
    return f"{part['outcome']}: {part['reason']}" if part["reason"] else str(part["outcome"])


def _tell(options: argparse.Namespace, *lines: str) -> None:
    if options.verbose:
        sys.stderr.write("".join(f"{line}\n" for line in lines))
