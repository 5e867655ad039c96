"""Wasm binaries seen from outside: hostile ones too."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import ComponentError
from edge.registry.wasm import Kind, exports, kind

HEADERS = [member.value for member in Kind]


@pytest.mark.parametrize("member", list(Kind))
def test_a_kind_is_known_by_its_header(member: Kind) -> None:
    assert kind(member.value + b"anything", "x") is member
    assert exports(member.value, "x") == ()


@given(st.sampled_from(HEADERS), st.binary(max_size=60))
def test_any_bytes_have_exports_or_are_malformed(header: bytes, rest: bytes) -> None:
    try:
        found = exports(header + rest, "x.wasm")
    except ComponentError as error:
        assert str(error) == "x.wasm: its exports are malformed"  # noqa: PT017
        return
    assert all(isinstance(name, str) for name in found)


@given(st.sampled_from([(HEADERS[0], 7), (HEADERS[1], 11)]), st.binary(max_size=100))
def test_any_export_section_is_read_or_malformed(kind: tuple[bytes, int], content: bytes) -> None:
    header, section = kind
    try:
        exports(header + bytes([section, len(content)]) + content, "x.wasm")
    except ComponentError:
        return


def test_every_form_of_a_components_export_is_skipped_over() -> None:
    forms = [
        b"\x00\x01a\x05\x00\x00",  # an instance
        b"\x01\x01b\x01\x80\x01\x01\x01\x02",  # a function with its type, a long index
        b"\x02\x01c\x030.2\x05\x00\x00",  # with a version suffix
        b"\x00\x01d\x00\x11\x00\x01\x00\x11\x05",  # a core module with its type
        b"\x00\x01e\x03\x00\x01\x03\x00\x07",  # a type that equals another
        b"\x00\x01f\x03\x00\x01\x03\x01",  # a resource
        b"\x00\x01g\x05\x00\x00",
    ]
    content = bytes([len(forms)]) + b"".join(forms)
    binary = Kind.COMPONENT.value + bytes([11, len(content)]) + content
    assert exports(binary, "x") == tuple("abcdefg")
