"""The pool fits the address space, whatever that is: tried in processes with less of it."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from wat import assemble

from edge.engine import runtime
from edge.engine._core import Engine, Module
from edge.engine.pool import GIB, SLOT_CHOICES, options_for, reservations

PROGRAM = """
import logging, sys
logging.basicConfig(format="%(message)s")
from guests import Item, host_of, run, written
from wat import assemble
from edge.engine import runtime
from edge.engine._core import Code, Instance, Module, counters
from edge.engine.guest import Bindings
from edge.engine.host import Interfaces
from edge.engine.loader import load_plan
from edge.engine.renewal import exposed

engine = runtime.create_engine()
body = '''(func (export "go") (param i32) (result i32)
  (drop (memory.grow (i32.const 10))) (i32.store (i32.const 700000) (local.get 0))
  (i32.load (i32.const 700000)))'''
go = Item("go", '(param "x" u32) (result u32)')
host = Interfaces([host_of([], {})])
plan = load_plan(assemble(written(body, [], [go])), host)
modules = [Module.compile(engine, wasm) for wasm in exposed(plan)]
code = Code(plan, modules, Bindings(plan, host))
made = []
try:
    for n in range(60):
        made.append(Instance.create(code, None, 1 << 20))
        assert run(made[-1], "go", n) == n
except MemoryError as exc:
    print(exc, file=sys.stderr)
print(engine.options.slots, len(made))
for each in made:
    each.close()
assert not any(counters().values())
"""


def process(limit: int) -> tuple[int, int, str]:
    """In so many bytes of addresses: slots of the pool, instances at once (at most 60), stderr."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parent, preexec_fn=limited,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    slots, instances = done.stdout.split()
    return int(slots), int(instances), done.stderr


def test_39_bits_are_64_slots() -> None:
    slots, instances, errors = process(1 << 39)
    assert slots == 64
    assert instances == 60
    assert not errors


@pytest.mark.parametrize("bits", [36, 37, 38, 40, 42])
def test_what_fits_is_used(bits: int) -> None:
    slots, instances, errors = process(1 << bits)
    assert slots == {36: 8, 37: 16, 38: 32, 40: 128, 42: 256}[bits]
    assert instances == min(60, slots)
    assert not errors or "pool is full" in errors


def test_without_room_for_a_pool_memories_are_mapped_one_by_one() -> None:
    slots, instances, errors = process(24 * GIB)
    assert slots == 0
    assert instances > 0
    assert "too small for a pool" in errors


def test_a_pool_leaves_half_as_much_for_the_rest() -> None:
    for slots in SLOT_CHOICES:
        *pool, rest = reservations(options_for(slots))
        assert rest == sum(pool) // 2
        assert pool[0] > slots * 4 * GIB


def test_an_engine_ends_with_its_thread_and_its_addresses() -> None:
    def taken() -> tuple[int, int]:
        status = Path("/proc/self/status").read_text()
        numbers = dict(line.split(":\t") for line in status.splitlines())
        return int(numbers["Threads"]), int(numbers["VmSize"].split()[0]) >> 20  # GiB

    def make() -> tuple[Engine, Module]:
        made = runtime.create_engine(options_for(8))
        return made, Module.compile(made, assemble('(module (func (export "f")))'))

    make()  # the compiler's own threads stay
    before = taken()
    for _ in range(3):
        made, module = make()
        assert taken()[0] == before[0] + 1
        assert taken()[1] >= before[1] + 32
        del made
        assert taken()[0] == before[0] + 1  # a module keeps its engine
        del module
        # Who joins a thread goes on a moment before the kernel has taken it off the list.
        within = time.monotonic() + 5
        while taken()[0] != before[0] and time.monotonic() < within:
            time.sleep(0.001)
        assert taken()[0] == before[0]
        assert taken()[1] <= before[1] + 1
