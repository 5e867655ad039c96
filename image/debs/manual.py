"""Writes the manual: `manual.py VERSION CONFIGURATION.md DIRECTORY`, edge.1 and edge.toml.5.

edge(1) is made from the command line, edge.toml(5) from docs/configuration.md, so neither can say
something else than the program and its documentation.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from commands import Argument, Command, whole

EXIT = [
    ("0", "done"),
    ("1", "it did not work; one line on standard error says why, mostly with a hint"),
    ("2", "a command line that cannot be understood"),
    ("78", "another mistake of who typed it or wrote a file"),
    ("130", "interrupted"),
]
ENVIRONMENT = [
    ("EDGE_SOCKET", "the socket of the node API, where none is given; default /run/edge/edge.sock"),
    (
        "CREDENTIALS_DIRECTORY",
        "where systemd puts credentials; a password file without a slash in"
        " its name is looked for there first",
    ),
]
FILES = [
    ("/etc/edge/edge.toml", "configuration of the node: edge.toml(5)"),
    ("/var/lib/edge", "its state: bundles, compiled code, what applications keep"),
    ("/run/edge/edge.sock", "its API, for root and the group edge"),
]

# groff of Debian 12 reads Latin-1 when man did not recode the page.
ROFF = str.maketrans({"\\": "\\e", "-": "\\-", "…": "...", "→": "->", "–": "\\(en", "×": "\\(mu"})


def main(arguments: list[str]) -> int:
    if len(arguments) != 3:
        sys.stderr.write(f"{__doc__}\n")
        return 0 if arguments == ["--help"] else 64
    version, configuration, directory = arguments[0], Path(arguments[1]), Path(arguments[2])
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "edge.1").write_text(program(whole(), version))
    (directory / "edge.toml.5").write_text(file_format(configuration.read_text(), version))
    return 0


def lines(*texts: str) -> str:
    return "\n".join(texts) + "\n"


def plain(text: str) -> str:
    """Text for roff: what begins with a control character or holds a backslash is not one."""
    text = text.translate(ROFF)
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def tagged(pairs: Iterable[tuple[str, str]]) -> str:
    return "".join(f".TP\n.B {plain(name)}\n{plain(text)}\n" for name, text in pairs)


def example(text: str) -> str:
    return lines(".PP", ".RS 4", ".nf", plain(text.rstrip("\n")), ".fi", ".RE")


def program(command: Command, version: str) -> str:
    verbs = [each for each in command.all() if len(each.path) > 1]
    return "".join(
        (
            lines(f'.TH EDGE 1 "" "edge {version}" "User Commands"', ".SH NAME"),
            lines("edge \\- serverless functions on WebAssembly, on one board or many"),
            lines(".SH SYNOPSIS", ".B edge", ".I VERB", "[...]", ".SH DESCRIPTION"),
            lines(plain(command.description)),
            lines(
                ".PP",
                "The node that systemd starts is \\fBedge run\\fR; most other verbs talk to it.",
            ),
            ".SH VERBS\n",
            *map(verb, verbs),
            ".SH EXIT STATUS\n",
            tagged(EXIT),
            ".SH ENVIRONMENT\n",
            tagged(ENVIRONMENT),
            ".SH FILES\n",
            tagged(FILES),
            lines(".SH EXAMPLES") + example(command.epilog.removeprefix("examples:\n")),
            lines(
                ".SH SEE ALSO",
                ".BR edge.toml (5),",
                ".BR journalctl (1),",
                ".BR systemctl (1)",
                ".PP",
                "/usr/share/doc/edge has the whole documentation.",
            ),
        )
    )


def verb(command: Command) -> str:
    name = " ".join(command.path)
    parts = [lines(f'.SS "{plain(name)}"', plain(command.description or command.help))]
    if not command.commands:
        parts.append(lines(".PP", f"{plain(command.usage)}"))
    for group, arguments in groupby(command.arguments, key=lambda argument: argument.group):
        if group not in ("positional arguments", "options"):
            parts.append(lines(".PP", f"{plain(group)}:"))
        parts += [item(argument) for argument in arguments if "--help" not in argument.flags]
    if command.epilog:
        parts.append(lines(".PP", plain(command.epilog)))
    return "".join(parts)


def item(argument: Argument) -> str:
    value = f" \\fI{plain(argument.value)}\\fR" if argument.value else ""
    names = ", ".join(f"\\fB{plain(flag)}\\fR{value}" for flag in argument.flags) or value.strip()
    return lines(".TP", names, plain(argument.help) or "\\&")


# edge.toml(5)


def file_format(markdown: str, version: str) -> str:
    head = lines(
        f'.TH EDGE.TOML 5 "" "edge {version}" "File Formats"',
        ".SH NAME",
        "edge.toml \\- configuration of an edge node",
        ".SH DESCRIPTION",
    )
    foot = lines(
        ".SH SEE ALSO",
        ".BR edge (1)",
        ".PP",
        "/usr/share/doc/edge has the documents that are named here.",
    )
    return head + "".join(blocks(markdown)) + foot


def blocks(markdown: str) -> Iterator[str]:
    """The Markdown that our documents use: headings, paragraphs, lists, tables, code."""
    body = markdown.split("\n", 1)[1]
    for block in re.findall(r"```.*?```|(?:(?!```)\S[^\n]*\n?)+", body, flags=re.DOTALL):
        yield one(block.strip("\n"))


def one(block: str) -> str:
    if block.startswith("```"):
        return example(block.split("\n", 1)[1].removesuffix("```"))
    if block.startswith("#"):
        title = re.sub(r"[`]", "", block.lstrip("# "))
        return lines(f'{".SS" if block.startswith("###") else ".SH"} "{plain(title)}"')
    if block.startswith("|"):
        return table(block)
    if re.match(r"(\d+\.|-) ", block):
        return "".join(map(bullet, re.split(r"\n(?=\d+\. |- )", block)))
    return lines(".PP", inline(block))


def bullet(text: str) -> str:
    return lines(".IP \\(bu 2", inline(text.split(" ", 1)[1]))


def table(block: str) -> str:
    return "".join(map(row, block.split("\n")[2:]))


def row(line: str) -> str:
    name, *cells = (cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|")))
    text = " \\(em ".join(inline(cell) for cell in cells if cell and cell != "–")
    return lines(".TP", f"\\fB{plain(name.replace('`', ''))}\\fR", text or "\\&")


def inline(text: str) -> str:
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
    text = plain(" ".join(text.split()))
    text = re.sub(r"`([^`]*)`", r"\\fB\1\\fR", text)
    return re.sub(r"\*\*([^*]*)\*\*", r"\\fB\1\\fR", text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
