"""The fields resource: validation, immutability, bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.engine.host import Err, Trap
from edge.wasi.http.fields import FORBIDDEN, MAX_SIZE, Fields, content_length


def fields(*entries: tuple[str, bytes]) -> Fields:
    return Fields.from_list(None, entries)


def test_names_compare_without_case_and_keep_order_and_repeats() -> None:
    made = fields(("X-A", b"1"), ("b", b"2"), ("x-a", b"3"))
    assert made.get("x-A") == [b"1", b"3"]
    assert made.has("B")
    assert not made.has("c")
    assert made.entries() == [("x-a", b"1"), ("b", b"2"), ("x-a", b"3")]


def test_set_replaces_delete_removes_append_adds() -> None:
    made = fields(("a", b"1"), ("a", b"2"), ("b", b"3"))
    made.set("A", [b"4", b"5"])
    assert made.get("a") == [b"4", b"5"]
    made.append("a", b"6")
    assert made.get("a") == [b"4", b"5", b"6"]
    made.delete("A")
    assert made.entries() == [("b", b"3")]
    made.delete("none")
    made.set("b", [])
    assert made.entries() == []
    assert made.size == 0


@pytest.mark.parametrize("name", ["", "a b", "a:", "ä", "a\n", "\u212aeep-alive", "a\0", "(x)"])
def test_a_name_that_is_no_token_is_refused(name: str) -> None:
    made = fields()
    for change in (
        lambda: made.append(name, b""),
        lambda: made.set(name, []),
        lambda: made.delete(name),
        lambda: fields((name, b"")),
    ):
        with pytest.raises(Err) as raised:
            change()
        assert raised.value.payload == "invalid-syntax"
    assert made.get(name) == []
    assert not made.has(name)


@pytest.mark.parametrize("value", [b"a\r\nb: c", b"\n", b"\0", b"\x7f", b"\x1b"])
def test_a_value_with_control_characters_is_refused(value: bytes) -> None:
    made = fields(("a", b"kept"))
    for change in (lambda: made.append("a", value), lambda: made.set("a", [b"good", value])):
        with pytest.raises(Err) as raised:
            change()
        assert raised.value.payload == "invalid-syntax"
    assert made.get("a") == [b"kept"]


def test_values_may_hold_any_text_bytes() -> None:
    value = bytes([9, *range(32, 127), *range(128, 256)])
    assert fields(("a", value)).get("a") == [value]


@pytest.mark.parametrize("name", sorted(FORBIDDEN))
def test_what_belongs_to_the_connection_is_forbidden(name: bytes) -> None:
    with pytest.raises(Err) as raised:
        fields().append(name.decode().upper(), b"x")
    assert raised.value.payload == "forbidden"


def test_immutable_fields_do_not_change_and_their_clone_does() -> None:
    frozen = Fields([(b"a", b"1")])
    for change in (
        lambda: frozen.set("a", [b"2"]),
        lambda: frozen.append("a", b"2"),
        lambda: frozen.delete("a"),
    ):
        with pytest.raises(Err) as raised:
            change()
        assert raised.value.payload == "immutable"
    copy = frozen.clone()
    copy.set("a", [b"2"])
    assert (frozen.get("a"), copy.get("a")) == ([b"1"], [b"2"])


def test_the_total_size_is_bounded_also_for_empty_fields() -> None:
    made = fields()
    with pytest.raises(Trap):
        made.append("a", b"x" * MAX_SIZE)
    with pytest.raises(Trap):
        fields(*[("a", b"")] * 3000)
    with pytest.raises(Trap):
        made.clone().set("b", [b"x" * MAX_SIZE])


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["append", "set", "delete"]), st.sampled_from("aAbc"), st.binary()
        )
    )
)
def test_fields_agree_with_a_plain_model(
    steps: list[tuple[str, str, bytes]],
) -> None:
    made, model = fields(), []
    for action, name, raw in steps:
        value = raw.hex().encode()
        if action == "append":
            made.append(name, value)
            model.append((name.lower(), value))
        else:
            model = [entry for entry in model if entry[0] != name.lower()]
            if action == "delete":
                made.delete(name)
            else:
                made.set(name, [value, value])
                model += [(name.lower(), value)] * 2
    assert made.entries() == model
    assert made.size == made.clone().size


@pytest.mark.parametrize("value", [b"+5", b"-5", b" 5", b"", b"5_0", b"\xb2", b"1" * 19])
def test_a_length_must_be_digits(value: bytes) -> None:
    with pytest.raises(ValueError, match="content-length"):
        content_length([(b"content-length", value)])


def test_a_length_is_declared_once() -> None:
    assert content_length([]) is None
    assert content_length([(b"content-length", b"0012")]) == 12
    with pytest.raises(ValueError, match="content-length"):
        content_length([(b"content-length", b"1"), (b"content-length", b"1")])
