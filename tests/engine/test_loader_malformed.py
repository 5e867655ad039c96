"""Binaries that are well encoded but wrong. wasm-tools writes them down without checking them."""

from __future__ import annotations

import pytest
from wat import assemble

from edge.engine.host import Interfaces
from edge.engine.loader import load_plan
from edge.errors import ComponentError

MODULE = """
  (core module $m
    (memory (export "memory") 1)
    (table (export "table") 1 2 funcref)
    (global (export "global") i32 (i32.const 1))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0))
    (func (export "nothing"))
    (func (export "one") (param i32))
    (func (export "two") (param i32 i32))
    (func (export "three") (param i32 i32 i32) (result i32) (i32.const 0))
    (func (export "text") (result i32) (i32.const 0)))
  (core instance $i (instantiate $m))
  (alias core export $i "memory" (core memory $memory))
  (alias core export $i "realloc" (core func $realloc))
"""

MEMORY = "(memory $memory)"
BOTH = "(memory $memory) (realloc $realloc)"


def refused(text: str) -> str:
    with pytest.raises(ComponentError) as caught:
        load_plan(assemble(f"(component {text})"), Interfaces())
    return caught.value.message.removeprefix("malformed component: ")


@pytest.mark.parametrize(
    ("name", "type_", "options", "message"),
    [
        (
            "nothing",
            '(param "x" u8)',
            "",
            "the export 'nothing' is a function () -> (), not a function (i32) -> ()",
        ),
        ("two", '(param "x" string)', "", "the export 'two' needs a memory"),
        ("two", '(param "x" string)', MEMORY, "the export 'two' needs a realloc function"),
        ("text", "(result string)", "", "the export 'text' needs a memory"),
        ("one", f'(param "x" (tuple {"u8 " * 17}))', MEMORY, "'one' needs a realloc function"),
        ("nothing", "", "(realloc $realloc)", "a realloc function is given without a memory"),
        (
            "nothing",
            "",
            f'{MEMORY} (realloc (core func $i "two"))',
            "'two' is a function (i32, i32) -> ()",
        ),
        (
            "nothing",
            "",
            '(post-return (core func $i "one"))',
            "'one' is a function (i32) -> (), not a function () -> ()",
        ),
    ],
)
def test_a_lift_must_fit_its_function(name: str, type_: str, options: str, message: str) -> None:
    lift = f'(func {type_} (canon lift (core func $i "{name}") {options}))'
    assert message in refused(MODULE + lift)


@pytest.mark.parametrize(
    ("type_", "options", "message"),
    [
        ('(param "x" string)', "", "a call of f needs a memory"),
        ("(result string)", MEMORY, "a call of f needs a realloc function"),
        ("(result (tuple u8 u8))", "", "a call of f needs a memory"),
        (f'(param "x" (tuple {"u8 " * 17}))', "", "a call of f needs a memory"),
        ("", '(post-return (core func $i "one"))', "a post-return function is given to a lowered"),
    ],
)
def test_a_lower_must_have_what_its_values_need(type_: str, options: str, message: str) -> None:
    text = f'(import "f" (func $f {type_})) {MODULE} (core func (canon lower (func $f) {options}))'
    assert message in refused(text)


@pytest.mark.parametrize(
    ("imported", "given", "message"),
    [
        (
            "(func (param i32))",
            '(export "x" (func $i "two"))',
            "is a function (i32, i32) -> (), not a function (i32)",
        ),
        ("(func)", '(export "y" (func $i "nothing"))', "'a' 'x' of a core module is not given"),
        (
            "(func)",
            '(export "x" (memory $i "memory"))',
            "is a memory of 1.. pages, not a function () -> ()",
        ),
        (
            "(memory 2)",
            '(export "x" (memory $i "memory"))',
            "is a memory of 1.. pages, not a memory of 2.. pages",
        ),
        (
            "(memory 1 1)",
            '(export "x" (memory $i "memory"))',
            "is a memory of 1.. pages, not a memory of 1..1 pages",
        ),
        (
            "(table 3 funcref)",
            '(export "x" (table $i "table"))',
            "is a table of 1..2 ref 0x70, not a table of 3.. ref 0x70",
        ),
        (
            "(table 1 externref)",
            '(export "x" (table $i "table"))',
            "is a table of 1..2 ref 0x70, not a table of 1.. ref 0x6f",
        ),
        (
            "(global (mut i32))",
            '(export "x" (global $i "global"))',
            "is a global i32, not a global mut i32",
        ),
    ],
)
def test_core_imports_must_fit(imported: str, given: str, message: str) -> None:
    text = f"""
      (core module $n (import "a" "x" {imported}))
      (core instance (instantiate $n (with "a" (instance {given}))))
    """
    assert message in refused(MODULE + text)


