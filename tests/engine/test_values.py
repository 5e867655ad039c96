"""Every value type, from the host through guests and the host behind them and back."""

from __future__ import annotations

import os
from array import array
from typing import Any, NamedTuple

import pytest
from guests import THING, Function, Thing, Wire, instance, run, wired
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import bounds, comparable, labels, types, values

from edge.engine import types as wit
from edge.engine._core import Code, counters
from edge.engine.host import Err, Ok, Some
from edge.engine.types import Primitive, Type

ENCODINGS = ("utf8", "utf16", "latin1+utf16")

CASES = int(os.environ.get("EDGE_FUZZ_CASES", "3000"))


def examples(count: int) -> settings:
    """Compiling takes its time, and how much is the machine's affair."""
    count = max(count, CASES // 200)
    return settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))


def passes(code: Code, wire: Wire, number: int, args: tuple[Any, ...], reply: Any) -> None:
    """The host at the end sees the arguments, the caller sees the reply, nothing is left."""
    wire.reply = lambda: reply
    with instance(code) as made:
        result = run(made, f"f{number}", *args)
        assert wire.received is not None
        assert comparable(wire.received) == comparable(args)
        assert comparable(result) == comparable(reply)
        assert made.handles == 0
        assert not made.broken
    assert not any(counters().values())


# --- type by type ---------------------------------------------------------------------------------

PRIMITIVE = {name: Primitive(name) for name in wit.PRIMITIVES}
U8, U16, U32, U64, F32, F64, CHAR, STRING = (
    PRIMITIVE[name] for name in ("u8", "u16", "u32", "u64", "f32", "f64", "char", "string")
)
INTEGERS = [name for name in wit.PRIMITIVES if name[0] in "us" and name[1:].isdigit()]
INF, NAN = float("inf"), float("nan")
TEXTS = [
    "",
    "a",
    "\0",
    "é" * 3,
    "ÿ",
    "Ā",
    "日本",
    "\ufeffx",
    "\U0010ffff",
    "x" * 70_000,
    "日" * 70_000,
]
JOINED = wit.Variant(
    (("a", F32), ("b", U32), ("c", U64), ("d", F64), ("e", None), ("f", wit.Tuple((F32, F32))))
)

SAMPLES: list[tuple[Type, list[Any]]] = [
    (PRIMITIVE["bool"], [True, False]),
    *[(Primitive(name), [*bounds(name), 0, 1]) for name in INTEGERS],
    (F32, [0.0, -0.0, 1.5, INF, -INF, NAN, 3.4028234663852886e38, 2.0**-149]),
    (F64, [0.0, -0.0, 1.5, INF, -INF, NAN, 1.7976931348623157e308, 5e-324]),
    (CHAR, ["\0", "a", "é", "\ud7ff", "\ue000", "\uffff", "\U0010ffff"]),
    (STRING, TEXTS),
    (wit.List(U8), [b"", b"\0", bytes(range(256)), b"x" * 1_000_000]),
    (wit.List(PRIMITIVE["s8"]), [[], [-128, 127]]),
    (wit.List(U64), [[], [2**64 - 1, 0]]),
    (wit.List(STRING), [[], TEXTS]),
    (wit.List(wit.List(wit.List(U16))), [[], [[]], [[[1, 65535], []], [[2]]]]),
    (wit.Record((("a", U8), ("b", U64), ("c", U8))), [(1, 2**64 - 1, 255)]),
    (wit.Tuple((U8, STRING, F32)), [(1, "é", 2.5)]),
    (wit.Enum(labels("e", 257)), ["e0", "e255", "e256"]),
    *[(wit.Flags(labels("g", n)), [0, 1, 2 ** (n - 1), 2**n - 1]) for n in (1, 8, 9, 16, 17, 32)],
    (wit.Option(STRING), [None, "", "x"]),
    (wit.Option(wit.Option(U8)), [None, Some(None), Some(3)]),
    (wit.Option(wit.Option(wit.Option(U8))), [None, Some(None), Some(Some(None)), Some(Some(0))]),
    (wit.Result(None, None), [Ok(), Err()]),
    (wit.Result(STRING, None), [Ok("x"), Err()]),
    (wit.Result(None, U64), [Ok(), Err(5)]),
    (wit.Result(wit.List(U8), STRING), [Ok(b"x"), Err("no")]),
    (JOINED, [("a", -1.5), ("b", 2**32 - 1), ("c", 2**64 - 1), ("d", 1e300), ("e", None)]),
    (JOINED, [("f", (1.5, -2.5))]),
    (wit.Variant((("only", None),)), [("only", None)]),
    (wit.Variant(tuple((name, U8) for name in labels("c", 300))), [("c0", 1), ("c299", 2)]),
    (wit.Tuple((JOINED, wit.Option(JOINED))), [(("a", 0.5), ("d", 2.0)), (("c", 1), None)]),
]  # fmt: skip


