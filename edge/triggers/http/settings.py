"""What a node grants to HTTP clients."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Limits of the HTTP trigger. Sizes in bytes, times in seconds (seen with a second's grain)."""

    backlog: int = 1024
    max_connections: int = 2048  # beyond: 503 and close

    max_head: int = 32_768  # request line and headers together; beyond: 431
    max_target: int = 16_384  # beyond: 414
    max_headers: int = 128  # beyond: 431
    max_body: int = 1 << 30  # beyond: 413. Bodies are streamed: this bounds work, not memory

    head_timeout: float = 10.0  # from a head's first byte to its last; beyond: 408
    idle_timeout: float = 75.0  # a connection without a request
    body_timeout: float = 30.0  # a body, while it is wanted, without a byte; beyond: 408 or cut
    write_timeout: float = 30.0  # a reply, while the client reads slowly, without a byte taken
    tls_timeout: float = 10.0  # a TLS handshake

    # A client that closed its sending side may wait for its reply, or be gone: only writing to it
    # tells. Guests of clients that are gone run for this long; replies slower than this are lost.
    half_closed_timeout: float = 2.0

    # What a client may still send of a body that nobody read, so that it sees the reply and its
    # connection can be used again. Beyond: closed.
    drain_bytes: int = 262_144
    drain_timeout: float = 1.0
