"""A guest that lies about handles is stopped; what it held is dropped, once."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from guests import Item, Turn, calling, host_of, instance, ready, run, settle, written
from wat import assemble

from edge.engine._core import Code, counters
from edge.engine.host import Err, Interface, Trap


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    Thing.alive, Thing.dropped = {}, []
    yield
    assert not any(counters().values())
    assert not Thing.alive


class Thing:
    """A resource of the host that knows when it ends."""

    alive: dict[Thing, None] = {}  # noqa: RUF012 - the test's, made anew for each
    dropped: list[Thing] = []  # noqa: RUF012

    def __init__(self, *_: object) -> None:
        Thing.alive[self] = None

    def drop(self) -> None:
        del Thing.alive[self]
        Thing.dropped.append(self)


class Other(Thing):
    """A resource of another type."""


def take(_context: object, *things: Thing) -> None:
    """The host becomes the owner, and ends what it got."""
    for thing in things:
        thing.drop()


def look(_context: object, *things: Thing) -> None:
    assert all(thing in Thing.alive for thing in things)


def both(_context: object, owned: Thing, *_lent: Thing) -> None:
    owned.drop()


async def later(_context: object, lent: Thing, owned: Thing) -> None:
    await Turn()
    assert lent in Thing.alive
    owned.drop()


HOST_TYPES = """
  (export "thing" (type $thing (sub resource)))
  (export "other" (type $other (sub resource)))
"""
WIT_TYPES = "resource thing {} resource other {}"
ALIASES = """
  (alias export $host "thing" (type $thing))
  (alias export $host "other" (type $other))
  (core func $drop (canon resource.drop $thing))
  (core func $drop-other (canon resource.drop $other))
