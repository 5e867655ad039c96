from __future__ import annotations

from typing import Any

import pytest
from wat import assemble, component_of, compose

from edge.engine.host import Interface, Interfaces
from edge.engine.loader import load_plan
from edge.engine.plan import (
    CoreInstance,
    GuestCall,
    GuestResource,
    HostCall,
    InstanceExport,
    Lift,
    Missing,
    Options,
    ResourceDrop,
    ResourceNew,
    ResourceRep,
    Trampoline,
)
from edge.engine.types import (
    Borrow,
    DefinedResource,
    Func,
    ImportedResource,
    List,
    Own,
    Primitive,
    Result,
)
from edge.errors import ComponentError

U8, U32, U64, STRING = (Primitive(name) for name in ("u8", "u32", "u64", "string"))
THING = ImportedResource("demo:x/log@0.2", "thing")
MINE = DefinedResource(0)
NOTHING = Interfaces()

WORLD = """
package demo:x@0.2.1;
interface log {
  resource thing {
    constructor(n: u32);
    name: func() -> string;
    make: static func(a: list<u8>) -> thing;
  }
  log: func(level: u32, message: string) -> result<u64, string>;
  tick: func();
}
interface handler {
  use log.{thing};
  resource mine { constructor(); name: func() -> string; }
  handle: func(t: thing, m: borrow<mine>) -> string;
}
world app {
  import log;
  import now: func() -> u64;
  export handler;
  export run: func(a: string) -> list<string>;
}
"""


class Thing:
    def name(self) -> str:
        return ""

    @staticmethod
    def new(context: object, n: int) -> Thing:
        return Thing()

    @staticmethod
    def make(context: object, a: bytes) -> Thing:
        return Thing()


def log_interface(result: str = "result<u64, string>") -> Interface:
    return Interface(
        f"""interface demo:x/log@0.2 {{
          resource thing {{
            constructor(n: u32);
            name: func() -> string;
            make: static func(a: list<u8>) -> thing;
          }}
          log: func(level: u32, message: string) -> {result};
          tick: func();
        }}""",
        functions={"log": print, "tick": print},
        resources={"thing": Thing},
    )


def refused(text: str, interfaces: Interfaces = NOTHING) -> str:
    with pytest.raises(ComponentError) as caught:
        load_plan(assemble(text), interfaces)
    return caught.value.message


def names(trampolines: tuple[Any, ...]) -> set[str]:
    return {f"{t.interface}#{t.name}" for t in trampolines if isinstance(t, HostCall)}


# --- what wit-component makes ---------------------------------------------------------------------


def test_a_component_of_one_module_imports_host_functions_only() -> None:
    plan = load_plan(component_of(WORLD, "app"), Interfaces([log_interface()]))
    assert len(plan.modules) == 1
    (instance,) = plan.instances
    assert all(isinstance(item, Trampoline) for item in instance.imports)
    assert len(set(instance.imports)) == len(plan.trampolines) == 10
    assert plan.components == 1
    assert plan.imports == {"demo:x/log@0.2.1"}


def test_imports_become_calls_of_the_host() -> None:
    plan = load_plan(component_of(WORLD, "app"), Interfaces([log_interface()]))
    memory, realloc = InstanceExport(0, "memory"), InstanceExport(0, "cabi_realloc")
    message = (("level", U32), ("message", STRING))
    assert set(plan.trampolines) == {
        HostCall("demo:x/log@0.2.1", "tick", Func((), None), Options(), 0),
        HostCall(
            "demo:x/log@0.2.1",
            "log",
            Func(message, Result(U64, STRING)),
            Options(memory, realloc),
            0,
        ),
        HostCall(
            "demo:x/log@0.2.1", "[constructor]thing", Func((("n", U32),), Own(THING)), Options(), 0
        ),
        HostCall(
            "demo:x/log@0.2.1",
            "[method]thing.name",
            Func((("self", Borrow(THING)),), STRING),
            Options(memory, realloc),
            0,
        ),
        HostCall(
            "demo:x/log@0.2.1",
            "[static]thing.make",
            Func((("a", List(U8)),), Own(THING)),
            Options(memory),
            0,
        ),
        ResourceDrop(THING, 0),
        ResourceDrop(MINE, 0),
        ResourceNew(MINE, 0),
        ResourceRep(MINE, 0),
        Missing("$root", "now"),
    }


