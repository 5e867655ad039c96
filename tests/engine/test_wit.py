from __future__ import annotations

import pytest

from edge.engine.host import CoreFunction, CoreInterface, Interface, Interfaces
from edge.engine.types import (
    Borrow,
    Enum,
    Flags,
    Func,
    ImportedResource,
    List,
    Option,
    Own,
    Primitive,
    Record,
    Result,
    Tuple,
    Variant,
)
from edge.engine.wit import WitError, parse

U8, U32, STRING = Primitive("u8"), Primitive("u32"), Primitive("string")
THING = ImportedResource("demo:x/y@0.2", "thing")
POLLABLE = ImportedResource("wasi:io/poll@0.2", "pollable")
USES = {"wasi:io/poll@0.2": {"pollable": POLLABLE, "size": U32}}


def interface(body: str) -> str:
    return f"interface demo:x/y@0.2.1 {{ {body} }}"


def test_every_kind_of_type_can_be_declared() -> None:
    declared = parse(
        interface("""
            // a comment
            /* and
               another */
            @since(version = 0.2.0)
            record point { x: u32, y: option<u32>, }
            variant shape { dot, line(point), poly(list<point>) }
            /// a documented one
            enum colour { red, green }
            flags style { bold, %enum }
            type pair = tuple<u8, string>;
            type both = result<pair, colour>;
            resource thing;
            type alias = thing;
            type borrowed = borrow<alias>;
            type done = result;
            type failed = result<_, string>;
        """),
        {},
    )
    point = Record((("x", U32), ("y", Option(U32))))
    assert declared.name == "demo:x/y@0.2"
    assert declared.types == {
        "point": point,
        "shape": Variant((("dot", None), ("line", point), ("poly", List(point)))),
        "colour": Enum(("red", "green")),
        "style": Flags(("bold", "enum")),
        "pair": Tuple((U8, STRING)),
        "both": Result(Tuple((U8, STRING)), Enum(("red", "green"))),
        "thing": THING,
        "alias": THING,
        "borrowed": Borrow(THING),
        "done": Result(None, None),
        "failed": Result(None, STRING),
    }
    assert declared.resources == ("thing",)


def test_functions_are_named_as_in_binaries() -> None:
    declared = parse(
        interface("""
            use wasi:io/poll@0.2.{pollable, size as count};
            now: func() -> u32;
            type: func(a: count);
            use-later: func(t: thing, p: borrow<pollable>) -> other;
            resource thing {
                constructor(n: u32);
                get: func(p: pollable) -> option<u8>;
                make: static func() -> thing;
            }
            resource other { }
        """).replace("-> other", "-> own<other>"),
        USES,
    )
    other = Own(ImportedResource("demo:x/y@0.2", "other"))
    assert {name: (f.kind, f.resource, f.type) for name, f in declared.functions.items()} == {
        "now": ("free", None, Func((), U32)),
        "type": ("free", None, Func((("a", U32),), None)),
        "use-later": ("free", None, Func((("t", Own(THING)), ("p", Borrow(POLLABLE))), other)),
        "[constructor]thing": ("constructor", "thing", Func((("n", U32),), Own(THING))),
        "[method]thing.get": (
            "method",
            "thing",
            Func((("self", Borrow(THING)), ("p", Own(POLLABLE))), Option(U8)),
        ),
        "[static]thing.make": ("static", "thing", Func((), Own(THING))),
    }
    assert declared.resources == ("thing", "other")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("interface wrong { }", "line 1: expected a interface, found 'wrong'"),
        (interface("\n\n f: func(a: nope);"), "line 3: unknown type 'nope'"),
        (interface("record a { }"), "line 1: 'a' is empty"),
        (interface("record a { x: u8 } enum a { b }"), "line 1: 'a' is declared twice"),
        (interface("f: func(); f: func();"), "line 1: 'f' is declared twice"),
        (interface("f: func() -> (a: u8);"), "line 1: expected a label, found '('"),
        (interface("f: func() u8;"), "line 1: expected ';', found 'u8'"),
        (interface("type a = borrow<u8>;"), "line 1: 'u8' is not a resource"),
        (interface("use a:b/c.{d};"), "line 1: a:b/c has no type 'd'"),
        (interface("nonsense a;"), "line 1: expected an item, found 'nonsense'"),
        (interface("f: func();\n\n#"), "line 3: cannot read '#'"),
        ("interface a:b/c {", "line 1: expected a label, found 'the end'"),
        ("interface a:b/c { } more", "line 1: expected a end, found 'more'"),
    ],
)
def test_a_mistake_is_reported_with_its_line(text: str, message: str) -> None:
    with pytest.raises(WitError) as caught:
        parse(text, {})
    assert str(caught.value) == message


class Thing:
    def get(self, _: object) -> int:
        return 1

    def import_(self) -> None:
        return None

    @staticmethod
    def new(_: object) -> Thing:
        return Thing()

    @staticmethod
    def make_it(_: object) -> Thing:
        return Thing()


WIT = interface("""
    resource thing {
        constructor();
        get: func(a: u8) -> u8;
        import: func();
        make-it: static func() -> thing;
    }
    now: func() -> u32;
""")


def test_an_interface_binds_what_it_declares() -> None:
    made = Interface(WIT, functions={"now": print}, resources={"thing": Thing})
    calls = {name: function.call for name, function in made.functions.items()}
    assert calls == {
        "[constructor]thing": Thing.new,
        "[method]thing.get": Thing.get,
        "[method]thing.import": Thing.import_,
        "[static]thing.make-it": Thing.make_it,
        "now": print,
    }
    assert made.resource("thing") is Thing


def test_a_function_without_implementation_is_an_error() -> None:
    with pytest.raises(TypeError, match="declares now, which nothing implements"):
        Interface(WIT, resources={"thing": Thing})
    with pytest.raises(TypeError, match=r"declares \[constructor\]thing"):
        Interface(WIT, functions={"now": print})
    with pytest.raises(TypeError, match="does not declare later"):
        Interface(WIT, functions={"now": print, "later": print}, resources={"thing": Thing})


def test_an_interface_of_guests_needs_no_implementation() -> None:
    made = Interface(WIT, guest=True)
    assert made.functions == {}
    assert made.declaration.functions["now"].type == Func((), U32)


def test_interfaces_are_found_in_any_compatible_version() -> None:
    made = Interface(WIT, functions={"now": print}, resources={"thing": Thing})
    core = CoreInterface("env", {"f": CoreFunction("i", "", print)})
    interfaces = Interfaces([made, core])
    assert interfaces.find("demo:x/y@0.2.7") is made
    assert interfaces.find("demo:x/y@0.2") is made
    assert interfaces.find("demo:x/y@0.3.0") is None
    assert interfaces.find("demo:x/y") is None
    assert interfaces.core("env") is core
    assert interfaces.core("demo:x/y@0.2") is None
    assert interfaces.resource(THING) is Thing
    assert interfaces.resource(POLLABLE) is None
    with pytest.raises(ValueError, match="two interfaces are named demo"):
        Interfaces([made, made])
