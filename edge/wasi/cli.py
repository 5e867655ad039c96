"""wasi:cli@0.2: arguments, environment, standard streams, exit. There is never a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn, final

from edge.engine.host import Err, Interface, Trap
from edge.wasi.context import Context
from edge.wasi.io import STREAMS, InputStream, OutputStream

__all__ = [
    "ENVIRONMENT",
    "EXIT",
    "STDERR",
    "STDIN",
    "STDOUT",
    "TERMINAL_INPUT",
    "TERMINAL_OUTPUT",
    "TERMINAL_STDERR",
    "TERMINAL_STDIN",
    "TERMINAL_STDOUT",
    "Exit",
]


@final
class Exit(Trap):
    """The guest ended itself. `status` 0 is success, for whom an exit is an answer."""

    def __init__(self, status: int) -> None:
        super().__init__(f"exit with status {status}")
        self.status = status


class _Terminal:
    """No guest ever gets one; the interfaces name its type."""

    __slots__ = ()


def _environment(context: Context) -> Sequence[tuple[str, str]]:
    return context.environ


def _arguments(context: Context) -> Sequence[str]:
    return context.arguments


def _initial_cwd(context: Context) -> str | None:
    return context.directory


def _exit(_context: Context, status: object) -> NoReturn:
    raise Exit(1 if isinstance(status, Err) else 0)


def _exit_with_code(_context: Context, code: int) -> NoReturn:
    raise Exit(code)


def _stdin(context: Context) -> InputStream:
    return InputStream(context.stdin)


def _stdout(context: Context) -> OutputStream:
    return OutputStream(context.stdout)


def _stderr(context: Context) -> OutputStream:
    return OutputStream(context.stderr)


def _no_terminal(_context: Context) -> None:
    return None


ENVIRONMENT = Interface(
    """interface wasi:cli/environment@0.2 {
      get-environment: func() -> list<tuple<string, string>>;
      get-arguments: func() -> list<string>;
      initial-cwd: func() -> option<string>;
    }""",
    functions={
        "get-environment": _environment,
        "get-arguments": _arguments,
        "initial-cwd": _initial_cwd,
    },
)

EXIT = Interface(
    """interface wasi:cli/exit@0.2 {
      exit: func(status: result);
      exit-with-code: func(status-code: u8);
    }""",
    functions={"exit": _exit, "exit-with-code": _exit_with_code},
)

STDIN = Interface(
    """interface wasi:cli/stdin@0.2 {
      use wasi:io/streams@0.2.{input-stream};
      get-stdin: func() -> input-stream;
    }""",
    uses=(STREAMS,),
    functions={"get-stdin": _stdin},
)

STDOUT = Interface(
    """interface wasi:cli/stdout@0.2 {
      use wasi:io/streams@0.2.{output-stream};
      get-stdout: func() -> output-stream;
    }""",
    uses=(STREAMS,),
    functions={"get-stdout": _stdout},
)

STDERR = Interface(
    """interface wasi:cli/stderr@0.2 {
      use wasi:io/streams@0.2.{output-stream};
      get-stderr: func() -> output-stream;
    }""",
    uses=(STREAMS,),
    functions={"get-stderr": _stderr},
)

TERMINAL_INPUT = Interface(
    "interface wasi:cli/terminal-input@0.2 { resource terminal-input; }",
    resources={"terminal-input": _Terminal},
)

TERMINAL_OUTPUT = Interface(
    "interface wasi:cli/terminal-output@0.2 { resource terminal-output; }",
    resources={"terminal-output": _Terminal},
)

TERMINAL_STDIN = Interface(
    """interface wasi:cli/terminal-stdin@0.2 {
      use wasi:cli/terminal-input@0.2.{terminal-input};
      get-terminal-stdin: func() -> option<terminal-input>;
    }""",
    uses=(TERMINAL_INPUT,),
    functions={"get-terminal-stdin": _no_terminal},
)

TERMINAL_STDOUT = Interface(
    """interface wasi:cli/terminal-stdout@0.2 {
      use wasi:cli/terminal-output@0.2.{terminal-output};
      get-terminal-stdout: func() -> option<terminal-output>;
    }""",
    uses=(TERMINAL_OUTPUT,),
    functions={"get-terminal-stdout": _no_terminal},
)

TERMINAL_STDERR = Interface(
    """interface wasi:cli/terminal-stderr@0.2 {
      use wasi:cli/terminal-output@0.2.{terminal-output};
      get-terminal-stderr: func() -> option<terminal-output>;
    }""",
    uses=(TERMINAL_OUTPUT,),
    functions={"get-terminal-stderr": _no_terminal},
)
