"""Joining by a token that lies in a file: of an image's boot partition, or written by Ansible."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edge.errors import ConfigError, EdgeError, PullError
from edge.platform.files import unreadable

if TYPE_CHECKING:
    from edge.fleet.token import Token

__all__ = ["clear_away", "join_by"]

# Seconds between two attempts, growing.
_FIRST, _LAST = 5.0, 300.0
# The file has one line.
_MAX = 8 << 10

_log = logging.getLogger("edge.fleet")


async def join_by(
    path: Path, join: Callable[[Token], Awaitable[None]], note: Callable[[str], None]
) -> None:
    """Until the node has joined, or the token is not good any more: the fleet may be away. Removes
    the file then. `note` is told why it has not joined.
    """
    pause = _FIRST
    while True:
        try:
            token = await asyncio.to_thread(_read, path)
            if token is None:
                _log.info("no fleet is joined: %s: no such file", path)
                return
            await join(token)
            break
        except PullError as error:
            note(f"not in a fleet yet: {error.message}")
            _log.warning("%s; trying again", error.message)
        except EdgeError as error:
            note(f"not in a fleet: {error.message}")
            _log.error("%s: %s", path, error.message)
            return
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 – spreads nodes
        pause = min(pause * 2, _LAST)
    await asyncio.to_thread(_remove, path)


async def clear_away(path: Path, fleet: str) -> None:
    """The file of a node that is in this fleet already: the power went before it was removed."""
    from edge.fleet.token import fleet_bytes

    try:
        token = await asyncio.to_thread(_read, path)
    except EdgeError as error:
        _log.warning("%s: %s", path, error.message)
        return
    if token is None:
        return
    if token.fleet == fleet_bytes(fleet):
        await asyncio.to_thread(_remove, path)
    else:
        _log.warning("%s: holds a token of another fleet than this node is in", path)


def _read(path: Path) -> Token | None:
    """None: the file is gone, as it is after a node has joined."""
    from edge.fleet.token import Token

    try:
        with path.open("rb") as file:
            text = file.read(_MAX).decode()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {unreadable(error)}") from error
    return Token.parse(text)


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except OSError as error:
        _log.info("%s: the token in it was used; it is still there: %s", path, unreadable(error))
    else:
        _log.info("%s: removed, the token in it was used", path)
