"""Writes docs/commands.md, from the command line itself; `--check`: only says whether it has."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

DOCUMENT = Path(__file__).with_name("commands.md")
sys.path.insert(0, str(DOCUMENT.parent.parent / "image/debs"))

from commands import Argument, Command, whole  # noqa: E402

HEAD = """\
# Commands

Every verb and every option, written from the program by `docs/reference.py`. `edge VERB --help`
says the same.

| it ends with | when |
|---|---|
| 0 | it is done |
| 1 | it did not work: one line on standard error says why, mostly with a hint |
| 2 | the command line cannot be understood |
| 78 | there is another mistake of who typed it or wrote a file |
| 130 | it was interrupted |

`--debug`, of every verb, adds tracebacks and more of the log. Verbs that talk to a node find it by
`--socket`, then by `EDGE_SOCKET`, then at `/run/edge/edge.sock`.
"""

# Options of every verb, said once.
COMMON = {"--help", "--debug"}
# argparse's own groups, which need no heading.
PLAIN = {"positional arguments": "", "options": ""}


def main() -> int:
    written = text(whole())
    if sys.argv[1:] == ["--check"]:
        return int(written != DOCUMENT.read_text())
    DOCUMENT.write_text(written)
    return 0


def text(command: Command) -> str:
    verbs = [each for each in command.all() if len(each.path) > 1]
    index = "".join(f"| [`{name(v)}`](#{anchor(v)}) | {cell(v.help)} |\n" for v in verbs)
    parts = [HEAD, f"| | |\n|---|---|\n{index}", *map(section, verbs)]
    return "\n".join(parts)


def name(command: Command) -> str:
    return " ".join(command.path)


def anchor(command: Command) -> str:
    return "-".join(command.path)


def section(command: Command) -> str:
    return "\n".join([f"## `{name(command)}`\n", *_body(command)])


def _body(command: Command) -> Iterator[str]:
    if said := command.description or command.help:
        yield f"{prose(said)}\n"
    if not command.commands:
        yield f"```\n{wrapped(command.usage)}\n```\n"
    arguments = [one for one in command.arguments if not COMMON & {*one.flags}]
    for group, some in groupby(arguments, key=lambda one: PLAIN.get(one.group, one.group)):
        if group:
            yield f"{group}:\n"
        rows = "".join(f"| {names(one)} | {cell(one.help)} |\n" for one in some)
        yield f"| | |\n|---|---|\n{rows}"
    if command.epilog:
        yield f"```\n{command.epilog.strip()}\n```\n"


def names(argument: Argument) -> str:
    value = f" {argument.value}" if argument.value else ""
    shown = [f"`{flag}{value}`" for flag in argument.flags] or [f"`{argument.value}`"]
    return ", ".join(shown).replace("|", "\\|")


def cell(text: str) -> str:
    return escaped(" ".join(text.split())).replace("|", "\\|") or "–"


def prose(text: str) -> str:
    return escaped(text.strip())


def escaped(text: str) -> str:
    """What Markdown would take for a tag or emphasis."""
    return re.sub(r"([<*_])", r"\\\1", text)


def wrapped(usage: str) -> str:
    """A usage in lines of a page's width, broken between its options."""
    words = re.findall(r"\[[^]]*\](?:\s\.\.\.)?|\S+", usage)
    lines, indent = [""], " " * 4
    for word in words:
        if len(lines[-1]) + len(word) > 110:
            lines.append(indent)
        lines[-1] += word if lines[-1] in ("", indent) else f" {word}"
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
