"""The command line as data: what the manual and the completions are written from."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["Argument", "Command", "whole"]

Kind = Literal["none", "file", "directory", "choice", "text"]

# Names of values that are on this machine. Everything else a shell cannot know.
FILES = {"FILE", "APP", "REF|FILE", "DIR|FILE.tar"}


@dataclass(frozen=True, slots=True)
class Argument:
    """An option, or a positional argument when it has no flags."""

    flags: tuple[str, ...]
    value: str  # what the usage calls it; empty: takes none
    kind: Kind
    choices: tuple[str, ...]
    help: str
    group: str


@dataclass(frozen=True, slots=True)
class Command:
    """A verb, or the program itself with `path` ("edge",)."""

    path: tuple[str, ...]
    help: str
    description: str
    epilog: str
    usage: str
    arguments: tuple[Argument, ...]
    commands: tuple[Command, ...]

    @property
    def options(self) -> tuple[Argument, ...]:
        return tuple(argument for argument in self.arguments if argument.flags)

    @property
    def positionals(self) -> tuple[Argument, ...]:
        return tuple(argument for argument in self.arguments if not argument.flags)

    def all(self) -> Iterator[Command]:
        """This one and everything below it, as the help orders them."""
        yield self
        for command in self.commands:
            yield from command.all()


def whole() -> Command:
    """All that `edge` understands."""
    from edge.cli import VERBS, _parser

    return _command(("edge",), "", _parser(dict.fromkeys(VERBS.values())))


def _command(path: tuple[str, ...], summary: str, parser: argparse.ArgumentParser) -> Command:
    below = [action for action in parser._actions if _is_verbs(action)]
    return Command(
        path=path,
        help=summary,
        description=parser.description or "",
        epilog=parser.epilog or "",
        usage=" ".join(parser.format_usage().removeprefix("usage: ").split()),
        arguments=tuple(_arguments(parser)),
        commands=tuple(command for action in below for command in _below(path, action)),
    )


def _is_verbs(action: argparse.Action) -> bool:
    return isinstance(action, argparse._SubParsersAction)


def _below(path: tuple[str, ...], action: argparse.Action) -> Iterator[Command]:
    assert isinstance(action, argparse._SubParsersAction)
    helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
    for name, parser in action.choices.items():
        yield _command((*path, name), helps.get(name, ""), parser)


def _arguments(parser: argparse.ArgumentParser) -> Iterator[Argument]:
    for group in parser._action_groups:
        for action in group._group_actions:
            if not _is_verbs(action) and action.help is not argparse.SUPPRESS:
                yield _argument(action, group.title or "")


def _argument(action: argparse.Action, group: str) -> Argument:
    choices = tuple(map(str, action.choices or ()))
    takes = bool(action.choices) or action.nargs != 0
    value = _value(action, choices) if takes else ""
    return Argument(
        flags=tuple(action.option_strings),
        value=value,
        kind=_kind(action, value, choices),
        choices=choices,
        help=(action.help or "") % {**vars(action), "prog": "edge"},
        group=group,
    )


def _value(action: argparse.Action, choices: Sequence[str]) -> str:
    if action.metavar is None and choices:
        return "|".join(choices)
    return str(action.metavar or action.dest.upper())


def _kind(action: argparse.Action, value: str, choices: Sequence[str]) -> Kind:
    if not value:
        return "none"
    if choices:
        return "choice"
    if value == "DIR":
        return "directory"
    return "file" if action.type is Path or value in FILES else "text"
