"""Reads the encodings that core modules and components share. Knows no section and no type.

A read past the end, a number too long, a name that is no UTF-8: everything malformed raises
ComponentError with the offset in the file. Nothing else is raised, whatever the bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from edge.errors import ComponentError

T = TypeVar("T")

MAX_NAME = 100_000  # bytes; what wasmtime's validator allows


class Reader:
    """A cursor over a part of a file."""

    __slots__ = ("data", "end", "position")

    def __init__(self, data: bytes, position: int = 0, end: int | None = None) -> None:
        self.data = data
        self.position = position
        self.end = len(data) if end is None else end

    def __bool__(self) -> bool:
        """Whether anything is left."""
        return self.position < self.end

    def error(self, message: str) -> ComponentError:
        return ComponentError(f"malformed binary: {message} at offset {self.position:#x}")

    def u8(self) -> int:
        position = self.position
        if position >= self.end:
            raise self.error("unexpected end")
        self.position = position + 1
        return self.data[position]

    def peek(self) -> int:
        if self.position >= self.end:
            raise self.error("unexpected end")
        return self.data[self.position]

    def expect(self, byte: int, what: str) -> None:
        if self.u8() != byte:
            self.position -= 1
            raise self.error(f"expected {what}")

    def u32(self) -> int:
        """An unsigned LEB128 of at most 32 bits."""
        # The short form is written out: a large component has 60,000 numbers, nearly all short.
        position = self.position
        if position < self.end and (value := self.data[position]) < 0x80:
            self.position = position + 1
            return value
        value = self.u8() & 0x7F
        for shift in (7, 14, 21, 28):
            byte = self.u8()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
        if byte >= 0x80 or value >= 1 << 32:
            raise self.error("a number is too long")
        return value

    def s33(self) -> int:
        return self.signed(33)

    def signed(self, bits: int) -> int:
        """A signed LEB128 of at most so many bits."""
        value = shift = 0
        byte = 0x80
        while byte >= 0x80:
            byte = self.u8()
            value |= (byte & 0x7F) << shift
            shift += 7
            if shift >= bits + 7:
                raise self.error("a number is too long")
        return value - (1 << shift) if byte & 0x40 else value

    def skip(self, size: int) -> int:
        """Passes over bytes; returns where they begin."""
        start = self.position
        if size > self.end - start:
            raise self.error("unexpected end")
        self.position = start + size
        return start

    def bytes(self, size: int) -> bytes:
        start = self.skip(size)
        return self.data[start : self.position]

    def part(self, size: int) -> Reader:
        """A reader over the next bytes, which this one skips."""
        return Reader(self.data, self.skip(size), self.position)

    def name(self) -> str:
        size = self.u32()
        if size > MAX_NAME:
            raise self.error("a name is too long")
        raw = self.bytes(size)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise self.error("a name is not UTF-8") from None

    def count(self) -> int:
        """The length of a vector: no more than what is left, an item takes a byte at least."""
        count = self.u32()
        if count > self.end - self.position:
            raise self.error("unexpected end")
        return count

    def vector(self, item: Callable[[Reader], T]) -> tuple[T, ...]:
        return tuple([item(self) for _ in range(self.count())])

    def finish(self, what: str) -> None:
        if self:
            raise self.error(f"{what} has bytes left over")


class Budget:
    """What one file may cost to read: items of vectors in all, and nesting."""

    __slots__ = ("depth", "items")

    def __init__(self, *, items: int, depth: int) -> None:
        self.items = items
        self.depth = depth


class BoundedReader(Reader):
    """A reader whose parts share one budget."""

    __slots__ = ("budget",)

    def __init__(self, data: bytes, budget: Budget, position: int = 0, end: int | None = None):
        super().__init__(data, position, end)
        self.budget = budget

    def part(self, size: int) -> BoundedReader:
        return BoundedReader(self.data, self.budget, self.skip(size), self.position)

    def vector(self, item: Callable[[BoundedReader], T]) -> tuple[T, ...]:
        count = self.count()
        self.budget.items -= count
        if self.budget.items < 0:
            raise self.error("too many items")
        return tuple([item(self) for _ in range(count)])

    def nested(self, item: Callable[[BoundedReader], T]) -> T:
        """Reads what may contain itself."""
        if self.budget.depth == 0:
            raise self.error("nested too deeply")
        self.budget.depth -= 1
        value = item(self)
        self.budget.depth += 1
        return value
