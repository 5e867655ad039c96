"""Durations like "500ms" and sizes like "64MiB"."""

from __future__ import annotations

import re

__all__ = ["duration", "show_duration", "show_size", "size"]

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {
    "B": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("kMGT", 1)},
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGT", 1)},
}
# Longer numbers than these mean nothing, and hostile ones cost time.
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)")
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)([kKMGT]i?B|B)")


def duration(text: str) -> float:
    """Seconds. "0" needs no unit."""
    if text == "0":
        return 0.0
    if not (match := _DURATION.fullmatch(text)):
        raise ValueError(f'must be a duration like "30s", not "{text}"')
    return float(match[1]) * _SECONDS[match[2]]


def size(text: str) -> int:
    """Bytes; 1 kB = 1000 bytes, 1 KiB = 1024 bytes. "0" needs no unit."""
    if text == "0":
        return 0
    match = _SIZE.fullmatch(text)
    # "KB" is common and can only mean kB
    factor = _BYTES.get("kB" if match[2] == "KB" else match[2]) if match else None
    if match is None or factor is None:
        raise ValueError(f'must be a size like "64MiB", not "{text}"')
    return int(float(match[1]) * factor) if "." in match[1] else int(match[1]) * factor


def show_duration(seconds: float) -> str:
    """The shortest way to write it that `duration` reads back."""
    for unit in ("d", "h", "m", "s"):
        if seconds >= _SECONDS[unit] and seconds % _SECONDS[unit] == 0:
            return f"{seconds / _SECONDS[unit]:.0f}{unit}"
    return f"{seconds * 1000:g}ms" if seconds else "0s"


def show_size(number: int) -> str:
    """The shortest way to write it that `size` reads back."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if number >= _BYTES[unit] and number % _BYTES[unit] == 0:
            return f"{number // _BYTES[unit]}{unit}"
    return f"{number}B"


def show_about(number: int) -> str:
    """As exactly as people want to know it, in the same units: `17.7MiB`."""
    exact = show_size(number)
    if len(exact) <= len("1023KiB"):
        return exact
    unit = next(unit for unit in ("TiB", "GiB", "MiB", "KiB") if number >= _BYTES[unit])
    return f"{number / _BYTES[unit]:.1f}{unit}"
