"""firstslot.py IMAGE BOOT BOARD: what a fresh boot partition says about its one slot.

By the code that later changes it on the device (ab/boards.py).
"""

import sys
from pathlib import Path


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    from ab import boards

    board = boards.of(sys.argv[3], Path(sys.argv[2]))
    board.write_command_lines("a")
    board.make("a")


main()
