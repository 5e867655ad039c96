"""The detours that wit-component adds are removed when they are exactly that, and only then."""

from __future__ import annotations

import pytest
from wat import assemble, component_of

from edge.engine.host import Interfaces
from edge.engine.loader import load_plan
from edge.engine.plan import InstanceExport, Missing, Plan, Trampoline

SHIM = """
  (type $f (func (param i32 i32)))
  (table (export "$imports") 1 funcref)
  (func (export "0") (type $f)
    (call_indirect (type $f) (local.get 0) (local.get 1) (i32.const 0)))
"""
FIXUP = """
  (import "" "0" (func $f (param i32 i32)))
  (import "" "$imports" (table 1 funcref))
  (elem (i32.const 0) func $f)
"""
STARTING = """
  (import "" "0" (func $f (param i32 i32)))
  (import "" "begin" (func $begin))
  (import "" "$imports" (table 1 funcref))
  (elem (i32.const 0) func $f)
  (start $begin)
"""
MAIN = """
  (import "a" "f" (func (param i32 i32)))
  (memory (export "memory") 1)
  (func (export "begin"))
"""
FILLS = '(export "0" (func $low)) (export "$imports" (table $shim "$imports"))'


def load(
    shim: str = SHIM,
    fixup: str = FIXUP,
    main: str = MAIN,
    fills: str = FILLS,
    after: str = "",
    target: str = '(canon lower (func $f) (memory (core memory $main "memory")))',
) -> Plan:
    text = f"""
      (component
        (import "f" (func $f (param "x" string)))
        (core module $shim {shim})
        (core module $main {main})
        (core module $fixup {fixup})
        (core instance $shim (instantiate $shim))
        (core instance $main (instantiate $main
          (with "a" (instance (export "f" (func $shim "0"))))))
        (core func $low {target})
        (core instance (instantiate $fixup (with "" (instance {fills}))))
        {after})
    """
    return load_plan(assemble(text), Interfaces())


def kept(plan: Plan) -> bool:
    """Whether shim and fixup are still there."""
    return len(plan.instances) > 1


def test_a_knot_is_untied() -> None:
    plan = load()
    assert len(plan.modules) == len(plan.instances) == 1
    assert plan.instances[0].imports == (Trampoline(0),)
    assert plan.trampolines == (Missing("$root", "f"),)


def test_what_a_fixup_starts_is_called_in_the_end() -> None:
    plan = load(fixup=STARTING, fills=FILLS + '(export "begin" (func $main "begin"))')
    assert not kept(plan)
    assert plan.initialize == (InstanceExport(0, "begin"),)


def test_a_start_that_other_code_would_come_after_stays() -> None:
    runs = "(core module $n (func $s) (start $s)) (core instance (instantiate $n))"
    plan = load(fixup=STARTING, fills=FILLS + '(export "begin" (func $main "begin"))', after=runs)
    assert len(plan.instances) == 4
    assert plan.initialize == ()
    assert plan.instances[1].imports == (Trampoline(0),)


def test_a_module_that_only_starts_another_is_not_needed() -> None:
    starts = """
      (core module $n (import "" "" (func $f)) (start $f))
      (core instance (instantiate $n (with "" (instance (export "" (func $main "begin"))))))
    """
    plan = load(after=starts)
    assert not kept(plan)
    assert plan.initialize == (InstanceExport(0, "begin"),)


@pytest.mark.parametrize(
    "shim",
    [
        SHIM.replace("(local.get 1)", "(i32.add (local.get 1) (i32.const 1))"),
        SHIM.replace("(local.get 0) (local.get 1)", "(local.get 1) (local.get 0)"),
        SHIM.replace("(i32.const 0)", "(local.get 0)"),
        SHIM.replace("(i32.const 0)))", "(i32.const 0)) nop)"),
        SHIM.replace("(type $f)\n", "(type $f) (local i32)\n"),
        SHIM.replace("i32.const 0", "i32.const 7"),
        SHIM + "(memory 1)",
        SHIM + "(global i32 (i32.const 0))",
        SHIM + "(func $g) (start $g)",
        SHIM + '(export "again" (table 0))',
        SHIM + "(elem (i32.const 0) func 0)",
        # calls with another type than its own
        """
          (type $g (func (param i32 i32) (result i32)))
          (table (export "$imports") 1 funcref)
          (func (export "0") (param i32 i32) (drop
            (call_indirect (type $g) (local.get 0) (local.get 1) (i32.const 0))))
        """,
    ],
)
def test_another_shim_stays(shim: str) -> None:
    plan = load(shim)
    assert len(plan.instances) == 3
    assert plan.instances[1].imports == (InstanceExport(0, "0"),)


