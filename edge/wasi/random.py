"""wasi:random@0.2: bytes of the kernel's generator, for the insecure interfaces too."""

from __future__ import annotations

from edge.engine.host import Interface, Trap
from edge.wasi.context import Context

__all__ = ["INSECURE", "INSECURE_SEED", "RANDOM", "random_bytes"]

# Bytes of one call. The kernel makes a MiB in about 3 ms, during which nobody else is served.
BYTES_MAX = 1 << 20


def random_bytes(context: Context, length: int) -> bytes:
    """Fresh random bytes; a guest that asks for more than `BYTES_MAX` at once is ended."""
    if length > BYTES_MAX:
        raise Trap(f"random: {length} bytes at once, at most {BYTES_MAX} are given")
    return context.random(length)


def _u64(context: Context) -> int:
    return int.from_bytes(context.random(8), "little")


def _seed(context: Context) -> tuple[int, int]:
    return _u64(context), _u64(context)


RANDOM = Interface(
    """interface wasi:random/random@0.2 {
      get-random-bytes: func(len: u64) -> list<u8>;
      get-random-u64: func() -> u64;
    }""",
    functions={"get-random-bytes": random_bytes, "get-random-u64": _u64},
)

INSECURE = Interface(
    """interface wasi:random/insecure@0.2 {
      get-insecure-random-bytes: func(len: u64) -> list<u8>;
      get-insecure-random-u64: func() -> u64;
    }""",
    functions={"get-insecure-random-bytes": random_bytes, "get-insecure-random-u64": _u64},
)

INSECURE_SEED = Interface(
    """interface wasi:random/insecure-seed@0.2 {
      insecure-seed: func() -> tuple<u64, u64>;
    }""",
    functions={"insecure-seed": _seed},
)
