"""How many files this process may have open."""

from __future__ import annotations

import resource

__all__ = ["allow_many"]

# The HTTP trigger accepts twice its 2,048 connections for a moment, to refuse them.
FILES = 16_384


def allow_many() -> None:
    """As many as the system grants: each connection is one, and 1024 are usual."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if most == resource.RLIM_INFINITY else min(FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
