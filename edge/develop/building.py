"""Builds components: runs their commands as spin.toml has them, with the tools these need."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge.application import manifest
from edge.application.fields import did_you_mean
from edge.application.model import Application, Component, PathSource
from edge.develop import commands, engines, tools
from edge.develop.pins import TOOLS, Tool
from edge.errors import ConfigError, EdgeError
from edge.platform.files import exists, is_directory, unreadable

__all__ = ["BuildError", "Buildable", "build", "read", "sources"]

# Seconds between two signs of life of a command.
_REPORT = 10.0
# A virtual environment of the developer's own, beside a component: its tools come first.
_OWN = (".venv", "venv")
# Folders that are made by building, or are not sources.
_MADE = frozenset({"node_modules", "target", ".git", ".edge", "__pycache__", *_OWN})

# Program -> what to do where it is missing, and edge does not bring it.
_MISSING: Mapping[str, str] = {
    "npm": "sudo apt install nodejs npm",
    "node": "sudo apt install nodejs",
    "npx": "sudo apt install nodejs npm",
    "cargo": "https://rustup.rs, then: rustup target add wasm32-wasip1",
    "go": "https://go.dev/dl",
    "tinygo": "https://tinygo.org/getting-started/install/linux",
    "make": "sudo apt install make",
}

# What npm and cargo say when they reach nobody.
_OFFLINE = re.compile("code (ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT)|Could not resolve host")


class BuildError(EdgeError):
    """A command failed; what it wrote has been shown."""


@dataclass(frozen=True, slots=True)
class Buildable:
    """A component whose commands are known. `workdir` is absolute."""

    component: str
    commands: tuple[str, ...]
    workdir: Path
    watch: tuple[str, ...]
    output: Path | None  # where its binary is expected

    @property
    def is_current(self) -> bool:
        """Whether its binary is there, and no source is newer."""
        try:
            built = self.output.stat().st_mtime if self.output else 0.0
            return all(path.stat().st_mtime <= built for path in sources(self))
        except OSError:
            return False


def read(
    app: Path, components: Iterable[str] = (), profile: str | None = None
) -> tuple[Application, list[Buildable]]:
    """The application and what of it is built: all that has a command, or these components.

    Raises ConfigError.
    """
    path = app / "spin.toml" if is_directory(app) else app
    application = _application(app, path, profile)
    root = path.absolute().parent
    wanted = list(components) or [id for id, c in application.components.items() if c.build]
    return application, [_buildable(application, id, root) for id in dict.fromkeys(wanted)]


def _application(app: Path, path: Path, profile: str | None) -> Application:
    if not exists(path):
        hint = "`edge new` makes an application; APP names its folder or its spin.toml"
        what = f"{app}: has no spin.toml" if is_directory(app) else f"{app}: does not exist"
        raise ConfigError(what, hint=hint)
    if path.suffix != ".toml":
        hint = "name the folder of its application, or its spin.toml"
        raise ConfigError(f"{app}: is not an application with sources", hint=hint)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {unreadable(error)}") from error
    return manifest.read(text, file=str(path), profile=profile)


def _buildable(application: Application, id: str, root: Path) -> Buildable:
    known = application.components
    if id not in known:
        hint = did_you_mean(id, known) or f"its components: {', '.join(sorted(known))}"
        raise ConfigError(f'{application.name}: has no component "{id}"', hint=hint)
    build = known[id].build
    if build is None:
        hint = f"[component.{id}.build] command = says how"
        raise ConfigError(f"component {id}: has no build command", hint=hint)
    workdir = root / (build.workdir or "")
    if not is_directory(workdir):
        raise ConfigError(f"component.{id}.build.workdir: {workdir} is not a directory")
    return Buildable(id, build.commands, workdir, build.watch, _output(known[id], root))


def _output(component: Component, root: Path) -> Path | None:
    source = component.source
    return root / source.path if isinstance(source, PathSource) else None


def sources(item: Buildable) -> Iterator[Path]:
    """The files that its `watch` names; what building makes is none."""
    for pattern in item.watch:
        try:
            yield from (path for path in item.workdir.glob(pattern) if _is_source(path, item))
        except (ValueError, NotImplementedError) as error:
            raise ConfigError(
                f'component.{item.component}.build.watch: "{pattern}": {str(error).lower()}',
                hint="patterns are relative to workdir, like src/**/*.py",
            ) from error


def _is_source(path: Path, item: Buildable) -> bool:
    below = path.relative_to(item.workdir) if path.is_relative_to(item.workdir) else path
    return path != item.output and not _MADE & set(below.parts) and path.is_file()


async def build(item: Buildable, say: tools.Say, *, verbose: bool = False) -> None:
    """Runs its commands, one after the other. Raises EdgeError; what failed has been shown then."""
    for command in item.commands:
        environ = await _environ(item, command, say)
        say(f"{item.component}: {command}")
        done = await commands.run(
            ("/bin/sh", "-c", command),
            cwd=item.workdir,
            environ=environ,
            every=_REPORT,
            waiting=lambda seconds: say(f"  … {seconds:.0f} s"),
            shown=verbose,
        )
        if done.code:
            _show(done.output, say)
            raise BuildError(
                f"component {item.component}: its build failed, with exit code {done.code}",
                hint=_hint(done),
            )
        say(f"  {done.seconds:.1f} s")
    if item.output is not None and not item.output.exists():
        raise ConfigError(
            f"component.{item.component}.source: {item.output} does not exist, and its commands"
            " succeeded",
            hint="they write another file than `source` names, or run in another `workdir`",
        )


def _show(output: str, say: tools.Say) -> None:
    for line in output.rstrip().splitlines():
        say(f"  {line}")


def _hint(done: commands.Done) -> str | None:
    missing = re.search(r"^(?:/bin/)?sh: \d+: (\S+): not found$", done.output, re.MULTILINE)
    if missing:
        return _MISSING.get(missing[1], f"install {missing[1]}")
    if _OFFLINE.search(done.output):
        return "no package registry can be reached: the first build needs a network"
    if "can't find crate for `std`" in done.output:
        return "rustup target add wasm32-wasip1"
    if "has no attribute 'IncomingHandler'" in done.output:
        return "app.py is called by its class IncomingHandler, with a method handle_request"
    if "ModuleNotFoundError" in done.output:
        return (
            "for a package of your own: add it to requirements.txt, then python3 -m venv .venv and"
            " .venv/bin/pip install -r requirements.txt; edge build uses .venv"
        )
    return None


# What a command needs


async def _environ(item: Buildable, command: str, say: tools.Say) -> dict[str, str]:
    """The environment for a command: the programs it names are in its PATH. Raises EdgeError."""
    path: list[str] = []
    environ: dict[str, str] = {}
    for program in _programs(command):
        tool = TOOLS.get(program)
        if tool is None:
            await _present(item, program)
        elif home := _own(item.workdir, program) or await _tool(tool, say):
            path.append(str(home / "bin"))
            if tool.function:  # it looks there for the packages that it compiles
                environ["VIRTUAL_ENV"] = str(home)
                environ["RUST_BACKTRACE"] = "0"  # its own stack says nothing of what is built
    return {**environ, "PATH": os.pathsep.join((*path, os.environ.get("PATH", os.defpath)))}


async def _present(item: Buildable, program: str) -> None:
    """Raises EdgeError where edge does not bring the program, and it is missing or too old."""
    if not shutil.which(program):
        raise EdgeError(
            f"component {item.component}: needs {program}, which is not installed",
            hint=_MISSING[program],
        )
    if program in ("npm", "npx", "node"):
        await engines.check_node(item.component, item.workdir)


async def _tool(tool: Tool, say: tools.Say) -> Path | None:
    """Where it is; None: the machine's own is taken."""
    try:
        return await tools.bring(tool, tools.directory(os.environ), say)
    except EdgeError as error:
        if not (found := shutil.which(tool.program)):
            raise
        say(f"note: {error.message}; using {found}")
        return None


def _own(workdir: Path, program: str) -> Path | None:
    """The developer's virtual environment that has it: an active one, or one beside a component."""
    active = os.environ.get("VIRTUAL_ENV")
    places = [Path(active)] if active else []
    places += [workdir / name for name in _OWN]
    return next((place for place in places if (place / "bin" / program).exists()), None)


def _programs(command: str) -> Iterator[str]:
    """The programs we know something of, among those that a command starts."""
    starts = re.findall(
        r"(?:^|[;&|(\n]|\b(?:exec|env|then|do)\s)\s*(?:\w+=\S*\s+)*([\w.-]+)", command
    )
    yield from (program for program in dict.fromkeys(starts) if program in {*TOOLS, *_MISSING})
