"""The directory of everything that a node keeps."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from edge.errors import EdgeError
from edge.registry.store import ContentStore

__all__ = ["make", "stored"]


def make(path: Path) -> None:
    """Raises EdgeError where nothing can be kept there."""
    try:
        path.mkdir(mode=0o750, parents=True, exist_ok=True)
        probe = path / f".{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as exc:
        reason = "is not a directory" if path.is_file() else (exc.strerror or str(exc)).lower()
        raise EdgeError(
            f"{path}: {reason}",
            hint="state needs a writable directory: --state-dir, or state_dir in [node]",
        ) from exc


def stored(store: ContentStore) -> int:
    """Bytes of its blobs."""
    with suppress(FileNotFoundError):
        return sum(entry.stat().st_size for entry in os.scandir(store.directory / "sha256"))
    return 0
