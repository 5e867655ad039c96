"""Whatever the bytes: a plan that holds together or a ComponentError, and soon."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from functools import cache

import pytest
from test_loader import CALLER, GREETER, WORLD, log_interface
from wat import assemble, component_of, compose, dummy_module

from edge.engine.binary import Reader
from edge.engine.coremodule import parse_module
from edge.engine.host import Interface, Interfaces
from edge.engine.loader import load_plan
from edge.engine.plan import (
    CoreItem,
    GuestCall,
    HostCall,
    InstanceExport,
    Missing,
    Options,
    Plan,
    ResourceDrop,
    ResourceNew,
    ResourceRep,
    Trampoline,
)
from edge.engine.types import DefinedResource
from edge.errors import ComponentError

CASES = int(os.environ.get("EDGE_FUZZ_CASES", "3000"))
SECONDS = 5  # for one binary of a few KB, on a slow machine; usual is a millisecond

PREAMBLE = b"\0asm\x0d\0\x01\0"
HANDLER = Interface("interface demo:x/handler@0.2 { other: func(); }", guest=True)


def outcome(binary: bytes) -> Plan | ComponentError:
    started = time.process_time()
    try:
        result: Plan | ComponentError = load_plan(binary, Interfaces([log_interface()]), (HANDLER,))
    except ComponentError as exc:
        result = exc
    if isinstance(result, ComponentError):
        assert len(result.message) < 2000
        assert result.message.isprintable()
    assert time.process_time() - started < SECONDS
    return result


# --- mutations of real binaries -------------------------------------------------------------------


@cache
def seeds() -> tuple[bytes, ...]:
    component = component_of(WORLD, "app")
    composed = compose(assemble(CALLER), greeter=assemble(GREETER))
    return component, dummy_module(WORLD, "app"), composed, assemble(GREETER)


Mutation = Callable[[random.Random, bytearray, int], None]


def flip(chance: random.Random, data: bytearray, at: int) -> None:
    data[at] ^= 1 << chance.randrange(8)


def replace(chance: random.Random, data: bytearray, at: int) -> None:
    data[at] = chance.choice((0, 1, 2, 0x3F, 0x40, 0x7F, 0x80, 0xFF, chance.randrange(256)))


def delete(chance: random.Random, data: bytearray, at: int) -> None:
    del data[at : at + chance.randrange(1, 9)]


def insert(chance: random.Random, data: bytearray, at: int) -> None:
    data[at:at] = chance.randbytes(chance.randrange(1, 5))


def copy(chance: random.Random, data: bytearray, at: int) -> None:
    source, size = chance.randrange(len(data)), chance.randrange(1, 40)
    data[at : at + size] = data[source : source + size]


def truncate(chance: random.Random, data: bytearray, at: int) -> None:
    del data[at:]


def mutated(chance: random.Random) -> bytes:
    data = bytearray(chance.choice(seeds()))
    mutations: tuple[Mutation, ...] = (flip, flip, replace, replace, delete, insert, copy)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        chance.choice(mutations)(chance, data, chance.randrange(8, len(data)))
    if chance.random() < 0.02:
        truncate(chance, data, chance.randrange(8, len(data)))
    return bytes(data)


def test_a_mutated_binary_gives_a_sound_plan_or_an_error() -> None:
    plans = 0
    for case in range(CASES):
        chance = random.Random(case)
        result = outcome(mutated(chance))
        if isinstance(result, Plan):
            check(result)
            plans += 1
    assert plans > CASES // 100, "the mutations spare too little to test anything"


def test_the_seeds_are_sound() -> None:
    for binary in seeds():
        result = outcome(binary)
        assert isinstance(result, Plan)
        check(result)


def check(plan: Plan) -> None:
    """What `Plan` promises: every index in bounds, every item of the kind its place needs."""
    modules = [parse_module(binary) for binary in plan.modules]

    def core(item: CoreItem, instances: int) -> None:
        if isinstance(item, Trampoline):
            assert 0 <= item.index < len(plan.trampolines)
        else:
            guest(item, None, instances)

    def guest(item: InstanceExport | None, kind: str | None, instances: int) -> None:
        if item is not None:
            assert 0 <= item.instance < instances
            found, _ = modules[plan.instances[item.instance].module].exports[item.name]
            assert kind in (None, found)

    def options(given: Options) -> None:
        guest(given.memory, "memory", len(plan.instances))
        guest(given.realloc, "func", len(plan.instances))
        guest(given.post_return, "func", len(plan.instances))
        assert given.realloc is None or given.memory is not None

    for index, instance in enumerate(plan.instances):
        assert len(instance.imports) == len(modules[instance.module].imports)
        for item in instance.imports:
            core(item, index)
    for trampoline in plan.trampolines:
        if isinstance(trampoline, HostCall | GuestCall):
            options(trampoline.options)
        if isinstance(trampoline, GuestCall):
            assert 0 <= trampoline.lift < len(plan.lifts)
        if isinstance(trampoline, ResourceNew | ResourceRep | ResourceDrop) and isinstance(
            trampoline.resource, DefinedResource
        ):
            assert 0 <= trampoline.resource.id < len(plan.resources)
        if not isinstance(trampoline, Missing):
            assert 0 <= getattr(trampoline, "component", 0) < plan.components
    for lift in plan.lifts:
        guest(lift.core, "func", len(plan.instances))
        options(lift.options)
        assert 0 <= lift.component < plan.components
    for resource in plan.resources:
        guest(resource.destructor, "func", len(plan.instances))
        assert 0 <= resource.component < plan.components
    for item in plan.initialize:
        guest(item, "func", len(plan.instances))
    assert set(plan.exports.values()) <= set(range(len(plan.lifts)))


# --- small files that ask for much ----------------------------------------------------------------


def refused(binary: bytes) -> str:
    result = outcome(binary)
    assert isinstance(result, ComponentError)
    return result.message


def test_types_that_double_at_each_step_are_refused() -> None:
    types = ["(type $t0 (tuple u8 u8))"]
    types += [f"(type $t{i} (tuple $t{i - 1} $t{i - 1}))" for i in range(1, 64)]
    assert "a type is too large" in refused(assemble(f"(component {' '.join(types)})"))


def test_types_nested_without_end_are_refused() -> None:
    types = ["(type $t0 (list u8))"]
    types += [f"(type $t{i} (list $t{i - 1}))" for i in range(1, 2000)]
    assert "nested too deeply" in refused(assemble(f"(component {' '.join(types)})"))


def test_components_nested_without_end_are_refused() -> None:
    text = "(component " * 60 + ")" * 60
    assert "nested too deeply" in refused(assemble(text))


def test_instance_types_nested_without_end_are_refused() -> None:
    text = "(type (instance " * 45 + "))" * 45
    assert "nested too deeply" in refused(assemble(f"(component {text})"))


def test_instances_that_double_at_each_step_are_refused() -> None:
    steps = ["(component $c0)"]
    for step in range(1, 24):
        below = step - 1
        steps.append(
            f"""(component $c{step} (alias outer 1 {below} (component $c))
                (instance (instantiate $c)) (instance (instantiate $c)))"""
        )
    text = f"(component {' '.join(steps)} (instance (instantiate $c23)))"
    assert "it is too large" in refused(assemble(text))


def test_core_instances_without_end_are_refused() -> None:
    text = "(core instance (instantiate $m)) " * 2000
    assert "more than 1000 core instances" in refused(
        assemble(f"(component (core module $m) {text})")
    )


def test_a_component_that_contains_itself_is_refused() -> None:
    text = """
      (component
        (component $c (alias outer 1 0 (component $c)) (instance (instantiate $c)))
        (instance (instantiate $c)))
    """
    assert "nested too deeply" in refused(assemble(text))


def test_many_functions_of_large_types_are_refused() -> None:
    fields = " ".join(f'(field "f{i}" string)' for i in range(3000))
    lowered = '(core func (canon lower (func $f) (memory (core memory $i "m")))) ' * 2000
    text = f"""
      (component
        (core module $m (memory (export "m") 1))
        (core instance $i (instantiate $m))
        (type $r (record {fields}))
        (import "r" (type $s (eq $r)))
        (import "f" (func $f (param "x" $s)))
        {lowered})
    """
    assert "it is too large" in refused(assemble(text))


def leb(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def section(code: int, content: bytes) -> bytes:
    return bytes([code]) + leb(len(content)) + content


@pytest.mark.parametrize("code", range(2, 13))
def test_a_count_larger_than_the_file_is_refused_at_once(code: int) -> None:
    assert refused(PREAMBLE + section(code, b"\xff\xff\xff\xff\x0f"))


def test_more_items_than_a_budget_are_refused() -> None:
    count = 1_100_000
    instances = b"\x01\x00" * count  # empty instances made of nothing
    binary = PREAMBLE + section(5, leb(count) + instances)
    assert "too many items" in refused(binary)


def test_names_in_errors_are_short_and_printable() -> None:
    long = "x" * 90_000
    assert (
        len(
            refused(
                assemble(
                    f'(component (core module $m (import "{long}" "f" (func)))'
                    " (core instance (instantiate $m)))"
                )
            )
        )
        < 2000
    )
    assert refused(
        assemble(
            '(component (core module $m (import "a\\0a\\1b[2Jb" "f" (func)))'
            " (core instance (instantiate $m)))"
        )
    )


@pytest.mark.parametrize("data", [b"\x80" * 20, b"\xff\xff\xff\xff\x1f", b"\x80", b""])
def test_a_number_that_is_too_long_or_cut_is_refused(data: bytes) -> None:
    with pytest.raises(ComponentError):
        Reader(data).u32()
    if len(data) != 5:
        with pytest.raises(ComponentError):
            Reader(data).s33()


@pytest.mark.parametrize("value", [0, 1, 63, 64, 127, 128, 16383, 16384, 2**31, 2**32 - 1])
def test_numbers_are_read_as_they_are_written(value: int) -> None:
    assert Reader(leb(value)).u32() == value
    for padded in range(1, 6 - len(leb(value))):
        long = bytes([*leb(value)[:-1], leb(value)[-1] | 0x80, *[0x80] * (padded - 1), 0])
        assert Reader(long).u32() == value
