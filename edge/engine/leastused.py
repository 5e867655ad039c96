"""How much compiled code, and how many plans, are kept: versions come and go, and what was made of
them would fill the disk.

What is removed while a module has it mapped stays mapped; the next start compiles it again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["prune", "prune_plans"]

# Bytes that are kept in any case; beyond them compiled code leaves as much of the disk free as it
# takes.
LEAST = 2 << 30
# Seconds after which nobody comes back to an engine of other options or of an older version. Each
# boot that uses one writes there.
_ANOTHER_ENGINE = 30 * 86400.0
# Bytes of all plans: tens of thousands of them.
_MOST_PLANS = 256 << 20


def prune(directory: Path, used: Iterable[Path], *, least: int = LEAST) -> None:
    """Removes what was used least lately. `used`: by this process, the latest last; what others
    used is older than that. Blocks; what cannot be removed stays.
    """
    order = {path: number for number, path in enumerate(used)}
    files = sorted(_files(directory), key=lambda file: (order.get(file[0], -1), file[1]))
    total = sum(size for _, _, size in files)
    with contextlib.suppress(OSError):
        for path, _, size in files[:-1]:  # the last is why this is called
            if total <= max(least, shutil.disk_usage(directory).free):
                break
            # The proof first: without it the code is not trusted, and not found.
            path.with_suffix(".json").unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            total -= size
        _forget_engines(directory)
    prune_plans(directory)


def prune_plans(directory: Path, *, most: int = _MOST_PLANS) -> None:
    """Removes the oldest beyond `most` bytes, and what writers that are gone left. Blocks."""
    found: list[tuple[float, int, str]] = []
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.endswith(".plan"):
                stat = entry.stat()
                found.append((stat.st_mtime, stat.st_size, entry.path))
            elif entry.name.endswith(".plan.tmp") and _is_left(entry.name):
                Path(entry.path).unlink(missing_ok=True)
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= most:
            return
        Path(path).unlink(missing_ok=True)
        total -= size


def _is_left(name: str) -> bool:
    return not Path("/proc", name.split(".")[1]).exists()


def _files(directory: Path) -> Iterator[tuple[Path, float, int]]:
    """Each module's code, when its proof was written last, and its bytes."""
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.endswith(".cwasm"):
                path = Path(entry.path)
                with contextlib.suppress(OSError):
                    size = entry.stat().st_size
                    with contextlib.suppress(FileNotFoundError):
                        yield path, path.with_suffix(".json").stat().st_mtime, size
                        continue
                    yield path, 0.0, size


def _forget_engines(directory: Path) -> None:
    now = time.time()  # noqa: TID251 - compared with dates of files
    for other in directory.parent.iterdir():
        engine = other != directory and other.is_dir() and not other.is_symlink()
        if engine and now - other.stat().st_mtime > _ANOTHER_ENGINE:
            shutil.rmtree(other, ignore_errors=True)
