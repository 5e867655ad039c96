"""Tokens as text: what is typed wrong is told so, and no secret is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import ConfigError
from edge.fleet.names import key_id
from edge.fleet.token import Token, fleet_bytes

ports = st.integers(0, 65_535)
hosts = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
    st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z]{1,10}){0,3}", fullmatch=True),
)
tokens = st.builds(
    Token,
    fleet=st.binary(min_size=16, max_size=16),
    secret=st.binary(min_size=16, max_size=16),
    expires=st.integers(0, (1 << 32) - 1),
    addresses=st.lists(st.tuples(hosts, ports), min_size=1, max_size=8).map(tuple),
)


@given(tokens)
def test_a_token_is_what_was_written(token: Token) -> None:
    text = str(token)
    assert "\n" not in text
    assert " " not in text
    assert Token.parse(f"  {text}\n") == token


@given(tokens, st.data())
def test_a_typing_mistake_is_named(token: Token, data: st.DataObject) -> None:
    text = str(token)
    at = data.draw(st.integers(len("edge1."), len(text) - 1))
    wrong = data.draw(
        st.sampled_from("ABCabc019-_=!é").filter(lambda c: c != text[at])
        | st.just("")  # one that was left out
    )
    changed = text[:at] + wrong + text[at + 1 :]
    if at == len(text) - 1 and parsed(changed) == token:
        return  # bits of the last character that stand for nothing
    with pytest.raises(ConfigError, match="missing or is another") as error:
        Token.parse(changed)
    assert text[10:20] not in error.value.message


def parsed(text: str) -> Token | None:
    try:
        return Token.parse(text)
    except ConfigError:
        return None


@given(st.text(max_size=200) | st.binary(max_size=100).map(lambda b: "edge1." + b.hex()))
def test_anything_else_is_no_token(text: str) -> None:
    with pytest.raises(ConfigError):
        Token.parse(text)


def test_a_token_is_short_and_shows_no_secret() -> None:
    token = Token(b"f" * 16, b"s" * 16, 1_796_083_200, (("192.168.100.100", 7467),))
    assert len(str(token)) <= 72
    assert "ssss" not in repr(token)
    assert len(token.id) == 8


def test_a_fleet_is_named_by_half_its_hash() -> None:
    import hashlib

    assert fleet_bytes(key_id(b"key")) == hashlib.sha256(b"key").digest()[:16]
