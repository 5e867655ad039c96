"""Digests: what content is addressed by. SHA-256 only, checked before any use as a path."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

__all__ = ["Digest"]

_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A SHA-256 digest. Its 64 lower-case hexadecimal digits are safe as a file's name."""

    hex: str

    def __post_init__(self) -> None:
        if not _HEX.fullmatch(self.hex):
            raise ValueError("is not 64 lower-case hexadecimal digits")

    @classmethod
    def parse(cls, text: str) -> Digest:
        """From "sha256:…"; anything else is a ValueError that says what a digest is."""
        algorithm, colon, digits = text.partition(":")
        if not colon or algorithm != "sha256" or not _HEX.fullmatch(digits):
            shown = text if len(text) <= 100 else f"{text[:100]}…"
            raise ValueError(f"{shown!a} is not a digest: sha256: and 64 lower-case hex digits")
        return cls(digits)

    @classmethod
    def of(cls, data: bytes) -> Digest:
        return cls(hashlib.sha256(data).hexdigest())

    def __str__(self) -> str:
        return f"sha256:{self.hex}"
