"""Sizes Wasmtime's pooling allocator for the address space this process has.

A Raspberry Pi kernel with 4 KiB pages gives a process 39 bits of addresses, others 47. One slot (a
guest memory with its guard) takes a little over 4 GiB of them, of which only touched pages cost
memory. Wasmtime aborts the process when a pool does not fit, so the room is tried first.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
from dataclasses import dataclass, replace

GIB = 1 << 30
MIB = 1 << 20

# 4 GiB keep bounds checks out of the guests' code: every 32-bit address lies in the slot or its
# guard.
SLOT_RESERVATION = 4 * GIB
SLOT_GUARD = 32 * MIB  # Wasmtime's default on 64-bit machines

# Tried in this order. 256 slots are 1 TiB; 64 are 258 GiB, half of a 39-bit space: the rest is for
# libraries, compiled code, stacks and the interpreter's heap.
SLOT_CHOICES = (256, 128, 64, 32, 16, 8)

# Bounds what else lives in the pool, per slot. A componentize-py guest takes 14 core instances and
# tables.
INSTANCES_PER_SLOT = 16
TABLES_PER_SLOT = 16
TABLE_ELEMENTS = 50_000  # a componentize-py guest has about 15,000

# Bytecode of Wasmtime's own, for a machine of its own: needs no executable memory.
INTERPRETER = "pulley64"

_log = logging.getLogger("edge.engine")


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """What `Engine` is made with. Sizes in bytes. `slots` 0: no pool, memories are mapped one by
    one.
    """

    slots: int
    stacks: int = 0
    core_instances: int = 0
    tables: int = 0
    core_instance_size: int = 4 * MIB
    tables_per_module: int = 8
    memories_per_module: int = 4
    table_elements: int = TABLE_ELEMENTS
    max_memory: int = SLOT_RESERVATION
    warm_slots: int = 64
    # What a slot keeps resident when its instance ends. It is cleared by hand then: 1 MiB costs 16
    # µs for each invocation. With 128 KiB a body of 64 KiB costs a third less than with 64 KiB, and
    # an empty one 1 µs more.
    memory_keep: int = 128 << 10
    table_keep: int = 64 << 10
    stack_keep: int = 64 << 10
    wasm_stack: int = 512 << 10
    fiber_stack: int = 2 * MIB  # guest frames and, above them, the host function's Python
    host_stack: int = 640 << 10  # left for Python, however deep guests and host call each other
    target: str = ""  # what code is made for: this processor, or INTERPRETER


def options_for(slots: int) -> PoolOptions:
    """The options of a pool of so many slots."""
    return replace(
        PoolOptions(slots),
        stacks=slots,
        core_instances=slots * INSTANCES_PER_SLOT,
        tables=slots * TABLES_PER_SLOT,
        warm_slots=min(64, slots),
    )


def fitting_options() -> PoolOptions:
    """The largest pool that fits the address space of this process, tried by reserving it."""
    for slots in SLOT_CHOICES:
        options = options_for(slots)
        if _fit(reservations(options)):
            return options
    _log.warning(
        "the address space is too small for a pool: each invocation maps its memory, slowly"
    )
    return PoolOptions(0)


def reservations(options: PoolOptions) -> list[int]:
    """Bytes of each range of addresses a pool takes, and of one for the rest of the process: half
    as much again.

    Apart, because libraries and the program itself cut a 39-bit space in pieces: the largest
    can be 340 GiB.
    """
    memories = options.slots * (options.max_memory + SLOT_GUARD)
    tables = options.tables * options.table_elements * 8
    stacks = options.stacks * (options.fiber_stack + mmap.PAGESIZE)
    return [memories, tables, stacks, (memories + tables + stacks) // 2]


def _fit(sizes: list[int]) -> bool:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    with contextlib.ExitStack() as reserved:
        try:
            for size in sizes:
                reserved.enter_context(mmap.mmap(-1, size, flags=flags, prot=0))
        except (OSError, OverflowError):
            return False
    return True
