"""Components that call each other: handles that cross, borrows, destructors, reentrance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from guests import Function, Item, Turn, calling, host_of, instance, ready, relay, run, settle
from wat import assemble

from edge.engine import types as wit
from edge.engine._core import Code, counters
from edge.engine.host import Interface, Trap
from edge.engine.types import Primitive

STRING = Primitive("string")


class Thing:
    """A resource of the host that knows when it ends."""

    alive: dict[Thing, None] = {}  # noqa: RUF012 - the test's, made anew for each

    def __init__(self, *_: object) -> None:
        Thing.alive[self] = None

    def drop(self) -> None:
        del Thing.alive[self]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    Thing.alive = {}
    yield
    assert not any(counters().values())
    assert not Thing.alive


# --- the host's resources through two components --------------------------------------------------

FUNCTIONS = """
  (export "thing" (type $thing (sub resource)))
  (export "take" (func (param "x" (own $thing)) (param "s" string)))
  (export "look" (func (param "x" (borrow $thing)) (param "s" string)))
  (export "both" (func (param "x" (borrow $thing)) (param "y" (own $thing))))
  (export "give" (func (result (tuple (own $thing) string))))
"""
WIT = """
  resource thing {}
  take: func(x: thing, s: string);
  look: func(x: borrow<thing>, s: string);
  both: func(x: borrow<thing>, y: thing);
  give: func() -> tuple<thing, string>;
