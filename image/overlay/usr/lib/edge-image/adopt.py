"""Compiled code that came with the image, put where this board's engine looks for it.

As links into the read-only root: nothing is copied, and an update brings its own. The engine takes
nothing on trust but who may write there: it hashes each file once per boot, and Wasmtime refuses
code for another processor or version, which is then compiled again.

Runs as the node's user, with the node's Python.
"""

import json
import os
import shutil
import sys
from pathlib import Path

HERE = Path("/usr/lib/edge-image")
STATE = Path("/var/lib/edge/code")
STAMP = STATE / "adopted"
MODEL = Path("/sys/firmware/devicetree/base/model")


def main() -> None:
    asked = json.dumps([(HERE / "image.json").read_text(), model(), cpu()])
    # Importing the engine takes seconds on a small board: once for each image and board.
    if STAMP.exists() and STAMP.read_text() == asked:
        return
    from edge.engine.cache import engine_key, replace_file
    from edge.engine.runtime import create_engine

    directory = STATE / engine_key(create_engine().options)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = sorted((HERE / "code").iterdir())
    for file in files:
        place(file, directory / file.name)
    replace_file(STAMP, asked.encode())
    sys.stderr.write(f"edge-image: {len(files)} files of compiled code\n")


def place(source: Path, target: Path) -> None:
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    if source.suffix == ".cwasm":
        temporary.symlink_to(source)
    else:  # proofs and plans are small, and the node writes them anew
        shutil.copyfile(source, temporary)
    temporary.replace(target)


def model() -> str:
    return MODEL.read_bytes().decode(errors="replace") if MODEL.exists() else ""


def cpu() -> list[str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return sorted({line for line in lines if line.startswith(("flags", "Features"))})


main()
