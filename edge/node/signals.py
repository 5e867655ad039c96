"""What a daemon is told by signals."""

from __future__ import annotations

import asyncio
import signal

__all__ = ["Signals", "cancel_on_sigterm"]


class Signals:
    """SIGTERM and SIGINT set `stop`, SIGHUP `reload`."""

    def __init__(self) -> None:
        self.stop, self.reload = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop.set)
        loop.add_signal_handler(signal.SIGHUP, self.reload.set)


def cancel_on_sigterm() -> None:
    """While it starts. A SIGHUP then is about what is being read anyway."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)
