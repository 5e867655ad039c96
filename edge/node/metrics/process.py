"""What Linux knows of this process. Blocks, for a moment."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["disk", "memory"]

_SELF = Path("/proc/self")


def memory() -> dict[str, int | None]:
    """Bytes; `pss`, in which others share what is shared, is None if Linux does not tell."""
    pages = int((_SELF / "statm").read_text().split()[1])
    return {"rss": pages * os.sysconf("SC_PAGE_SIZE"), "pss": _pss()}


def disk() -> dict[str, int | None]:
    """Bytes read from disks and written to them since the process began."""
    with suppress(OSError):
        fields = dict(line.split(": ") for line in (_SELF / "io").read_text().splitlines())
        return {"read": int(fields["read_bytes"]), "written": int(fields["write_bytes"])}
    return {"read": None, "written": None}


def _pss() -> int | None:
    with suppress(OSError):
        for line in (_SELF / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return None
