from __future__ import annotations

import pytest

from edge.engine.host import Err, Interface, Interfaces, Ok, Trap
from edge.wasi import cli, interfaces
from edge.wasi.cli import Exit
from edge.wasi.context import Context
from edge.wasi.pipe import BytesSource, Pipe
from edge.wasi.random import BYTES_MAX, INSECURE, INSECURE_SEED, RANDOM


def call(interface: Interface, name: str, *arguments: object, context: Context | None = None):  # type: ignore[no-untyped-def]
    return interface.functions[name].call(context or Context(), *arguments)


def test_every_version_of_0_2_finds_the_same_interface() -> None:
    host = Interfaces(interfaces())
    assert host.find("wasi:cli/environment@0.2.0") is host.find("wasi:cli/environment@0.2.12")
    assert host.find("wasi:cli/environment@0.2.0") is cli.ENVIRONMENT
    assert host.find("wasi:cli/environment@0.3.0") is None
    preview1 = host.core("wasi_snapshot_preview1")
    assert preview1 is not None
    assert len(preview1.functions) == 46


def test_nothing_is_granted_by_default() -> None:
    assert list(call(cli.ENVIRONMENT, "get-environment")) == []
    assert list(call(cli.ENVIRONMENT, "get-arguments")) == []
    assert call(cli.ENVIRONMENT, "initial-cwd") is None
    with pytest.raises(Err):
        call(cli.STDIN, "get-stdin").read(1)
    stdout = call(cli.STDOUT, "get-stdout")
    assert stdout.check_write() > 0
    stdout.write(b"nobody reads this")


def test_environment_and_arguments_are_the_contexts() -> None:
    context = Context(environ=[("A", "1")], arguments=["prog", "x"], directory="/")
    assert call(cli.ENVIRONMENT, "get-environment", context=context) == [("A", "1")]
    assert call(cli.ENVIRONMENT, "get-arguments", context=context) == ["prog", "x"]
    assert call(cli.ENVIRONMENT, "initial-cwd", context=context) == "/"


@pytest.mark.parametrize(("result", "status"), [(Ok(), 0), (None, 0), (Err(), 1)])
def test_exit_carries_a_status(result: object, status: int) -> None:
    with pytest.raises(Exit) as caught:
        call(cli.EXIT, "exit", result)
    assert caught.value.status == status
    assert isinstance(caught.value, Trap)


def test_exit_with_code_carries_the_code() -> None:
    with pytest.raises(Exit) as caught:
        call(cli.EXIT, "exit-with-code", 42)
    assert caught.value.status == 42


def test_standard_streams_are_the_contexts() -> None:
    out, err = Pipe(), Pipe()
    context = Context(stdin=BytesSource(b"in"), stdout=out, stderr=err)
    assert call(cli.STDIN, "get-stdin", context=context).read(10) == b"in"
    call(cli.STDOUT, "get-stdout", context=context).blocking_write_and_flush(b"out")
    call(cli.STDERR, "get-stderr", context=context).blocking_write_and_flush(b"err")
    assert (out.read_nowait(9), err.read_nowait(9)) == (b"out", b"err")


def test_each_standard_input_goes_on_where_the_last_one_stopped() -> None:
    context = Context(stdin=BytesSource(b"abc"))
    first = call(cli.STDIN, "get-stdin", context=context)
    assert first.read(1) == b"a"
    first.drop()
    assert call(cli.STDIN, "get-stdin", context=context).read(9) == b"bc"


def test_a_stream_taken_before_the_event_reads_the_events_input() -> None:
    context = Context()
    stream = call(cli.STDIN, "get-stdin", context=context)
    context.stdin = BytesSource(b"event")
    assert stream.read(9) == b"event"


def test_there_is_no_terminal() -> None:
    assert call(cli.TERMINAL_STDIN, "get-terminal-stdin") is None
    assert call(cli.TERMINAL_STDOUT, "get-terminal-stdout") is None
    assert call(cli.TERMINAL_STDERR, "get-terminal-stderr") is None


# Random


@pytest.mark.parametrize(
    ("interface", "name"),
    [(RANDOM, "get-random-bytes"), (INSECURE, "get-insecure-random-bytes")],
)
def test_random_bytes_are_as_many_as_asked_for_and_differ(interface: Interface, name: str) -> None:
    assert call(interface, name, 0) == b""
    first, second = call(interface, name, 32), call(interface, name, 32)
    assert len(first) == len(second) == 32
    assert first != second
    for length in (BYTES_MAX + 1, 2**40, 2**64 - 1):
        with pytest.raises(Trap):
            call(interface, name, length)


def test_random_numbers_have_64_bits() -> None:
    context = Context(random=lambda n: b"\xff" * n)
    assert call(RANDOM, "get-random-u64", context=context) == 2**64 - 1
    assert call(INSECURE, "get-insecure-random-u64", context=context) == 2**64 - 1
    assert call(INSECURE_SEED, "insecure-seed", context=context) == (2**64 - 1, 2**64 - 1)