"""
CALLS: dict[str, tuple[tuple[str, ...], Any]] = {
    "take": (("own thing",), take),
    "take-other": (("own other",), take),
    "look": (("borrow thing",), look),
    "look-other": (("borrow other",), look),
    "own-borrow": (("own thing", "borrow thing"), both),
    "borrow-own": (("borrow thing", "own thing"), lambda c, lent, owned: owned.drop()),
    "borrow-borrow": (("borrow thing", "borrow thing"), look),
    "own-own": (("own thing", "own thing"), take),
    "later": (("borrow thing", "own thing"), later),
}
MANY = Item(
    "many",
    '(param "x" (list (borrow $thing))) (param "y" (own $thing))',
    "(param i32 i32 i32)",
    "func(x: list<borrow<thing>>, y: thing)",
)


@cache
def prober() -> Code:
    """A guest that passes on any number as a handle: it exports each call of the host as itself."""
    binary, interfaces = prober_binary()
    return ready(binary, *interfaces)


def prober_binary() -> tuple[bytes, list[Interface]]:
    imports = [
        Item("new", "(result (own $thing))", "(result i32)", "func() -> thing"),
        Item("new-other", "(result (own $other))", "(result i32)", "func() -> other"),
        Item("maybe", "(result (result (own $thing)))", "(param i32)", "func() -> result<thing>"),
        MANY,
    ]
    for name, (params, _) in CALLS.items():
        pairs = [param.split() for param in params]
        text = " ".join(f'(param "p{n}" ({k} ${r}))' for n, (k, r) in enumerate(pairs))
        spelt = ", ".join(f"p{n}: {k}<{r}>" for n, (k, r) in enumerate(pairs))
        imports.append(Item(name, text, f"(param {'i32 ' * len(params)})", f"func({spelt})"))
    exports = [Item("new", "(result u32)"), Item("new-other", "(result u32)"), MANY_EXPORT]
    defined = """
      (func (export "new") (result i32) (call $new))
      (func (export "new-other") (result i32) (call $new-other))
      (func (export "drop") (param i32) (call $drop (local.get 0)))
      (func (export "drop-other") (param i32) (call $drop-other (local.get 0)))
      (func (export "maybe") (call $maybe (i32.const 64)))
      (func (export "many") (param $h i32) (param $n i32) (local $i i32)
        (loop $l
          (i32.store
            (i32.add (i32.const 256) (i32.mul (local.get $i) (i32.const 4))) (local.get $h))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_if $l (i32.lt_u (local.get $i) (local.get $n))))
        (call $many (i32.const 256) (local.get $n) (local.get $h)))
      (func (export "fill") (loop $l (drop (call $new)) (br $l)))
      (func (export "hold") (param i32))
      (func (export "release") (param i32) (call $drop (local.get 0)))
      (func (export "twice") (param i32) (call $drop (local.get 0)) (call $drop (local.get 0)))
      (func (export "keep") (param i32) (call $take (local.get 0)))
      (func (export "show") (param i32) (call $look (local.get 0)) (call $drop (local.get 0)))
      (func (export "forge") (param i32) (result i32) (local.get 0))
    """
    borrowed = '(param "x" (borrow $thing))'
    exports += [
        Item("drop", '(param "h" u32)'),
        Item("drop-other", '(param "h" u32)'),
        Item("maybe"),
        Item("fill"),
        *[Item(name, borrowed) for name in ("hold", "release", "twice", "keep", "show")],
        Item("forge", '(param "h" u32) (result (own $thing))'),
    ]
    for name, (params, _) in CALLS.items():
        gets = " ".join(f"(local.get {n})" for n in range(len(params)))
        signature = f"(param {'i32 ' * len(params)})"
        defined += f'(func (export "{name}") {signature} (call ${name} {gets}))'
        exports.append(Item(name, " ".join(f'(param "p{n}" u32)' for n in range(len(params)))))
    text = written(
        defined,
        imports,
        exports,
        host_types=HOST_TYPES,
        extra=ALIASES,
        canonical={"drop": "(param i32)", "drop-other": "(param i32)"},
    )
    calls = {name: call for name, (_, call) in CALLS.items()}
    calls |= {"new": Thing, "new-other": Other, "many": lambda c, lent, owned: owned.drop()}
    calls["maybe"] = lambda c: Err()
    resources = {"thing": Thing, "other": Other}
    return assemble(text), [host_of(imports, calls, WIT_TYPES, resources)]


MANY_EXPORT = Item("many", '(param "h" u32) (param "n" u32)')
FORGED = [0, 2, 3, 16, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
SINGLE = [name for name, (params, _) in CALLS.items() if len(params) == 1]


@pytest.mark.parametrize("name", [*SINGLE, "drop", "drop-other", "forge"])
def test_handles_that_do_not_exist(name: str) -> None:
    for handle in FORGED:
        with instance(prober()) as made:
            assert run(made, "new") == 1
            with pytest.raises(Trap, match="unknown handle"):
                run(made, name, handle)
            assert made.broken


@pytest.mark.parametrize("name", ["take", "look", "drop", "forge"])
def test_handles_of_another_type(name: str) -> None:
    with instance(prober()) as made:
        handle = run(made, "new-other")
        with pytest.raises(Trap, match="another resource type"):
            run(made, name, handle)


@pytest.mark.parametrize("first", ["take", "drop", "forge"])
@pytest.mark.parametrize("second", ["take", "look", "drop", "forge"])
def test_handles_that_were_given_up(first: str, second: str) -> None:
    with instance(prober()) as made:
        handle = run(made, "new")
        got = run(made, first, handle)
        if got is not None:
            got.drop()
        with pytest.raises(Trap, match="unknown handle"):
            run(made, second, handle)
    assert len(Thing.dropped) == 1


def test_a_number_is_used_again_for_what_it_is_now() -> None:
    with instance(prober()) as made:
        assert run(made, "new") == 1
        run(made, "drop", 1)
        assert run(made, "new-other") == 1
        with pytest.raises(Trap, match="another resource type"):
            run(made, "drop", 1)


def test_handles_are_counted_and_used_again() -> None:
    with instance(prober()) as made:
        for _ in range(3):
            handles = [run(made, "new") for _ in range(100)]
            assert sorted(handles) == list(range(1, 101))
            assert made.handles == 100
            for handle in handles[::2]:
                run(made, "drop", handle)
            for handle in handles[1::2]:
                run(made, "take", handle)
            assert made.handles == 0
        assert not made.broken


@pytest.mark.parametrize("use", ["take", "look"])
def test_what_was_ended_can_not_be_used(use: str) -> None:
    with instance(prober()) as made:
        first, other, second = (run(made, name) for name in ("new", "new-other", "new"))
        a, _, b = made.kept()
        made.end([a, b])
        assert Thing.dropped == [a, b]
        assert made.handles == 1
        assert run(made, "new") not in (first, second)
        run(made, "look-other", other)
        with pytest.raises(Trap, match=f"handle {second} is of an event that is over"):
            run(made, use, second)
        with pytest.raises(RuntimeError, match="broken"):
            made.end([])
    assert len(Thing.dropped) == 4


def test_what_was_ended_can_be_dropped_once() -> None:
    with instance(prober()) as made:
        handle = run(made, "new")
        values = made.kept()
        made.end(values)
        made.end(values)
        assert (made.handles, made.kept()) == (0, [])
        run(made, "drop", handle)
        assert made.handles == 0
        assert run(made, "new") == handle, "the number is free again"
        made.end(made.kept())
        with pytest.raises(Trap, match="is of an event that is over"):
            run(made, "drop-other", handle)
    assert len(Thing.dropped) == 2


def test_handles_that_were_ended_are_bounded() -> None:
    with instance(prober()) as made:
        for _ in range(1030):
            run(made, "new")
        made.end(made.kept())
        assert made.handles == 6
        run(made, "drop", 1)
        made.end(made.kept())
        assert made.handles == 5


@pytest.mark.parametrize("name", ["own-borrow", "borrow-own", "own-own", "later"])
def test_one_handle_given_away_and_lent_in_one_call(name: str) -> None:
    with instance(prober()) as made:
        handle = run(made, "new")
        with pytest.raises(Trap, match=r"unknown handle|lent"):
            run(made, name, handle, handle)
        assert made.broken


@pytest.mark.parametrize("name", ["own-borrow", "borrow-own", "own-own", "later", "borrow-borrow"])
def test_two_handles_in_one_call(name: str) -> None:
    with instance(prober()) as made:
        one, two = run(made, "new"), run(made, "new")
        run(made, name, one, two)
        assert made.handles == {"own-own": 0, "borrow-borrow": 2}.get(name, 1)


@pytest.mark.parametrize("count", [1, 255, 256, 257, 512, 65536 // 4 - 64])
def test_one_handle_lent_many_times(count: int) -> None:
    with instance(prober()) as made:
        handle = run(made, "new")
        with pytest.raises(Trap, match="lent"):
            run(made, "many", handle, count)


def test_one_handle_lent_twice_is_lent_no_more_after_the_call() -> None:
    with instance(prober()) as made:
        handle = run(made, "new")
        for _ in range(300):
            run(made, "borrow-borrow", handle, handle)
        run(made, "drop", handle)
        assert made.handles == 0


def test_more_handles_than_there_may_be() -> None:
    with instance(prober()) as made:
        with pytest.raises(Trap, match="handles at once"):
            run(made, "fill")
        assert 16_000 < len(Thing.alive) < 17_000
        newest_first = list(Thing.alive)[::-1]
    assert Thing.dropped == newest_first  # the one too many included


# --- borrowed from the host -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hold", "borrowed handles were not dropped"),
        ("twice", "unknown handle"),
        ("keep", "borrowed and can not be given away"),
    ],
)
def test_what_a_guest_may_not_do_with_a_borrow(name: str, message: str) -> None:
    thing = Thing()
    with instance(prober()) as made, pytest.raises(Trap, match=message):
        run(made, name, thing)
    assert list(Thing.alive) == [thing]  # it was the host's all the time
    thing.drop()


@pytest.mark.parametrize("name", ["release", "show"])
def test_what_a_guest_may_do_with_a_borrow(name: str) -> None:
    thing = Thing()
    with instance(prober()) as made:
        for _ in range(3):
            run(made, name, thing)
            assert made.handles == 0
    assert list(Thing.alive) == [thing]
    thing.drop()


# --- what is left ---------------------------------------------------------------------------------


def test_what_is_left_ends_newest_first() -> None:
    with instance(prober()) as made:
        for handle in [run(made, "new") for _ in range(5)][1::2]:
            run(made, "drop", handle)
        run(made, "new")  # takes a number that was used before
        run(made, "new-other")
        born = list(Thing.alive)
        Thing.dropped.clear()
    assert Thing.dropped == born[::-1]


def test_a_resource_that_fails_to_drop_is_an_error_of_the_host() -> None:
    class Failing(Thing):
        def drop(self) -> None:
            super().drop()
            raise ZeroDivisionError

    imports = [Item("new", "(result (own $thing))", "(result i32)", "func() -> thing")]
    text = written(
        """
        (func (export "new") (drop (call $new)))
        (func (export "go") (call $drop (call $new)))""",
        imports,
        [Item("new"), Item("go")],
        host_types='(export "thing" (type $thing (sub resource)))',
        extra='(alias export $host "thing" (type $t)) (core func $drop (canon resource.drop $t))',
        canonical={"drop": "(param i32)"},
    )
    host = host_of(imports, {"new": Failing}, "resource thing {}", {"thing": Failing})
    code = ready(assemble(text), host)
    with instance(code) as made, pytest.raises(ZeroDivisionError):
        run(made, "go")
    with pytest.raises(ZeroDivisionError), instance(code) as made:
        run(made, "new")
    assert len(Thing.dropped) == 2


def test_handles_in_a_call_that_waits() -> None:
    with instance(prober()) as made:
        one, two = run(made, "new"), run(made, "new")
        with calling(made, "later", one, two) as call:
            assert not call.poll()
            assert made.handles == 1
            settle(call)
            assert call.poll()
        assert made.handles == 1


def test_handles_in_a_call_that_is_cancelled() -> None:
    """What was lent is the guest's again and ends with it; what was given is the host's."""

    async def never(_context: object, lent: Thing, owned: Thing) -> None:
        try:
            await Turn()
        finally:
            assert lent in Thing.alive
            owned.drop()

    with instance(prober_with("later", never)) as made:
        one, two = run(made, "new"), run(made, "new")
        with calling(made, "later", one, two) as call:
            assert not call.poll()
            assert call.waiting is not None
            call.waiting.send(None)
        assert made.handles == 1
        assert len(Thing.dropped) == 1
    assert len(Thing.dropped) == 2


def prober_with(name: str, call: Any) -> Code:
    params, before = CALLS[name]
    CALLS[name] = params, call
    try:
        return prober.__wrapped__()
    finally:
        CALLS[name] = params, before


def test_a_host_function_that_fails_after_it_was_given_a_handle() -> None:
    def failing(_context: object, thing: Thing) -> None:
        thing.drop()
        raise ValueError("no")

    with instance(prober_with("take", failing)) as made:
        handle = run(made, "new")
        with pytest.raises(ValueError, match="no"):
            run(made, "take", handle)


PAIR = "(tuple (own $thing) string)"


def paired(body: str, exports: list[Item]) -> Code:
    """A guest that passes tuples of a resource and text, for which it finds no room or no truth."""
    imports = [
        Item("new", "(result (own $thing))", "(result i32)", "func() -> thing"),
        Item("send", f'(param "x" {PAIR})', "(param i32 i32 i32)", "func(x: tuple<thing, string>)"),
        Item("fetch", f"(result {PAIR})", "(param i32)", "func() -> tuple<thing, string>"),
    ]
    text = written(
        body,
        imports,
        exports,
        host_types='(export "thing" (type $thing (sub resource)))',
        extra='(alias export $host "thing" (type $thing))',
    )
    calls = {"new": Thing, "send": take, "fetch": lambda c: (Thing(), "text")}
    return ready(assemble(text), host_of(imports, calls, "resource thing {}", {"thing": Thing}))


LOST = [
    '(func (export "go") (call $send (call $new) (i32.const 65536) (i32.const 1)))',
    '(func (export "go") (call $fetch (i32.const 65536)))',
    '(func (export "go") (call $fetch (i32.const 1)))',
    "(func $realloc (param i32 i32 i32 i32) (result i32) unreachable)"
    '(func (export "go") (call $fetch (i32.const 64)))',
]


@pytest.mark.parametrize("body", LOST)
def test_a_resource_in_a_call_with_something_wrong_is_not_lost(body: str) -> None:
    with instance(paired(body, [Item("go")])) as made, pytest.raises(Trap):
        run(made, "go")


def test_a_resource_in_a_result_with_something_wrong_is_not_lost() -> None:
    body = """
      (func (export "go") (result i32)
        (i32.store (i32.const 64) (call $new))
        (i64.store (i32.const 68) (i64.const 0xffff0000ffff))
        (i32.const 64))
    """
    code = paired(body, [Item("go", f"(result {PAIR})")])
    with instance(code) as made, pytest.raises(Trap, match="out of bounds"):
        run(made, "go")
    assert len(Thing.dropped) == 1


# --- resources of guests --------------------------------------------------------------------------

GUEST = """
(component
  (import "t:t/host" (instance $host (export "gone" (func (param "rep" u32)))))
  (core func $gone (canon lower (func $host "gone")))
  (core module $Dtor
    (import "host" "gone" (func $gone (param i32)))
    (func (export "dtor") (param i32) {dtor}))
  (core instance $dtor (instantiate $Dtor
    (with "host" (instance (export "gone" (func $gone))))))
  (type $thing' (resource (rep i32) (dtor (core func $dtor "dtor"))))
  (export $thing "thing" (type $thing'))
  (core func $new (canon resource.new $thing))
  (core func $rep (canon resource.rep $thing))
  (core func $drop (canon resource.drop $thing))
  (core module $Main
    (import "host" "new" (func $new (param i32) (result i32)))
    (import "host" "rep" (func $rep (param i32) (result i32)))
    (import "host" "drop" (func $drop (param i32)))
    (func (export "make") (param i32) (result i32) (call $new (local.get 0)))
    (func (export "raw") (param i32) (result i32) (local.get 0))
    (func (export "rep") (param i32) (result i32) (call $rep (local.get 0)))
    (func (export "drop") (param i32) (call $drop (local.get 0)))
    (func (export "look") (param i32) (result i32) (local.get 0))
    (func (export "take") (param i32) (result i32)
      (call $rep (local.get 0)) (call $drop (local.get 0))))
  (core instance $main (instantiate $Main (with "host" (instance
    (export "new" (func $new)) (export "rep" (func $rep)) (export "drop" (func $drop))))))
  (func (export "make") (param "rep" u32) (result (own $thing))
    (canon lift (core func $main "make")))
  (func (export "new") (param "rep" u32) (result u32) (canon lift (core func $main "make")))
  (func (export "raw") (param "h" u32) (result (own $thing)) (canon lift (core func $main "raw")))
  (func (export "rep") (param "h" u32) (result u32) (canon lift (core func $main "rep")))
  (func (export "drop") (param "h" u32) (canon lift (core func $main "drop")))
  (func (export "look") (param "x" (borrow $thing)) (result u32)
    (canon lift (core func $main "look")))
  (func (export "take") (param "x" (own $thing)) (result u32)
    (canon lift (core func $main "take"))))
"""


@pytest.fixture
def gone() -> list[int]:
    return []


def guest(gone: list[int], dtor: str = "(call $gone (local.get 0))") -> Code:
    host = host_of([Item("gone", wit="func(rep: u32)")], {"gone": lambda _, rep: gone.append(rep)})
    return ready(assemble(GUEST.replace("{dtor}", dtor)), host)


def test_a_resource_of_a_guest_comes_and_goes(gone: list[int]) -> None:
    with instance(guest(gone)) as made:
        for rep in (0, 1, 7, 0xFFFFFFFF):
            handle = run(made, "make", rep)
            assert handle.rep == rep
            assert handle.owned
            assert made.handles == 0
            assert run(made, "look", handle) == rep
            assert run(made, "look", handle) == rep
            assert run(made, "take", handle) == rep
            assert gone.pop() == rep
            assert made.handles == 0
            assert not handle.owned
            with pytest.raises(TypeError):
                made.call(made.export("take"), (handle,))
            break
    for rep in (1, 0xFFFFFFFF):
        with instance(guest(gone)) as made:
            assert run(made, "take", run(made, "make", rep)) == rep


@pytest.mark.parametrize("name", ["rep", "drop", "raw"])
def test_handles_that_a_guest_never_made(name: str, gone: list[int]) -> None:
    for handle in FORGED:
        with instance(guest(gone)) as made:
            assert run(made, "new", 5) == 1
            with pytest.raises(Trap, match="unknown handle"):
                run(made, name, handle)
    assert not gone


@pytest.mark.parametrize("wrong", [None, 1, "x", Thing, object()])
def test_what_is_no_handle_of_a_guest(wrong: object, gone: list[int]) -> None:
    for name in ("look", "take"):
        with instance(guest(gone)) as made, pytest.raises(TypeError):
            run(made, name, wrong)


@pytest.mark.parametrize(
    ("dtor", "message"),
    [("unreachable", "unreachable"), ("(call $gone (local.get 0)) unreachable", "unreachable")],
)
def test_a_destructor_that_traps(dtor: str, message: str, gone: list[int]) -> None:
    with instance(guest(gone, dtor)) as made:
        with pytest.raises(Trap, match=message):
            run(made, "take", run(made, "make", 1))
        assert made.broken


def test_a_destructor_that_never_ends_yields(gone: list[int]) -> None:
    with instance(guest(gone, "(loop $l (br $l))")) as made:
        with calling(made, "take", run(made, "make", 1)) as call:
            for _ in range(5):
                assert not call.poll()
        assert made.broken


def test_handles_that_are_left_do_not_run_guest_code(gone: list[int]) -> None:
    with instance(guest(gone)) as made:
        run(made, "new", 1)
        assert made.handles == 1
    assert not gone


def test_a_coroutine_as_a_resource_is_awaited_by_nobody() -> None:
    """What a constructor returns is a coroutine only if it waits."""

    async def made_later(_context: object) -> Thing:
        await Turn()
        return Thing()

    imports = [Item("new", "(result (own $thing))", "(result i32)", "func() -> thing")]
    text = written(
        '(func (export "new") (result i32) (call $new))',
        imports,
        [Item("new", "(result u32)")],
        host_types='(export "thing" (type $thing (sub resource)))',
    )
    host = host_of(imports, {"new": made_later}, "resource thing {}", {"thing": Thing})
    with instance(ready(assemble(text), host)) as made:
        assert run(made, "new") == 1
        assert made.handles == 1
    assert len(Thing.dropped) == 1