def test_exports_are_lifted() -> None:
    plan = load_plan(component_of(WORLD, "app"), NOTHING)
    assert set(plan.exports) == {
        "run",
        "demo:x/handler@0.2.1#handle",
        "demo:x/handler@0.2.1#[constructor]mine",
        "demo:x/handler@0.2.1#[method]mine.name",
    }
    memory, realloc = InstanceExport(0, "memory"), InstanceExport(0, "cabi_realloc")
    assert plan.lifts[plan.exports["run"]] == Lift(
        InstanceExport(0, "run"),
        Func((("a", STRING),), List(STRING)),
        Options(memory, realloc, InstanceExport(0, "cabi_post_run")),
        0,
    )
    handle = plan.lifts[plan.exports["demo:x/handler@0.2.1#handle"]]
    assert handle.func == Func((("t", Own(THING)), ("m", Borrow(MINE))), STRING)
    assert handle.options.realloc is None
    destructor = InstanceExport(0, "demo:x/handler@0.2.1#[dtor]mine")
    assert plan.resources == (GuestResource(0, destructor),)
    assert plan.initialize == (InstanceExport(0, "_initialize"),)


def test_what_the_host_lacks_still_loads() -> None:
    plan = load_plan(component_of(WORLD, "app"), NOTHING)
    missing = {(t.module, t.name) for t in plan.trampolines if isinstance(t, Missing)}
    assert missing == {
        ("demo:x/log@0.2.1", "log"),
        ("demo:x/log@0.2.1", "tick"),
        ("demo:x/log@0.2.1", "[constructor]thing"),
        ("demo:x/log@0.2.1", "[method]thing.name"),
        ("demo:x/log@0.2.1", "[static]thing.make"),
        ("$root", "now"),
    }


def test_a_function_of_the_world_is_found_as_root() -> None:
    root = Interface("interface $root { now: func() -> u64; }", functions={"now": print})
    plan = load_plan(component_of(WORLD, "app"), Interfaces([root]))
    assert HostCall(None, "now", Func((), U64), Options(), 0) in plan.trampolines


def test_a_function_that_the_host_has_otherwise_is_refused() -> None:
    with pytest.raises(ComponentError) as caught:
        load_plan(component_of(WORLD, "app"), Interfaces([log_interface("result<u32, string>")]))
    assert caught.value.message == (
        "unsupported component: it imports demo:x/log@0.2.1#log as"
        " func(level: u32, message: string) -> result<u64, string>,"
        " the host has func(level: u32, message: string) -> result<u32, string>"
    )


# --- composed and nested components ---------------------------------------------------------------

GREETER = """
(component
  (type $name (record (field "first" string) (field "last" string)))
  (core module $m
    (memory (export "memory") 1)
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 64))
    (func (export "greet") (param i32 i32 i32 i32) (result i32) (i32.const 0))
    (func (export "new") (result i32) (i32.const 0))
    (func (export "freed") (param i32))
    (func (export "dtor") (param i32)))
  (core instance $i (instantiate $m))
  (type $card (resource (rep i32) (dtor (core func $i "dtor"))))
  (core func $make (canon resource.new $card))
  (type $name-type (record (field "first" string) (field "last" string)))
  (component $iface
    (type $t (record (field "first" string) (field "last" string)))
    (import "name" (type $n (eq $t)))
    (import "card" (type $c (sub resource)))
    (import "greet" (func $greet (param "n" $n) (result string)))
    (import "new" (func $new (result (own $c))))
    (export $name "name" (type $n))
    (export $card "card" (type $c))
    (export "greet" (func $greet) (func (param "n" $name) (result string)))
    (export "new" (func $new) (func (result (own $card)))))
  (func $greet (param "n" $name-type) (result string)
    (canon lift (core func $i "greet") (memory (core memory $i "memory"))
      (realloc (core func $i "cabi_realloc")) (post-return (core func $i "freed"))))
  (func $new (result (own $card)) (canon lift (core func $i "new")))
  (instance $e (instantiate $iface
    (with "name" (type $name-type)) (with "card" (type $card))
    (with "greet" (func $greet)) (with "new" (func $new))))
  (export "demo:greet/greeter@1.0.0" (instance $e)))
"""

