"""Who may see the page. Knows no HTTP but the names of its headers.

Without a password: whoever reaches it, which is this machine alone; a stranger's web page in a
browser of this machine may not, nor a guest of this node. With one: who has logged in.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

__all__ = ["LIFE", "Access", "from_elsewhere", "is_loopback"]

# Seconds that a login lasts.
LIFE = 12 * 3600.0
# Logins at a time; one more ends the oldest.
_SESSIONS = 64
# Wrong passwords of one address until it has to wait, and seconds for each further one.
_ATTEMPTS, _PAUSE = 5, 30.0
# Addresses that are remembered for this; while there are more, nobody new gets in.
_ADDRESSES = 1024


class Access:
    """`password`: None asks for none. `now`: seconds that only go forward."""

    def __init__(self, password: str | None, now: Callable[[], float] = time.monotonic) -> None:
        self.password = password is not None
        self._digest = _digest(password or "")
        self._now = now
        self._sessions: dict[bytes, float] = {}  # digest of a token -> when it ends
        self._owed: dict[str, float] = {}  # address -> when its wrong passwords are forgotten

    def wrong_name(self, host: str) -> bool:
        """Whether somebody's name for an address of ours is in the way: DNS rebinding."""
        return not self.password and not is_loopback(_hostname(f"//{host}"))

    def wait(self, address: str) -> float:
        """Seconds until this address may try a password."""
        now = self._now()
        if address not in self._owed and len(self._owed) >= _ADDRESSES:
            self._owed = {a: until for a, until in self._owed.items() if until > now}
            if len(self._owed) >= _ADDRESSES:
                return _PAUSE
        return max(0.0, self._owed.get(address, now) - now - (_ATTEMPTS - 1) * _PAUSE)

    def knows(self, password: str, address: str) -> bool:
        """Whether it is the password; a wrong one counts. Only after `wait` said 0."""
        if self.password and hmac.compare_digest(_digest(password), self._digest):
            self._owed.pop(address, None)
            return True
        now = self._now()
        self._owed[address] = max(self._owed.get(address, now), now) + _PAUSE
        return False

    def begin(self) -> str:
        """The token of a new login."""
        token = secrets.token_urlsafe(32)
        while len(self._sessions) >= _SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        self._sessions[_digest(token)] = self._now() + LIFE
        return token

    def is_in(self, token: str | None) -> bool:
        if not self.password:
            return True
        ends = self._sessions.get(_digest(token)) if token else None
        return ends is not None and ends > self._now()

    def end(self, token: str) -> None:
        self._sessions.pop(_digest(token), None)


def from_elsewhere(headers: Mapping[str, str], host: str) -> bool:
    """Whether a browser says that a page of somebody else asks (Fetch metadata, RFC 6454)."""
    origin = headers.get("Origin")
    if origin is not None and origin.partition("://")[2].lower() != host.lower():
        return True
    return headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none")


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # brackets without an address between them
        return ""


def is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
