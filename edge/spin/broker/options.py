"""What a connection to an MQTT broker is made of, and what may go wrong with it, in words."""

from __future__ import annotations

import os
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from edge.errors import EdgeError

__all__ = [
    "BrokerError",
    "BrokerOptions",
    "Filter",
    "Reason",
    "Will",
    "explained",
    "refusal",
    "system_text",
]

Reason = Literal["unreachable", "tls", "refused", "version", "lost", "size", "full", "timeout"]

_UNSUPPORTED_VERSION = 0x84
_REFUSALS = {
    0x85: "another client identifier may be accepted: mqtt.client_id",
    0x86: "check mqtt.username and mqtt.password_file",
    0x87: "check mqtt.username and mqtt.password_file, and what the broker lets them do",
}


class BrokerError(EdgeError):
    """The broker is not there, does not want us, or did not take a message."""

    def __init__(
        self,
        message: str,
        reason: Reason,
        *,
        code: int = 0,
        hint: str | None = None,
        silent: bool = False,
    ) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason
        self.silent = silent  # lost because nothing came any more: nobody ended it
        self.code = code  # MQTT's reason code, 0 where the broker gave none


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes when the connection ends without a goodbye."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = True
    delay: int = 0  # seconds; MQTT 5


@dataclass(frozen=True, slots=True)
class Filter:
    """A subscription. `identifier`: 1 to 268435455, told with each message; 0: none. MQTT 5."""

    text: str
    qos: int = 1
    identifier: int = 0


@dataclass(frozen=True, slots=True)
class BrokerOptions:
    """Where the broker is and how to talk to it. Times in seconds, sizes in bytes."""

    host: str
    port: int = 1883
    transport: Literal["tcp", "websockets"] = "tcp"
    path: str = "/mqtt"  # of the WebSocket
    tls: ssl.SSLContext | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    client_id: str = ""
    clean: bool = True  # begin a new session
    session_expiry: int = 0  # MQTT 5; before: a session that is not clean stays
    keepalive: int = 60  # 0: none
    protocol: Literal["5", "3.1.1"] = "5"
    will: Will | None = None
    receive_maximum: int = 64  # messages sent to us and not acknowledged
    max_packet: int = 1 << 20
    in_flight: int = 64  # messages sent by us and not acknowledged
    confirm_timeout: float = 30.0  # the oldest of them without an answer: the connection is dead
    # Opens the connection instead of asyncio, for who decides about addresses; connected already.
    connected: Callable[[], Awaitable[socket.socket]] | None = None

    @property
    def where(self) -> str:
        """The broker's address for messages."""
        secure, plain = ("wss", "ws") if self.transport == "websockets" else ("mqtts", "mqtt")
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{secure if self.tls else plain}://{host}:{self.port}"


def explained(exc: BaseException, options: BrokerOptions, timeout: float) -> BrokerError | None:
    """Why a connection was not made; None for what is no matter of the broker's."""
    where = options.where
    if isinstance(exc, BrokerError):
        return exc
    if isinstance(exc, TimeoutError):
        return BrokerError(f"{where}: no answer within {timeout:g} s", "timeout")
    if isinstance(exc, ssl.SSLError):
        return _tls_error(exc, options)
    if isinstance(exc, OSError):
        return BrokerError(f"{where}: {system_text(exc)}", "unreachable", hint=_reach(exc, options))
    if isinstance(exc, struct.error):  # paho packs texts without looking at their length
        text = "a name or a password has more than 65535 bytes"
        return BrokerError(f"{where}: {text}", "refused")
    return None


def _reach(exc: OSError, options: BrokerOptions) -> str | None:
    if isinstance(exc, socket.gaierror):
        return "is its name right, and is there a network?"
    if isinstance(exc, ConnectionRefusedError):
        return "no broker listens there; `edge up` brings one for a first try: --mqtt embedded"
    if isinstance(exc, ConnectionResetError) and options.tls is not None:
        return "does it speak TLS there? mostly at port 8883; without TLS: mqtt://"
    return None


def refusal(options: BrokerOptions, code: int, text: str) -> BrokerError:
    """What the broker answered to CONNECT."""
    return BrokerError(
        f"{options.where}: the broker refused the connection: {text}",
        "version" if code == _UNSUPPORTED_VERSION else "refused",
        code=code,
        hint=_REFUSALS.get(code),
    )


def system_text(exc: Exception) -> str:
    """What the system calls it: asyncio would repeat the address."""
    number = getattr(exc, "errno", None)
    text = getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
    if (
        isinstance(number, int)
        and number > 0
        and not isinstance(exc, socket.gaierror | ssl.SSLError)
    ):
        text = os.strerror(number)
    return f"{text[:1].lower()}{text[1:]}"


def _tls_error(exc: ssl.SSLError, options: BrokerOptions) -> BrokerError:
    hint = None
    if isinstance(exc, ssl.SSLCertVerificationError):
        text = f"the broker's certificate is refused: {exc.verify_message.rstrip('.').lower()}"
        hint = "mqtt.ca_file names the authority that signed it"
        if "mismatch" in exc.verify_message.lower():
            hint = (
                f'the certificate is not for "{options.host}": use a name that it holds in mqtt.url'
            )
    else:
        text = f"no TLS connection: {(exc.reason or str(exc)).lower().replace('_', ' ')}"
    return BrokerError(f"{options.where}: {text}", "tls", hint=hint)
