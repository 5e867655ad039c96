"""Core modules that were never made components: the names of their imports say what they are."""

from __future__ import annotations

import pytest
from wat import assemble, dummy_module

from edge.engine.host import CoreFunction, CoreInterface, Interface, Interfaces
from edge.engine.loader import load_plan
from edge.engine.plan import (
    CoreHost,
    CoreInstance,
    HostCall,
    InstanceExport,
    Lift,
    Missing,
    Options,
    ResourceDrop,
    Trampoline,
)
from edge.engine.types import Borrow, Func, ImportedResource, List, Own, Primitive, Result
from edge.errors import ComponentError

U32, U64, STRING = (Primitive(name) for name in ("u32", "u64", "string"))
THING = ImportedResource("demo:x/log@0.2", "thing")
MEMORY, REALLOC = InstanceExport(0, "memory"), InstanceExport(0, "cabi_realloc")

WORLD = """
package demo:x@0.2.1;
interface log {
  resource thing { constructor(n: u32); name: func() -> string; }
  log: func(level: u32, message: string) -> result<u64, string>;
  lost: func();
}
interface handler {
  use log.{thing};
  handle: func(t: thing) -> list<string>;
  other: func();
}
world app { import log; import now: func() -> u64; export handler; export run: func(a: string); }
"""


class Thing:
    def name(self) -> str:
        return ""

    @staticmethod
    def new(context: object, n: int) -> Thing:
        return Thing()


LOG = Interface(
    """interface demo:x/log@0.2 {
      resource thing { constructor(n: u32); name: func() -> string; }
      log: func(level: u32, message: string) -> result<u64, string>;
      type alias = thing;
    }""",
    functions={"log": print},
    resources={"thing": Thing},
)
HANDLER = Interface(
    """interface demo:x/handler@0.2 {
      use demo:x/log@0.2.{thing};
      handle: func(t: thing) -> list<string>;
    }""",
    uses=(LOG,),
    guest=True,
)
ROOT = Interface("interface $root { run: func(a: string); }", guest=True)
PREVIEW1 = CoreInterface(
    "wasi_snapshot_preview1",
    {"fd_close": CoreFunction("i", "i", print), "clock": CoreFunction("iIi", "i", print)},
)
HOST = Interfaces([LOG, PREVIEW1])


def test_imports_get_the_types_that_the_host_declares() -> None:
    plan = load_plan(dummy_module(WORLD, "app"), HOST, (HANDLER, ROOT))
    message = (("level", U32), ("message", STRING))
    name = Func((("self", Borrow(THING)),), STRING)
    options = Options(MEMORY, REALLOC)
    log = "demo:x/log@0.2.1"
    assert set(plan.trampolines) == {
        HostCall(log, "log", Func(message, Result(U64, STRING)), options, 0),
        HostCall(log, "[constructor]thing", Func((("n", U32),), Own(THING)), options, 0),
        HostCall(log, "[method]thing.name", name, options, 0),
        ResourceDrop(THING, 0),
        Missing(log, "lost"),
        Missing("$root", "now"),
    }
    count = len(plan.trampolines)
    assert plan.instances == (CoreInstance(0, tuple(map(Trampoline, range(count)))),)
    assert plan.components == 1
    assert plan.imports == {log, "$root"}


def test_known_exports_are_lifted() -> None:
    plan = load_plan(dummy_module(WORLD, "app"), HOST, (HANDLER, ROOT))
    name = "demo:x/handler@0.2.1#handle"
    assert set(plan.exports) == {name, "run"}
    assert plan.lifts[plan.exports[name]] == Lift(
        InstanceExport(0, name),
        Func((("t", Own(THING)),), List(STRING)),
        Options(MEMORY, REALLOC, InstanceExport(0, f"cabi_post_{name}")),
        0,
    )
    assert plan.initialize == (InstanceExport(0, "_initialize"),)
    assert load_plan(dummy_module(WORLD, "app"), HOST).exports == {}


