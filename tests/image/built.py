"""Images that the tests boot: built once into `.image/test`, by the recipe as it stands."""

from __future__ import annotations

import subprocess
from pathlib import Path

from vm import run

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / ".image" / "test"
KEY = FOLDER / "update.key"
OLD, NEW = 1_700_000_001, 1_700_000_002


def image(board: str) -> Path:
    """The image a card or a virtual machine begins with."""
    kind = "img.zst" if board == "pi" else "qcow2"
    return _built(board, OLD, kind)


def update(board: str) -> Path:
    """A newer version of the same, signed."""
    path = _built(board, NEW, "update")
    if b"signature" not in run("tar", "-tf", path):
        run(REPOSITORY / "image/sign.sh", "--key", KEY, path)
    return path


def _built(board: str, version: int, kind: str) -> Path:
    target = FOLDER / f"edge-{board}-{version}.{kind}"
    if not target.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        if not KEY.exists():
            run(REPOSITORY / "image/sign.sh", "--generate-key", KEY)
        command = [
            REPOSITORY / "image/build.sh", "--board", board, "--version", str(version),
            "--update-key", f"{KEY}.pub", "--output", FOLDER,
        ]  # fmt: skip
        done = subprocess.run(command, check=False, cwd=REPOSITORY)
        assert done.returncode == 0, "the recipe failed, see above"
    return target