@pytest.mark.parametrize("encodings", [*[(e,) for e in ENCODINGS], ENCODINGS, ENCODINGS[::-1]])
def test_values_arrive_as_they_were_sent(encodings: tuple[str, ...]) -> None:
    functions = [Function((type_,), type_) for type_, _ in SAMPLES]
    code, wire = wired(functions, encodings)
    for number, (_, samples) in enumerate(SAMPLES):
        for sample in samples:
            passes(code, wire, number, (sample,), sample)


def test_values_arrive_when_parameters_spill_into_memory() -> None:
    functions = [Function((*[U8] * 16, type_), type_) for type_, _ in SAMPLES]
    code, wire = wired(functions, ["latin1+utf16", "utf8"])
    for number, (_, samples) in enumerate(SAMPLES):
        for sample in samples:
            passes(code, wire, number, (*range(16), sample), sample)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 40])
def test_any_number_of_parameters(count: int) -> None:
    params = (U8, F64, U64, F32, U16)
    kinds = tuple(params[index % 5] for index in range(count))
    functions = [Function(kinds, None), Function(kinds, wit.Tuple(kinds or (U8,)))]
    code, wire = wired(functions, ["utf8", "utf8"])
    args = tuple(float(n) if n % 5 in (1, 3) else n for n in range(count))
    passes(code, wire, 0, args, None)
    passes(code, wire, 1, args, args or (1,))


def test_resources_arrive_as_the_objects_they_are() -> None:
    own, borrow = wit.Own(THING), wit.Borrow(THING)
    functions = [
        Function((own,), own),
        Function((borrow,), None),
        Function((borrow, own, borrow), wit.Tuple((own, own))),
        Function((wit.List(own), wit.Option(own)), wit.Result(own, wit.List(own))),
        Function((*[U8] * 16, borrow, U64, own, borrow), wit.Record((("a", U8), ("b", own)))),
    ]
    for stages in (1, 2, 3):
        code, wire = wired(functions, ["utf8"] * stages)
        a, b, c, d, e = (Thing() for _ in range(5))
        passes(code, wire, 0, (a,), a)
        passes(code, wire, 0, (a,), b)
        passes(code, wire, 1, (a,), None)
        passes(code, wire, 2, (a, b, a), (b, c))
        passes(code, wire, 3, ([a, b, c], d), Ok(e))
        passes(code, wire, 3, ([], None), Err([a, b]))
        passes(code, wire, 4, (*range(16), a, 2**64 - 1, b, a), (1, c))


def test_every_character_of_the_first_planes_arrives() -> None:
    text = "".join(chr(c) for c in range(0x11000) if not 0xD800 <= c <= 0xDFFF)
    for encodings in [(e,) for e in ENCODINGS]:
        code, wire = wired([Function((STRING, wit.List(CHAR)), STRING)], encodings)
        passes(code, wire, 0, (text, list(text)), text)


# --- types as they come ---------------------------------------------------------------------------

drawn = st.builds(
    lambda params, result: Function(tuple(params), result),
    st.lists(types | st.just(wit.Borrow(THING)), max_size=6),
    st.none() | types,
)
encodings = st.sampled_from(ENCODINGS)


def check_generated(data: st.DataObject, stages: int) -> None:
    chosen = data.draw(st.lists(drawn, min_size=1, max_size=10))
    code, wire = wired(chosen, data.draw(st.lists(encodings, min_size=stages, max_size=stages)))
    for number, function in enumerate(chosen):
        args = st.tuples(*map(values, function.params))
        reply = st.none() if function.result is None else values(function.result)
        for sent, returned in data.draw(st.lists(st.tuples(args, reply), min_size=1, max_size=4)):
            passes(code, wire, number, sent, returned)


@examples(25)
@given(st.data())
def test_generated_types_arrive(data: st.DataObject) -> None:
    check_generated(data, stages=1)


@examples(25)
@given(st.data())
def test_generated_types_arrive_through_two_components(data: st.DataObject) -> None:
    check_generated(data, stages=2)


# --- how else a host may write a value, and what it may not ---------------------------------------

PAIR = wit.Record((("a", U8), ("b", STRING)))


class Pair(NamedTuple):
    a: int
    b: str


class Index:
    def __index__(self) -> int:
        return 7


@pytest.mark.parametrize(
    ("type_", "written", "read"),
    [
        (wit.List(U8), bytearray(b"abc"), b"abc"),
        (wit.List(U8), memoryview(b"abcd")[1:3], b"bc"),
        (wit.List(U8), array("B", [1, 2]), b"\x01\x02"),
        (wit.List(U16), (1, 2), [1, 2]),
        (PAIR, Pair(1, "x"), (1, "x")),
        (PAIR, [1, "x"], (1, "x")),
        (wit.Tuple((U8, U8)), [1, 2], (1, 2)),
        (JOINED, "e", ("e", None)),
        (wit.Result(U8, STRING), 5, Ok(5)),
        (wit.Result(None, STRING), None, Ok()),
        (U8, True, 1),
        (U8, Index(), 7),
        (F32, 3, 3.0),
        (F32, 1e300, INF),
        (F64, 2**60, float(2**60)),
        (PRIMITIVE["bool"], [], False),
        (PRIMITIVE["bool"], "x", True),
    ],
)
def test_a_host_may_write_a_value_otherwise(type_: Type, written: Any, read: Any) -> None:
    code, wire = wired([Function((type_,), type_)], ["utf8"])
    wire.reply = lambda: written
    with instance(code) as made:
        assert comparable(run(made, "f0", written)) == comparable(read)
        assert wire.received is not None
        assert comparable(wire.received) == comparable((read,))


