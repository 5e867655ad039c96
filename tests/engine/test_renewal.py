"""A renewed instance is as it was made: memory, globals, tables, handles; or it is not renewed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from guests import HOST, MEMORY, SPIN, THING_EXPORT, Item, host_of, ready, run, written
from wat import assemble, wasm_tools

from edge.engine._core import Code, Instance, globals_set
from edge.engine.coremodule import CODE, parse_module
from edge.engine.host import Trap
from edge.engine.renewal import GLOBALS_MAX, PREFIX, exposed

PAGE = 65_536
TICK = Item("tick")

# What it is given is added to three globals and to a word at each of a few places: in the image, in
# what a slot of the pool keeps resident, far beyond. All that it finds there is its result.
PLACES = (64, 70_000, 250_000, 400_000, 1_000_000)
COUNTING = f"""
  (global $a (mut i32) (i32.const 1)) (global $b (mut i64) (i64.const 2))
  (global $c (export "c") (mut f64) (f64.const 3))
  (func (export "go") (param i32) (result i32) (local i32)
    (local.set 1 (i32.add (global.get $a)
      (i32.add (i32.wrap_i64 (global.get $b)) (i32.trunc_f64_s (global.get $c)))))
    (global.set $a (i32.add (global.get $a) (local.get 0)))
    (global.set $b (i64.add (global.get $b) (i64.extend_i32_u (local.get 0))))
    (global.set $c (f64.add (global.get $c) (f64.convert_i32_u (local.get 0))))
    {
    " ".join(
        f'''(local.set 1 (i32.add (local.get 1) (i32.load (i32.const {place}))))
    (i32.store (i32.const {place}) (i32.add (i32.load (i32.const {place})) (local.get 0)))'''
        for place in PLACES
    )
}
    (local.get 1))
"""
FIRST = 1 + 2 + 3 + 1000 + 50  # of the image and the start function, see `counting`


def code_of(
    body: str,
    calls: dict[str, Callable[..., Any]] | None = None,
    data: str = '(data (i32.const 250000) "\\e8\\03")',
) -> Code:
    """A component of two core instances; `calls`: what may be called as `$tick`."""
    imported = f'(import "{HOST}" (instance $host (export "tick" (func))))' if calls else ""
    lowered = '(core func $tick (canon lower (func $host "tick")))' if calls else ""
    given = '(with "host" (instance (export "tick" (func $tick))))' if calls else ""
    tick = '(import "host" "tick" (func $tick))' if calls else ""
    text = f"""
      (component {imported} {lowered}
        (core module $Libc (memory (export "memory") 20) {data})
        (core instance $libc (instantiate $Libc))
        (core module $Main {tick} (import "libc" "memory" (memory 20)) {body})
        (core instance $main (instantiate $Main (with "libc" (instance $libc)) {given}))
        (func (export "go") (param "x" u32) (result u32)
          (canon lift (core func $main "go") (memory (core memory $libc "memory")))))"""
    host = host_of((TICK,) if calls else (), calls or {})
    return ready(assemble(text), host)


def counting(extra: str = "") -> Code:
    start = "(func $start (i32.store (i32.const 400000) (i32.const 50))) (start $start)"
    return code_of(f"{COUNTING} {start} {extra}")


@pytest.fixture
def made() -> Iterator[Callable[..., Instance]]:
    """Makes instances of which the code has learned what their invocations write."""
    instances = []

    def make(code: Code, context: object = None, memory: int = MEMORY) -> Instance:
        for _ in range(3):
            learning = Instance.create(code, context, memory)
            run(learning, "go", 0)
            learning.close()
        instances.append(Instance.create(code, context, memory))
        return instances[-1]

    yield make
    for instance in instances:
        instance.close()


Make = Callable[..., Instance]


def test_nothing_is_left_of_an_event(made: Make) -> None:
    instance = made(counting())
    for number in range(1, 20):
        assert run(instance, "go", number) == FIRST
        assert run(instance, "go", 0) == FIRST + 8 * number
        assert instance.renew(None)


def test_siblings_are_renewed_to_the_same(made: Make) -> None:
    code = counting()
    first, second = made(code), made(code)
    for instance in (first, second, first, second):
        assert run(instance, "go", 7) == FIRST
        assert instance.renew(None)


def test_a_page_that_no_event_wrote_before(made: Make) -> None:
    body = """(func (export "go") (param i32) (result i32)
      (i32.load (local.get 0)) (i32.store (local.get 0) (i32.const 99)))"""
    instance = made(code_of(body))
    for place in (250_000, 300_000, 600_000, 20 * PAGE - 4):
        expected = 1000 if place == 250_000 else 0
        for _ in range(3):
            assert run(instance, "go", place) == expected
            assert instance.renew(None)


def test_pages_that_many_events_left_alone_are_still_what_they_were(made: Make) -> None:
    """They become the image's again, but where it has something else: what the start wrote."""
    body = """(func $start (i32.store (i32.const 90000) (i32.const 50))) (start $start)
      (func (export "go") (param i32) (result i32)
        (i32.load (local.get 0))
        (if (local.get 0) (then (i32.store (local.get 0) (i32.const 99)))))"""
    code = code_of(
        body, data='(data (i32.const 250000) "\\e8\\03") (data (i32.const 40000) "\\07")'
    )
    first, second = made(code), made(code)
    for place, expected in ((64, 0), (40_000, 7), (70_000, 0), (90_000, 50), (250_000, 1000)):
        for instance in (first, second):
            for _ in range(40):
                assert run(instance, "go", 0) == 0
                assert instance.renew(None)
            for _ in range(2):
                assert run(instance, "go", place) == expected
                assert instance.renew(None)


