"""Which Node.js a package asks for, and whether this machine's is new enough."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from edge.develop import commands
from edge.errors import EdgeError

__all__ = ["check_node", "oldest"]


def oldest(engine: str) -> tuple[int, ...] | None:
    """The lowest version of a range like ">=20.19"; None for ranges of other forms."""
    found = re.fullmatch(r">=\s*(\d+(?:\.\d+){0,2})", engine.strip())
    return tuple(map(int, found[1].split("."))) if found else None


async def check_node(component: str, workdir: Path) -> None:
    """Raises EdgeError when package.json asks for a newer Node.js than there is."""
    wanted = oldest(_engine(workdir / "package.json"))
    node = shutil.which("node")
    if wanted is None or node is None:
        return
    said = (await commands.run((node, "--version"))).output.strip()
    version = tuple(map(int, re.findall(r"\d+", said)[:3]))
    if version and version < wanted:
        needed = ".".join(map(str, wanted))
        raise EdgeError(
            f"component {component}: needs Node.js {needed} or newer, this is {said}",
            hint="Debian 13 has a newer one: sudo apt install nodejs npm; for others:"
            " https://nodejs.org/en/download",
        )


def _engine(path: Path) -> str:
    try:
        engine = json.loads(path.read_text())["engines"]["node"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return engine if isinstance(engine, str) else ""
