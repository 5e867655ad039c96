"""One application with many routes, from the outside: who answers, and what it is told."""

from __future__ import annotations

import http.client
import http.server
import json
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Serve, Served

Guest = Callable[[str], Path]

MANIFEST = """
spin_manifest_version = 2

[application]
name = "many"
version = "1.2.3"

[[trigger.http]]
route = "/hello/..."
component = "hello"

[[trigger.http]]
route = "/hello/exactly"
static_response = {{ status_code = 299, headers = {{ x-made = "of text" }}, body = "no guest" }}

[[trigger.http]]
route = "/gone"
static_response = {{ status_code = 410 }}

[[trigger.http]]
route = "/out/..."
component = "outbound"

[[trigger.http]]
route = "/nowhere/..."
component = "confined"

[[trigger.http]]
route = {{ private = true }}
component = "echo"

[[trigger.http]]
route = {{ private = true }}
component = "loop"

[[trigger.http]]
route = {{ private = true }}
component = "trap"

[[trigger.http]]
route = "/:what"
component = "told"

[[trigger.http]]
route = "/hi/:name/..."
component = "cgi"
executor = {{ type = "wagi" }}

[[trigger.http]]
route = "/argv/..."
component = "cgi"
executor = {{ type = "wagi", argv = "first ${{SCRIPT_NAME}} ${{ARGS}} last" }}

[component.hello]
source = "{hello}"
[component.outbound]
source = "{outbound}"
allowed_outbound_hosts = [
    "http://echo.spin.internal", "http://hello.spin.internal", "http://loop.spin.internal",
    "http://trap.spin.internal", "http://absent.spin.internal", "http://127.0.0.1:{port}",
]
[component.confined]
source = "{outbound}"
allowed_outbound_hosts = ["http://hello.spin.internal"]
[component.echo]
source = "{echo}"
[component.loop]
source = "{loop}"
[component.loop.tool.edge]
timeout = "300ms"
[component.trap]
source = "{late_trap}"
[component.told]
source = "{told}"
[component.cgi]
source = "{cgi}"
files = [{{ source = "{files}", destination = "/" }}]
environment = {{ MINE = "yes" }}
"""


class Upstream(http.server.BaseHTTPRequestHandler):
    """Somebody else's server: says what it got."""

    def do_GET(self) -> None:
        location = "http://127.0.0.1:1/" if self.path == "/redirect" else ""
        body = json.dumps({"path": self.path, "host": self.headers["host"]}).encode()
        self.send_response(302 if location else 200)
        if location:
            self.send_header("location", location)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        return


