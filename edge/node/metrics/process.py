"""What is known of this process: by Linux, and by its budget. Blocks, for a moment."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from edge.invocation.admission import Budget

__all__ = ["figures", "spent"]

_SELF = Path("/proc/self")


def figures(budget: Budget) -> dict[str, Any]:
    """As `GET /v1/metrics` has them; those of several processes can be added up."""
    return {**spent(), "memory": _memory(), "pool": _pool(budget)}


def spent() -> dict[str, Any]:
    """Those of them that only grow."""
    return {"cpu": round(time.process_time(), 3), "disk": _disk()}


def _memory() -> dict[str, int | None]:
    """Bytes; `pss`, in which others share what is shared, is None if Linux does not tell."""
    pages = int((_SELF / "statm").read_text().split()[1])
    return {"rss": pages * os.sysconf("SC_PAGE_SIZE"), "pss": _pss()}


def _disk() -> dict[str, int | None]:
    """Bytes read from disks and written to them since the process began."""
    with suppress(OSError):
        fields = dict(line.split(": ") for line in (_SELF / "io").read_text().splitlines())
        return {"read": int(fields["read_bytes"]), "written": int(fields["write_bytes"])}
    return {"read": None, "written": None}


def _pool(budget: Budget) -> dict[str, int]:
    memory, slots = budget.all
    return {
        "slots": slots,
        "slots_used": slots - budget.slots,
        "memory": memory,
        "memory_used": memory - budget.memory,
        "waiting": budget.waiting,
    }


def _pss() -> int | None:
    with suppress(OSError):
        for line in (_SELF / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return None