CALLER = """
(component
  (import "demo:greet/greeter@1.0.0" (instance $g
    (type (record (field "first" string) (field "last" string)))
    (export "name" (type $n (eq 0)))
    (export "card" (type $c (sub resource)))
    (export "greet" (func (param "n" $n) (result string)))
    (export "new" (func (result (own $c))))))
  (import "demo:x/log@0.2.0" (instance $log (export "tick" (func))))
  (core module $libc
    (memory (export "memory") 1)
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 64)))
  (core instance $libc (instantiate $libc))
  (alias export $g "card" (type $card))
  (core func $greet (canon lower (func $g "greet") (memory (core memory $libc "memory"))
    (realloc (core func $libc "cabi_realloc")) string-encoding=utf16))
  (core func $new (canon lower (func $g "new")))
  (core func $drop (canon resource.drop $card))
  (core func $tick (canon lower (func $log "tick")))
  (core module $m
    (import "g" "greet" (func (param i32 i32 i32 i32 i32)))
    (import "g" "drop" (func (param i32)))
    (import "g" "new" (func (result i32)))
    (import "l" "tick" (func))
    (import "libc" "memory" (memory 1))
    (func (export "run") (result i32) (i32.const 0)))
  (core instance $m (instantiate $m
    (with "libc" (instance $libc))
    (with "l" (instance (export "tick" (func $tick))))
    (with "g" (instance
      (export "greet" (func $greet)) (export "new" (func $new)) (export "drop" (func $drop))))))
  (func (export "run") (result u32) (canon lift (core func $m "run"))))
"""


def test_a_component_composed_of_two_calls_from_one_into_the_other() -> None:
    binary = compose(assemble(CALLER), greeter=assemble(GREETER))
    plan = load_plan(binary, Interfaces([log_interface()]))
    assert plan.components == 2
    assert plan.imports == {"demo:x/log@0.2.0"}
    assert plan.exports == {"run": 2}
    assert plan.resources == (GuestResource(0, InstanceExport(0, "dtor")),)
    memory, realloc = InstanceExport(1, "memory"), InstanceExport(1, "cabi_realloc")
    calls = (
        GuestCall(0, Options(memory, realloc, encoding="utf16"), 1),
        GuestCall(1, Options(), 1),
        ResourceDrop(DefinedResource(0), 1),
        HostCall("demo:x/log@0.2.0", "tick", Func((), None), Options(), 1),
    )
    assert plan.trampolines == (ResourceNew(DefinedResource(0), 0), *calls)
    assert plan.instances[2] == CoreInstance(
        2,
        (
            Trampoline(1),
            Trampoline(3),
            Trampoline(2),
            Trampoline(4),
            InstanceExport(1, "memory"),
        ),
    )
    callee, made, run = plan.lifts
    assert callee.options.post_return == InstanceExport(0, "freed")
    assert callee.component == made.component == 0
    assert made.func == Func((), Own(DefinedResource(0)))
    assert run.component == 1


def test_a_component_instantiated_twice_has_two_resource_types() -> None:
    plan = load_plan(
        assemble("""
          (component
            (component $c
              (type $r (resource (rep i32)))
              (core func $new (canon resource.new $r))
              (core module $m (import "" "new" (func (param i32) (result i32)))
                (func (export "make") (result i32) (call 0 (i32.const 1))))
              (core instance $i (instantiate $m
                (with "" (instance (export "new" (func $new))))))
              (export $x "r" (type $r))
              (func (export "make") (result (own $x)) (canon lift (core func $i "make"))))
            (instance $one (instantiate $c))
            (instance $two (instantiate $c))
            (export "one" (instance $one))
            (export "two" (instance $two)))
        """),
        NOTHING,
    )
    assert plan.components == 2
    assert len(plan.modules) == 1
    assert plan.resources == (GuestResource(0, None), GuestResource(1, None))
    results = {name: plan.lifts[index].func.result for name, index in plan.exports.items()}
    assert results == {
        "one#make": Own(DefinedResource(0)),
        "two#make": Own(DefinedResource(1)),
    }


