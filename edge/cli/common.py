"""What several verbs take: an application, variables, a state directory."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from edge.application.model import Application
from edge.errors import ConfigError, EdgeError
from edge.platform.files import exists, is_directory, unreadable
from edge.registry.reference import Reference, looks_like_reference
from edge.spin.runtime_config import RuntimeConfig, load

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
        type=argument(_application),
        default=Path(),
        metavar="APP",
        help="a directory with a spin.toml, a spin.toml, a .wasm file, or what a registry has,"
        " like registry.example/team/app:1.0 (default: this directory)",
    )
    parser.add_argument(
        "--variable",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a variable of the application; NAME=@FILE takes it from a file",
    )
    parser.add_argument(
        "--runtime-config-file",
        "--runtime-config",
        type=Path,
        metavar="FILE",
        help="Spin's runtime-config.toml: stores, databases, where variables come from",
    )
    parser.add_argument(
        "--state-dir",
        type=Path,
        metavar="DIR",
        help="where compiled code and state are kept"
        " (default: ~/.cache/edge, and .edge beside the application)",
    )


def _application(text: str) -> Path | Reference:
    path = Path(text)
    if not looks_like_reference(text) or exists(path):
        return path
    return Reference.parse(text)


def runtime_config(options: argparse.Namespace) -> RuntimeConfig:
    """What the file says that was named; without one, the defaults. Raises ConfigError."""
    path = options.runtime_config_file
    return RuntimeConfig() if path is None else load(path)


def state_dir(options: argparse.Namespace, runtime: RuntimeConfig) -> Path:
    """The directory asked for, or `.edge` beside the application; in the working directory for one
    of a registry.
    """
    if options.state_dir is not None:
        return Path(options.state_dir)
    if runtime.state_dir is not None:
        return runtime.state_dir
    app: Path | Reference = options.app
    if isinstance(app, Reference):
        return Path(".edge")
    return (app if is_directory(app) else app.parent) / ".edge"


def code_dir(options: argparse.Namespace) -> Path:
    """Where compiled code is kept: it runs outside any sandbox, so never in a folder that may have
    come with an application.
    """
    if options.state_dir is not None:
        return Path(options.state_dir) / "code"
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "edge" / "code"


def variables(
    options: argparse.Namespace, runtime: RuntimeConfig, application: Application
) -> dict[str, str]:
    """Values for the application's variables: those of --variable, then what the runtime's
    configuration knows, then the environment. Raises ConfigError.
    """
    given = text_values("--variable", options.variable)
    return runtime.variables(application.variables, given, os.environ)


def text_values(option: str, given: Iterable[str]) -> dict[str, str]:
    """Of NAME=VALUE, each; NAME=@FILE takes the text of a file. Raises ConfigError."""
    return {name: _text(option, name, value) for name, value in pairs(option, given).items()}


def pairs(option: str, given: Iterable[str]) -> dict[str, str]:
    """Of NAME=VALUE, each. Raises ConfigError."""
    found = [text.partition("=") for text in given]
    for name, equals, _ in found:
        if not equals or not name:
            raise ConfigError(f'{option} "{name}": is not NAME=VALUE')
    return {name: value for name, _, value in found}


def _text(option: str, name: str, value: str) -> str:
    if not value.startswith("@"):
        return value
    try:
        return Path(value[1:]).read_text().rstrip("\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{option} {name}: {value[1:]}: {unreadable(exc)}") from exc
