"""Where a process may make no code of its own, guests are interpreted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import asyncio, ctypes, logging, sys
from pathlib import Path

logging.basicConfig(format="%(message)s")
denied = ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) == 0  # PR_SET_MDWE, of Linux 6.3
from edge.node.node import open_node
from edge.node.selftest import SelfTest

async def main():
    async with open_node(Path(sys.argv[1])) as node:
        await (await SelfTest.prepare(node))()
        assert (node.engine.options.target == "pulley64") == denied
        print("interpreted" if denied else "not denied")

asyncio.run(main())
"""


def test_without_executable_memory_guests_run_nevertheless(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", SCRIPT, str(tmp_path / "code")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    if "not denied" not in done.stdout:
        assert "no executable memory is allowed" in done.stderr