class Broken:
    def __index__(self) -> int:
        raise ZeroDivisionError

    def __float__(self) -> float:
        raise ZeroDivisionError

    def __bool__(self) -> bool:
        raise ZeroDivisionError

    def __len__(self) -> int:
        raise ZeroDivisionError


WRONG: list[tuple[Type, list[Any]]] = [
    *[(Primitive(n), [bounds(n)[0] - 1, bounds(n)[1] + 1, 2**70]) for n in INTEGERS],
    *[(Primitive(n), ["1", None, 1.5, Broken()]) for n in INTEGERS],
    (PRIMITIVE["bool"], [Broken()]),
    (F32, ["1", None, Broken()]),
    (F64, ["1", None, 2**2000]),
    (CHAR, ["", "ab", "\ud800", "\udfff", 65, None]),
    (STRING, [b"x", None, 5, "\ud800", "x\udfffy"]),
    (wit.List(U8), ["x", None, [1], 5, array]),
    (wit.List(U16), [None, 5, [1, "x"], [70_000], [None]]),
    (PAIR, [None, (), (1,), (1, "x", 2), (1, 2), ("x", "y"), 5]),
    (wit.Enum(("e", "f")), ["g", None, 0, ("e", None), []]),
    (wit.Flags(("g", "h")), [4, -1, None, "g", 2**70]),
    (wit.Option(U8), ["x", 256, Some(1)]),
    (wit.Option(wit.Option(U8)), [1, Some("x"), Some(Some(1)), Ok(None)]),
    (wit.Result(U8, STRING), [Ok("x"), Err(5), "x", Some(1), None]),
    (JOINED, ["a", "z", ("z", 1), ("a", "x"), ("a",), ("a", 1, 2), None, 5, (["a"], 1)]),
]  # fmt: skip


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_wrong_value_is_an_error_of_the_host_and_ends_one_guest(encoding: str) -> None:
    code, wire = wired([Function((type_,), type_) for type_, _ in WRONG], [encoding])
    for number, (type_, wrong) in enumerate(WRONG):
        for value in wrong:
            wire.received, wire.reply = None, lambda type_=type_: good(type_)
            with instance(code) as made:
                with pytest.raises(ERRORS):
                    run(made, f"f{number}", value)
                assert made.broken
                assert wire.received is None
                with pytest.raises(RuntimeError):
                    made.call(0, ())
            wire.reply = lambda value=value: value
            with instance(code) as made, pytest.raises(ERRORS):
                run(made, f"f{number}", good(type_))
    assert not any(counters().values())


ERRORS = (
    TypeError,
    ValueError,
    OverflowError,
    KeyError,
    AttributeError,
    ZeroDivisionError,
    BufferError,
)


def good(type_: Type) -> Any:
    known = [*SAMPLES, (PAIR, [(1, "x")]), (wit.Enum(("e", "f")), ["e"])]
    others = [
        (wit.Flags(("g", "h")), [1]),
        (wit.Option(U8), [1]),
        (wit.Result(U8, STRING), [Ok(1)]),
    ]
    return next(
        samples[0] for kind, samples in [*known, *others, (wit.List(U16), [[]])] if kind == type_
    )


def test_an_error_is_returned_or_raised() -> None:
    type_ = wit.Result(U8, STRING)
    code, wire = wired([Function((), type_)], ["utf8"])

    def raising() -> None:
        raise Err("raised")

    for reply, expected in ((lambda: Err("returned"), Err("returned")), (raising, Err("raised"))):
        wire.reply = reply
        with instance(code) as made:
            assert run(made, "f0") == expected


def test_an_error_without_a_result_to_carry_it_ends_the_guest() -> None:
    code, wire = wired([Function((), U8)], ["utf8"])

    def raising() -> None:
        raise Err("raised")

    wire.reply = raising
    with instance(code) as made, pytest.raises(Err, match="raised"):
        run(made, "f0")


@pytest.mark.parametrize("args", [(), (1, 2), (1, 2, 3)])
def test_a_wrong_number_of_arguments_is_an_error(args: tuple[int, ...]) -> None:
    code, _ = wired([Function((U8,), U8)], ["utf8"])
    with instance(code) as made, pytest.raises(TypeError):
        run(made, "f0", *args)