def test_imports_of_one_track_share_their_resources() -> None:
    plan = load_plan(
        assemble("""
          (component
            (import "wasi:io/streams@0.2.0" (instance $a
              (export "s" (type (sub resource)))))
            (import "wasi:io/streams@0.2.6" (instance $b
              (export "s" (type (sub resource)))))
            (alias export $a "s" (type $x))
            (alias export $b "s" (type $y))
            (core func $dx (canon resource.drop $x))
            (core func $dy (canon resource.drop $y)))
        """),
        NOTHING,
    )
    drop = ResourceDrop(ImportedResource("wasi:io/streams@0.2", "s"), 0)
    assert plan.trampolines == (drop, drop)


def test_an_import_passed_on_as_an_export_is_no_function_to_call() -> None:
    plan = load_plan(assemble('(component (import "f" (func $f)) (export "g" (func $f)))'), NOTHING)
    assert plan.exports == {}
    assert plan.components == 0


# --- refused: what is not supported ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "thing"),
    [
        ('(import "f" (func async))', "an asynchronous function"),
        ("(type (stream u8))", "a stream"),
        ("(type (future u8))", "a future"),
        ('(import "f" (func (param "x" error-context)))', "an error-context"),
        ("(type (list u8 4))", "a list of fixed length"),
        ("(type (map string u8))", "a map"),
        ("(core func (canon waitable-set.new))", "waitables and back-pressure (built-in 0x1f)"),
        ("(core func (canon task.cancel))", "tasks (built-in 0x05)"),
        ("(core func (canon error-context.drop))", "error-context (built-in 0x1e)"),
        ("(core func (canon thread.index))", "threads (built-in 0x26)"),
        ("(core type (module))", "core types"),
        ('(import "m" (core module))', "core types"),
        ('(import "c" (component))', "an imported or typed component ('c')"),
        (
            '(import "i" (instance (export "j" (instance))))',
            "an instance within an imported interface",
        ),
        (
            '(import "f" (func $f)) (core func (canon lower (func $f) async'
            ' (memory (core memory $i "m"))))',
            "the canonical option async",
        ),
        (
            '(import "f" (func $f)) (core func $l (canon lower (func $f)))'
            " (func (canon lift (core func $l)))",
            "a canonical function in the place of a module's",
        ),
    ],
)
def test_what_is_unsupported_is_refused_by_name(text: str, thing: str) -> None:
    if "$i" in text:
        text = (
            f'(core module $m (memory (export "m") 1)) (core instance $i (instantiate $m)) {text}'
        )
    assert refused(f"(component {text})") == f"unsupported component: it uses {thing}"


def test_a_component_of_wasi_0_3_gets_a_hint() -> None:
    asynchronous = """
      (component (import "wasi:http/types@0.3.0" (instance (export "f" (func async)))))
    """
    plain = '(component (import "wasi:http/types@0.3.0" (instance (export "f" (func)))))'
    exported = """
      (component (instance $i) (export "wasi:http/handler@0.3.0-rc-2026-03-15" (instance $i))
        (core module $m (func (export "f"))) (core instance $c (instantiate $m))
        (func $f (canon lift (core func $c "f")))
        (instance $j (export "handle" (func $f)))
        (export "wasi:http/handler@0.3.0" (instance $j)))
    """
    for text in (asynchronous, plain, exported):
        with pytest.raises(ComponentError, match="wasi:http") as caught:
            load_plan(assemble(text), NOTHING)
        assert caught.value.hint == "build it for WASI 0.2"


@pytest.mark.parametrize(
    ("module", "thing"),
    [
        ('(memory (export "m") i64 1)', "memory64"),
        ('(memory (export "m") 1 2 shared)', "shared memory (threads)"),
        ("(type (struct))", "garbage-collected types"),
        ("(type $f (func)) (func (param (ref $f)))", "typed function references"),
    ],
)
def test_what_a_core_module_must_not_use_is_refused_by_name(module: str, thing: str) -> None:
    text = f"(component (core module $m {module}) (core instance (instantiate $m)))"
    assert refused(text) == f"unsupported core module: it uses {thing}"


def test_what_is_no_binary_is_refused() -> None:
    for data in (b"", b"\0asm", b"\0asm\x02\0\0\0", b"\0asm\x0e\0\x01\0", b"#!/bin/sh"):
        with pytest.raises(ComponentError, match="not a Wasm binary"):
            load_plan(data, NOTHING)
    with pytest.raises(ComponentError, match="it is text") as caught:
        load_plan(b"  (component)", NOTHING)
    assert caught.value.hint == "run `wasm-tools parse` on it"