def test_a_command_of_preview_1_has_a_start() -> None:
    plan = load_plan(
        assemble("""
          (module
            (import "wasi_snapshot_preview1" "fd_close" (func (param i32) (result i32)))
            (import "wasi_snapshot_preview1" "clock" (func (param i32 i64 i32) (result i32)))
            (import "wasi_snapshot_preview1" "unknown" (func (param f64)))
            (import "env" "f" (func))
            (memory (export "memory") 1)
            (func (export "_start")))
        """),
        HOST,
    )
    assert plan.trampolines == (
        CoreHost("wasi_snapshot_preview1", "fd_close"),
        CoreHost("wasi_snapshot_preview1", "clock"),
        Missing("wasi_snapshot_preview1", "unknown"),
        Missing("env", "f"),
    )
    start = Lift(InstanceExport(0, "_start"), Func((), None), Options(MEMORY), 0)
    assert plan.lifts == (start,)
    assert plan.exports == {"_start": 0}
    assert plan.initialize == ()


def test_names_of_old_toolchains_are_known() -> None:
    plan = load_plan(
        assemble("""
          (module
            (import "demo:x/log@0.2.0" "log" (func (param i32 i32 i32 i32)))
            (import "demo:x/log@0.2.0" "[resource-drop]alias" (func (param i32)))
            (memory (export "memory") 1)
            (func (export "canonical_abi_realloc") (param i32 i32 i32 i32) (result i32)
              unreachable))
        """),
        HOST,
    )
    call, drop = plan.trampolines
    assert isinstance(call, HostCall)
    assert call.options == Options(MEMORY, InstanceExport(0, "canonical_abi_realloc"))
    assert drop == ResourceDrop(THING, 0)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            '(import "demo:x/log@0.2.0" "log" (func (param i32)))',
            "the import demo:x/log@0.2.0#log is a function (i32) -> (),"
            " not a function (i32, i32, i32, i32) -> ()",
        ),
        (
            '(import "demo:x/log@0.2.0" "log" (func (param i32 i32 i32 i32)))',
            "the import demo:x/log@0.2.0#log needs a memory",
        ),
        (
            '(import "demo:x/log@0.2.0" "log" (func (param i32 i32 i32 i32)))'
            '(memory (export "memory") 1)',
            "the import demo:x/log@0.2.0#log needs a realloc function",
        ),
        (
            '(import "demo:x/log@0.2.0" "[resource-drop]thing" (func))',
            "the import demo:x/log@0.2.0#[resource-drop]thing is a function () -> ()",
        ),
        (
            '(import "wasi_snapshot_preview1" "fd_close" (func (param i64) (result i32)))',
            "the import 'fd_close' is a function (i64) -> (i32)",
        ),
        ('(import "env" "m" (memory 1))', "it imports 'env' 'm', a memory of 1.. pages"),
        ('(func (export "_start") (param i32))', "the export '_start' is a function (i32) -> ()"),
        ('(global (export "memory") i32 (i32.const 0))', "the export 'memory' is a global i32"),
        (
            '(memory (export "memory") 1) (func (export "cabi_realloc"))',
            "the export 'cabi_realloc' is a function () -> ()",
        ),
        ('(func (export "_initialize") (result i32) unreachable)', "the export '_initialize'"),
        (
            '(func (export "demo:x/handler@0.2.9#handle") (param i32) (result i32) unreachable)',
            "the export 'demo:x/handler@0.2.9#handle' needs a memory",
        ),
        (
            '(memory (export "memory") 1)'
            '(func (export "demo:x/handler@0.2.9#handle") (param i32) (result i32) unreachable)'
            '(func (export "cabi_post_demo:x/handler@0.2.9#handle"))',
            "the export 'cabi_post_demo:x/handler@0.2.9#handle' is a function () -> ()",
        ),
    ],
)
def test_a_module_that_does_not_fit_is_refused(module: str, message: str) -> None:
    with pytest.raises(ComponentError) as caught:
        load_plan(assemble(f"(module {module})"), HOST, (HANDLER,))
    assert message in caught.value.message