class Thing:
    dropped = 0

    def drop(self) -> None:
        Thing.dropped += 1


def test_handles_begin_anew_and_what_they_named_is_dropped(made: Make) -> None:
    make = Item("make", "(result (own $thing))", "(result i32)", "func() -> thing")
    go = Item("go", '(param "x" u32) (result u32)')
    body = '(func (export "go") (param i32) (result i32) (call $make))'
    text = written(body, [make], [go], host_types=THING_EXPORT)
    host = host_of([make], {"make": lambda _: Thing()}, "resource thing {}", {"thing": Thing})
    instance = made(ready(assemble(text), host))
    for _ in range(3):
        before = Thing.dropped
        assert run(instance, "go", 0) == 1
        assert run(instance, "go", 0) == 2
        assert instance.renew(None)
        assert instance.handles == 0
        assert Thing.dropped == before + 2


def test_host_functions_get_the_new_context(made: Make) -> None:
    contexts: list[object] = []
    body = '(func (export "go") (param i32) (result i32) (call $tick) (local.get 0))'
    instance = made(code_of(body, {"tick": contexts.append}), "first")
    assert run(instance, "go", 1) == 1
    assert instance.renew("second")
    assert run(instance, "go", 1) == 1
    assert contexts[-2:] == ["first", "second"]


def test_a_guest_that_asked_the_host_when_it_started_is_not_renewed(made: Make) -> None:
    start = "(func $start (call $tick)) (start $start)"
    code = code_of(COUNTING + start, {"tick": lambda _: None})
    instance = made(code)
    run(instance, "go", 1)
    assert not instance.renew(None)


def test_a_memory_that_grew_is_not_renewed(made: Make) -> None:
    body = '(func (export "go") (param i32) (result i32) (memory.grow (local.get 0)))'
    instance = made(code_of(body))
    run(instance, "go", 0)
    assert instance.renew(None)
    run(instance, "go", 1)
    assert not instance.renew(None)


def test_pages_here_and_there_are_not_given_back_one_by_one(made: Make) -> None:
    """Each is a call that nobody can stop."""
    body = """(func (export "go") (param i32) (result i32) (local i32)
      (if (local.get 0) (then (loop $on
        (i32.store (local.get 1) (i32.const 1))
        (local.set 1 (i32.add (local.get 1) (i32.const 8192)))
        (br_if $on (i32.lt_u (local.get 1) (i32.const 1300000))))))
      (local.get 1))"""
    instance = made(code_of(body))
    run(instance, "go", 0)
    assert instance.renew(None)
    run(instance, "go", 1)
    assert not instance.renew(None)


@pytest.mark.parametrize(("more", "renewable"), [(GLOBALS_MAX - 3, True), (GLOBALS_MAX - 2, False)])
def test_more_globals_than_compilers_make(*, more: int, renewable: bool) -> None:
    names = [f"$more{number}" for number in range(more)]
    code = counting(
        " ".join(f"(global {name} (mut i32) (i32.const 1))" for name in names)
        + " (func "
        + " ".join(f"(global.set {name} (i32.const 2))" for name in names)
        + ")"
    )
    assert (code.plan.globals is not None) == renewable


@pytest.mark.parametrize("ending", ["unreachable", SPIN])
def test_a_guest_that_failed_is_not_renewed(made: Make, ending: str) -> None:
    body = f"""(func (export "go") (param i32) (result i32)
      (if (local.get 0) (then {ending})) (local.get 0))"""
    instance = made(code_of(body))
    call = instance.call(instance.export("go"), (1,))
    try:
        ended = call.poll()
    except Trap:
        ended = True
    call.close()
    assert ended == (ending == "unreachable")
    assert not instance.renew(None)


def test_one_that_may_have_more_memory_is_not_like_the_others(made: Make) -> None:
    code = counting()
    small, large = made(code), made(code, None, 2 * MEMORY)
    assert small.renew(None)
    assert not large.renew(None)


CHANGING = [
    "(table.set $t (i32.const 0) (ref.null func))",
    "(drop (table.grow $t (ref.null func) (i32.const 1)))",
    "(table.fill $t (i32.const 0) (ref.null func) (i32.const 1))",
    "(table.copy $t $t (i32.const 0) (i32.const 1) (i32.const 1))",
    "(table.init $t $e (i32.const 0) (i32.const 0) (i32.const 1))",
    "(elem.drop $e)",
    "(memory.init $d (i32.const 0) (i32.const 0) (i32.const 1))",
    "(data.drop $d)",
]


