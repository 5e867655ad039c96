"""The secrets that systemd gives to a service (`LoadCredential=`)."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["credentials_directory"]


def credentials_directory() -> Path | None:
    """Where they are, one file each; None outside of such a service."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    return Path(directory) if directory else None
