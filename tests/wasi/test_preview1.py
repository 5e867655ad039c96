"""Preview 1 called as a guest calls it: numbers and pointers into a memory."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.engine.host import Trap
from edge.wasi.cli import Exit
from edge.wasi.context import Context
from edge.wasi.io import READ_MAX
from edge.wasi.pipe import BytesSource, Pipe
from edge.wasi.preview1 import interface
from edge.wasi.preview1.table import FDS_MAX
from edge.wasi.tree import Tree

FUNCTIONS = interface().functions
MEMORY = 1 << 20
U64_MAX = 2**64 - 1

# Where the tests have their parts of the memory.
RESULT, VECTORS, PATH, OTHER_PATH, BUFFER = 0, 1024, 16_384, 32_768, 65_536

SUCCESS, BADF, EXIST, ILSEQ, INVAL, ISDIR = 0, 8, 20, 25, 28, 31
MFILE, NAMETOOLONG, NOENT, NOTDIR, NOTSOCK, NOTSUP = 33, 37, 44, 54, 57, 58
PERM, PIPE, ROFS, SPIPE, NOTEMPTY, NOSPC = 63, 64, 69, 70, 55, 51
CREAT, DIRECTORY, EXCL, TRUNC = 1, 2, 4, 8
READ, WRITE = 1 << 1, 1 << 6
APPEND = 1


class FakeMemory:
    """What the engine gives to host functions: every access is checked."""

    def __init__(self) -> None:
        self.data = bytearray(MEMORY)

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, pointer: int, length: int) -> bytes:
        self._check(pointer, length)
        return bytes(self.data[pointer : pointer + length])

    def write(self, pointer: int, data: bytes) -> None:
        self._check(pointer, len(data))
        self.data[pointer : pointer + len(data)] = data

    def u32(self, pointer: int) -> int:
        return int.from_bytes(self.read(pointer, 4), "little")

    def u64(self, pointer: int) -> int:
        return int.from_bytes(self.read(pointer, 8), "little")

    def set_u32(self, pointer: int, value: int) -> None:
        self.write(pointer, value.to_bytes(4, "little"))

    def set_u64(self, pointer: int, value: int) -> None:
        self.write(pointer, value.to_bytes(8, "little"))

    def _check(self, pointer: int, length: int) -> None:
        if pointer < 0 or length < 0 or pointer + length > len(self.data):
            raise Trap("out of bounds")


class Guest:
    """Calls functions of preview 1 and puts their arguments where they look for them."""

    def __init__(self, **grants: Any) -> None:
        self.context = Context(**grants)
        self.memory = FakeMemory()

    def start(self, name: str, *arguments: int) -> int | Coroutine[Any, Any, int]:
        outcome = FUNCTIONS[name].call(self.context, self.memory, *arguments)
        assert outcome is not None
        return outcome

    def call(self, name: str, *arguments: int) -> int:
        outcome = self.start(name, *arguments)
        assert isinstance(outcome, int), "it waits"
        return outcome

    def string(self, text: str | bytes, at: int = PATH) -> tuple[int, int]:
        data = text.encode() if isinstance(text, str) else text
        self.memory.write(at, data)
        return at, len(data)

    def vectors(self, *parts: tuple[int, int]) -> tuple[int, int]:
        self.memory.write(VECTORS, b"".join(struct.pack("<II", *part) for part in parts))
        return VECTORS, len(parts)

    def result(self) -> int:
        return self.memory.u32(RESULT)

    def open(
        self, fd: int, path: str, flags: int = 0, rights: int = READ | WRITE, fdflags: int = 0
    ) -> int:
        """The new file descriptor, or the negative error."""
        where = self.string(path)
        error = self.call("path_open", fd, 0, *where, flags, rights, 0, fdflags, RESULT)
        return -error if error else self.result()

    def write(self, fd: int, data: bytes) -> int:
        self.memory.write(BUFFER, data)
        error = self.call("fd_write", fd, *self.vectors((BUFFER, len(data))), RESULT)
        return -error if error else self.result()

    def read(self, fd: int, length: int = 1000) -> bytes | int:
        error = self.call("fd_read", fd, *self.vectors((BUFFER, length)), RESULT)
        return -error if error else self.memory.read(BUFFER, self.result())

    def path(self, name: str, fd: int, path: str) -> int:
        return self.call(name, fd, *self.string(path))

    def filestat(self, name: str, *arguments: int) -> tuple[int, ...] | int:
        error = self.call(name, *arguments, RESULT)
        return -error if error else struct.unpack("<QQB7xQQQQQ", self.memory.read(RESULT, 64))

    def names(self, fd: int, size: int) -> list[str]:
        """All names of a directory, asked for in pieces of `size` bytes, as libc does."""
        found: list[str] = []
        cookie = 0
        while True:
            assert self.call("fd_readdir", fd, BUFFER, size, cookie, RESULT) == 0
            data = self.memory.read(BUFFER, self.result())
            at = 0
            while at + 24 <= len(data):
                following, _, length, _ = struct.unpack_from("<QQIB", data, at)
                if at + 24 + length > len(data):
                    break
                found.append(data[at + 24 : at + 24 + length].decode())
                cookie, at = following, at + 24 + length
            if len(data) < size:
                return found


def tree_guest() -> Guest:
    return Guest(tree=Tree.build([("a/x", b"xxx"), ("a/y", b""), ("z", b"0123456789")]))


def scratch_guest() -> Guest:
    return Guest(scratch=MEMORY)


# The process


def test_all_46_functions_are_there_with_their_types() -> None:
    assert len(FUNCTIONS) == 46
    assert FUNCTIONS["path_open"].params == "iiiiiIIii"
    assert FUNCTIONS["proc_exit"].results == ""
    assert all(f.results == "i" for name, f in FUNCTIONS.items() if name != "proc_exit")


@pytest.mark.parametrize("kind", ["args", "environ"])
def test_arguments_and_environment(kind: str) -> None:
    guest = Guest(arguments=["prog", "ä b"], environ=[("A", "1"), ("B", "")])
    expected = [b"prog", "ä b".encode()] if kind == "args" else [b"A=1", b"B="]
    assert guest.call(f"{kind}_sizes_get", RESULT, RESULT + 4) == 0
    assert guest.result() == 2
    size = guest.memory.u32(RESULT + 4)
    assert size == sum(len(string) + 1 for string in expected)
    assert guest.call(f"{kind}_get", VECTORS, BUFFER) == 0
    assert guest.memory.read(BUFFER, size) == b"".join(string + b"\0" for string in expected)
    assert guest.memory.u32(VECTORS) == BUFFER
    assert guest.memory.u32(VECTORS + 4) == BUFFER + len(expected[0]) + 1


def test_clocks() -> None:
    guest = Guest(now=lambda: 12345)
    assert guest.call("clock_time_get", 0, 0, RESULT) == 0
    assert guest.memory.u64(RESULT) == 12345
    before = time.monotonic_ns()
    assert guest.call("clock_time_get", 1, U64_MAX, RESULT) == 0
    assert before <= guest.memory.u64(RESULT) <= time.monotonic_ns()
    assert guest.call("clock_res_get", 1, RESULT) == 0
    assert guest.memory.u64(RESULT) == 1
    for clock in (2, 3, 4, 2**32 - 1):
        assert guest.call("clock_time_get", clock, 0, RESULT) == INVAL
        assert guest.call("clock_res_get", clock, RESULT) == INVAL


def test_random_bytes() -> None:
    guest = Guest(random=lambda n: b"r" * n)
    assert guest.call("random_get", BUFFER, 10) == 0
    assert guest.memory.read(BUFFER, 11) == b"r" * 10 + b"\0"
    with pytest.raises(Trap):
        guest.call("random_get", BUFFER, 2**32 - 1)


def test_exit_carries_its_status() -> None:
    with pytest.raises(Exit) as caught:
        FUNCTIONS["proc_exit"].call(Context(), FakeMemory(), 7)
    assert caught.value.status == 7
    assert Guest().call("proc_raise", 6) == NOTSUP
    assert Guest().call("sched_yield") == SUCCESS


def test_there_are_no_sockets() -> None:
    guest = Guest()
    assert guest.call("sock_accept", 0, 0, RESULT) == NOTSOCK
    assert guest.call("sock_recv", 0, VECTORS, 0, 0, RESULT, RESULT) == NOTSOCK
    assert guest.call("sock_send", 0, VECTORS, 0, 0, RESULT) == NOTSOCK
    assert guest.call("sock_shutdown", 0, 0) == NOTSOCK
    assert guest.call("sock_shutdown", 99, 0) == BADF


# Standard streams


def test_standard_output_is_gathered_from_all_buffers() -> None:
    out, err = Pipe(), Pipe()
    guest = Guest(stdout=out, stderr=err)
    guest.memory.write(BUFFER, b"hello world")
    parts = guest.vectors((BUFFER, 5), (0, 0), (BUFFER + 5, 6))
    assert guest.call("fd_write", 1, *parts, RESULT) == 0
    assert guest.result() == 11
    assert out.read_nowait(99) == b"hello world"
    assert guest.write(2, b"oops") == 4
    assert err.read_nowait(99) == b"oops"
    assert guest.call("fd_write", 1, VECTORS, 0, RESULT) == 0
    assert guest.result() == 0


def test_standard_input_is_scattered_to_all_buffers_and_ends() -> None:
    guest = Guest(stdin=BytesSource(b"abcdef"))
    parts = guest.vectors((BUFFER, 2), (BUFFER + 100, 3))
    assert guest.call("fd_read", 0, *parts, RESULT) == 0
    assert guest.result() == 5
    assert guest.memory.read(BUFFER, 3) == b"ab\0"
    assert guest.memory.read(BUFFER + 100, 4) == b"cde\0"
    assert guest.read(0) == b"f"
    assert guest.read(0) == b""
    assert guest.read(0) == b""


def test_a_write_takes_what_there_is_room_for() -> None:
    out = Pipe(capacity=3)
    guest = Guest(stdout=out)
    assert guest.write(1, b"abcdef") == 3
    assert out.read_nowait(9) == b"abc"


async def test_a_full_output_is_waited_for() -> None:
    out = Pipe(capacity=3)
    out.write(b"abc")
    guest = Guest(stdout=out)
    guest.memory.write(BUFFER, b"def")
    later = guest.start("fd_write", 1, *guest.vectors((BUFFER, 3)), RESULT)
    assert asyncio.iscoroutine(later)
    asyncio.get_running_loop().call_later(0.01, out.read_nowait, 1)
    assert await later == 0
    assert guest.result() == 1


async def test_an_output_without_a_reader_is_a_broken_pipe() -> None:
    out = Pipe(capacity=1)
    out.write(b"x")
    guest = Guest(stdout=out)
    later = guest.start("fd_write", 1, *guest.vectors((BUFFER, 3)), RESULT)
    assert asyncio.iscoroutine(later)
    asyncio.get_running_loop().call_later(0.01, out.close)
    assert await later == PIPE
    assert guest.write(1, b"x") == -PIPE


async def test_an_input_that_comes_later_is_waited_for() -> None:
    source = Pipe()
    guest = Guest(stdin=source)
    later = guest.start("fd_read", 0, *guest.vectors((BUFFER, 10)), RESULT)
    assert asyncio.iscoroutine(later)
    asyncio.get_running_loop().call_later(0.01, source.write, b"late")
    assert await later == 0
    assert guest.memory.read(BUFFER, guest.result()) == b"late"
    end = guest.start("fd_read", 0, *guest.vectors((BUFFER, 10)), RESULT)
    assert asyncio.iscoroutine(end)
    asyncio.get_running_loop().call_later(0.01, source.finish)
    assert await end == 0
    assert guest.result() == 0


def test_standard_streams_are_no_files() -> None:
    guest = Guest()
    assert guest.write(0, b"x") == -BADF
    assert guest.read(1) == -BADF
    assert guest.call("fd_seek", 0, 0, 0, RESULT) == SPIPE
    assert guest.call("fd_tell", 1, RESULT) == SPIPE
    assert guest.call("fd_pread", 0, VECTORS, 0, 0, RESULT) == SPIPE
    assert guest.call("fd_prestat_get", 0, RESULT) == BADF
    assert guest.open(0, "x") == -BADF
    assert guest.filestat("fd_filestat_get", 1) == (0,) * 8
    assert guest.call("fd_fdstat_get", 0, RESULT) == 0
    assert struct.unpack("<BxHxxxxQQ", guest.memory.read(RESULT, 24)) == (0, 0, READ, READ)


# What is preopened


def test_preopens_follow_the_standard_streams() -> None:
    guest = Guest(tree=Tree.build([]), scratch=1000)
    for fd, name in ((3, b"/"), (4, b"/tmp")):
        assert guest.call("fd_prestat_get", fd, RESULT) == 0
        assert (guest.result(), guest.memory.u32(RESULT + 4)) == (0, len(name))
        assert guest.call("fd_prestat_dir_name", fd, BUFFER, len(name)) == 0
        assert guest.memory.read(BUFFER, len(name)) == name
        assert guest.call("fd_prestat_dir_name", fd, BUFFER, 0) == NAMETOOLONG
    assert guest.call("fd_prestat_get", 5, RESULT) == BADF


# Files


def test_a_file_is_read_and_its_offset_moves() -> None:
    guest = tree_guest()
    fd = guest.open(3, "z", rights=READ)
    assert guest.read(fd, 4) == b"0123"
    assert guest.call("fd_tell", fd, RESULT) == 0
    assert guest.memory.u64(RESULT) == 4
    for offset, whence, position in ((-2 % 2**64, 1, 2), (-1 % 2**64, 2, 9), (100, 0, 100)):
        assert guest.call("fd_seek", fd, offset, whence, RESULT) == 0
        assert guest.memory.u64(RESULT) == position
    assert guest.read(fd) == b""
    assert guest.call("fd_seek", fd, -1 % 2**64, 0, RESULT) == INVAL
    assert guest.call("fd_seek", fd, 2**63 - 1, 2, RESULT) == INVAL
    assert guest.call("fd_seek", fd, 0, 3, RESULT) == INVAL
    assert guest.call("fd_pread", fd, *guest.vectors((BUFFER, 2)), 5, RESULT) == 0
    assert guest.memory.read(BUFFER, guest.result()) == b"56"
    assert guest.call("fd_tell", fd, RESULT) == 0
    assert guest.memory.u64(RESULT) == 100


def test_a_read_only_tree_stays_as_it_is() -> None:
    guest = tree_guest()
    assert guest.open(3, "new", CREAT) == -ROFS
    assert guest.open(3, "z", rights=WRITE) == -ROFS
    assert guest.open(3, "z", TRUNC, READ) == -ROFS
    assert guest.path("path_unlink_file", 3, "z") == ROFS
    assert guest.path("path_remove_directory", 3, "a") == ROFS
    assert guest.path("path_create_directory", 3, "b") == ROFS
    fd = guest.open(3, "z", rights=READ)
    assert guest.write(fd, b"x") == -BADF
    assert guest.call("fd_filestat_set_size", fd, 0) == BADF
    assert guest.call("fd_fdstat_get", fd, RESULT) == 0
    kind, _, rights, _ = struct.unpack("<BxHxxxxQQ", guest.memory.read(RESULT, 24))
    assert kind == 4
    assert rights & READ
    assert not rights & WRITE


def test_paths_do_not_escape() -> None:
    guest = tree_guest()
    inner = guest.open(3, "a", DIRECTORY, READ)
    for path in ("../z", "../../etc/passwd", "/etc/passwd", "x/../../z", "./.."):
        assert guest.open(inner, path, rights=READ) < 0
        assert guest.path("path_unlink_file", inner, path) > 0
    assert guest.open(inner, "..", rights=READ) == -PERM
    assert guest.open(3, "z\0", rights=READ) == -INVAL


def test_a_path_is_utf8_of_a_bounded_length() -> None:
    guest = tree_guest()
    error = guest.call("path_unlink_file", 3, *guest.string(b"\xff"))
    assert error == ILSEQ
    assert guest.call("path_unlink_file", 3, PATH, 2**32 - 1) == NAMETOOLONG
    with pytest.raises(Trap):
        guest.call("path_unlink_file", 3, MEMORY - 1, 2)


def test_a_scratch_file_is_written_extended_and_cut() -> None:
    guest = scratch_guest()
    fd = guest.open(3, "x", CREAT)
    assert guest.write(fd, b"hello") == 5
    guest.memory.write(BUFFER, b"J")
    assert guest.call("fd_pwrite", fd, *guest.vectors((BUFFER, 1)), 0, RESULT) == 0
    assert guest.call("fd_seek", fd, 0, 0, RESULT) == 0
    assert guest.read(fd) == b"Jello"
    assert guest.call("fd_filestat_set_size", fd, 2) == 0
    stat = guest.filestat("fd_filestat_get", fd)
    assert isinstance(stat, tuple)
    assert (stat[2], stat[3], stat[4]) == (4, 1, 2)
    assert guest.call("fd_filestat_set_size", fd, U64_MAX) == NOSPC
    assert guest.call("fd_allocate", fd, 0, 10) == NOTSUP
    assert guest.call("fd_sync", fd) == guest.call("fd_datasync", fd) == 0
    assert guest.call("fd_advise", fd, 0, 0, 5) == 0
    assert guest.call("fd_advise", fd, 0, 0, 6) == INVAL


def test_appending_ignores_the_offset() -> None:
    guest = scratch_guest()
    fd = guest.open(3, "x", CREAT, fdflags=APPEND)
    assert guest.write(fd, b"ab") == 2
    guest.call("fd_seek", fd, 0, 0, RESULT)
    assert guest.write(fd, b"cd") == 2
    guest.call("fd_tell", fd, RESULT)
    assert guest.memory.u64(RESULT) == 4
    assert guest.call("fd_fdstat_set_flags", fd, 0) == 0
    guest.call("fd_seek", fd, 0, 0, RESULT)
    assert guest.write(fd, b"A") == 1
    assert guest.read(fd) == b"bcd"
    assert guest.call("fd_fdstat_set_flags", fd, 2) == INVAL


def test_times_are_set_and_read() -> None:
    guest = Guest(scratch=MEMORY, now=lambda: 77)
    fd = guest.open(3, "x", CREAT)
    assert guest.call("fd_filestat_set_times", fd, 5, 6, 1 | 8) == 0
    stat = guest.filestat("path_filestat_get", 3, 0, *guest.string("x"))
    assert isinstance(stat, tuple)
    assert stat[5:] == (5, 77, 77)
    where = guest.string("x")
    assert guest.call("path_filestat_set_times", 3, 0, *where, U64_MAX, 9, 1 | 4) == 0
    stat = guest.filestat("fd_filestat_get", fd)
    assert isinstance(stat, tuple)
    assert stat[5:7] == (U64_MAX, 9)
    assert guest.call("fd_filestat_set_times", fd, 0, 0, 3) == INVAL
    assert guest.call("fd_filestat_set_times", fd, 0, 0, 12) == INVAL


def test_names_are_made_moved_and_removed() -> None:
    guest = scratch_guest()
    assert guest.path("path_create_directory", 3, "d") == 0
    assert guest.path("path_create_directory", 3, "d") == EXIST
    guest.open(3, "x", CREAT | EXCL)
    assert guest.open(3, "x", CREAT | EXCL) == -EXIST
    new = guest.string("d/y", OTHER_PATH)
    assert guest.call("path_rename", 3, *guest.string("x"), 3, *new) == 0
    back = guest.string("z", OTHER_PATH)
    assert guest.call("path_link", 3, 0, *guest.string("d/y"), 3, *back) == 0
    assert guest.call("path_link", 3, 1, *guest.string("d/y"), 3, *back) == INVAL
    assert guest.path("path_remove_directory", 3, "d") == NOTEMPTY
    assert guest.path("path_unlink_file", 3, "d") == ISDIR
    assert guest.path("path_unlink_file", 3, "d/y") == 0
    assert guest.path("path_remove_directory", 3, "d") == 0
    assert guest.path("path_remove_directory", 3, "d") == NOENT
    assert guest.names(3, 4096) == [".", "..", "z"]
    target = guest.string("target", OTHER_PATH)
    assert guest.call("path_symlink", *target, 3, *guest.string("link")) == NOTSUP
    assert guest.call("path_readlink", 3, *guest.string("z"), BUFFER, 10, RESULT) == INVAL


@pytest.mark.parametrize("size", [64, 100, 281, 4096])
def test_a_directory_is_read_in_pieces(size: int) -> None:
    wanted = [f"file-{'x' * (n % 9)}{n}" for n in range(50)]
    guest = Guest(tree=Tree.build([(name, b"") for name in wanted]))
    assert guest.names(3, size) == [".", "..", *wanted]


def test_names_removed_while_reading_do_not_hide_others() -> None:
    guest = scratch_guest()
    for n in range(20):
        guest.open(3, f"f{n}", CREAT)
    assert guest.call("fd_readdir", 3, BUFFER, 100, 0, RESULT) == 0
    for n in range(10):
        assert guest.path("path_unlink_file", 3, f"f{n}") == 0
    assert guest.call("fd_readdir", 3, BUFFER, 4096, 4, RESULT) == 0
    assert b"f19" in guest.memory.read(BUFFER, guest.result())
    assert guest.names(3, 4096) == [".", "..", *(f"f{n}" for n in range(10, 20))]


def test_a_directory_is_no_file() -> None:
    guest = scratch_guest()
    assert guest.read(3) == guest.write(3, b"x") == -BADF
    for name, arguments in (
        ("fd_seek", (0, 0, RESULT)),
        ("fd_tell", (RESULT,)),
        ("fd_advise", (0, 0, 0)),
        ("fd_allocate", (0, 0)),
        ("fd_sync", ()),
        ("fd_datasync", ()),
        ("fd_fdstat_set_flags", (0,)),
        ("fd_filestat_set_size", (0,)),
        ("fd_pread", (VECTORS, 0, 0, RESULT)),
        ("fd_pwrite", (VECTORS, 0, 0, RESULT)),
    ):
        assert guest.call(name, 3, *arguments) == BADF, name
    fd = guest.open(3, "x", CREAT)
    assert guest.open(fd, "y") == -NOTDIR
    assert guest.call("fd_readdir", fd, BUFFER, 100, 0, RESULT) == NOTDIR
    assert guest.call("fd_prestat_dir_name", fd, BUFFER, 10) == NOTDIR


# File descriptors


def test_the_lowest_free_number_is_taken() -> None:
    guest = tree_guest()
    assert [guest.open(3, "z", rights=READ) for _ in range(3)] == [4, 5, 6]
    assert guest.call("fd_close", 5) == 0
    assert guest.call("fd_close", 5) == BADF
    assert guest.open(3, "z", rights=READ) == 5
    assert guest.open(3, "z", rights=READ) == 7
    assert guest.call("fd_close", 0) == 0
    assert guest.open(3, "z", rights=READ) == 0


def test_renumbering_moves_and_closes() -> None:
    guest = tree_guest()
    first, second = guest.open(3, "z", rights=READ), guest.open(3, "a/x", rights=READ)
    assert guest.call("fd_renumber", first, second) == 0
    assert guest.read(second) == b"0123456789"
    assert guest.call("fd_close", first) == BADF
    assert guest.call("fd_renumber", second, 999) == BADF
    assert guest.call("fd_renumber", 999, second) == BADF
    assert guest.call("fd_renumber", second, second) == 0
    assert guest.open(3, "z", rights=READ) == first


def test_file_descriptors_are_bounded() -> None:
    guest = tree_guest()
    opened = [guest.open(3, "z", rights=READ) for _ in range(FDS_MAX)]
    assert max(opened) == FDS_MAX - 1
    assert opened[-1] == -MFILE
    guest.context.close()
    assert guest.open(3, "z", rights=READ) == 4


def test_rights_are_not_reduced() -> None:
    guest = tree_guest()
    assert guest.call("fd_fdstat_set_rights", 3, 0, 0) == NOTSUP
    assert guest.call("fd_fdstat_set_rights", 99, 0, 0) == BADF


# Waiting


def clock(userdata: int, timeout: int, *, identity: int = 1, flags: int = 0) -> bytes:
    return struct.pack("<QB7xI4xQQH6x", userdata, 0, identity, timeout, 0, flags)


def watch(userdata: int, tag: int, fd: int) -> bytes:
    return struct.pack("<QB7xI28x", userdata, tag, fd)


def poll(guest: Guest, *subscriptions: bytes) -> int | Coroutine[Any, Any, int]:
    guest.memory.write(BUFFER, b"".join(subscriptions))
    return guest.start("poll_oneoff", BUFFER, VECTORS, len(subscriptions), RESULT)


def events(guest: Guest) -> list[tuple[int, ...]]:
    """userdata, error, type, bytes, flags"""
    raw = guest.memory.read(VECTORS, guest.result() * 32)
    return list(struct.iter_unpack("<QHB5xQH6x", raw))


async def test_a_sleep_lasts_as_long_as_it_says() -> None:
    for flags in (0, 1):
        guest, started = Guest(), time.monotonic_ns()
        later = poll(guest, clock(7, 20_000_000 + flags * started, flags=flags))
        assert asyncio.iscoroutine(later)
        assert await later == 0
        assert events(guest) == [(7, 0, 0, 0, 0)]
        assert time.monotonic_ns() - started >= 19_000_000


async def test_the_wall_clock_can_be_waited_for() -> None:
    guest = Guest(now=lambda: 1000)
    assert poll(guest, clock(1, 500, identity=0, flags=1)) == 0
    later = poll(guest, clock(1, 5_000_000, identity=0, flags=1))
    assert asyncio.iscoroutine(later)
    assert await later == 0
    assert poll(guest, clock(1, 0, identity=2)) == INVAL


def test_what_is_ready_is_told_without_waiting() -> None:
    guest = tree_guest()
    fd = guest.open(3, "z", rights=READ)
    out = [watch(1, 1, fd), watch(2, 2, 1), clock(3, U64_MAX), watch(4, 1, 99), watch(5, 1, 3)]
    assert poll(guest, *out) == 0
    assert events(guest) == [
        (1, 0, 1, 10, 0),
        (2, 0, 2, 1, 0),
        (4, BADF, 1, 0, 0),
        (5, BADF, 1, 0, 0),
    ]
    guest.read(fd)
    assert poll(guest, watch(1, 1, fd)) == 0
    assert events(guest) == [(1, 0, 1, 0, 1)]
    assert poll(guest, watch(1, 1, 1)) == 0
    assert events(guest) == [(1, BADF, 1, 0, 0)]


async def test_input_or_a_timer_whichever_is_first() -> None:
    source = Pipe()
    guest = Guest(stdin=source)
    later = poll(guest, watch(1, 1, 0), clock(2, 10_000_000))
    assert asyncio.iscoroutine(later)
    assert await later == 0
    assert events(guest) == [(2, 0, 0, 0, 0)]
    asyncio.get_running_loop().call_later(0.01, source.write, b"x")
    later = poll(guest, watch(1, 1, 0), clock(2, U64_MAX))
    assert asyncio.iscoroutine(later)
    assert await later == 0
    assert events(guest) == [(1, 0, 1, 1, 0)]
    assert guest.read(0) == b"x"


def test_polling_nothing_or_too_much_is_invalid() -> None:
    guest = Guest()
    for count in (0, 1025, 2**32 - 1):
        assert guest.call("poll_oneoff", BUFFER, VECTORS, count, RESULT) == INVAL
    assert poll(guest, struct.pack("<QB39x", 0, 3)) == INVAL


# Lies


def test_counts_and_lengths_are_bounded() -> None:
    guest = scratch_guest()
    fd = guest.open(3, "x", CREAT)
    for name in ("fd_read", "fd_write"):
        assert guest.call(name, fd, VECTORS, 1025, RESULT) == INVAL
    parts = guest.vectors(*[(BUFFER, MEMORY // 2)] * 1024)
    assert guest.call("fd_write", fd, *parts, RESULT) == 0
    assert guest.result() == READ_MAX
    assert guest.call("fd_pread", fd, *parts, 0, RESULT) == 0
    assert guest.result() == READ_MAX


U32 = st.integers(0, 2**32 - 1) | st.sampled_from([0, 1, 2, 3, 4, 5, MEMORY - 1, BUFFER])
U64 = st.integers(0, U64_MAX) | st.sampled_from([0, 1, 2**63 - 1, 2**63, U64_MAX])
CALLS = st.sampled_from(sorted(FUNCTIONS)).flatmap(
    lambda name: st.tuples(
        st.just(name),
        st.tuples(*[U32 if kind == "i" else U64 for kind in FUNCTIONS[name].params]),
    )
)


@given(st.lists(CALLS, max_size=20), st.binary(max_size=200))
def test_any_call_ends_in_an_error_number_or_a_trap(
    calls: list[tuple[str, tuple[int, ...]]], contents: bytes
) -> None:
    guest = Guest(scratch=10_000, tree=Tree.build([("x", b"x")]), stdin=Pipe(), stdout=Pipe(10))
    guest.memory.write(BUFFER, contents)
    for name, arguments in calls:
        try:
            outcome = guest.start(name, *arguments)
        except Trap:
            continue
        if asyncio.iscoroutine(outcome):
            outcome.close()
        else:
            assert isinstance(outcome, int)
            assert 0 <= outcome <= 76
    guest.context.close()
