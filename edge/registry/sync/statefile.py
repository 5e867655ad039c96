"""apps.json of a state directory: read once, replaced as a whole, durable when a change returns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from edge.errors import BundleError, EdgeError
from edge.platform.atomic import write_file
from edge.registry.disk import allocate, explained
from edge.registry.sync.state import State, dump, parse

__all__ = ["StateFile"]

# On a full disk an application must still be removable.
_LEAST_RESERVE = 64 << 10

Change = Callable[[State], State]


class StateFile:
    """The state of a node, and its file. One for each state directory."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / "apps.json"
        self.now = State()
        self._reserve = self.path.with_name(f"{self.path.name}.reserve")
        self._waiting: list[tuple[Change, asyncio.Future[None]]] = []
        self._lock = asyncio.Lock()

    def load(self) -> str | None:
        """Reads it; a line to say when it was damaged and is kept aside. Blocks.

        Raises EdgeError for what a newer version wrote.
        """
        self._remove_leftovers()
        try:
            self.now = parse(self.path.read_bytes(), str(self.path))
        except FileNotFoundError:
            pass
        except BundleError as error:
            return f"{error.message}; it is kept as {self._set_aside().name}"
        return None

    async def change(self, change: Change) -> None:
        """Applies a change; when this returns it is on the disk. EdgeError: nothing has changed.

        Changes that come while one is written are written together. Not to be cancelled.
        """
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((change, done))
        async with self._lock:
            if not done.done():
                await self._write_waiting()
        await done

    async def _write_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        state = self.now
        for change, _ in waiting:
            state = change(state)
        try:
            if state != self.now:
                await asyncio.to_thread(self._write, state)
        except (EdgeError, OSError) as error:
            told = error if isinstance(error, EdgeError) else _told(self.path, error)
            for _, done in waiting:
                done.set_exception(told)
            return
        self.now = state
        for _, done in waiting:
            done.set_result(None)

    def _write(self, state: State) -> None:
        data = dump(state)
        try:
            self._replace(data)
        except OSError:
            self._reserve.unlink(missing_ok=True)
            with explained(self.path.parent, len(data)):
                self._replace(data)
        self._keep_reserve(2 * len(data))

    def _replace(self, data: bytes) -> None:
        # Variables may be secrets.
        write_file(self.path, data, mode=0o600)

    def _keep_reserve(self, size: int) -> None:
        size = max(size, _LEAST_RESERVE)
        try:
            with self._reserve.open("ab") as file:
                if file.tell() < size:
                    allocate(file.fileno(), size)
        except OSError:  # for as long as the disk is full
            self._reserve.unlink(missing_ok=True)

    def _remove_leftovers(self) -> None:
        """What a writer left that was killed: there is one for each state directory."""
        for path in self.path.parent.glob(f".{self.path.name}.*"):
            path.unlink(missing_ok=True)

    def _set_aside(self) -> Path:
        for number in range(1, 10):
            aside = self.path.with_name(f"{self.path.name}.damaged-{number}")
            if not aside.exists():
                break
        self.path.replace(aside)
        return aside


def _told(path: Path, error: OSError) -> EdgeError:
    return EdgeError(f"{path}: {error.strerror or error}")
