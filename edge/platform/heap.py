"""What the C library keeps of freed memory."""

from __future__ import annotations

import ctypes

__all__ = ["keep_room"]

# From malloc.h.
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3

# Bytes that stay for the next body when one has passed. glibc's own 128 KiB: for each piece of a
# large body the heap shrinks and grows again, and each page is a fault: a third of the time that a
# MiB took. Larger: more memory of an idle node.
_ROOM = 2 << 20
# Larger ones are mapped, and go back at once.
_LARGE = 1 << 20


def keep_room() -> None:
    """A C library that is not glibc keeps to rules of its own."""
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_TRIM_THRESHOLD, _ROOM)
        library.mallopt(_MMAP_THRESHOLD, _LARGE)
