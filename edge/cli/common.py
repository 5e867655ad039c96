"""What several verbs take: an application, variables, a state directory."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from edge.errors import ConfigError, EdgeError

T = TypeVar("T")


class Verbs(Protocol):
    """What `ArgumentParser.add_subparsers` returns; argparse gives its class no public name."""

    def add_parser(self, name: str, **options: Any) -> argparse.ArgumentParser: ...


def argument(parse: Callable[[str], T]) -> Callable[[str], T]:
    """`parse` for argparse: what it finds wrong is a mistake in the command line."""

    def parsed(text: str) -> T:
        try:
            return parse(text)
        except EdgeError as error:
            hint = f"; {error.hint}" if error.hint else ""
            raise argparse.ArgumentTypeError(f"{error.message}{hint}") from error
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parsed


def application_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "app",
        nargs="?",
        type=Path,
        default=Path(),
        metavar="APP",
        help="a directory with a spin.toml, a spin.toml, or a .wasm file (default: this directory)",
    )
    parser.add_argument(
        "--variable",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a variable of the application; NAME=@FILE takes it from a file",
    )
    parser.add_argument(
        "--state-dir",
        type=Path,
        metavar="DIR",
        help="where compiled code and state are kept"
        " (default: ~/.cache/edge, and .edge beside the application)",
    )


def state_dir(options: argparse.Namespace) -> Path:
    """The directory asked for, or `.edge` beside the application."""
    if options.state_dir is not None:
        return Path(options.state_dir)
    app: Path = options.app
    return (app if app.is_dir() else app.parent) / ".edge"


def code_dir(options: argparse.Namespace) -> Path:
    """Where compiled code is kept: it runs outside any sandbox, so never in a folder that may have
    come with an application.
    """
    if options.state_dir is not None:
        return Path(options.state_dir) / "code"
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "edge" / "code"


def variables(given: Iterable[str]) -> dict[str, str]:
    """`NAME=VALUE` pairs. Raises ConfigError for what is none, or a file that cannot be read."""
    pairs = [text.partition("=") for text in given]
    for name, equals, _ in pairs:
        if not equals or not name:
            raise ConfigError(f'--variable "{name}": is not NAME=VALUE')
    return {name: _value(name, value) for name, _, value in pairs}


def _value(name: str, value: str) -> str:
    if not value.startswith("@"):
        return value
    try:
        return Path(value[1:]).read_text().rstrip("\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"--variable {name}: {value[1:]}: {exc}") from exc
