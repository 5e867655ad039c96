"""constant.py SECONDS FILE...: takes out of JSON files when, and in which boot, they were made."""

import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    date = int(sys.argv[1])
    for path in map(Path, sys.argv[2:]):
        path.write_text(json.dumps(constant(json.loads(path.read_text()), date), indent=1))


def constant(value: Any, date: int) -> Any:
    """`since`: when a version went live. `seen`: the file that was last known to have a digest."""
    if isinstance(value, list):
        return [constant(item, date) for item in value]
    if not isinstance(value, dict):
        return value
    known = {"since": date, "seen": []}
    return {key: known.get(key, constant(item, date)) for key, item in value.items()}


main()
