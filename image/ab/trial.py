"""The first boot of an update: it proves itself within minutes, or the machine starts again and
its bootloader takes the slot before.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from ab import boards
from ab.disk import BOOT, Problem, writable
from ab.disk import run as command_output
from ab.update import this_image

DEADLINE = 1200.0  # seconds until it serves; a board may compile its applications anew
MOST_RESTARTS = 3  # of a node that does not come to life: it will not
SOAK = 20.0  # seconds it must go on serving
STEP = 1.0


def run(say: Callable[[str], None]) -> None:
    """Keeps the running slot once it is healthy. Raises Problem when it does not become so."""
    slot, on_trial = boards.running(Path("/proc/cmdline").read_text())
    if not on_trial:
        say(f"slot {slot} is not on trial")
        return
    _wait_until_healthy(time.monotonic() + DEADLINE)
    say("serves: watching")
    until = time.monotonic() + SOAK
    while time.monotonic() < until:
        if (reason := ailing()) is not None:
            raise Problem(f"served, and then: {reason}")
        time.sleep(STEP)
    with writable():
        boards.of(this_image().board, BOOT).commit(slot)
    say(f"slot {slot} is kept")


def _wait_until_healthy(deadline: float) -> None:
    while (reason := ailing()) is not None:
        if time.monotonic() > deadline or _restarts() >= MOST_RESTARTS:
            raise Problem(reason)
        time.sleep(STEP)


def ailing() -> str | None:
    """Why the node is not healthy; None: it is."""
    # Type=notify: active means that it said READY.
    for unit in ("edge.service", "edge-setup.service"):
        if _exit("systemctl", "--quiet", "is-active", unit):
            return f"{unit} is not active"
    if _exit("edge", "status"):
        return "the node does not answer"
    return None


def _restarts() -> int:
    return int(
        command_output("systemctl", "show", "--property=NRestarts", "--value", "edge.service")
    )


def _exit(*command: str) -> int:
    try:
        return subprocess.run(  # noqa: S603
            command, capture_output=True, check=False, timeout=30
        ).returncode
    except subprocess.TimeoutExpired:
        return -1
