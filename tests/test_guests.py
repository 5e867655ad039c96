"""Guests of every toolchain run by `edge up` as they come; hostile ones harm only themselves."""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import Serve, Served, make_application

Guest = Callable[[str], Path]
MakeApplication = Callable[..., Path]
EXAMPLES = Path(__file__).parent.parent / "examples"


def ask(
    served: Served,
    path: str = "/",
    method: str = "GET",
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    timeout: float = 60,
) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=timeout)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        content = answer.read()
        return answer.status, content, {k.lower(): v for k, v in answer.getheaders()}
    finally:
        connection.close()


# --- they run unmodified --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hello", "python", "javascript", "composed", "spin-python"])
def test_a_component_of_any_toolchain_answers(name: str, guest: Guest, serve: Serve) -> None:
    with serve(guest(name)) as served:
        for _ in range(3):
            status, content, _ = ask(served, "/some/path")
            assert status == 200, content
            assert content.startswith(b"hello ")
            assert b"/some/path" in content


def test_a_core_module_that_was_never_a_component_answers(guest: Guest, serve: Serve) -> None:
    with serve(guest("hello").with_suffix(".core.wasm")) as served:
        assert ask(served, "/core")[:2] == (200, b"hello /core")


def test_the_hello_example_is_served_from_its_folder(serve: Serve) -> None:
    with serve(EXAMPLES / "hello") as served:
        assert ask(served, "/from/me")[1] == b"hello /from/me"
        assert ask(served, "/.well-known/spin/health")[:2] == (200, b"OK")


def test_python_and_javascript_read_a_body(guest: Guest, serve: Serve) -> None:
    with serve(guest("python")) as served:
        answer = ask(served, "/", "POST", b"one two one" * 1000)
        assert json.loads(answer[1])["two"] == 1000
    with serve(guest("javascript")) as served:
        body = random.Random(1).randbytes(100_000)
        assert ask(served, "/", "POST", body)[1] == body


def test_a_store_that_was_not_granted_is_denied(guest: Guest, serve: Serve) -> None:
    with serve(guest("spin-python")) as served:
        assert ask(served, "/key-value")[0] == 500
        assert ask(served, "/fine")[0] == 200
        assert ask(served, "/echo", "POST", b"body")[1] == b"body"
        assert b"spin-path-info: /headers" in ask(served, "/headers")[1]
    assert any("AccessDenied" in line for line in served.log), served.log


def test_a_wasi_command_is_served_by_wagi(guest: Guest, serve: Serve) -> None:
    with serve(guest("cgi")) as served:
        assert ask(served, "/hi")[1] == b"hello /hi\n"
        body = bytes(range(256)) * 1000
        assert ask(served, "/body", "POST", body)[1] == body
        variables = ask(served, "/env?a=b", headers={"x-mine": "1"})[1].decode().split("\n")
        assert {"REQUEST_METHOD=GET", "QUERY_STRING=a=b", "HTTP_X_MINE=1"} <= set(variables)
        status, _, headers = ask(served, "/status/404")
        assert (status, headers["x-one"]) == (404, "1")
        assert ask(served, "/exit/3")[0] == 500


# --- streaming ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def echo(guest: Guest, serve: Serve) -> Iterator[Served]:
    with serve(guest("echo")) as served:
        yield served


@pytest.mark.parametrize("size", [0, 1, 4096, 65_536, 65_537, 3_000_000])
def test_a_body_comes_back_as_it_was_sent(size: int, echo: Served) -> None:
    body = random.Random(size).randbytes(size)
    status, content, headers = ask(echo, "/x?y", "PUT", body, {"content-type": "a/b"})
    assert status == 200
    assert content == body
    assert headers["content-type"] == "a/b"
    assert (headers["x-method"], headers["x-path"]) == ("PUT", "/x?y")