def test_a_function_lowered_must_have_the_type_a_module_imports() -> None:
    text = """
      (import "f" (func $f (param "x" u64)))
      (core func $l (canon lower (func $f)))
      (core module $n (import "a" "x" (func (param i32))))
      (core instance (instantiate $n (with "a" (instance (export "x" (func $l))))))
    """
    assert "is a function (i64) -> (), not a function (i32) -> ()" in refused(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('(export "f" (func 3))', "no func has index 3"),
        ("(core instance (instantiate 0))", "no core module has index 0"),
        ("(type (list 7))", "no type has index 7"),
        ("(type $f (func)) (type (list $f))", "type 0 is a func type, not a value type"),
        ('(type $t u8) (import "f" (func (type $t)))', "type 0 is a value type, not a func type"),
        ("(type $t u8) (type (own $t))", "type 0 is no resource"),
        ("(type $t u8) (core func (canon resource.new $t))", "type 0 is no resource"),
        (
            '(import "r" (type $r (sub resource))) (core func (canon resource.new $r))',
            "resource.new of another component's resource",
        ),
        (
            '(import "r" (type $r (sub resource))) (import "f" (func (result (borrow $r))))',
            "the result of a function holds a borrow",
        ),
        ('(import "f" (func)) (import "f" (func))', "two imports are named 'f'"),
        (
            '(import "f" (func $f)) (export "g" (func $f)) (export "g" (func $f))',
            "two exports are named 'g'",
        ),
        ('(type (enum "a" "A"))', "two parts of a type have one name"),
        ('(instance $i) (alias export $i "x" (func))', "an instance exports no func 'x'"),
        (
            f'{MODULE} (alias core export $i "memory" (core func))',
            "a core instance exports no core func 'memory'",
        ),
        ("(alias outer 1 0 (type))", "no scope is 1 levels outside"),
        (
            f'{MODULE} (type (resource (rep i32) (dtor (core func $i "two"))))',
            "'two' is a function (i32, i32)",
        ),
        (
            '(component $c (import "f" (func))) (instance (instantiate $c))',
            "no function is given as 'f'",
        ),
        (
            """(component $c (import "f" (func (param "x" u8)))) (import "g" (func $g))
               (instance (instantiate $c (with "f" (func $g))))""",
            "'f' is a func() where a func(x: u8) is expected",
        ),
        (
            """(component $c (import "t" (type (eq u8)))) (type $s string)
               (instance (instantiate $c (with "t" (type $s))))""".replace(
                "(eq u8)", "(eq $u)"
            ).replace("$c (import", "$c (type $u u8) (import"),
            "'t' is not the type it should be",
        ),
        (
            """(component $c (import "r" (type $r (sub resource)))
                 (import "f" (func (result (own $r)))))
               (type $a (resource (rep i32))) (type $b (resource (rep i32)))
               (core module $m (func (export "f") (result i32) (i32.const 0)))
               (core instance $i (instantiate $m))
               (func $f (result (own $a)) (canon lift (core func $i "f")))
               (instance (instantiate $c (with "r" (type $b)) (with "f" (func $f))))""",
            "is a func() -> own<resource 0> where a func() -> own<resource 1> is expected",
        ),
        ("(type (resource (rep i64)))", "a resource whose representation is no i32"),
    ],
)
def test_a_definition_that_makes_no_sense_is_refused(text: str, message: str) -> None:
    assert message in refused(text)