"""


def component(name: str, body: str, lifts: str) -> str:
    """A component that imports and exports these functions. `body` finds what it imports."""
    options = '(memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))'
    return f"""
  (component ${name}
    (import "t:t/host" (instance $host {FUNCTIONS}))
    (alias export $host "thing" (type $thing))
    (core module $Libc (memory (export "memory") 1)
      (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
    (core instance $libc (instantiate $Libc))
    (core func $take (canon lower (func $host "take") {options}))
    (core func $look (canon lower (func $host "look") {options}))
    (core func $both (canon lower (func $host "both")))
    (core func $give (canon lower (func $host "give") {options}))
    (core func $drop (canon resource.drop $thing))
    (core module $Main
      (import "" "memory" (memory 1))
      (import "" "take" (func $take (param i32 i32 i32)))
      (import "" "look" (func $look (param i32 i32 i32)))
      (import "" "both" (func $both (param i32 i32)))
      (import "" "give" (func $give (param i32)))
      (import "" "drop" (func $drop (param i32)))
      {body})
    (core instance $main (instantiate $Main (with "" (instance
      (export "memory" (memory $libc "memory"))
      (export "take" (func $take)) (export "look" (func $look)) (export "both" (func $both))
      (export "give" (func $give)) (export "drop" (func $drop))))))
    {lifts.replace("OPTIONS", options)}
  )
"""


LIFTS = """
    (type $pair (tuple (own $thing) string))
    (func $take' (param "x" (own $thing)) (param "s" string)
      (canon lift (core func $main "take") OPTIONS))
    (func $look' (param "x" (borrow $thing)) (param "s" string)
      (canon lift (core func $main "look") OPTIONS))
    (func $both' (param "x" (borrow $thing)) (param "y" (own $thing))
      (canon lift (core func $main "both") OPTIONS))
    (func $give' (result $pair) (canon lift (core func $main "give") OPTIONS))
    (instance $all
      (export "thing" (type $thing)) (export "take" (func $take')) (export "look" (func $look'))
      (export "both" (func $both')) (export "give" (func $give')))
    (export "t:t/host" (instance $all))
"""
BEHIND = """
  (func (export "take") (param i32 i32 i32)
    (call $take (local.get 0) (local.get 1) (local.get 2)))
  (func (export "look") (param i32 i32 i32)
    (call $look (local.get 0) (local.get 1) (local.get 2)) (call $drop (local.get 0)))
  (func (export "both") (param i32 i32)
    (call $both (local.get 0) (local.get 1)) (call $drop (local.get 0)))
  (func (export "give") (result i32) (call $give (i32.const 64)) (i32.const 64))
"""
# Does with each handle what it is told: the numbers are raw.
FRONT = """
  (func (export "give") (result i32) (call $give (i32.const 64)) (i32.load (i32.const 64)))
  (func (export "take") (param i32 i32 i32)
    (call $take (local.get 0) (local.get 1) (local.get 2)))
  (func (export "look") (param i32 i32 i32)
    (call $look (local.get 0) (local.get 1) (local.get 2)))
  (func (export "both") (param i32 i32) (call $both (local.get 0) (local.get 1)))
  (func (export "drop") (param i32) (call $drop (local.get 0)))
"""
FRONT_LIFTS = """
    (func (export "give") (result u32) (canon lift (core func $main "give")))
    (func (export "take") (param "x" u32) (param "at" u32) (param "n" u32)
      (canon lift (core func $main "take")))
    (func (export "look") (param "x" u32) (param "at" u32) (param "n" u32)
      (canon lift (core func $main "look")))
    (func (export "both") (param "x" u32) (param "y" u32) (canon lift (core func $main "both")))
    (func (export "drop") (param "x" u32) (canon lift (core func $main "drop")))
"""


class Host:
    """The host's functions; `waits`: each after a turn."""

    def __init__(self, *, waits: bool = False) -> None:
        self.seen: list[tuple[str, Any]] = []
        calls = {name: getattr(self, name) for name in ("take", "look", "both", "give")}
        if waits:
            calls = {name: self.waiting(call) for name, call in calls.items()}
        self.interface = Interface(
            f"interface t:t/host {{ {WIT} }}", functions=calls, resources={"thing": Thing}
        )

    @staticmethod
    def waiting(call: Any) -> Any:
        async def later(*args: object) -> object:
            await Turn()
            return call(*args)

        return later

    def take(self, _context: object, thing: Thing, text: str) -> None:
        self.seen.append(("take", text))
        thing.drop()

    def look(self, _context: object, thing: Thing, text: str) -> None:
        assert thing in Thing.alive
        self.seen.append(("look", text))

    def both(self, _context: object, lent: Thing, owned: Thing) -> None:
        assert lent in Thing.alive
        self.seen.append(("both", lent is not owned))
        owned.drop()

    def give(self, _context: object) -> tuple[Thing, str]:
        return Thing(), "given"


def two(host: Host, behind: str = BEHIND) -> Code:
    return ready(assemble(two_text(behind)), host.interface)


def two_text(behind: str = BEHIND) -> str:
    """The front component, whose host is the one behind, whose host is the host."""
    names = ("give", "take", "look", "both", "drop")
    exports = " ".join(f'(export "{name}" (func $front "{name}"))' for name in names)
    return f"""
(component
  (import "t:t/host" (instance $host {FUNCTIONS}))
  {component("Behind", behind, LIFTS)}
  {component("Front", FRONT, FRONT_LIFTS)}
  (instance $behind (instantiate $Behind (with "t:t/host" (instance $host))))
  (alias export $behind "t:t/host" (instance $theirs))
  (instance $front (instantiate $Front (with "t:t/host" (instance $theirs))))
  {exports})
"""


@pytest.mark.parametrize("waits", [False, True])
def test_a_resource_of_the_host_crosses_two_components(waits: bool) -> None:
    host = Host(waits=waits)
    with instance(two(host)) as made:
        handle = run(made, "give")
        assert made.handles == 1
        for _ in range(300):
            run(made, "look", handle, 1024, 5)
        assert host.seen.pop() == ("look", "given")
        other = run(made, "give")
        run(made, "both", handle, other)
        assert host.seen.pop() == ("both", True)
        assert made.handles == 1
        run(made, "take", handle, 0, 0)
        assert made.handles == 0
        run(made, "drop", run(made, "give"))
        assert made.handles == 0
        assert not Thing.alive
        assert not made.broken


@pytest.mark.parametrize("name", ["take", "look"])
def test_handles_of_the_other_component(name: str) -> None:
    """The number that the front holds says nothing behind, and the other way round."""
    with instance(two(Host())) as made:
        run(made, "give")
        for handle in (0, 2, 0xFFFFFFFF):
            with instance(two(Host())) as fresh, pytest.raises(Trap, match="unknown handle"):
                run(fresh, name, handle, 0, 0)


@pytest.mark.parametrize("waits", [False, True])
def test_one_handle_lent_and_given_in_one_call_between_components(waits: bool) -> None:
    with instance(two(Host(waits=waits))) as made:
        handle = run(made, "give")
        with pytest.raises(Trap, match="lent"):
            run(made, "both", handle, handle)


def test_a_resource_beside_bad_text_is_not_lost_between_components() -> None:
    for at, length in ((65536, 1), (0xFFFFFFFF, 0xFFFFFFFF)):
        with instance(two(Host())) as made:
            handle = run(made, "give")
            with pytest.raises(Trap, match="out of bounds"):
                run(made, "take", handle, at, length)


CALLS = "(call $take (local.get 0) (local.get 1) (local.get 2))"


def behind_with(name: str, code: str) -> str:
    """The component behind, with other code for a function of three parameters."""
    return BEHIND.replace(f'(export "{name}")', '(export "unused")') + (
        f'(func (export "{name}") (param i32 i32 i32) {code})'
    )


@pytest.mark.parametrize(
    ("behind", "name", "message"),
    [
        (behind_with("look", ""), "look", "borrowed handles were not dropped"),
        (behind_with("look", CALLS), "look", "borrowed and can not be given away"),
        (behind_with("take", "unreachable"), "take", "unreachable"),
    ],
)
def test_what_the_component_behind_does_wrong(behind: str, name: str, message: str) -> None:
    with instance(two(Host(), behind)) as made:
        handle = run(made, "give")
        with pytest.raises(Trap, match=message):
            run(made, name, handle, 0, 0)
        assert made.broken


def test_a_resource_in_a_bad_result_is_not_lost_between_components() -> None:
    beyond = "(i32.store (i32.const 68) (i32.const -1)) (i32.const 64)"
    behind = BEHIND.replace(
        "(call $give (i32.const 64)) (i32.const 64)", f"(call $give (i32.const 64)) {beyond}"
    )
    assert beyond in behind
    with instance(two(Host(), behind)) as made, pytest.raises(Trap, match="out of bounds"):
        run(made, "give")


@pytest.mark.parametrize("name", ["look", "both"])
def test_a_call_with_handles_between_components_is_cancelled(name: str) -> None:
    """What was given to a host function that never began is nobody's, and so is not tested."""
    with instance(two(Host(waits=True))) as made:
        one = run(made, "give")
        args = (one, run(made, "give")) if name == "both" else (one, 0, 0)
        with calling(made, name, *args) as call:
            assert not call.poll()
            if name == "both":
                settle(call)
    assert made.broken


# --- resources that one component defines and another uses ----------------------------------------

SHARED = """
(component
  (import "t:t/host" (instance $host (export "gone" (func (param "rep" u32)))))
  (component $Maker
    (import "gone" (func $gone (param "rep" u32)))
    (core func $gone' (canon lower (func $gone)))
    (core module $Dtor
      (import "" "gone" (func $gone (param i32)))
      (func (export "dtor") (param i32) {dtor}))
    (core instance $dtor (instantiate $Dtor (with "" (instance (export "gone" (func $gone'))))))
    (type $thing' (resource (rep i32) (dtor (core func $dtor "dtor"))))
    (export $thing "thing" (type $thing'))
    (core func $new (canon resource.new $thing))
    (core func $rep (canon resource.rep $thing))
    (core func $drop (canon resource.drop $thing))
    (core module $Main
      (import "" "new" (func $new (param i32) (result i32)))
      (import "" "rep" (func $rep (param i32) (result i32)))
      (import "" "drop" (func $drop (param i32)))
      (func (export "make") (param i32) (result i32) (call $new (local.get 0)))
      (func (export "look") (param i32) (result i32) (local.get 0))
      (func (export "take") (param i32) (result i32)
        (call $rep (local.get 0)) (call $drop (local.get 0))))
    (core instance $main (instantiate $Main (with "" (instance
      (export "new" (func $new)) (export "rep" (func $rep)) (export "drop" (func $drop))))))
    (func (export "make") (param "rep" u32) (result (own $thing))
      (canon lift (core func $main "make")))
    (func (export "look") (param "x" (borrow $thing)) (result u32)
      (canon lift (core func $main "look")))
    (func (export "take") (param "x" (own $thing)) (result u32)
      (canon lift (core func $main "take"))))
  (component $User
    (import "maker" (instance $maker
      (export "thing" (type $thing (sub resource)))
      (export "make" (func (param "rep" u32) (result (own $thing))))
      (export "look" (func (param "x" (borrow $thing)) (result u32)))
      (export "take" (func (param "x" (own $thing)) (result u32)))))
    (alias export $maker "thing" (type $thing))
    (core func $make (canon lower (func $maker "make")))
    (core func $look (canon lower (func $maker "look")))
    (core func $take (canon lower (func $maker "take")))
    (core func $drop (canon resource.drop $thing))
    (core module $Main
      (import "" "make" (func $make (param i32) (result i32)))
      (import "" "look" (func $look (param i32) (result i32)))
      (import "" "take" (func $take (param i32) (result i32)))
      (import "" "drop" (func $drop (param i32)))
      (func (export "make") (param i32) (result i32) (call $make (local.get 0)))
      (func (export "look") (param i32) (result i32) (call $look (local.get 0)))
      (func (export "take") (param i32) (result i32) (call $take (local.get 0)))
      (func (export "drop") (param i32) (call $drop (local.get 0))))
    (core instance $main (instantiate $Main (with "" (instance
      (export "make" (func $make)) (export "look" (func $look))
      (export "take" (func $take)) (export "drop" (func $drop))))))
    (func (export "make") (param "x" u32) (result u32) (canon lift (core func $main "make")))
    (func (export "look") (param "x" u32) (result u32) (canon lift (core func $main "look")))
    (func (export "take") (param "x" u32) (result u32) (canon lift (core func $main "take")))
    (func (export "drop") (param "x" u32) (canon lift (core func $main "drop"))))
  (instance $maker (instantiate $Maker (with "gone" (func $host "gone"))))
  (instance $user (instantiate $User (with "maker" (instance $maker))))
  (export "make" (func $user "make"))
  (export "look" (func $user "look"))
  (export "take" (func $user "take"))
  (export "drop" (func $user "drop")))
"""


def shared(gone: list[int], dtor: str = "(call $gone (local.get 0))") -> Code:
    host = host_of([Item("gone", wit="func(rep: u32)")], {"gone": lambda _, rep: gone.append(rep)})
    return ready(assemble(SHARED.replace("{dtor}", dtor)), host)


def test_a_resource_of_one_component_in_the_hands_of_another() -> None:
    gone: list[int] = []
    with instance(shared(gone)) as made:
        one, two = run(made, "make", 0), run(made, "make", 0xFFFFFFFF)
        assert made.handles == 2
        for _ in range(300):
            assert run(made, "look", one) == 0
            assert run(made, "look", two) == 0xFFFFFFFF
        assert run(made, "take", one) == 0
        assert gone == [0]
        run(made, "drop", two)
        assert gone == [0, 0xFFFFFFFF]
        assert made.handles == 0
        assert not made.broken


@pytest.mark.parametrize("name", ["look", "take", "drop"])
def test_a_component_without_a_handle_has_none_of_the_maker(name: str) -> None:
    for handle in (0, 2, 5, 0xFFFFFFFF):
        gone: list[int] = []
        with instance(shared(gone)) as made:
            run(made, "make", 5)
            with pytest.raises(Trap, match="unknown handle"):
                run(made, name, handle)
        assert not gone


@pytest.mark.parametrize("second", ["look", "take", "drop"])
@pytest.mark.parametrize("first", ["take", "drop"])
def test_a_resource_that_was_given_up_is_gone(first: str, second: str) -> None:
    gone: list[int] = []
    with instance(shared(gone)) as made:
        handle = run(made, "make", 5)
        run(made, first, handle)
        with pytest.raises(Trap, match="unknown handle"):
            run(made, second, handle)
    assert gone == [5]


@pytest.mark.parametrize("name", ["take", "drop"])
def test_a_destructor_that_traps_ends_the_instance(name: str) -> None:
    gone: list[int] = []
    with instance(shared(gone, "(call $gone (local.get 0)) unreachable")) as made:
        handle = run(made, "make", 5)
        with pytest.raises(Trap, match="unreachable"):
            run(made, name, handle)
        assert made.broken
    assert gone == [5]


@pytest.mark.parametrize("name", ["take", "drop"])
def test_a_destructor_that_never_ends_is_cancelled(name: str) -> None:
    with instance(shared([], "(loop $l (br $l))")) as made:
        handle = run(made, "make", 5)
        with calling(made, name, handle) as call:
            for _ in range(5):
                assert not call.poll()
                assert call.waiting is None
        assert made.broken


# --- reentrance -----------------------------------------------------------------------------------

REENTRANT = """
(component
  (import "t:t/host" (instance $host (export "tick" (func))))
  (core func $tick (canon lower (func $host "tick")))
  (core module $Back (func (export "back")))
  (core instance $back (instantiate $Back))
  (func $back (canon lift (core func $back "back")))
  (component $Child
    (import "back" (func $back))
    (core func $back' (canon lower (func $back)))
    (core module $Main (import "" "back" (func $back)) (func (export "go") (call $back)))
    (core instance $main (instantiate $Main (with "" (instance (export "back" (func $back'))))))
    (func (export "go") (canon lift (core func $main "go"))))
  (instance $child (instantiate $Child (with "back" (func $back))))
  (core func $go (canon lower (func $child "go")))
  (core module $Main
    (import "" "go" (func $go))
    (func (export "go") (call $go)))
  (core instance $main (instantiate $Main (with "" (instance (export "go" (func $go))))))
  (func (export "go") (canon lift (core func $main "go")))
  (export "child" (func $child "go"))
  (export "back" (func $back)))
"""


def test_a_component_is_not_entered_again_from_below() -> None:
    code = ready(assemble(REENTRANT), host_of([Item("tick")], {"tick": lambda _: None}))
    with instance(code) as made:
        run(made, "back")
        run(made, "child")
        with pytest.raises(Trap, match="can not be called while"):
            run(made, "go")
        assert made.broken


def test_an_identical_function_twice_in_a_row_is_fine() -> None:
    functions = [Function((STRING, wit.List(STRING)), wit.List(STRING))]
    binary, declared = relay(functions, ["utf8"] * 6)
    host = Interface(declared, functions={"f0": lambda _, text, texts: [*texts, text]})
    with instance(ready(binary, host)) as made:
        for _ in range(10):
            assert run(made, "f0", "é", ["a", "b"]) == ["a", "b", "é"]
