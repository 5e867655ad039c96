"""Addresses and the defaults of a node."""

from __future__ import annotations

import pytest

from edge.config import Address, Http, Limits, Settings, parse_address
from edge.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:3000", "127.0.0.1", 3000),
        ("[::1]:80", "::1", 80),
        ("localhost:0", "localhost", 0),
        (":8080", "0.0.0.0", 8080),
    ],
)
def test_an_address_is_a_host_and_a_port(text: str, host: str, port: int) -> None:
    assert parse_address(text) == Address(host, port)


@pytest.mark.parametrize(
    "text",
    ["", "3000", "127.0.0.1", "::1:80", "[::1]", "a:b", "a:99999", "a:-1", "http://a:1", "a:1\n"],
)
def test_what_is_not_an_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="listen address"):
        parse_address(text)


def test_an_address_is_shown_as_it_is_written() -> None:
    assert [str(parse_address(t)) for t in ("[::1]:80", "a:1")] == ["[::1]:80", "a:1"]


def test_tls_needs_both_files() -> None:
    with pytest.raises(ConfigError, match="need each other"):
        Http(tls_certificate="c.pem")


def test_a_node_has_good_defaults() -> None:
    settings = Settings()
    assert settings.http.listen == (Address("127.0.0.1", 3000),)
    assert settings.limits.memory >= 64 << 20
    assert Limits().memory == settings.limits.memory
