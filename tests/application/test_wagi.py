"""Wagi: requests as environments, output as responses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.application.routes import Route, Router
from edge.application.wagi import MAX_HEAD, Head, HeadReader, arguments, environment
from edge.errors import GuestError


def env(
    route: str = "/cgi/:id/...",
    path: str = "/cgi/7/a%20b/",
    headers: list[tuple[bytes, bytes]] | None = None,
    *,
    authority: str = "a.example:8080",
    scheme: str = "http",
    client: str = "10.0.0.9:51234",
    content_length: int | None = 0,
) -> dict[str, str]:
    match = Router([(Route.parse(route), "x")]).match(path)
    assert match is not None
    return environment(
        match,
        method="POST",
        scheme=scheme,
        authority=authority,
        target=path + "?a=1&b=2",
        headers=headers or [],
        client=client,
        content_length=content_length,
    )


def test_the_environment_of_a_request() -> None:
    sent = [
        (b"host", b"a.example:8080"),
        (b"content-type", b"text/plain"),
        (b"accept", b"a"),
        (b"accept", b"b"),
        (b"authorization", b"secret"),
        (b"connection", b"close"),
        (b"proxy", b"http://evil"),
        (b"x-name", "ä".encode()),
    ]
    assert env(headers=sent, content_length=3) == {
        "AUTH_TYPE": "",
        "CONTENT_LENGTH": "3",
        "CONTENT_TYPE": "text/plain",
        "GATEWAY_INTERFACE": "CGI/1.1",
        "HTTP_ACCEPT": "a, b",
        "HTTP_CONTENT_TYPE": "text/plain",
        "HTTP_HOST": "a.example:8080",
        "HTTP_X_NAME": "ä",
        "PATH_INFO": "/a b/",
        "PATH_TRANSLATED": "/a b/",
        "QUERY_STRING": "a=1&b=2",
        "REMOTE_ADDR": "10.0.0.9",
        "REMOTE_HOST": "10.0.0.9",
        "REMOTE_USER": "",
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "/cgi/:id",
        "SERVER_NAME": "a.example",
        "SERVER_PORT": "8080",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": "WAGI/1",
        "X_BASE_PATH": "/",
        "X_CLIENT_ADDR": "10.0.0.9:51234",
        "X_COMPONENT_ROUTE": "/cgi/:id",
        "X_FULL_URL": "http://a.example:8080/cgi/7/a%20b/?a=1&b=2",
        "X_MATCHED_ROUTE": "/cgi/:id/...",
        "X_PATH_MATCH_ID": "7",
        "X_RAW_COMPONENT_ROUTE": "/cgi/:id/...",
        "X_RAW_PATH_INFO": "/a%20b/",
    }


def test_a_body_of_unknown_length_has_none_in_the_environment() -> None:
    assert "CONTENT_LENGTH" not in env(content_length=None)


def test_a_client_cannot_set_variables_of_ours() -> None:
    found = env(headers=[(b"x-full-url", b"forged"), (b"path-info", b"forged")])
    assert found["X_FULL_URL"].startswith("http://a.example")
    assert found["PATH_INFO"] == "/a b/"


@pytest.mark.parametrize(
    ("authority", "scheme", "name", "port"),
    [
        ("a.example", "http", "a.example", "80"),
        ("a.example", "https", "a.example", "443"),
        ("[::1]:81", "http", "[::1]", "81"),
        ("[::1]", "http", "[::1]", "80"),
        ("", "http", "localhost", "80"),
    ],
)
def test_the_server_is_what_the_client_called_it(
    authority: str, scheme: str, name: str, port: str
) -> None:
    found = env(authority=authority, scheme=scheme)
    assert (found["SERVER_NAME"], found["SERVER_PORT"]) == (name, port)


def test_an_address_of_version_6_is_without_its_brackets() -> None:
    assert env(client="[fe80::1]:5")["REMOTE_ADDR"] == "fe80::1"


def test_arguments_are_split_at_spaces() -> None:
    assert arguments("${SCRIPT_NAME} ${ARGS}", "/x", "a=1&b=2") == ["/x", "a=1", "b=2"]
    assert arguments("tool -v", "/x", "a=1") == ["tool", "-v"]


def head(output: bytes) -> Head:
    reader = HeadReader()
    return reader.feed(output) or reader.end()


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (
            b"content-type: text/plain\n\nhello",
            Head(200, [(b"content-type", b"text/plain")], b"hello"),
        ),
        (
            b"Content-Type:text/html\r\nX-A: 1\r\nX-A: 2\r\n\r\nhi",
            Head(200, [(b"content-type", b"text/html"), (b"x-a", b"1"), (b"x-a", b"2")], b"hi"),
        ),
        (b"status: 404 Not Found\n\n", Head(404, [], b"")),
        (b"status: 204\n\n\n", Head(204, [], b"\n")),
        (b"location: /b\n\n", Head(302, [(b"location", b"/b")], b"")),
        (b"location: /b\nstatus: 307\n\n", Head(307, [(b"location", b"/b")], b"")),
        (b"status: what\n\n", Head(502, [], b"")),
        (b"status: 101 Switching\n\n", Head(502, [], b"")),
        (b"status: 2000\n\n", Head(502, [], b"")),
        (b"status: 200\nno colon\nb\xc3\xa4d: 1\n: x\n\n", Head(200, [], b"")),
        (b"status: 200\ntransfer-encoding: chunked\nconnection: close\n\n", Head(200, [], b"")),
        (b"status: 200", Head(200, [], b"")),
        (b"content-type: a", Head(200, [(b"content-type", b"a")], b"")),
    ],
)
def test_output_becomes_a_response(output: bytes, expected: Head) -> None:
    assert head(output) == expected


@pytest.mark.parametrize(
    ("output", "why"),
    [
        (b"", "wrote nothing"),
        (b"hello", "does not begin with"),
        (b"\n\nhello", "does not begin with"),
        (b"x-a: 1\n\nhello", "does not begin with"),
        (b"status: 200\nx-a: \x00\n\n", "control characters in x-a"),
        (b"status: 200\nx-a: a\rb\n\n", "control characters in x-a"),
        (b"a" * (MAX_HEAD + 1), "no end of the response's head"),
    ],
)
def test_output_that_is_no_response_is_the_guests_failure(output: bytes, why: str) -> None:
    with pytest.raises(GuestError, match=why):
        head(output)


@given(st.lists(st.binary(max_size=5), max_size=12))
def test_it_does_not_matter_how_output_is_cut(pieces: list[bytes]) -> None:
    output = b"status: 201\r\nx: y\r\n\r\n" + b"".join(pieces)
    whole, reader, parts = HeadReader().feed(output), HeadReader(), []
    for index in range(len(output)):
        parts.append(found := reader.feed(output[index : index + 1]))
        if found:
            rest = found.rest + output[index + 1 :]
            assert Head(found.status, found.headers, rest) == whole
            return
    pytest.fail("no head was found")


@given(st.binary(max_size=80))
def test_any_output_is_a_response_or_refused(output: bytes) -> None:
    try:
        found = head(output)
    except GuestError:
        return
    assert 200 <= found.status <= 599
    for name, value in found.headers:
        assert b"\n" not in name + value
        assert b"\r" not in name + value
