"""Functions on file descriptors: reading, writing, seeking, attributes, directories."""

from __future__ import annotations

import struct
from collections.abc import Coroutine, Sequence
from typing import Any, Final

from edge.engine.host import CoreFunction, Err
from edge.wasi.clocks import Datetime, datetime_of, nanoseconds_of
from edge.wasi.context import Context
from edge.wasi.descriptor import READ, WRITE, Descriptor, NewTimestamp
from edge.wasi.io import READ_MAX, InputStream, Later, OutputStream
from edge.wasi.nodes import Directory, Node, Stat
from edge.wasi.preview1.errno import Memory, function
from edge.wasi.preview1.table import APPEND, NONBLOCK, FileEntry, Input, Output, files

__all__ = ["FUNCTIONS", "put_filestat", "timestamp"]

# Buffers of one read or write. POSIX promises 1024 (IOV_MAX of Linux too).
VECTORS_MAX = 1024

ADVICE_MAX: Final = 5
FILETYPES: Final = {"directory": 3, "regular-file": 4}
DEVICE: Final = 1

RIGHT_READ: Final = 1 << 1
RIGHT_WRITE: Final = 1 << 6
RIGHT_READDIR: Final = 1 << 14
RIGHTS_ALL: Final = (1 << 30) - 1
# Seeking and sizes are nothing for a directory, nor are the rights on what is in a file.
RIGHTS_DIRECTORY: Final[int] = sum(1 << bit for bit in (*range(9, 19), 20, 21, 23, 24, 25, 26))

# fstflags, for the access time; those for the modification time are two bits higher
_SET: Final = 1
_SET_NOW: Final = 2

_DOTS: Final = (".", "..")
_WHENCE: Final = ("set", "current", "end")

_FDSTAT = struct.Struct("<BxHxxxxQQ")
_FILESTAT = struct.Struct("<QQB7xQQQQQ")
_DIRENT = struct.Struct("<QQIB3x")
_VECTOR = struct.Struct("<II")

Vectors = Sequence[tuple[int, int]]


def _vectors(memory: Memory, pointer: int, count: int) -> Vectors:
    if count > VECTORS_MAX:
        raise Err("invalid")
    return list(_VECTOR.iter_unpack(memory.read(pointer, count * _VECTOR.size)))


def _wanted(vectors: Vectors) -> int:
    return min(sum(length for _, length in vectors), READ_MAX)


def _gather(memory: Memory, vectors: Vectors, limit: int) -> bytes:
    parts = []
    for pointer, length in vectors:
        part = min(length, limit)
        parts.append(memory.read(pointer, part))
        limit -= part
        if not limit:
            break
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _scatter(memory: Memory, vectors: Vectors, data: bytes, result: int) -> None:
    start = 0
    for pointer, length in vectors:
        if start >= len(data):
            break
        memory.write(pointer, data[start : start + length])
        start += length
    memory.set_u32(result, len(data))


def _fd_read(
    context: Context, memory: Memory, fd: int, pointer: int, count: int, result: int
) -> Later[None] | None:
    entry = files(context).get(fd)
    vectors = _vectors(memory, pointer, count)
    if isinstance(entry, FileEntry):
        data, _ = entry.descriptor.read(_wanted(vectors), entry.offset)
        entry.offset += len(data)
    elif isinstance(entry, Input):
        read = _read(entry.stream, _wanted(vectors))
        if not isinstance(read, bytes):
            return _scatter_later(memory, vectors, read, result)
        data = read
    else:
        raise Err("bad-descriptor")
    _scatter(memory, vectors, data, result)
    return None


def _read(stream: InputStream, length: int) -> bytes | Later[bytes]:
    try:
        return stream.blocking_read(length)
    except Err as error:
        return _end(error)


async def _scatter_later(
    memory: Memory, vectors: Vectors, read: Coroutine[Any, Any, bytes], result: int
) -> None:
    try:
        data = await read
    except Err as error:
        data = _end(error)
    _scatter(memory, vectors, data, result)


def _end(error: Err) -> bytes:
    """A stream that is closed reads as the end of a file."""
    if error.payload != "closed":
        raise error
    return b""


def _fd_write(
    context: Context, memory: Memory, fd: int, pointer: int, count: int, result: int
) -> Later[None] | None:
    entry = files(context).get(fd)
    vectors = _vectors(memory, pointer, count)
    if isinstance(entry, FileEntry):
        _write_file(memory, entry, vectors, result)
    elif isinstance(entry, Output):
        room = entry.stream.check_write()
        if not room and _wanted(vectors):
            return _write_later(memory, entry.stream, vectors, result)
        _write(memory, entry.stream, vectors, room, result)
    else:
        raise Err("bad-descriptor")
    return None


