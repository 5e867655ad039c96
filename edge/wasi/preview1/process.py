"""Arguments, environment, clocks, random bytes, the end of a process; no sockets."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final, NoReturn

from edge.engine.host import CoreFunction, Err
from edge.wasi.cli import Exit
from edge.wasi.clocks import RESOLUTION
from edge.wasi.context import Context
from edge.wasi.preview1.errno import Memory, function
from edge.wasi.preview1.table import files
from edge.wasi.random import random_bytes

__all__ = ["FUNCTIONS", "MONOTONIC", "REALTIME"]

# clockid
REALTIME: Final = 0
MONOTONIC: Final = 1


def _arguments(context: Context) -> list[bytes]:
    return [argument.encode() + b"\0" for argument in context.arguments]


def _environ(context: Context) -> list[bytes]:
    return [f"{name}={value}".encode() + b"\0" for name, value in context.environ]


def _args_get(context: Context, memory: Memory, pointers: int, buffer: int) -> None:
    _put_strings(memory, _arguments(context), pointers, buffer)


def _args_sizes_get(context: Context, memory: Memory, count: int, size: int) -> None:
    _put_sizes(memory, _arguments(context), count, size)


def _environ_get(context: Context, memory: Memory, pointers: int, buffer: int) -> None:
    _put_strings(memory, _environ(context), pointers, buffer)


def _environ_sizes_get(context: Context, memory: Memory, count: int, size: int) -> None:
    _put_sizes(memory, _environ(context), count, size)


def _put_strings(memory: Memory, strings: Sequence[bytes], pointers: int, buffer: int) -> None:
    for index, string in enumerate(strings):
        memory.set_u32(pointers + 4 * index, buffer)
        memory.write(buffer, string)
        buffer += len(string)


def _put_sizes(memory: Memory, strings: Sequence[bytes], count: int, size: int) -> None:
    memory.set_u32(count, len(strings))
    memory.set_u32(size, sum(map(len, strings)))


def _clock_res_get(_context: Context, memory: Memory, clock: int, result: int) -> None:
    if clock not in (REALTIME, MONOTONIC):
        raise Err("invalid")
    memory.set_u64(result, RESOLUTION)


def _clock_time_get(
    context: Context, memory: Memory, clock: int, _precision: int, result: int
) -> None:
    if clock == MONOTONIC:
        memory.set_u64(result, time.monotonic_ns())
    elif clock == REALTIME:
        memory.set_u64(result, context.now())
    else:
        raise Err("invalid")


def _random_get(context: Context, memory: Memory, buffer: int, length: int) -> None:
    memory.write(buffer, random_bytes(context, length))


def _proc_exit(_context: Context, _memory: Memory, status: int) -> NoReturn:
    raise Exit(status)


def _proc_raise(_context: Context, _memory: Memory, _signal: int) -> NoReturn:
    raise Err("unsupported")


def _sched_yield(_context: Context, _memory: Memory) -> None:
    """There is no other thread; a guest that runs too long is made to yield anyway."""


def _no_socket(context: Context, _memory: Memory, fd: int, *_arguments: int) -> NoReturn:
    files(context).get(fd)
    raise Err("notsock")


FUNCTIONS: dict[str, CoreFunction] = {
    "args_get": function("ii", _args_get),
    "args_sizes_get": function("ii", _args_sizes_get),
    "environ_get": function("ii", _environ_get),
    "environ_sizes_get": function("ii", _environ_sizes_get),
    "clock_res_get": function("ii", _clock_res_get),
    "clock_time_get": function("iIi", _clock_time_get),
    "random_get": function("ii", _random_get),
    "proc_exit": CoreFunction("i", "", _proc_exit),
    "proc_raise": function("i", _proc_raise),
    "sched_yield": function("", _sched_yield),
    "sock_accept": function("iii", _no_socket),
    "sock_recv": function("iiiiii", _no_socket),
    "sock_send": function("iiiii", _no_socket),
    "sock_shutdown": function("ii", _no_socket),
}
