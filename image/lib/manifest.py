"""manifest.py FOLDER VERSION BOARD: says what an update holds, for its signature to cover."""

import hashlib
import json
import sys
from pathlib import Path


def main() -> None:
    folder, version, board = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    parts = {name: describe(folder / name) for name in ("slot.tar", "root.sqfs")}
    sys.stdout.write(json.dumps({"format": 1, "version": version, "board": board, "parts": parts}))


def describe(path: Path) -> dict[str, object]:
    with path.open("rb") as file:
        return {
            "size": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


main()