@pytest.fixture(scope="module")
def upstream() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def many(
    guest: Guest, serve: Serve, upstream: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("many")
    (folder / "files").mkdir()
    (folder / "files/note.txt").write_text("a note")
    names = ("hello", "outbound", "echo", "loop", "late_trap", "cgi")
    wasm = {name: guest(name) for name in names}
    manifest = MANIFEST.format(**wasm, told=guest("spin-python"), port=upstream, files="files")
    (folder / "spin.toml").write_text(manifest)
    with serve(folder) as served:
        yield served


def ask(
    served: Served,
    path: str,
    headers: dict[str, str] | None = None,
    *,
    method: str = "GET",
    body: bytes | None = None,
) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read(), {k.lower(): v for k, v in answer.getheaders()}
    finally:
        connection.close()


def through(served: Served, url: str, **headers: str) -> tuple[int, bytes]:
    """Asks the guest `outbound` to fetch that."""
    return ask(served, "/out/", {"x-url": url, **headers})[:2]


# --- routes -------------------------------------------------------------------------------------


def test_the_most_special_route_answers(many: Served) -> None:
    assert ask(many, "/hello/anything")[1].startswith(b"hello")
    status, body, headers = ask(many, "/hello/exactly")
    assert (status, body, headers["x-made"]) == (299, b"no guest", "of text")
    assert ask(many, "/gone")[:2] == (410, b"")


def test_what_has_no_route_is_not_found(many: Served) -> None:
    assert ask(many, "/")[0] == 404
    assert ask(many, "/no/such/route")[0] == 404


def test_the_platform_answers_for_itself(many: Served) -> None:
    assert ask(many, "/.well-known/spin/health")[:2] == (200, b"OK")
    assert json.loads(ask(many, "/.well-known/spin/info")[1]) == {
        "name": "many",
        "version": "1.2.3",
    }
    assert ask(many, "/.well-known/spin/anything")[0] == 404


def told(many: Served, path: str, headers: dict[str, str] | None = None) -> dict[str, str]:
    lines = ask(many, path, headers)[1].decode().splitlines()
    return dict(line.split(": ", 1) for line in lines)


def test_a_component_is_told_about_its_route(many: Served) -> None:
    found = told(many, "/headers?a=b", {"host": "example.org:8080"})
    assert found["spin-path-match-what"] == "headers"
    assert found["spin-raw-component-route"] == "/:what"
    assert found["spin-component-route"] == "/:what"
    assert found["spin-matched-route"] == "/:what"
    assert found["spin-base-path"] == "/"
    assert found["spin-full-url"] == "http://example.org:8080/headers?a=b"
    assert found["spin-client-addr"].startswith("127.0.0.1:")


def test_a_client_cannot_say_it_in_our_place(many: Served) -> None:
    found = told(many, "/headers", {"spin-client-addr": "10.0.0.1:1", "spin-path-match-x": "evil"})
    assert found["spin-client-addr"].startswith("127.0.0.1:")
    assert "spin-path-match-x" not in found


# --- commands -----------------------------------------------------------------------------------


def test_a_command_is_told_about_its_route(many: Served) -> None:
    lines = ask(many, "/hi/bob/env?q=1", {"x-one": "1", "proxy": "evil"})[1].decode().splitlines()
    found = dict(line.split("=", 1) for line in lines if "=" in line)
    assert found["PATH_INFO"] == "/env"
    assert found["SCRIPT_NAME"] == "/hi/:name"
    assert found["X_MATCHED_ROUTE"] == "/hi/:name/..."
    assert found["QUERY_STRING"] == "q=1"
    assert found["REQUEST_METHOD"] == "GET"
    assert found["HTTP_X_ONE"] == "1"
    assert found["MINE"] == "yes"
    assert "HTTP_PROXY" not in found


def test_a_command_gets_arguments_and_files(many: Served) -> None:
    lines = ask(many, "/argv/arguments?a=b&c")[1].decode().splitlines()
    assert lines == ["first", "/argv/arguments", "a=b", "c", "last"]
    assert ask(many, "/hi/x/file/note.txt")[:2] == (200, b"a note")
    assert ask(many, "/hi/x/file/../../etc/passwd")[0] in (404, 500)
    assert ask(many, "/hi/x/write/note.txt", method="POST", body=b"overwritten")[0] == 500


# --- components that call each other ------------------------------------------------------------


def test_a_component_calls_another_one(many: Served) -> None:
    status, body = through(many, "http://hello.spin.internal/from/me")
    assert (status, body) == (200, b"hello /from/me")


def test_a_private_component_answers_its_neighbours_only(many: Served) -> None:
    body = random.Random(5).randbytes(30_000)
    headers = {"x-url": "http://echo.spin.internal/private", "x-method": "POST"}
    status, answer, _ = ask(many, "/out/", headers, method="POST", body=body)
    assert (status, answer) == (200, body)
    assert ask(many, "/echo/private")[0] == 404
    assert ask(many, "/", {"host": "echo.spin.internal"})[0] == 404


def test_what_a_called_component_suffers_its_caller_sees(many: Served) -> None:
    assert through(many, "http://loop.spin.internal/")[0] in (502, 504)
    assert through(many, "http://trap.spin.internal/before")[0] >= 500
    assert ask(many, "/hello/x")[0] == 200


# --- the way out --------------------------------------------------------------------------------


def test_an_allowed_host_is_reached(many: Served, upstream: int) -> None:
    status, body = through(many, f"http://127.0.0.1:{upstream}/some?where")
    assert status == 200
    assert json.loads(body) == {"path": "/some?where", "host": f"127.0.0.1:{upstream}"}


def test_a_redirect_is_the_guests_affair(many: Served, upstream: int) -> None:
    assert through(many, f"http://127.0.0.1:{upstream}/redirect")[0] == 302


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/",
        "http://localhost:{port}/",
        "https://127.0.0.1:{port}/",
        "http://[::1]:{port}/",
        "http://confined.spin.internal/",
        "http://169.254.169.254/latest/meta-data",
    ],
)
def test_what_is_not_allowed_is_denied(url: str, many: Served, upstream: int) -> None:
    denied = 15  # the case HTTP-request-denied
    assert through(many, url.format(port=upstream)) == (502, b"error %d" % denied)


def test_each_component_has_its_own_allowed_hosts(many: Served, upstream: int) -> None:
    def confined(url: str) -> int:
        return ask(many, "/nowhere/", {"x-url": url})[0]

    assert confined("http://hello.spin.internal/") == 200
    assert confined(f"http://127.0.0.1:{upstream}/") == 502
    assert confined("http://echo.spin.internal/") == 502


def test_a_component_that_is_not_there_cannot_be_allowed(many: Served) -> None:
    assert through(many, "http://absent.spin.internal/")[0] == 502
