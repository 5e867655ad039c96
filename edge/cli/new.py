"""`edge new`: starts an application from a template."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from edge.cli.common import Verbs, argument
from edge.develop import scaffold
from edge.develop.scaffold import TEMPLATES, Template
from edge.errors import ConfigError

_EPILOG = """\
examples:
  edge new hello --template http-python      a folder "hello" with an application of that name
  edge new alarm -t mqtt-c -o work/alarm     in another folder
  edge new --list                            what there is
  edge new                                   asks, in a terminal

Then, in its folder: edge build, edge up. Its test.sh says what it promises.
"""

_NEXT: Mapping[str, str] = {
    "http": "curl http://127.0.0.1:3000/world",
    "mqtt": "mosquitto_pub -q 1 -t sensors/kitchen/temperature -m 31.5     # needs a broker",
    "timer": "curl http://127.0.0.1:3000/",
}


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser(
        "new",
        parents=[common],
        help="start an application from a template",
        description="Makes a folder with a Spin application that builds, runs and has a test.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "name",
        nargs="?",
        type=argument(scaffold.check_name),
        metavar="NAME",
        help="of the application, like my-function",
    )
    parser.add_argument(
        "--template",
        "-t",
        type=argument(scaffold.find),
        metavar="TEMPLATE",
        help="trigger and language, like http-python",
    )
    parser.add_argument(
        "--output", "-o", type=Path, metavar="FOLDER", help="to make (default: ./NAME)"
    )
    parser.add_argument("--list", action="store_true", help="show the templates")
    parser.add_argument("--json", action="store_true", help="with --list: as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    if options.json and not options.list:
        raise ConfigError("--json: needs --list")
    if options.list:
        sys.stdout.write(_listed(as_json=options.json))
        return 0
    asks = sys.stdin.isatty() and sys.stderr.isatty()
    template = options.template or _template(asks=asks)
    name = options.name or _name(asks=asks)
    folder = options.output or Path(name)
    scaffold.create(template, name, folder)
    sys.stdout.write(_made(template, folder))
    return 0


def _listed(*, as_json: bool) -> str:
    if as_json:
        found = [{"name": t.name, "description": t.description} for t in TEMPLATES.values()]
        return json.dumps(found, indent=2) + "\n"
    return "".join(f"{t.name:<17}  {t.description}\n" for t in TEMPLATES.values())


def _template(*, asks: bool) -> Template:
    if not asks:
        raise ConfigError("--template is missing", hint="`edge new --list` shows what there is")
    choices = list(TEMPLATES.values())
    for number, template in enumerate(choices, 1):
        _say(f"{number:>3}  {template.name:<17}  {template.description}\n")
    while True:
        given = _ask("template: ")
        if given.isdecimal() and 1 <= int(given) <= len(choices):
            return choices[int(given) - 1]
        try:
            return scaffold.find(given)
        except ConfigError as error:
            _say(f"{error.message}; {error.hint}\n")


def _name(*, asks: bool) -> str:
    if not asks:
        raise ConfigError("NAME is missing", hint="like: edge new my-function -t http-python")
    while True:
        try:
            return scaffold.check_name(_ask("name: "))
        except ConfigError as error:
            _say(f"{error.message}; {error.hint}\n")


def _ask(question: str) -> str:
    _say(question)
    line = sys.stdin.readline()
    if not line:
        raise ConfigError("nothing was answered", hint="edge new NAME --template TEMPLATE")
    return line.strip()


def _say(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def _made(template: Template, folder: Path) -> str:
    return (
        f"made {folder}: {template.description}\n\n"
        f"  cd {shlex.quote(str(folder))}\n"
        "  edge build          # the first time it brings the compiler\n"
        "  edge up --watch     # serves it, and builds it anew when you change it\n"
        f"  {_NEXT[template.trigger]}\n"
    )
