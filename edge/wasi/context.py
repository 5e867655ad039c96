# cython: annotation_typing=False, binding=False
"""What one invocation may reach: the object every host function gets. Grants nothing by default."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from edge.wasi.io import SharedSource
from edge.wasi.pipe import BytesSource, NullSink, Sink, Source

if TYPE_CHECKING:
    # Made when a guest asks for them: most never do.
    from edge.wasi.preview1.table import Table
    from edge.wasi.scratch import ScratchDirectory
    from edge.wasi.tree import Tree

__all__ = ["Context"]


class Context:
    """The grants and the state of one invocation.

    `tree`: read-only files, preopened as `/`; `scratch`: bytes of writable files in memory,
    preopened as `/tmp` when not 0; `now`: nanoseconds since 1970; `random`: that many random bytes;
    `outbound`: what may be reached over the network, None: nothing; `platform`: what `edge.spin`
    grants, of which WASI knows nothing. What a guest left behind
    (files, descriptors of preview 1) is gone after `close`, which whoever builds a context calls;
    the context can then serve another event.
    """

    __slots__ = (
        "_stderr",
        "_stdin",
        "_stdout",
        "arguments",
        "directory",
        "environ",
        "now",
        "outbound",
        "platform",
        "random",
        "scratch",
        "scratch_root",
        "table",
        "tree",
    )

    def __init__(
        self,
        *,
        environ: Sequence[tuple[str, str]] = (),
        arguments: Sequence[str] = (),
        directory: str | None = None,
        stdin: Source | None = None,
        stdout: Sink | None = None,
        stderr: Sink | None = None,
        tree: Tree | None = None,
        scratch: int = 0,
        now: Callable[[], int] = time.time_ns,
        random: Callable[[int], bytes] = os.urandom,
        outbound: Any = None,
        platform: Any = None,
    ) -> None:
        self.environ = environ
        self.arguments = arguments
        self.directory = directory
        self._stdin = None if stdin is None else SharedSource(stdin)
        self._stdout = stdout
        self._stderr = stderr
        self.tree = tree
        self.scratch = scratch
        self.scratch_root: ScratchDirectory | None = None  # made when it is first asked for
        self.now = now
        self.random = random
        self.outbound = outbound
        self.platform = platform
        self.table: Table | None = None

    def note(self, text: str) -> None:
        """For the log of who runs the guest: why it was refused something."""

    @property
    def stdin(self) -> Source:
        """Standard input, for any number of streams. May be set once the event is known."""
        if self._stdin is None:
            self._stdin = SharedSource(BytesSource())
        return self._stdin

    @stdin.setter
    def stdin(self, source: Source) -> None:
        if self._stdin is None:
            self._stdin = SharedSource(source)
        else:
            self._stdin.attach(source)

    @property
    def stdout(self) -> Sink:
        """Standard output; what takes it is made when the guest first asks."""
        if self._stdout is None:
            self._stdout = self._opened("stdout")
        return self._stdout

    @stdout.setter
    def stdout(self, sink: Sink) -> None:
        self._stdout = sink

    @property
    def stderr(self) -> Sink:
        if self._stderr is None:
            self._stderr = self._opened("stderr")
        return self._stderr

    @stderr.setter
    def stderr(self, sink: Sink) -> None:
        self._stderr = sink

    def _opened(self, stream: str) -> Sink:
        """What takes a stream that nobody else does."""
        return NullSink()

    def close(self) -> None:
        self.scratch_root = self._stdin = None
        if self.table is not None:
            self.table.close()
            self.table = None
