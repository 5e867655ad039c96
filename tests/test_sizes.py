"""Components that limit their bodies: one byte beyond the limit, said in advance or not."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Serve, Served

LIMIT = 100_000


@pytest.fixture
def served(
    guest: Callable[[str], Path], application: Callable[..., Path], serve: Serve
) -> Iterator[Served]:
    app = application(guest("echo"), request_size=f"{LIMIT}B", response_size=f"{LIMIT - 10}B")
    with serve(app) as up:
        yield up


def post(served: Served, size: int, *, chunked: bool = False) -> tuple[int, int]:
    """The status and how many bytes came back; -1 when the connection was cut."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
    body = iter([b"x" * 1000] * (size // 1000) + [b"x" * (size % 1000)]) if chunked else b"x" * size
    try:
        connection.request("POST", "/", body, encode_chunked=chunked)
        answer = connection.getresponse()
        return answer.status, len(answer.read())
    except (ConnectionError, http.client.IncompleteRead):
        return 0, -1
    finally:
        connection.close()


def test_a_body_within_the_limits_passes(served: Served) -> None:
    assert post(served, LIMIT - 10) == (200, LIMIT - 10)


def test_a_request_that_says_it_is_too_large_is_refused(served: Served) -> None:
    assert post(served, LIMIT + 1)[0] == 413


def test_a_request_that_becomes_too_large_never_ends_well(served: Served) -> None:
    """The echo has begun its response by then: a status is too late, a clean end would be a lie."""
    status, size = post(served, 3 * LIMIT, chunked=True)
    assert (status, size) == (0, -1) or status in (413, 500)


def test_a_response_that_becomes_too_large_never_ends_well(served: Served) -> None:
    status, size = post(served, LIMIT)
    assert (status, size) == (0, -1) or status == 500
    assert post(served, 10) == (200, 10)
