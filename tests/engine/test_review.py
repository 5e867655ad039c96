"""Hostile binaries and guests that once crashed, hung or filled the host."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from pathlib import Path
from typing import Any

import pytest
from wat import assemble

from edge.cli.common import code_dir
from edge.engine import drive, runtime
from edge.engine._core import Engine, Instance
from edge.engine.cache import CodeCache
from edge.engine.component import MAGIC
from edge.engine.guest import Component, load
from edge.engine.host import Interface, Interfaces, Trap
from edge.engine.loader import load_plan
from edge.engine.pool import options_for
from edge.errors import ComponentError


@pytest.fixture(scope="module")
def engine() -> Engine:
    return runtime.create_engine(options_for(8))


@pytest.fixture
def ready(engine: Engine) -> Any:
    """Loads a component written as text (or a binary) for a host of these interfaces."""

    def make(source: str | bytes, *interfaces: Interface) -> Component:
        binary = source if isinstance(source, bytes) else assemble(source)
        cache = CodeCache(engine, None)
        return asyncio.run(load(binary, "test", Interfaces(interfaces), cache))

    return make


def call(instance: Instance, name: str, *args: object) -> Any:
    """Runs an export to its end."""

    async def run() -> Any:
        call = instance.call(instance.export(name), args)
        try:
            return call.result if call.poll() else await drive.drive(call, drive.Lane())
        finally:
            call.close()

    return asyncio.run(run())


def leb(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out, number = out + bytes([number & 0x7F | 0x80]), number >> 7
    return out + bytes([number])


def section(code: int, content: bytes) -> bytes:
    return bytes([code]) + leb(len(content)) + content


def test_a_component_without_modules_is_refused(ready: Any) -> None:
    with pytest.raises(ComponentError, match="no core module"):
        ready("(component)")


def test_an_alias_of_a_scope_far_outside_is_refused_at_once() -> None:
    alias = b"\x01\x03\x02" + leb(0xFFFFFFFF) + leb(0)
    started = time.monotonic()
    with pytest.raises(ComponentError, match="levels outside"):
        load_plan(MAGIC + section(0x06, alias), Interfaces())
    assert time.monotonic() - started < 20


def test_a_label_of_many_numbers_is_refused_at_once() -> None:
    label = b"a" + b"-1" * 120 + b"!"
    enum = b"\x01\x6d\x01" + leb(len(label)) + label
    started = time.monotonic()
    with pytest.raises(ComponentError, match="kebab"):
        load_plan(MAGIC + section(0x07, enum), Interfaces())
    assert time.monotonic() - started < 20


START = """(component
  (core module $m (memory (export "m") 1) (func (export "f") (param i32)) (func (export "g")))
  (core instance $i (instantiate $m))
  (alias core export $i "m" (core memory $memory))
  (core module $s (type (func (param i32))) (import "" "f" {import_}) (start 0))
  (core instance (instantiate $s (with "" (instance (export "f" {item})))))
  (type $t (func))
  (func (export "g") (type $t) (canon lift (core func $i "g"))))"""


@pytest.mark.parametrize(
    ("import_", "item"),
    [("(func (type 0))", '(func $i "f")'), ("(memory 1)", "(memory $memory)")],
)
def test_what_is_no_start_function_is_not_started(ready: Any, import_: str, item: str) -> None:
    with pytest.raises(ComponentError):
        ready(START.format(import_=import_, item=item))


OFF_FIBER = """(component
  (core module $m (memory (export "m") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (loop (br 0)) unreachable)
    (func (export "take") (param i32 i32))
    (func (export "give") (result i32) (i32.const 0))
    (func (export "post") (param i32) (loop (br 0))))
  (core instance $i (instantiate $m))
  (alias core export $i "m" (core memory $m))
  (type $take (func (param "a" string)))
  (type $give (func (result string)))
  (func (export "take") (type $take)
    (canon lift (core func $i "take") (memory $m) (realloc (core func $i "realloc"))))
  (func (export "give") (type $give)
    (canon lift (core func $i "give") (memory $m) (post-return (core func $i "post")))))"""


@pytest.mark.parametrize(("name", "args"), [("take", ("text",)), ("give", ())])
def test_allocating_or_cleaning_up_for_ever_is_a_trap(
    ready: Any, name: str, args: tuple[str, ...]
) -> None:
    instance = ready(OFF_FIBER).instantiate(None, 1 << 20)
    time.sleep(0.1)  # the ticker sleeps
    with pytest.raises(Trap, match="ran too long"):
        call(instance, name, *args)
    instance.close()


def test_many_instances_of_a_module_with_many_imports_are_refused_soon() -> None:
    names = range(5_000)
    imports = "".join(f'(import "" "{n}" (func))' for n in names)
    exports = "".join(f'(export "{n}" (func $a "f"))' for n in names)
    users = '(core instance (instantiate $m (with "" (instance $all))))' * 900
    text = f"""(component (core module $a (func (export "f"))) (core instance $a (instantiate $a))
      (core module $m {imports}) (core instance $all {exports}) {users})"""
    started = time.monotonic()
    with pytest.raises(ComponentError, match="too large"):
        load_plan(assemble(text), Interfaces())
    assert time.monotonic() - started < 60


def test_a_core_module_with_many_unknown_imports_loads_soon(ready: Any) -> None:
    imports = "".join(f'(import "x" "{n}" (func))' for n in range(10_000))
    binary = assemble(f"(module {imports})")
    started = time.monotonic()
    ready(binary)
    assert time.monotonic() - started < 60


def test_the_layout_of_a_deep_type_is_computed_once(ready: Any) -> None:
    nested = "".join(f"(type $t{n} (tuple $t{n - 1}))" for n in range(1, 98))
    text = f"""(component
      (core module $m (memory (export "m") 1) (func (export "f") (result i32) (i32.const 0)))
      (core instance $i (instantiate $m))
      (alias core export $i "m" (core memory $m))
      (type $t0 (tuple {"u8 " * 9_000})) {nested}
      (type $f (func (result $t97)))
      (func (export "f") (type $f) (canon lift (core func $i "f") (memory $m))))"""
    binary = assemble(text)
    started = time.monotonic()
    ready(binary)
    assert time.monotonic() - started < 20


AMPLIFIED = """(component
  (component $b
    (core module $m (memory (export "m") 1) (func (export "f") (param i32 i32))
      (func (export "realloc") (param i32 i32 i32 i32) (result i32) unreachable))
    (core instance $i (instantiate $m))
    (alias core export $i "m" (core memory $m))
    (type $e (tuple {elements}))
    (type $l (list $e))
    (type $f (func (param "a" $l)))
    (func (export "f") (type $f)
      (canon lift (core func $i "f") (memory $m) (realloc (core func $i "realloc")))))
  (instance $b (instantiate $b))
  (core module $memory (memory (export "m") 900))
  (core instance $memory (instantiate $memory))
  (alias core export $memory "m" (core memory $m))
  (alias export $b "f" (func $f))
  (core func $f (canon lower (func $f) (memory $m)))
  (core module $n (import "" "f" (func $f (param i32 i32)))
    (func (export "go") (call $f (i32.const 0) (i32.const {count}))))
  (core instance $n (instantiate $n (with "" (instance (export "f" (func $f))))))
  (type $go (func))
  (func (export "go") (type $go) (canon lift (core func $n "go"))))"""


def test_few_bytes_can_not_become_many_objects(ready: Any) -> None:
    text = AMPLIFIED.format(elements="(result) " * 4_000, count=4_000)
    instance = ready(text).instantiate(None, 128 << 20)
    started = time.monotonic()
    with pytest.raises(Trap, match="too large"):
        call(instance, "go")
    assert time.monotonic() - started < 20
    instance.close()


SLOW_ALLOCATOR = """(component
  (import "a:b/c@0.1.0" (instance $c (export "get" (func (result (list string))))))
  (core module $memory (memory (export "m") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (local $i i32)
      (if (i32.ne (local.get 2) (i32.const 1)) (then (return (i32.const 65504))))
      (loop (br_if 0 (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1)))
                               (i32.const 10000000))))
      (i32.const 16)))
  (core instance $memory (instantiate $memory))
  (alias core export $memory "m" (core memory $m))
  (core func $get
    (canon lower (func $c "get") (memory $m) (realloc (core func $memory "realloc"))))
  (core module $m (import "" "get" (func $get (param i32)))
    (func (export "go") (call $get (i32.const 0))))
  (core instance $i (instantiate $m (with "" (instance (export "get" (func $get))))))
  (type $go (func))
  (func (export "go") (type $go) (canon lift (core func $i "go"))))"""


async def test_a_list_that_grows_while_it_is_lowered_stays_in_its_place(engine: Engine) -> None:
    values = ["text"] * 4  # as many as fit at the end of the memory
    host = Interface(
        "interface a:b/c@0.1 { get: func() -> list<string>; }",
        functions={"get": lambda _: values},
    )
    cache = CodeCache(engine, None)
    component = await load(assemble(SLOW_ALLOCATOR), "test", Interfaces([host]), cache)
    instance = component.instantiate(None, 1 << 20)
    running = instance.call(instance.export("go"), ())
    assert not running.poll()  # suspended in its allocator
    values += ["more"] * 100_000
    await drive.drive(running, drive.Lane())
    running.close()
    instance.close()


@pytest.mark.parametrize("items", ["(global (mut i64) (i64.const 7))", "(table 50000 funcref)"])
def test_what_no_limit_of_memory_counts_is_bounded(ready: Any, items: str) -> None:
    count = 6_000 if "global" in items else 4
    text = f"""(component (core module $m {items * count} (func (export "f")))
      {"(core instance (instantiate $m))" * 100} (core instance $i (instantiate $m))
      (type $f (func)) (func (export "f") (type $f) (canon lift (core func $i "f"))))"""
    with pytest.raises(ComponentError, match="beside its memories"):
        ready(text)


HOARD = """(component
  (component $c
    (core module $memory (memory (export "m") 1))
    (type $r (resource (rep i32)))
    (core func $new (canon resource.new $r))
    (core module $m (import "" "new" (func $new (param i32) (result i32)))
      (func (export "go") (result i32) (local $n i32)
        (loop (drop (call $new (i32.const 1)))
          (br_if 0 (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1)))
                             (i32.const {count}))))
        (local.get $n)))
    (core instance $i (instantiate $m (with "" (instance (export "new" (func $new))))))
    (type $go (func (result u32)))
    (func (export "go") (type $go) (canon lift (core func $i "go"))))
  {copies}
  (instance $last (instantiate $c))
  (alias export $last "go" (func $go))
  (export "go" (func $go)))"""


def test_handles_are_bounded_for_all_components_together(ready: Any) -> None:
    def make(copies: int, count: int) -> Any:
        text = HOARD.format(copies="(instance (instantiate $c))" * copies, count=count)
        instance = ready(text).instantiate(None, 1 << 20)
        try:
            return call(instance, "go")
        finally:
            instance.close()

    assert make(0, 16_384) == 16_384
    with pytest.raises(Trap, match="handles at once"):
        make(0, 16_385)
    with pytest.raises(Trap, match="handles at once"):
        make(15, 1_025)
    with pytest.raises(ComponentError, match="component instances"):
        make(256, 1)


async def test_the_compiler_imports_nothing_from_where_it_is_started(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    cache = CodeCache(engine, tmp_path / "code")
    wasm = assemble("(module)")
    await cache.module(wasm, "test")


async def test_a_module_is_compiled_once_however_many_ask(engine: Engine, tmp_path: Path) -> None:
    cache = CodeCache(engine, tmp_path)
    reports: list[str] = []
    body = "(local.set 0 (i32.add (local.get 0) (local.get 0)))" * 50
    wasm = assemble(f'(module (func (export "f") (param i32) {body}))')
    compiled: list[Path] = []
    original = cache._compile

    async def counted(wasm: bytes, path: Path, *rest: Any) -> None:
        compiled.append(path)
        await original(wasm, path, *rest)

    cache._compile = counted  # type: ignore[method-assign]
    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(cache.module(wasm, "test", reports.append))
    assert len(compiled) == 1


def test_code_that_others_may_have_written_is_not_used(engine: Engine, tmp_path: Path) -> None:
    cache = CodeCache(engine, tmp_path)
    wasm = assemble("(module)")
    asyncio.run(cache.module(wasm, "test"))
    (directory,) = tmp_path.iterdir()
    directory.chmod(0o777)
    with pytest.raises(ComponentError, match="can not be read back"):
        asyncio.run(cache.module(wasm, "test"))


def test_compiled_code_is_not_kept_beside_the_application(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options = argparse.Namespace(app=tmp_path / "app", state_dir=None)
    assert code_dir(options) == tmp_path / "cache" / "edge" / "code"
    options.state_dir = tmp_path / "state"
    assert code_dir(options) == tmp_path / "state" / "code"


def test_messages_of_traps_are_short(ready: Any) -> None:
    names = [f"${'N' * 50_000}{number}" for number in range(5)]
    chain = "".join(
        f"(func {name} (if (i32.const 1) (then (call {after}))))"
        for name, after in itertools.pairwise(names)
    )
    text = f"""(component
      (core module $m {chain} (func {names[-1]} unreachable)
        (func (export "f") (call {names[0]})))
      (core instance $i (instantiate $m))
      (type $f (func)) (func (export "f") (type $f) (canon lift (core func $i "f"))))"""
    instance = ready(text).instantiate(None, 1 << 20)
    with pytest.raises(Trap) as trap:
        call(instance, "f")
    assert len(str(trap.value)) < 5_000
    assert "`unreachable` instruction" in str(trap.value)
    instance.close()


NAP = """(component
  (import "a:b/c@0.1.0" (instance $c (export "nap" (func))))
  (core func $nap (canon lower (func $c "nap")))
  (core module $m (import "" "nap" (func $nap)) (func (export "f") (call $nap)))
  (core instance $i (instantiate $m (with "" (instance (export "nap" (func $nap))))))
  (type $f (func))
  (func (export "f") (type $f) (canon lift (core func $i "f"))))"""


async def test_closing_a_call_that_ended_leaves_the_next_one_alone(engine: Engine) -> None:
    async def nap() -> None:
        await asyncio.sleep(0)

    naps = iter([None, nap()])
    host = Interface(
        "interface a:b/c@0.1 { nap: func(); }", functions={"nap": lambda _: next(naps)}
    )
    cache = CodeCache(engine, None)
    component = await load(assemble(NAP), "test", Interfaces([host]), cache)
    instance = component.instantiate(None, 1 << 20)
    first = instance.call(instance.export("f"), ())
    assert first.poll()
    second = instance.call(instance.export("f"), ())
    assert not second.poll()
    first.close()
    await drive.drive(second, drive.Lane())
    second.close()
    instance.close()


def test_names_of_functions_are_not_demangled(ready: Any) -> None:
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    seen = ["S_", *(f"S{digit}_" for digit in digits)]
    # Each type is the last one twice: 2^36 of them when written out.
    name = "_Z1f1aIiiE" + "".join(f"S_I{name}{name}E" for name in seen[1:])
    text = f"""(component
      (core module $m (func ${name} unreachable) (func (export "f") (call ${name})))
      (core instance $i (instantiate $m))
      (type $f (func)) (func (export "f") (type $f) (canon lift (core func $i "f"))))"""
    instance = ready(text).instantiate(None, 1 << 20)
    with pytest.raises(Trap, match=r"`unreachable` instruction executed in _Z1f1a"):
        call(instance, "f")
    instance.close()


NESTED = """(component
  (core module $table (table (export "t") 1 funcref) (type $f (func (param i32)))
    (func (export "d") (param i32) (call_indirect (type $f) (local.get 0) (i32.const 0))))
  (core instance $table (instantiate $table))
  (type $r (resource (rep i32) (dtor (core func $table "d"))))
  (core func $new (canon resource.new $r))
  (core func $drop (canon resource.drop $r))
  (core module $m
    (import "" "new" (func $new (param i32) (result i32)))
    (import "" "drop" (func $drop (param i32)))
    (import "" "t" (table 1 funcref))
    (elem (i32.const 0) func $destroy)
    (func $destroy (param i32) (if (local.get 0) (then (call $drop (local.get 0)))))
    (func (export "go") (param $n i32) (local $handle i32)
      (loop (local.set $handle (call $new (local.get $handle)))
        (br_if 0 (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
      (call $drop (local.get $handle))))
  (core instance $m (instantiate $m (with "" (instance
    (export "new" (func $new)) (export "drop" (func $drop)) (export "t" (table $table "t"))))))
  (type $go (func (param "n" u32)))
  (func (export "go") (type $go) (canon lift (core func $m "go"))))"""


def test_guest_and_host_calling_each_other_end_before_the_stack_does(ready: Any) -> None:
    component = ready(NESTED)
    for depth in (100, 16_000):
        instance = component.instantiate(None, 1 << 20)
        if depth == 100:
            call(instance, "go", depth)
        else:
            with pytest.raises(Trap, match="call stack exhausted"):
                call(instance, "go", depth)
        instance.close()


def test_each_of_many_guests_can_not_take_a_whole_stack(ready: Any) -> None:
    links = "".join(
        f'(instance $i{n} (instantiate $c (with "f" (func $i{n - 1} "f"))))' for n in range(1, 9)
    )
    text = f"""(component
      (component $last (core module $m (func (export "f"))) (core instance $i (instantiate $m))
        (func (export "f") (canon lift (core func $i "f"))))
      (component $c (import "f" (func $f)) (core func $f (canon lower (func $f)))
        (core module $m (import "" "f" (func $f))
          (func $r (param i32)
            (if (local.get 0) (then (call $r (i32.sub (local.get 0) (i32.const 1))))
                              (else (call $f))))
          (func (export "f") (call $r (i32.const 6000))))
        (core instance $i (instantiate $m (with "" (instance (export "f" (func $f))))))
        (func (export "f") (canon lift (core func $i "f"))))
      (instance $i0 (instantiate $last)) {links}
      (alias export $i8 "f" (func $f))
      (export "f" (func $f)))"""
    instance = ready(text).instantiate(None, 1 << 20)
    with pytest.raises(Trap, match="call stack exhausted"):
        call(instance, "f")
    instance.close()


async def test_a_component_of_many_modules_is_compiled(engine: Engine, tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 250) / ("d" * 250)  # so that few fill an argument of 128 KiB
    modules = [b"\0asm\1\0\0\0" + section(0, leb(2) + b"%2x" % n) for n in range(220)]
    assert len(await CodeCache(engine, directory).modules(modules, "test")) == 220


OWNER = """(component
  (import "a:b/c@0.1.0" (instance $c
    (export "r" (type $r (sub resource))) (export "make" (func (result (own $r))))))
  (core func $make (canon lower (func $c "make")))
  (core module $m (import "" "make" (func $make (result i32)))
    (func (export "go") (drop (call $make)) (drop (call $make)) (drop (call $make))))
  (core instance $i (instantiate $m (with "" (instance (export "make" (func $make))))))
  (type $go (func))
  (func (export "go") (type $go) (canon lift (core func $i "go"))))"""


def test_a_resource_that_fails_to_drop_takes_no_other_with_it(ready: Any) -> None:
    dropped: list[Any] = []

    class Thing:
        def drop(self) -> None:
            dropped.append(self)
            raise RuntimeError("late")

    host = Interface(
        "interface a:b/c@0.1 { resource r; make: func() -> r; }",
        functions={"make": lambda _: Thing()},
        resources={"r": Thing},
    )
    instance = ready(OWNER, host).instantiate(None, 1 << 20)
    call(instance, "go")
    with pytest.raises(RuntimeError, match="late"):
        instance.close()
    assert len(dropped) == 3
    assert instance.handles == 0