def _write_file(memory: Memory, entry: FileEntry, vectors: Vectors, result: int) -> None:
    data = _gather(memory, vectors, READ_MAX) if vectors else b""
    if entry.flags & APPEND:
        entry.offset = entry.descriptor.append(data)
    else:
        entry.descriptor.write(data, entry.offset)
        entry.offset += len(data)
    memory.set_u32(result, len(data))


def _write(memory: Memory, stream: OutputStream, vectors: Vectors, room: int, result: int) -> None:
    data = _gather(memory, vectors, min(room, READ_MAX)) if vectors else b""
    stream.write(data)
    memory.set_u32(result, len(data))


async def _write_later(memory: Memory, stream: OutputStream, vectors: Vectors, result: int) -> None:
    await stream.wait()
    room = stream.check_write()
    if not room:
        raise Err("pipe")
    _write(memory, stream, vectors, room, result)


def _fd_pread(
    context: Context, memory: Memory, fd: int, pointer: int, count: int, offset: int, result: int
) -> None:
    descriptor = files(context).seekable(fd).descriptor
    vectors = _vectors(memory, pointer, count)
    data, _ = descriptor.read(_wanted(vectors), offset)
    _scatter(memory, vectors, data, result)


def _fd_pwrite(
    context: Context, memory: Memory, fd: int, pointer: int, count: int, offset: int, result: int
) -> None:
    descriptor = files(context).seekable(fd).descriptor
    vectors = _vectors(memory, pointer, count)
    data = _gather(memory, vectors, READ_MAX) if vectors else b""
    memory.set_u32(result, descriptor.write(data, offset))


def _fd_seek(
    context: Context, memory: Memory, fd: int, offset: int, whence: int, result: int
) -> None:
    entry = files(context).seekable(fd)
    if whence >= len(_WHENCE):
        raise Err("invalid")
    start = (0, entry.offset, entry.descriptor.stat().size if whence == 2 else 0)[whence]
    target = start + (offset if offset < 1 << 63 else offset - (1 << 64))
    if not 0 <= target < 1 << 63:
        raise Err("invalid")
    entry.offset = target
    memory.set_u64(result, target)


def _fd_tell(context: Context, memory: Memory, fd: int, result: int) -> None:
    memory.set_u64(result, files(context).seekable(fd).offset)


def _fd_close(context: Context, _memory: Memory, fd: int) -> None:
    files(context).remove(fd)


def _fd_renumber(context: Context, _memory: Memory, fd: int, to: int) -> None:
    files(context).renumber(fd, to)


def _fd_advise(
    context: Context, _memory: Memory, fd: int, _offset: int, _length: int, advice: int
) -> None:
    files(context).file(fd)
    if advice > ADVICE_MAX:
        raise Err("invalid")


def _fd_allocate(context: Context, _memory: Memory, fd: int, _offset: int, _length: int) -> None:
    files(context).file(fd)
    raise Err("unsupported")


def _fd_sync(context: Context, _memory: Memory, fd: int) -> None:
    files(context).file(fd)


def _fd_fdstat_get(context: Context, memory: Memory, fd: int, result: int) -> None:
    entry = files(context).get(fd)
    if isinstance(entry, Input):
        stat = (0, 0, RIGHT_READ, RIGHT_READ)
    elif isinstance(entry, Output):
        stat = (0, 0, RIGHT_WRITE, RIGHT_WRITE)
    else:
        rights = _rights(entry.descriptor)
        stat = (FILETYPES[entry.descriptor.get_type()], entry.flags, rights, RIGHTS_ALL)
    memory.write(result, _FDSTAT.pack(*stat))


def _rights(descriptor: Descriptor) -> int:
    if descriptor.is_directory:
        return RIGHTS_DIRECTORY
    flags, rights = descriptor.get_flags(), RIGHTS_ALL
    if not flags & READ:
        rights &= ~(RIGHT_READ | RIGHT_READDIR)
    return rights if flags & WRITE else rights & ~RIGHT_WRITE


def _fd_fdstat_set_flags(context: Context, _memory: Memory, fd: int, flags: int) -> None:
    entry = files(context).file(fd)
    if flags & ~(APPEND | NONBLOCK):
        raise Err("invalid")
    entry.flags = flags


def _fd_fdstat_set_rights(
    context: Context, _memory: Memory, fd: int, _base: int, _inheriting: int
) -> None:
    files(context).get(fd)
    raise Err("unsupported")


def _fd_filestat_get(context: Context, memory: Memory, fd: int, result: int) -> None:
    entry = files(context).get(fd)
    if isinstance(entry, FileEntry):
        put_filestat(memory, result, entry.descriptor.node, entry.descriptor.stat())
    else:
        memory.write(result, bytes(_FILESTAT.size))