@pytest.mark.parametrize("instruction", CHANGING)
def test_what_changes_tables_or_segments_is_not_renewed(made: Make, instruction: str) -> None:
    code = counting(f"""(table $t 4 8 funcref) (elem $e func 0) (data $d "x")
      (func (export "other") {instruction})""")
    assert code.plan.globals is None
    instance = made(code)
    run(instance, "go", 0)
    assert not instance.renew(None)


def test_a_global_that_can_not_be_seen_from_outside(made: Make) -> None:
    code = counting(f'(global (export "{PREFIX}0") i32 (i32.const 5))')
    assert code.plan.globals is None
    assert not made(code).renew(None)


def test_globals_of_others_are_found_where_they_are(made: Make) -> None:
    """Two core instances share one."""
    text = """
      (component
        (core module $A (memory (export "memory") 1)
          (global (export "g") (mut i32) (i32.const 5)))
        (core instance $a (instantiate $A))
        (core module $B (import "a" "g" (global $g (mut i32)))
          (import "a" "memory" (memory 1))
          (func (export "go") (param i32) (result i32)
            (global.get $g) (global.set $g (local.get 0))))
        (core instance $b (instantiate $B (with "a" (instance $a))))
        (func (export "go") (param "x" u32) (result u32)
          (canon lift (core func $b "go") (memory (core memory $a "memory")))))"""
    instance = made(ready(assemble(text)))
    for _ in range(3):
        assert run(instance, "go", 8) == 5
        assert instance.renew(None)


# --- reading code ---------------------------------------------------------------------------------


def scanned(binary: bytes) -> list[int] | None:
    outline = parse_module(binary)
    return globals_set(memoryview(binary)[slice(*outline.sections[CODE])], 1000)


KINDS = """
  (module (memory 1) (table $t 2 funcref) (type $f (func (param i32) (result i32)))
    (global $g (mut i32) (i32.const 0)) (global $h (mut i32) (i32.const 0))
    (func $f (type $f) (local v128 f32 f64 i64 i64 funcref externref)
      (block $x (loop $y (br_table $x $y $x (local.get 0)))) (block (result i32) (i32.const 0x24))
      (drop (select (result i32) (i32.const 1) (i32.const -600000) (i32.const 0)))
      (drop (i64.const -0x7fffffffffffffff)) (drop (f32.const 1.5)) (drop (f64.const 36.36))
      (drop (i32.trunc_sat_f64_s (f64.const 1)))
      (memory.fill (i32.const 0) (i32.const 0) (i32.const 0))
      (memory.copy (i32.const 0) (i32.const 0) (i32.const 0)) (drop (table.size $t))
      (drop (table.get $t (i32.const 0))) (drop (ref.is_null (ref.func $f)))
      (drop (ref.null extern))
      (drop (v128.const i64x2 0x2424242424242424 0x2624262426242624))
      (drop (i8x16.shuffle 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 (local.get 1) (local.get 1)))
      (drop (i8x16.extract_lane_s 15 (local.get 1))) (drop (f64x2.add (local.get 1) (local.get 1)))
      (drop (v128.load32_lane offset=38 1 (i32.const 0) (local.get 1)))
      (drop (v128.load64_zero (i32.const 0))) (v128.store (i32.const 0) (local.get 1))
      (drop (f32x4.relaxed_madd (local.get 1) (local.get 1) (local.get 1)))
      (i32.store8 offset=292 (i32.const 0) (i32.const 0)) (drop (memory.grow (i32.const 0)))
      (drop (call $f (i32.const 0))) (drop (call_indirect $t (type $f) (i32.const 0) (i32.const 1)))
      (if (local.get 0) (then (return_call $f (i32.const 38)))) (global.set $h (global.get $g)))
    (elem declare func $f))
"""


def test_instructions_of_all_kinds_are_passed_over() -> None:
    assert scanned(assemble(KINDS)) == [1]


@pytest.mark.parametrize("name", ["hello", "ledger", "store"])
def test_what_real_code_sets_is_found(guest: Callable[[str], Path], name: str) -> None:
    binary = guest(name).with_suffix(".core.wasm").read_bytes()
    text = wasm_tools("print", "-", data=wasm_tools("strip", "--all", "-", data=binary))
    sets = {int(number) for number in re.findall(r"global\.set (\d+)", text.decode())}
    assert sets
    assert scanned(binary) == sorted(sets)


def test_cut_or_altered_code_is_never_read_beyond() -> None:
    """Under a sanitizer this shows reads beyond the section; the result does not matter."""
    binary = assemble(KINDS)
    start, end = parse_module(binary).sections[CODE]
    code = binary[start:end]
    for cut in range(len(code)):
        assert globals_set(memoryview(code)[:cut], 2) is None or not cut
        for byte in (0x00, 0x24, 0x7F, 0x80, 0xFC, 0xFD, 0xFF):
            altered = bytearray(code)
            altered[cut] = byte
            found = globals_set(memoryview(bytes(altered)), 2)
            assert found is None or set(found) <= {0, 1}


def test_modules_without_other_exports_get_an_export_section() -> None:
    code = code_of(COUNTING)
    for binary in exposed(code.plan):
        assert wasm_tools("validate", "-", data=binary) == b""
