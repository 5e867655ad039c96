"""Questions about files, answered in words or without an error."""

from __future__ import annotations

from pathlib import Path

__all__ = ["exists", "is_directory", "unreadable"]


def exists(path: Path) -> bool:
    """Whether something is there, as far as we may know."""
    try:
        return path.exists()
    except OSError:  # a name that is too long, a directory that we may not enter
        return False


def is_directory(path: Path) -> bool:
    """As far as we may know."""
    try:
        return path.is_dir()
    except OSError:
        return False


def unreadable(error: OSError | UnicodeDecodeError) -> str:
    """Why a file cannot be read, as part of a sentence."""
    if isinstance(error, UnicodeDecodeError):
        return "is not UTF-8"
    return (error.strerror or str(error)).lower()
