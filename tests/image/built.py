"""Images that the tests boot: built once into `.image/test` for a recipe and packages as they are.

image(board)      with an application that it brings (bundles.BROUGHT)
update(board)     the next version of the same, signed
sick_update(...)  one that is signed as well, and whose node never comes to life
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import bundles
from vm import run

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / ".image" / "test"
KEY = FOLDER / "update.key"
OLD, NEW = 1_700_000_001, 1_700_000_002


def image(board: str, version: int = OLD) -> Path:
    """The image a card or a virtual machine begins with."""
    return _built(board, version, "img.zst" if board == "pi" else "qcow2")


def update(board: str) -> Path:
    path = _built(board, NEW, "update")
    if b"signature" not in run("tar", "-tf", path):
        sign(path)
    return path


def sign(path: Path) -> None:
    run(REPOSITORY / "image/sign.sh", "--key", KEY, path)


def sick_update(board: str, folder: Path) -> Path:
    run("tar", "-C", folder, "-xf", update(board))
    root = folder / "root"
    run("unsquashfs", "-quiet", "-no-progress", "-dest", root, folder / "root.sqfs")
    (root / "usr/bin/edge").unlink()
    (root / "usr/bin/edge").write_text("#!/bin/sh\nexit 1\n")
    (root / "usr/bin/edge").chmod(0o755)
    (folder / "root.sqfs").unlink()
    run("mksquashfs", root, folder / "root.sqfs", "-comp", "zstd", "-Xcompression-level", "1",
        "-quiet", "-no-progress")  # fmt: skip
    shutil.rmtree(root)
    words = ["-I", REPOSITORY / "image/lib/manifest.py", folder, str(NEW), board]
    (folder / "manifest.json").write_bytes(run(sys.executable, *words))
    run("tar", "-C", folder, "-cf", folder / "sick", "manifest.json", "slot.tar", "root.sqfs")
    sign(folder / "sick")
    return folder / "sick"


def _built(board: str, version: int, kind: str) -> Path:
    folder = FOLDER / _recipe()
    target = folder / f"edge-{board}-{version}.{kind}"
    if not target.exists():
        for other in FOLDER.glob("[0-9a-f]*"):
            if other != folder:
                shutil.rmtree(other)
        folder.mkdir(parents=True, exist_ok=True)
        if not KEY.exists():
            run(REPOSITORY / "image/sign.sh", "--generate-key", KEY)
        config, bundle = folder / "image.toml", folder / "thermostat.tar"
        if not bundle.exists():
            config.write_text(bundles.BROUGHT)
            bundles.pack("thermostat", folder)
        command = [
            REPOSITORY / "image/build.sh", "--board", board, "--version", str(version),
            "--update-key", f"{KEY}.pub", "--output", folder,
            "--config", config, "--bundle", bundle,
        ]  # fmt: skip
        done = subprocess.run(command, check=False, cwd=REPOSITORY)
        assert done.returncode == 0, "the recipe failed, see above"
    return target


@functools.cache
def _recipe() -> str:
    """Of what it is made: the recipe, and the packages of edge."""
    parts = [path for path in sorted((REPOSITORY / "image").rglob("*")) if _is_recipe(path)]
    packages = sorted((REPOSITORY / "dist").glob("edge_*+deb13_*.deb"))
    assert packages, "no package of edge in dist: make debs ARGS='--suite trixie'"
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (*parts, *packages)]
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()[:12]


def _is_recipe(path: Path) -> bool:
    hidden = {"debs", "__pycache__", ".mypy_cache"}
    return path.is_file() and not hidden.intersection(path.parts)
