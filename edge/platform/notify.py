"""Tells the service manager how a service is doing: sd_notify(3), without a library.

Elsewhere than under systemd nothing listens, and nothing is sent.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

__all__ = ["Notifier"]


class Notifier:
    """Sends to the socket that `environ` names in NOTIFY_SOCKET. Never raises: a service that
    cannot say so runs nevertheless.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._address = (os.environ if environ is None else environ).get("NOTIFY_SOCKET", "")

    def ready(self, status: str) -> None:
        """It serves, or has read its configuration again; `status` as for `status`."""
        self._send("READY=1", _status(status))

    def reloading(self) -> None:
        # With the time, Type=notify-reload waits for the READY=1 that follows.
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1", _status("draining"))

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(_status(text))

    def alive(self) -> None:
        """For its watchdog."""
        self._send("WATCHDOG=1")

    def extend_start(self, seconds: float) -> None:
        """It is still starting, and needs so much longer from now."""
        self._send(f"EXTEND_TIMEOUT_USEC={seconds * 1e6:.0f}")

    def _send(self, *lines: str) -> None:
        if self._address[:1] not in ("/", "@"):
            return
        # "@" stands for the zero byte that abstract addresses begin with.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode(), address)
        except OSError:
            return


def _status(text: str) -> str:
    return f"STATUS={text.replace(chr(10), ' ')}"
