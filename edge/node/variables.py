"""The values that a node gives to an application's variables: written out, of a file, of a
credential of this machine.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from edge.config import ApplicationEntry
from edge.errors import ConfigError
from edge.platform.files import unreadable

__all__ = ["values"]


async def values(entry: ApplicationEntry, credentials: Path | None) -> dict[str, str]:
    """By name; a line's end at the end of a file is not part of the value. `credentials`: systemd's
    directory of them. Raises ConfigError.
    """
    found = dict(entry.variables)
    files = dict(entry.variables_files)
    for name, credential in entry.variables_credentials.items():
        where = f"application {entry.name}: variable {name}"
        if credentials is None:
            raise ConfigError(
                f"{where}: the node has no credentials",
                hint="systemd gives them (LoadCredential=), or [node] credentials_dir names them",
            )
        if Path(credential).name != credential or credential.startswith("."):
            raise ConfigError(f"{where}: {credential!a} is not the name of a credential")
        files[name] = credentials / credential
    for name, path in files.items():
        found[name] = await asyncio.to_thread(
            _read, path, f"application {entry.name}: variable {name}"
        )
    return found


def _read(path: Path, where: str) -> str:
    try:
        return path.read_text().removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{where}: {path}: {unreadable(exc)}") from exc