@pytest.mark.parametrize(
    "fixup",
    [
        FIXUP.replace("(elem (i32.const 0) func $f)", "(elem (i32.const 1) func $f)"),
        FIXUP.replace("(elem (i32.const 0) func $f)", ""),
        FIXUP.replace("(elem", "(elem (table 0)"),
        FIXUP.replace("func $f)", "funcref (ref.func $f))"),
        FIXUP.replace("(elem (i32.const 0) func $f)", "(elem func $f)"),
        FIXUP + "(elem (i32.const 0) func $f)",
        FIXUP + "(func)",
        FIXUP + "(memory 1)",
        FIXUP + '(export "t" (table 0))',
        FIXUP + "(func $s) (start $s)",
        FIXUP.replace("func $f)", "func $f $f)"),
    ],
)
def test_another_fixup_stays(fixup: str) -> None:
    plan = load(fixup=fixup)
    # Two forms say the same in the text and are one in the binary.
    if assemble(f"(module {fixup})") == assemble(f"(module {FIXUP})"):
        assert not kept(plan)
    else:
        assert len(plan.instances) == 3
        assert plan.instances[1].imports == (InstanceExport(0, "0"),)


def test_a_table_that_others_see_is_not_replaced() -> None:
    sees = """
      (core module $n (import "" "t" (table 1 funcref)))
      (core instance (instantiate $n (with "" (instance (export "t" (table $shim "$imports"))))))
    """
    plan = load(after=sees)
    assert plan.instances[1].imports == (InstanceExport(0, "0"),)


def test_a_shim_filled_twice_stays() -> None:
    again = f'(core instance (instantiate $fixup (with "" (instance {FILLS}))))'
    plan = load(after=again)
    assert len(plan.instances) == 4
    assert plan.instances[1].imports == (InstanceExport(0, "0"),)


def test_a_function_of_another_type_is_not_called_directly() -> None:
    plan = load(
        fixup=FIXUP.replace("(param i32 i32)", ""),
        fills='(export "0" (func $main "begin")) (export "$imports" (table $shim "$imports"))',
    )
    assert len(plan.instances) == 3
    assert plan.instances[1].imports == (InstanceExport(0, "0"),)


def test_a_later_module_s_function_needs_the_shim() -> None:
    adapter = """
      (core module $adapter (import "" "memory" (memory 1)) (func (export "f") (param i32 i32)))
      (core instance $adapter (instantiate $adapter
        (with "" (instance (export "memory" (memory $main "memory"))))))
      (alias core export $adapter "f" (core func $low))
    """
    text = f"""
      (component
        (core module $shim {SHIM})
        (core module $main {MAIN})
        (core module $fixup {FIXUP})
        (core instance $shim (instantiate $shim))
        (core instance $main (instantiate $main
          (with "a" (instance (export "f" (func $shim "0"))))))
        {adapter}
        (core instance (instantiate $fixup (with "" (instance {FILLS})))))
    """
    plan = load_plan(assemble(text), Interfaces())
    assert len(plan.instances) == 4
    assert plan.instances[1].imports == (InstanceExport(0, "0"),)


def test_exports_reached_through_a_shim_are_found_directly() -> None:
    wit = """
      package demo:x@0.1.0;
      interface things { resource thing { constructor(); name: func() -> string; } }
      world app { export things; }
    """
    plan = load_plan(component_of(wit, "app"), Interfaces())
    assert len(plan.instances) == 1
    assert plan.resources[0].destructor == InstanceExport(0, "demo:x/things@0.1.0#[dtor]thing")
