"""Functions on paths, relative to a directory's file descriptor."""

from __future__ import annotations

from typing import Final

from edge.engine.host import CoreFunction, Err
from edge.wasi.context import Context
from edge.wasi.descriptor import READ, WRITE
from edge.wasi.nodes import PATH_MAX
from edge.wasi.preview1.descriptors import RIGHT_READ, RIGHT_WRITE, put_filestat, timestamp
from edge.wasi.preview1.errno import Memory, function
from edge.wasi.preview1.table import FileEntry, files

__all__ = ["FUNCTIONS"]

FDFLAGS_ALL: Final = 0x1F


def _path(memory: Memory, pointer: int, length: int) -> str:
    if length > PATH_MAX:
        raise Err("name-too-long")
    try:
        return memory.read(pointer, length).decode()
    except UnicodeDecodeError:
        raise Err("illegal-byte-sequence") from None


def _create_directory(context: Context, memory: Memory, fd: int, pointer: int, length: int) -> None:
    files(context).directory(fd).create_directory_at(_path(memory, pointer, length))


def _filestat_get(
    context: Context, memory: Memory, fd: int, _flags: int, pointer: int, length: int, result: int
) -> None:
    node = files(context).directory(fd).find(_path(memory, pointer, length))
    put_filestat(memory, result, node, node.stat())


def _filestat_set_times(
    context: Context,
    memory: Memory,
    fd: int,
    flags: int,
    pointer: int,
    length: int,
    accessed: int,
    modified: int,
    times: int,
) -> None:
    files(context).directory(fd).set_times_at(
        flags,
        _path(memory, pointer, length),
        timestamp(accessed, times),
        timestamp(modified, times >> 2),
    )


def _link(
    context: Context,
    memory: Memory,
    fd: int,
    flags: int,
    pointer: int,
    length: int,
    new_fd: int,
    new_pointer: int,
    new_length: int,
) -> None:
    directory, target = files(context).directory(fd), files(context).directory(new_fd)
    old, new = _path(memory, pointer, length), _path(memory, new_pointer, new_length)
    directory.link_at(flags, old, target, new)


def _open(
    context: Context,
    memory: Memory,
    fd: int,
    path_flags: int,
    pointer: int,
    length: int,
    open_flags: int,
    rights: int,
    _inheriting: int,
    fd_flags: int,
    result: int,
) -> None:
    if fd_flags & ~FDFLAGS_ALL:
        raise Err("invalid")
    directory, path = files(context).directory(fd), _path(memory, pointer, length)
    flags = (READ if rights & RIGHT_READ else 0) | (WRITE if rights & RIGHT_WRITE else 0)
    descriptor = directory.open_at(path_flags, path, open_flags, flags)
    memory.set_u32(result, files(context).add(FileEntry(descriptor, fd_flags)))


def _readlink(
    context: Context,
    memory: Memory,
    fd: int,
    pointer: int,
    length: int,
    _buffer: int,
    _size: int,
    _result: int,
) -> None:
    files(context).directory(fd).readlink_at(_path(memory, pointer, length))


def _remove_directory(context: Context, memory: Memory, fd: int, pointer: int, length: int) -> None:
    files(context).directory(fd).remove_directory_at(_path(memory, pointer, length))


def _rename(
    context: Context,
    memory: Memory,
    fd: int,
    pointer: int,
    length: int,
    new_fd: int,
    new_pointer: int,
    new_length: int,
) -> None:
    directory, target = files(context).directory(fd), files(context).directory(new_fd)
    old, new = _path(memory, pointer, length), _path(memory, new_pointer, new_length)
    directory.rename_at(old, target, new)


def _symlink(
    context: Context,
    memory: Memory,
    pointer: int,
    length: int,
    fd: int,
    new_pointer: int,
    new_length: int,
) -> None:
    directory = files(context).directory(fd)
    old, new = _path(memory, pointer, length), _path(memory, new_pointer, new_length)
    directory.symlink_at(old, new)


def _unlink_file(context: Context, memory: Memory, fd: int, pointer: int, length: int) -> None:
    files(context).directory(fd).unlink_file_at(_path(memory, pointer, length))


FUNCTIONS: dict[str, CoreFunction] = {
    "path_create_directory": function("iii", _create_directory),
    "path_filestat_get": function("iiiii", _filestat_get),
    "path_filestat_set_times": function("iiiiIIi", _filestat_set_times),
    "path_link": function("iiiiiii", _link),
    "path_open": function("iiiiiIIii", _open),
    "path_readlink": function("iiiiii", _readlink),
    "path_remove_directory": function("iii", _remove_directory),
    "path_rename": function("iiiiii", _rename),
    "path_symlink": function("iiiii", _symlink),
    "path_unlink_file": function("iii", _unlink_file),
}
