"""Whether guests can run here at all: a tiny one that comes with the node is run, in a fresh
sandbox as every other.

Knows nothing of applications: what is wrong with one of them is no reason to restart the node.
"""

from __future__ import annotations

from dataclasses import replace

from edge.application.options import Options
from edge.engine import guest
from edge.engine.cache import CodeCache
from edge.errors import Overloaded
from edge.invocation.admission import Budget
from edge.invocation.run import Run, start
from edge.invocation.sandbox import Profile, Sandboxes
from edge.node.node import Node

__all__ = ["SelfTest"]

# Adds up the numbers to 100, and traps unless they are 5050:
#   (module (func (export "_start") (local i32 i32)
#     (loop
#       (local.set 0 (i32.add (local.get 0) (i32.const 1)))
#       (local.set 1 (i32.add (local.get 1) (local.get 0)))
#       (br_if 0 (i32.lt_u (local.get 0) (i32.const 100))))
#     (if (i32.ne (local.get 1) (i32.const 5050)) (then unreachable))))
WASM = bytes.fromhex(
    "0061736d0100000001040160000003020100070a01065f737461727400000a29012701027f03402000"
    "41016a2100200120006a2101200041e400490d000b200141ba27470440000b0b"
)

_MEMORY = 1 << 20


class SelfTest:
    """Call it to run the guest. Raises EdgeError for what keeps it from running."""

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes

    @classmethod
    async def prepare(cls, node: Node) -> SelfTest:
        """Compiles it in this process: it is small, and must not wait for what is not."""
        component = await guest.load(
            WASM, "self-test", node.interfaces, CodeCache(node.engine, None)
        )
        # Not within the budget of the node: where that is used up guests run.
        shared = replace(node.shared, budget=Budget(2 * _MEMORY, slots=1, queue=1))
        profile = Profile("edge", "self-test", Options(memory=_MEMORY, concurrency=1, queue=1))
        return cls(Sandboxes(component, profile, shared))

    async def __call__(self) -> None:
        sandboxes = self._sandboxes
        if not sandboxes.gate.enter():
            await sandboxes.gate.wait()
        try:
            run = start(sandboxes, sandboxes.component.exports["_start"], lambda _: ())
            if isinstance(run, Run):
                await run.finish()
        except Overloaded:
            # The engine has no slot left: its guests hold them, until their deadlines at most.
            return
