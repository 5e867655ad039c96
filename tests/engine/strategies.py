"""Hypothesis strategies for component types and for their values."""

from __future__ import annotations

import math
import struct
from typing import Any

from guests import THING, Thing
from hypothesis import strategies as st

from edge.engine import types as wit
from edge.engine.host import Err, Ok, Some
from edge.engine.types import Primitive, Type

BITS = {"8": 8, "16": 16, "32": 32, "64": 64}

# Of every length in UTF-8, inside and outside of Latin-1, and what decoders are known to eat.
TEXT = st.text(
    st.one_of(
        st.sampled_from("a\0é\xffĀ߿ࠀ\ufeff\uffff\U00010000\U0010ffff"),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=12,
)


def bounds(name: str) -> tuple[int, int]:
    """The least and the greatest integer of a type."""
    bits = BITS[name[1:]]
    return (0, 2**bits - 1) if name[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def labels(prefix: str, count: int) -> tuple[str, ...]:
    return tuple(f"{prefix}{index}" for index in range(count))


primitives = st.sampled_from([Primitive(name) for name in wit.PRIMITIVES])


def _composed(inner: st.SearchStrategy[Type]) -> st.SearchStrategy[Type]:
    optional = st.none() | inner
    several = st.lists(inner, min_size=1, max_size=5)
    return st.one_of(
        inner.map(wit.List),
        inner.map(wit.Option),
        several.map(lambda parts: wit.Tuple(tuple(parts))),
        several.map(
            lambda parts: wit.Record(tuple(zip(labels("m", len(parts)), parts, strict=True)))
        ),
        st.lists(optional, min_size=1, max_size=5).map(
            lambda parts: wit.Variant(tuple(zip(labels("c", len(parts)), parts, strict=True)))
        ),
        st.builds(wit.Result, optional, optional),
    )


leaves = st.one_of(
    primitives,
    st.sampled_from([1, 2, 7, 255, 256, 257]).map(lambda n: wit.Enum(labels("e", n))),
    st.sampled_from([1, 7, 8, 9, 16, 17, 31, 32]).map(lambda n: wit.Flags(labels("g", n))),
    st.just(wit.List(Primitive("u8"))),
    st.just(wit.Own(THING)),
)
types = st.recursive(leaves, _composed, max_leaves=12)


def values(type_: Type) -> st.SearchStrategy[Any]:
    """Values as the engine gives them, so that what comes back can be compared."""
    match type_:
        case Primitive("bool"):
            return st.booleans()
        case Primitive("string"):
            return TEXT
        case Primitive("char"):
            return st.characters(exclude_categories=["Cs"])
        case Primitive("f32"):
            return st.floats(width=32)
        case Primitive("f64"):
            return st.floats()
        case Primitive(name):
            low, high = bounds(name)
            return st.sampled_from([low, high, 0, high // 2 + 1]) | st.integers(low, high)
        case wit.List(Primitive("u8")):
            return st.binary(max_size=40)
        case wit.List(element):
            return st.lists(values(element), max_size=5)
        case wit.Record(fields):
            return st.tuples(*[values(part) for _, part in fields])
        case wit.Tuple(elements):
            return st.tuples(*map(values, elements))
        case wit.Enum(names):
            return st.sampled_from(names)
        case wit.Flags(names):
            return st.integers(0, 2 ** len(names) - 1)
        case wit.Variant(cases):
            return st.one_of(
                [st.tuples(st.just(name), _payload(payload)) for name, payload in cases]
            )
        case wit.Option(payload):
            inner = values(payload)
            return st.none() | (inner.map(Some) if isinstance(payload, wit.Option) else inner)
        case wit.Own() | wit.Borrow():
            return st.builds(Thing)
        case wit.Result(ok, err):
            return _payload(ok).map(Ok) | _payload(err).map(Err)
    raise TypeError(type_)


def _payload(type_: Type | None) -> st.SearchStrategy[Any]:
    return st.none() if type_ is None else values(type_)


def comparable(value: Any) -> Any:
    """The value with floats as their bits, one NaN for all, and with Ok, Err, Some told apart."""
    match value:
        case float():
            return "nan" if math.isnan(value) else struct.pack("<d", value)
        case tuple() | list():
            return type(value), [comparable(part) for part in value]
        case Ok(payload) | Some(payload):
            return type(value), comparable(payload)
        case Err():
            return Err, comparable(value.payload)
    return type(value), value