def put_filestat(memory: Memory, pointer: int, node: Node, stat: Stat) -> None:
    times = map(_nanoseconds, (stat.accessed, stat.modified, stat.changed))
    filetype = FILETYPES[stat.type]
    fields = (DEVICE, node.inode, filetype, stat.link_count, stat.size, *times)
    memory.write(pointer, _FILESTAT.pack(*fields))


def _nanoseconds(datetime: Datetime | None) -> int:
    # Seconds of 64 bits are more nanoseconds than 64 bits hold: then it is the end of time.
    return min(nanoseconds_of(datetime), (1 << 64) - 1) if datetime else 0


def _fd_filestat_set_size(context: Context, _memory: Memory, fd: int, size: int) -> None:
    files(context).file(fd).descriptor.set_size(size)


def _fd_filestat_set_times(
    context: Context, _memory: Memory, fd: int, accessed: int, modified: int, flags: int
) -> None:
    descriptor = files(context).open(fd).descriptor
    descriptor.set_times(timestamp(accessed, flags), timestamp(modified, flags >> 2))


def timestamp(nanoseconds: int, flags: int) -> NewTimestamp:
    if flags & _SET and flags & _SET_NOW:
        raise Err("invalid")
    if flags & _SET_NOW:
        return "now", None
    return ("timestamp", datetime_of(nanoseconds)) if flags & _SET else ("no-change", None)


def _fd_prestat_get(context: Context, memory: Memory, fd: int, result: int) -> None:
    memory.set_u32(result, 0)
    memory.set_u32(result + 4, len(_preopen(context, fd, "bad-descriptor")))


def _fd_prestat_dir_name(
    context: Context, memory: Memory, fd: int, pointer: int, length: int
) -> None:
    name = _preopen(context, fd, "not-directory")
    if len(name) > length:
        raise Err("name-too-long")
    memory.write(pointer, name)


def _preopen(context: Context, fd: int, otherwise: str) -> bytes:
    entry = files(context).get(fd)
    if not isinstance(entry, FileEntry) or entry.name is None:
        raise Err(otherwise)
    return entry.name


def _fd_readdir(
    context: Context, memory: Memory, fd: int, buffer: int, size: int, cookie: int, result: int
) -> None:
    directory = files(context).open(fd).descriptor.directory()
    data = bytearray()
    while len(data) < size and (entry := _after(directory, cookie)) is not None:
        cookie, name, node = entry
        data += _dirent(cookie, name, node)
    del data[size:]
    memory.write(buffer, bytes(data))
    memory.set_u32(result, len(data))


def _after(directory: Directory, cookie: int) -> tuple[int, str, Node] | None:
    """The entry beyond a cookie, those of `.` and `..` being 1 and 2."""
    if cookie < len(_DOTS):
        return cookie + 1, _DOTS[cookie], directory
    entry = directory.after(cookie - len(_DOTS))
    return entry and (entry[0] + len(_DOTS), *entry[1:])


def _dirent(following: int, name: str, node: Node) -> bytes:
    encoded = name.encode()
    return _DIRENT.pack(following, node.inode, len(encoded), FILETYPES[node.kind]) + encoded


FUNCTIONS: dict[str, CoreFunction] = {
    "fd_advise": function("iIIi", _fd_advise),
    "fd_allocate": function("iII", _fd_allocate),
    "fd_close": function("i", _fd_close),
    "fd_datasync": function("i", _fd_sync),
    "fd_fdstat_get": function("ii", _fd_fdstat_get),
    "fd_fdstat_set_flags": function("ii", _fd_fdstat_set_flags),
    "fd_fdstat_set_rights": function("iII", _fd_fdstat_set_rights),
    "fd_filestat_get": function("ii", _fd_filestat_get),
    "fd_filestat_set_size": function("iI", _fd_filestat_set_size),
    "fd_filestat_set_times": function("iIIi", _fd_filestat_set_times),
    "fd_pread": function("iiiIi", _fd_pread),
    "fd_prestat_get": function("ii", _fd_prestat_get),
    "fd_prestat_dir_name": function("iii", _fd_prestat_dir_name),
    "fd_pwrite": function("iiiIi", _fd_pwrite),
    "fd_read": function("iiii", _fd_read),
    "fd_readdir": function("iiiIi", _fd_readdir),
    "fd_renumber": function("ii", _fd_renumber),
    "fd_seek": function("iIii", _fd_seek),
    "fd_sync": function("i", _fd_sync),
    "fd_tell": function("ii", _fd_tell),
    "fd_write": function("iiii", _fd_write),
}
