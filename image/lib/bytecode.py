"""bytecode.py ROOT: Python takes compiled modules for valid whatever the dates of their sources.

The root is read-only: no source changes there, and what were not valid would be compiled anew at
each start. The image changes dates (SOURCE_DATE_EPOCH), by which Python compares otherwise.
https://peps.python.org/pep-0552/
"""

import sys
from pathlib import Path

MAGIC, HEADER = 4, 16
UNCHECKED = (1).to_bytes(4, "little") + bytes(8)  # by a digest, which is not compared


def main() -> None:
    for path in Path(sys.argv[1]).rglob("__pycache__/*.pyc"):
        data = path.read_bytes()
        path.write_bytes(data[:MAGIC] + UNCHECKED + data[HEADER:])


main()