def test_a_hundred_megabytes_up_and_down_in_bounded_memory(echo: Served) -> None:
    size, part = 100_000_000, random.Random(3).randbytes(1_000_000)
    before = _rss(echo.process.pid)
    sent, received = hashlib.sha256(), hashlib.sha256()
    with (
        socket.create_connection(("127.0.0.1", echo.port)) as connection,
        ThreadPoolExecutor(1) as pool,
    ):
        head = f"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n"
        connection.sendall(head.encode())

        def send() -> None:
            for _ in range(size // len(part)):
                connection.sendall(part)
                sent.update(part)

        sending = pool.submit(send)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        while data := answer.read(1 << 20):
            received.update(data)
        sending.result()
        answer.close()
    assert received.digest() == sent.digest()
    assert _rss(echo.process.pid) - before < 32 << 20


def test_a_client_that_reads_nothing_slows_its_guest_down(guest: Guest, serve: Serve) -> None:
    with serve(guest("endless_body")) as served:
        before = _rss(served.process.pid)
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert connection.recv(100)
            assert ask(served, "/.well-known/spin/health")[0] == 200
        assert _rss(served.process.pid) - before < 32 << 20


# --- hostile guests -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "path", "status"),
    [
        ("loop", "/", 504),
        ("memory_bomb", "/", 500),
        ("table_bomb", "/", 500),
        ("recursion", "/", 500),
        ("start_trap", "/", 500),
        ("start_loop", "/", 500),
        ("start_memory", "/", 500),
        ("output_flood", "/", 504),
        ("output_flood", "/lineless", 504),
        ("exit", "/0", 500),
        ("exit", "/1", 500),
        ("silent", "/", 500),
        ("silent", "/drop", 500),
        ("silent", "/error", 500),
        ("late_trap", "/before", 500),
        ("sleeper", "/60000", 504),
    ],
)
def test_a_guest_that_fails_costs_its_own_request(
    name: str, path: str, status: int, guest: Guest, serve: Serve, application: MakeApplication
) -> None:
    with serve(application(guest(name), timeout="1s")) as served:
        for _ in range(2):
            answered, content, _ = ask(served, path)
            assert answered == status, content
            failure = json.loads(content)
            assert failure["error"]
        assert ask(served, "/.well-known/spin/health")[0] == 200


@pytest.mark.parametrize("path", ["/trap", "/exit", "/return", "/head"])
def test_a_failure_after_the_head_cuts_the_connection(
    path: str, guest: Guest, serve: Serve
) -> None:
    with serve(guest("late_trap")) as served:
        with pytest.raises((http.client.HTTPException, OSError)):
            ask(served, path)
        # Nothing has left the node yet: the client may as well get the truth.
        status, content, _ = ask(served, f"/quick{path}")
        assert status == 500
        assert json.loads(content)["invocation"]


def lies() -> list[str]:
    source = (Path(__file__).parent / "guests/c/lies.c").read_text()
    return [part.split('"')[0] for part in source.split('CASE("')[1:]]


@pytest.fixture(scope="module")
def liar(guest: Guest, serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = make_application(tmp_path_factory.mktemp("lies"), guest("lies"), timeout="2s")
    with serve(folder) as served:
        yield served


@pytest.mark.parametrize("lie", lies())
def test_a_lie_ends_the_guest(lie: str, liar: Served) -> None:
    try:
        status, content, _ = ask(liar, f"/{lie}")
    except (http.client.HTTPException, OSError):
        pass  # it had begun its answer
    else:
        if lie.endswith("-survives"):
            assert (status, content) == (200, b"survived")
        else:
            assert status == (504 if lie == "realloc-loops" else 500), content
    assert ask(liar, "/.well-known/spin/health")[0] == 200


def test_every_request_gets_an_instance_of_its_own(guest: Guest, serve: Serve) -> None:
    with serve(guest("counter")) as served:
        assert [ask(served)[1] for _ in range(5)] == [b"1"] * 5


def test_a_reused_instance_is_thrown_away_after_a_failure(
    guest: Guest, serve: Serve, application: MakeApplication
) -> None:
    with serve(application(guest("counter"), reuse=4)) as served:
        assert [ask(served)[1] for _ in range(5)] == [b"1", b"2", b"3", b"4", b"1"]
        for spoiled in ("/trap", "/leak", "/exit"):
            _try(served, spoiled)
            assert ask(served)[1] == b"1", spoiled


def test_an_instance_that_keeps_its_request_is_reused_and_can_not_read_it(
    guest: Guest, serve: Serve, application: MakeApplication
) -> None:
    with serve(application(guest("counter"), reuse=100)) as served:
        kept = ["/keep", "/late", "/keep", "/keep", "/", "/late"]
        assert [ask(served, path)[1] for path in kept] == [b"1", b"2", b"3", b"4", b"5", b"6"]
        assert ask(served, "/keep")[1] == b"7"
        _try(served, "/again")
        assert ask(served)[1] == b"1"


def _try(served: Served, path: str) -> None:
    try:
        ask(served, path)
    except (http.client.HTTPException, OSError):
        pass


def _rss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)
