"""`edge build`: makes an application's components, by the commands of its spin.toml."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from edge.cli.common import Verbs
from edge.develop import building

_EPILOG = """\
examples:
  edge build                         all components of the application of this folder
  edge build path/to/application     of that one
  edge build --component front       one of them

Runs `command` of each [component.ID.build], in its `workdir`, as `spin build` does. The compilers
of Python (componentize-py) and C (zig, wasm-tools) are fetched when a command first needs one, and
kept in ~/.cache/edge/tools; a virtual environment in .venv, or an active one, comes before them.
JavaScript needs npm, Rust needs cargo.
"""


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser(
        "build",
        parents=[common],
        help="build an application's components",
        description="Runs the build commands of an application.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "app",
        nargs="?",
        type=Path,
        default=Path(),
        metavar="APP",
        help="a folder with a spin.toml, or a spin.toml (default: this folder)",
    )
    parser.add_argument(
        "--component",
        "-c",
        "--component-id",
        action="append",
        default=[],
        metavar="ID",
        help="this one only; may be given several times",
    )
    parser.add_argument("--profile", metavar="NAME", help="of the components' build profiles")
    parser.add_argument(
        "--verbose", "-v", action="store_true", help="show what the commands write, as it comes"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    application, items = building.read(options.app, options.component, options.profile)
    if not items:
        sys.stderr.write(f"{application.name}: no component has a build command\n")
        return 0
    try:
        asyncio.run(_build(items, verbose=options.verbose))
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    sys.stderr.write(f"built {application.name}; `edge up` runs it\n")
    return 0


async def _build(items: list[building.Buildable], *, verbose: bool) -> None:
    task = asyncio.current_task()
    assert task is not None
    # A command's children end with it. Ctrl-C is asyncio's.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    for item in items:
        await building.build(item, _say, verbose=verbose)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
