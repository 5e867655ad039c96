from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.engine.types import (
    PRIMITIVES,
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
    Type,
    Variant,
    align,
    core_signature,
    flat_count,
    flatten,
    has_pointers,
    same_func,
    size,
    spell,
    spell_func,
    track,
)

U8, U16, U32, U64 = (Primitive(name) for name in ("u8", "u16", "u32", "u64"))
F32, F64, STRING, BOOL = (Primitive(name) for name in ("f32", "f64", "string", "bool"))
STREAM = ImportedResource("wasi:io/streams@0.2", "input-stream")

primitives = st.sampled_from(sorted(PRIMITIVES)).map(Primitive)
labels = st.lists(st.from_regex("[a-z]{1,5}", fullmatch=True), min_size=1, max_size=5, unique=True)


def _composed(parts: st.SearchStrategy[Type]) -> st.SearchStrategy[Type]:
    maybe = st.none() | parts
    some = st.lists(parts, min_size=1, max_size=4)
    cases = labels.flatmap(
        lambda names: st.tuples(*[st.tuples(st.just(name), maybe) for name in names])
    )
    fields = labels.flatmap(
        lambda names: st.tuples(*[st.tuples(st.just(name), parts) for name in names])
    )
    return st.one_of(
        parts.map(List),
        parts.map(Option),
        st.builds(Result, maybe, maybe),
        some.map(lambda elements: Tuple(tuple(elements))),
        fields.map(Record),
        cases.map(Variant),
    )


types = st.recursive(
    primitives
    | labels.map(lambda names: Enum(tuple(names)))
    | labels.map(lambda names: Flags(tuple(names)))
    | st.sampled_from([Own(STREAM), Borrow(STREAM)]),
    _composed,
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("wasi:io/streams@0.2.6", "wasi:io/streams@0.2"),
        ("wasi:io/streams@0.2", "wasi:io/streams@0.2"),
        ("wasi:io/streams@0.2.0+build.7", "wasi:io/streams@0.2"),
        ("a:b/c@1.3.0", "a:b/c@1"),
        ("a:b/c@12.0.1", "a:b/c@12"),
        ("a:b/c@0.0.3", "a:b/c@0.0.3"),
        ("wasi:http/types@0.2.0-rc-2023-11-10", "wasi:http/types@0.2.0-rc-2023-11-10"),
        ("fermyon:spin/config", "fermyon:spin/config"),
        ("wasi_snapshot_preview1", "wasi_snapshot_preview1"),
        ("", ""),
    ],
)
def test_a_version_is_reduced_to_what_is_compatible(name: str, expected: str) -> None:
    assert track(name) == expected
    assert track(expected) == expected


# Worked out by hand from the Canonical ABI.
@pytest.mark.parametrize(
    ("type_", "bytes_", "alignment", "flat"),
    [
        (BOOL, 1, 1, "i32"),
        (Primitive("char"), 4, 4, "i32"),
        (U64, 8, 8, "i64"),
        (STRING, 8, 4, "i32 i32"),
        (List(U64), 8, 4, "i32 i32"),
        (Own(STREAM), 4, 4, "i32"),
        (Tuple((U8, U32, U8)), 12, 4, "i32 i32 i32"),
        (Record((("a", U8), ("b", U64), ("c", U16))), 24, 8, "i32 i64 i32"),
        (Flags(("a",) * 1), 1, 1, "i32"),
        (Flags(tuple(map(str, range(9)))), 2, 2, "i32"),
        (Flags(tuple(map(str, range(17)))), 4, 4, "i32"),
        (Enum(tuple(map(str, range(256)))), 1, 1, "i32"),
        (Enum(tuple(map(str, range(257)))), 2, 2, "i32"),
        (Enum(tuple(map(str, range(65537)))), 4, 4, "i32"),
        (Option(U8), 2, 1, "i32 i32"),
        (Option(U64), 16, 8, "i32 i64"),
        (Result(None, None), 1, 1, "i32"),
        (Result(U64, STRING), 16, 8, "i32 i64 i32"),
        (Result(F32, U32), 8, 4, "i32 i32"),
        (Result(F32, U64), 16, 8, "i32 i64"),
        (Result(F32, F64), 16, 8, "i32 i64"),
        (Variant((("a", None), ("b", F32))), 8, 4, "i32 f32"),
        (Variant((("a", Tuple((F32, U8))), ("b", F64))), 16, 8, "i32 i64 i32"),
        (Option(Option(U8)), 3, 1, "i32 i32 i32"),
    ],
)
def test_the_layout_is_the_canonical_one(
    type_: Type, bytes_: int, alignment: int, flat: str
) -> None:
    assert (size(type_), align(type_)) == (bytes_, alignment)
    assert flatten(type_) == tuple(flat.split())


@given(types)
def test_sizes_are_multiples_of_alignments_and_counts_agree(type_: Type) -> None:
    assert size(type_) > 0
    assert align(type_) in (1, 2, 4, 8)
    assert size(type_) % align(type_) == 0
    assert flat_count(type_) == len(flatten(type_))
    # An element of a tuple begins at the next multiple of its alignment.
    assert size(Tuple((U8, type_))) == align(type_) + size(type_)


@given(types, types)
def test_a_variant_holds_each_of_its_cases(one: Type, other: Type) -> None:
    both = Result(one, other)
    assert size(both) >= max(size(one), size(other)) + 1
    assert len(flatten(both)) == 1 + max(len(flatten(one)), len(flatten(other)))
    assert has_pointers(both) == (has_pointers(one) or has_pointers(other))


def func(*params: Type, result: Type | None = None) -> Func:
    return Func(tuple((f"p{i}", type_) for i, type_ in enumerate(params)), result)


@pytest.mark.parametrize(
    ("type_", "lifted", "lowered"),
    [
        (func(), "->", "->"),
        (func(U8, result=U64), "i32 -> i64", "i32 -> i64"),
        (func(STRING, result=STRING), "i32 i32 -> i32", "i32 i32 i32 ->"),
        (func(*[U32] * 16), "i32 " * 16 + "->", "i32 " * 16 + "->"),
        (func(*[U32] * 17, result=U8), "i32 -> i32", "i32 -> i32"),
        (func(*[U32] * 17, result=STRING), "i32 -> i32", "i32 i32 ->"),
    ],
)
def test_too_many_values_are_passed_in_memory(type_: Func, lifted: str, lowered: str) -> None:
    for direction, expected in (("lift", lifted), ("lower", lowered)):
        params, results = core_signature(type_, direction)  # type: ignore[arg-type]
        assert f"{' '.join(params)} -> {' '.join(results)}".split() == expected.split()


def test_names_of_parameters_do_not_make_a_function_another() -> None:
    assert same_func(Func((("a", U8),), None), Func((("b", U8),), None))
    assert not same_func(Func((("a", U8),), None), Func((("a", U16),), None))
    assert not same_func(Func((("a", U8),), None), Func((("a", U8),), U8))


@given(types)
def test_every_type_can_be_spelled(type_: Type) -> None:
    assert spell(type_)


def test_types_are_spelled_as_in_wit() -> None:
    type_ = func(Borrow(STREAM), List(Option(U8)), result=Result(None, Tuple((U8, STRING))))
    assert spell_func(type_) == (
        "func(p0: borrow<wasi:io/streams@0.2.input-stream>, p1: list<option<u8>>)"
        " -> result<_, tuple<u8, string>>"
    )
    assert spell(Variant((("a", U8), ("b", None)))) == "variant {a(u8), b}"
    assert spell(Flags(("a", "b"))) == "flags {a, b}"
