"""What a Wasm file is, from its first bytes and the names it exports.

Looks only as far as needed to tell kinds apart; whether the file is valid, the engine finds out.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from edge.errors import ComponentError

__all__ = ["HEADER", "Handler", "Kind", "exports", "handler", "kind"]

# As many bytes as `kind` wants to see.
HEADER = 64

_MODULE = b"\0asm\x01\x00\x00\x00"
_COMPONENT = b"\0asm\x0d\x00\x01\x00"
_EXPORT_SECTION = {_MODULE: 7, _COMPONENT: 11}
_HTTP = ("wasi:http/incoming-handler", "wasi:http/handler", "fermyon:spin/inbound-http")
_COMMAND = ("wasi:cli/run", "_start")


class Kind(Enum):
    """Core modules and components have the same magic number and little else in common."""

    MODULE = _MODULE
    COMPONENT = _COMPONENT


class Handler(Enum):
    """What a binary can be given to do when nothing but the binary says it."""

    HTTP = "http"  # handles requests itself
    COMMAND = "command"  # runs once: standard input, standard output


def kind(head: bytes, name: str) -> Kind:
    """Tells by the first bytes; what is neither kind is a ComponentError about `name`."""
    try:
        return Kind(head[:8])
    except ValueError:
        raise _not_wasm(head, name) from None


def _not_wasm(head: bytes, name: str) -> ComponentError:
    if not head:
        return ComponentError(f"{name}: is empty")
    if head.lstrip().startswith((b"(", b";;")):
        return ComponentError(
            f"{name}: is WebAssembly text, not a binary",
            hint="convert it: wasm-tools parse FILE.wat -o FILE.wasm",
        )
    if head.startswith(b"\0asm"):
        version = int.from_bytes(head[4:6], "little")
        return ComponentError(
            f"{name}: version {version} of the WebAssembly binary format is not supported",
            hint="a newer toolchain makes modules of version 1 and components of version 13",
        )
    return ComponentError(f"{name}: is not a WebAssembly binary")


def handler(binary: bytes, name: str) -> Handler:
    """What to do with a binary that comes without a manifest."""
    found = exports(binary, name)
    for prefixes, meaning in ((_HTTP, Handler.HTTP), (_COMMAND, Handler.COMMAND)):
        if any(export.startswith(prefixes) for export in found):
            return meaning
    raise ComponentError(
        f"{name}: exports neither wasi:http/incoming-handler nor wasi:cli/run nor _start",
        hint="a component for another kind of trigger needs a spin.toml that declares it",
    )


def exports(binary: bytes, name: str) -> tuple[str, ...]:
    """The names a binary exports at its top level."""
    section = _EXPORT_SECTION[kind(binary, name).value]
    read = _module_exports if binary.startswith(_MODULE) else _component_exports
    try:
        return tuple(n for data in _sections(binary, section) for n in read(data))
    except (IndexError, UnicodeDecodeError, ValueError) as error:
        raise ComponentError(f"{name}: its exports are malformed") from error


def _sections(binary: bytes, wanted: int) -> Iterator[bytes]:
    at = 8
    while at < len(binary):
        section = binary[at]
        size, start = _u32(binary, at + 1)
        at = start + size
        if at > len(binary):
            raise ValueError("a section is cut off")
        if section == wanted:
            yield binary[start:at]


def _module_exports(data: bytes) -> Iterator[str]:
    count, at = _u32(data, 0)
    for _ in range(count):
        name, at = _string(data, at)
        _, at = _u32(data, at + 1)  # kind and index
        yield name


def _component_exports(data: bytes) -> Iterator[str]:
    count, at = _u32(data, 0)
    for _ in range(count):
        suffixed = data[at] == 2  # a version suffix follows the name
        name, at = _string(data, at + 1)
        if suffixed:
            _, at = _string(data, at)
        at += 2 if data[at] == 0 else 1  # the sort: two bytes for a core one
        _, at = _u32(data, at)
        at = _skip_type(data, at)
        yield name


def _skip_type(data: bytes, at: int) -> int:
    """An optional description of an export's type: only its length matters."""
    if data[at] == 0:
        return at + 1
    sort, bound = data[at + 1], data[at + 2]
    if sort == 0:  # a core module
        return _u32(data, at + 3)[1]
    if sort == 3:  # a type: equal to another one, or a new resource
        return at + 3 if bound == 1 else _u32(data, at + 3)[1]
    return _u32(data, at + 2)[1]


def _string(data: bytes, at: int) -> tuple[str, int]:
    size, at = _u32(data, at)
    if at + size > len(data):
        raise ValueError("a name is cut off")
    return data[at : at + size].decode(), at + size


def _u32(data: bytes, at: int) -> tuple[int, int]:
    """A number in LEB128 and where it ends."""
    value = 0
    for shift in range(0, 35, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number is too long")
