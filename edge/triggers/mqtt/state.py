"""What must outlive the process so that a session does: the client identifier, and for each session
its name and what was subscribed to in it. One small file, written only when that changes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path

__all__ = ["Session", "State"]

_log = logging.getLogger("edge.mqtt")


@dataclass(slots=True)
class Session:
    """One of the broker's. `name` is new with each, part of its messages' keys."""

    name: str = field(default_factory=lambda: secrets.token_hex(8))
    filters: dict[str, int] = field(default_factory=dict)  # filter -> QoS


@dataclass(slots=True)
class State:
    """`file`: None keeps nothing. `load` blocks; call it in a thread."""

    file: Path | None
    client_id: str = field(default_factory=lambda: f"edge-{secrets.token_hex(6)}")
    sessions: dict[str, Session] = field(default_factory=dict)
    saved: bool = False
    # Several connections save, and a task that is cancelled leaves its thread at work.
    _writing: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _asked: int = field(default=0, init=False)
    _written: int = field(default=0, init=False)

    @classmethod
    def load(cls, file: Path | None) -> State:
        """What was saved; a new one when that can not be read. Raises OSError."""
        if file is None or not file.exists():
            return cls(file)
        try:
            content = json.loads(file.read_text())
            sessions = {
                str(name): Session(
                    str(one["name"]), {str(k): int(q) for k, q in one["filters"].items()}
                )
                for name, one in content["sessions"].items()
            }
            return cls(file, str(content["client_id"]), sessions)
        except (ValueError, KeyError, TypeError, AttributeError):
            _log.error("%s: not readable: the sessions it named are left to the broker", file)
            return cls(file)

    async def save(self) -> None:
        """Atomic and durable; the newest wins. Raises OSError."""
        self.saved = True
        if self.file is None:
            return
        content = {
            "client_id": self.client_id,
            "sessions": {name: asdict(one) for name, one in self.sessions.items()},
        }
        self._asked += 1
        await asyncio.to_thread(self._write, self.file, json.dumps(content), self._asked)

    def _write(self, file: Path, content: str, number: int) -> None:
        with self._writing:
            if number < self._written:
                return
            _replace(file, content)
            self._written = number


def _replace(file: Path, content: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f".{file.name}.new")
    with fresh.open("w") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    fresh.replace(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
