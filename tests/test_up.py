"""`edge up` and `edge check` from the outside: what they print, how they end, what they survive."""

from __future__ import annotations

import http.client
import json
import os
import pty
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Serve, Served

from edge.engine.guest import named_plan
from edge.node.node import interfaces

Guest = Callable[[str], Path]
MakeApplication = Callable[..., Path]

EDGE = str(Path(sys.executable).parent / "edge")
USAGE, CONFIG = 2, 78  # exit codes


def edge(
    *arguments: str | Path, stdin: bytes = b"", cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Runs it to its end."""
    command = [EDGE, *map(str, arguments)]
    return subprocess.run(
        command, input=stdin, capture_output=True, timeout=60, check=False, cwd=cwd
    )


def complaint(done: subprocess.CompletedProcess[bytes], exit_code: int) -> str:
    """What it says to a person: no traceback, nothing on stdout."""
    text = done.stderr.decode()
    assert done.returncode == exit_code, text
    assert not done.stdout
    assert "Traceback" not in text
    return text


def get(served: Served, path: str, **options: float) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class Background(threading.Thread):
    """One request, while the test goes on."""

    def __init__(self, served: Served, path: str) -> None:
        super().__init__()
        self.served, self.path = served, path
        self.answer: tuple[int, bytes] | Exception | None = None
        self.start()
        time.sleep(0.5)  # it is under way

    def run(self) -> None:
        try:
            self.answer = get(self.served, self.path)
        except (OSError, http.client.HTTPException) as exc:
            self.answer = exc


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


# --- beginning and end --------------------------------------------------------------------------


def test_it_says_where_it_listens_and_nothing_else_on_stdout(guest: Guest, serve: Serve) -> None:
    with serve(guest("output_flood"), "--listen", "[::1]:0") as served:
        assert served.url.startswith("http://[::1]:")
    assert served.process.stdout is not None
    assert served.process.stdout.closed


def test_sigterm_lets_requests_end_and_takes_no_more(guest: Guest, serve: Serve) -> None:
    with serve(guest("sleeper")) as served:
        idle = socket.create_connection(("127.0.0.1", served.port))
        slow = Background(served, "/2000")
        served.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert idle.recv(1) == b"", "an idle connection is closed"
        idle.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", served.port))
        slow.join()
        assert slow.answer == (200, b"slept")
        assert served.process.wait(5) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(number: int, guest: Guest, serve: Serve) -> None:
    with serve(guest("sleeper")) as served:
        slow = Background(served, "/20000")
        served.process.send_signal(number)
        time.sleep(0.3)
        assert served.process.poll() is None
        started = time.monotonic()
        served.process.send_signal(number)
        assert served.process.wait(10) == 0
        assert time.monotonic() - started < 20
        slow.join()
        assert not isinstance(slow.answer, tuple) or slow.answer[0] >= 500


def test_a_guest_that_loops_does_not_keep_it_from_ending(guest: Guest, serve: Serve) -> None:
    with serve(guest("loop")) as served:
        loop = Background(served, "/")
        served.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(10) == 0
        loop.join()


def test_sigterm_ends_a_compilation(guest: Guest, tmp_path: Path) -> None:
    wasm = guest("spin-python")
    command = [EDGE, "up", str(wasm), "--state-dir", str(tmp_path)]
    process = subprocess.Popen([*command, "--listen", "127.0.0.1:0"], stderr=subprocess.PIPE)
    assert process.stderr is not None
    with process.stderr:
        assert b"compiling" in process.stderr.readline()
        process.terminate()
        assert process.wait(10) == 128 + signal.SIGTERM
        assert b"Traceback" not in process.stderr.read()
    # Some of its modules may be done.
    modules = set(named_plan(wasm.read_bytes(), "guest", interfaces()).modules)
    assert len(list(tmp_path.rglob("*.json"))) < len(modules)
    assert not list(tmp_path.rglob("*.tmp"))


# --- what a person did wrong --------------------------------------------------------------------


def test_a_port_in_use_is_a_clear_error(guest: Guest, state: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = edge("up", guest("hello"), "--listen", address, "--state-dir", state)
    text = complaint(done, 1)
    assert f"edge: {address}: address already in use" in text
    assert "hint: another program listens there" in text


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (("--listen", "nonsense"), USAGE, '"127.0.0.1:3000"'),
        (("--listen", "127.0.0.1:99999"), USAGE, "is not an address"),
        (("--memory", "much"), USAGE, '"64MiB"'),
        (("--memory", "1MiB"), CONFIG, "an instance takes 64MiB"),
        (("--variable", "novalue"), CONFIG, "is not NAME=VALUE"),
        (("--variable", "a=@/no/such/file"), CONFIG, "/no/such/file: no such file or dir"),
        (("--tls-cert", "/tmp/x"), CONFIG, "need each other"),
        (("--tls-cert", "/no/cert", "--tls-key", "/no/key"), CONFIG, "/no/cert: no such file"),
        (("--state-dir", "/proc/nowhere"), 1, "--state-dir"),
        (("--once",), CONFIG, "is not a single command"),
        (("--", "argument"), USAGE, "--once"),
        (("--nonsense",), USAGE, "edge up: error: unrecognized arguments: --nonsense"),
    ],
)
def test_a_wrong_option_is_explained(
    arguments: tuple[str, ...], exit_code: int, words: str, guest: Guest, state: Path
) -> None:
    given = ("up", guest("hello"), "--state-dir", state, "--listen", "127.0.0.1:0", *arguments)
    assert words in complaint(edge(*given), exit_code)


@pytest.mark.parametrize("verb", ["up", "check"])
@pytest.mark.parametrize(
    ("content", "exit_code", "words"),
    [
        (None, CONFIG, "has no spin.toml"),
        ("nonsense", CONFIG, "spin.toml: is not TOML"),
        ('spin_version = "1"', CONFIG, "hint:"),
        (
            'spin_manifest_version = 2\n[application]\nname = "x"\n[[trigger.http]]\nroute = "/"\n'
            'component = "lost"\n',
            CONFIG,
            "lost",
        ),
        (
            'spin_manifest_version = 2\n[application]\nname = "x"\n[[trigger.http]]\nroute = "/"\n'
            'component = "a"\n[component.a]\nsource = "none.wasm"\n[component.a.build]\n'
            'command = "make it"\n',
            CONFIG,
            "hint: build it: edge build",
        ),
    ],
    ids=["no manifest", "no TOML", "version 1", "no such component", "not built"],
)
def test_a_wrong_application_is_explained(
    verb: str, content: str | None, exit_code: int, words: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "spin.toml").write_text(content)
    text = complaint(edge(verb, tmp_path), exit_code)
    assert words in text
    assert text.startswith("edge: ")


@pytest.mark.parametrize("verb", ["up", "check"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"(component)", "wasm-tools parse"),
        (b"\0asm\x01\0\0\0 and more", "edge: "),
        (b"\0asm\x0d\0\1\0 and more", "edge: "),
        (b"\x7fELF" + bytes(100), "edge: "),
    ],
    ids=["empty", "text", "a broken module", "a broken component", "something else"],
)
def test_a_wrong_binary_is_explained(verb: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "app.wasm").write_bytes(content)
    text = complaint(edge(verb, tmp_path / "app.wasm", "--state-dir", tmp_path), 1)
    assert words in text
    assert len(text.splitlines()) <= 2


def test_a_traceback_comes_with_debug_only(tmp_path: Path) -> None:
    assert "Traceback" in edge("check", tmp_path, "--debug").stderr.decode()


# --- edge check ---------------------------------------------------------------------------------


def test_check_says_what_there_is_and_starts_nothing(
    guest: Guest, application: MakeApplication, tmp_path: Path
) -> None:
    application(guest("hello"))
    done = edge("check", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().splitlines()[:2] == ["test: ok", "  routes: /..."]
    assert [path.name for path in tmp_path.iterdir()] == ["spin.toml"]


def test_check_speaks_json(guest: Guest) -> None:
    found = json.loads(edge("check", guest("spin-python"), "--json").stdout)
    assert found["triggers"] == ["http"]
    component = found["components"]["spin-python"]
    assert "wasi:http/incoming-handler@0.2.0#handle" in component["exports"]
    assert component["missing"] == []


@pytest.mark.parametrize("verb", ["up", "check"])
def test_a_command_on_a_route_needs_wagi(
    verb: str, guest: Guest, application: MakeApplication, state: Path
) -> None:
    text = complaint(edge(verb, application(guest("cgi")), "--state-dir", state), 1)
    assert "component guest" in text
    assert 'executor = { type = "wagi" }' in text


@pytest.mark.parametrize("verb", ["up", "check"])
def test_hosts_that_are_none_are_a_mistake(
    verb: str, guest: Guest, application: MakeApplication, state: Path
) -> None:
    folder = application(guest("hello"), more='allowed_outbound_hosts = ["nonsense"]')
    text = complaint(edge(verb, folder, "--state-dir", state), CONFIG)
    assert "allowed_outbound_hosts" in text


# --- TLS ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    chain, key = folder / "chain.pem", folder / "key.pem"
    new = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
    name = (
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    )
    files = ("-keyout", str(key), "-out", str(chain))
    subprocess.run([*new, *name, *files], check=True, capture_output=True)
    return chain, key


def test_it_serves_https(guest: Guest, serve: Serve, certificate: tuple[Path, Path]) -> None:
    chain, key = certificate
    with serve(guest("hello"), "--tls-cert", str(chain), "--tls-key", str(key)) as served:
        assert served.url.startswith("https://127.0.0.1:")
        trust = ssl.create_default_context(cafile=str(chain))
        connection = http.client.HTTPSConnection("127.0.0.1", served.port, context=trust)
        for _ in range(3):
            connection.request("GET", "/safe")
            assert connection.getresponse().read() == b"hello /safe"
        connection.close()
        with pytest.raises((OSError, http.client.HTTPException)):
            get(served, "/plain")


def test_a_key_of_another_certificate_is_explained(
    guest: Guest, certificate: tuple[Path, Path], state: Path, tmp_path: Path
) -> None:
    chain, _ = certificate
    (tmp_path / "key.pem").write_text("nonsense")
    given = ("--tls-cert", chain, "--tls-key", tmp_path / "key.pem", "--state-dir", state)
    text = complaint(edge("up", guest("hello"), *given, "--listen", "127.0.0.1:0"), CONFIG)
    assert "--tls-" in text


# --- commands -----------------------------------------------------------------------------------


@pytest.fixture
def once(guest: Guest, state: Path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Runs the command `cgi` on this terminal; its first argument is what it shall do."""

    def run(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        given = ("up", guest("cgi"), "--state-dir", state, "--once", "--", *arguments)
        return edge(*given, stdin=stdin)

    return run


HEAD = b"Content-Type: text/plain\n\n"
Once = Callable[..., subprocess.CompletedProcess[bytes]]


def test_a_command_gets_its_arguments(once: Once) -> None:
    done = once("/arguments", "--listen", "two words")
    assert done.stdout == HEAD + b"cgi.wasm\n/arguments\n--listen\ntwo words\n"
    assert done.returncode == 0


def test_a_command_reads_stdin_and_writes_stdout(once: Once) -> None:
    body = bytes(range(256)) * 10_000
    assert once("/body", stdin=body).stdout == HEAD + body


def test_the_exit_status_is_the_commands(once: Once) -> None:
    assert once("/exit/7").returncode == 7
    assert once("/exit/0").returncode == 0


def test_a_trap_is_a_failure(once: Once) -> None:
    done = once("/abort")
    assert done.returncode == 1
    assert b"unreachable" in done.stderr
    assert b"Traceback" not in done.stderr


def test_its_stderr_is_ours(once: Once) -> None:
    assert b"a line for the log\n" in once("/stderr").stderr


def test_files_and_closed_descriptors_do_for_streams(
    guest: Guest, state: Path, tmp_path: Path
) -> None:
    command = f"{EDGE} up {guest('cgi')} --state-dir {state} --once -- /body"
    (tmp_path / "in").write_bytes(b"from a file")

    def shell(redirections: str) -> int:
        return subprocess.run(f"{command} {redirections}", shell=True, cwd=tmp_path).returncode

    assert shell("< in > out") == 0
    assert (tmp_path / "out").read_bytes() == HEAD + b"from a file"
    assert shell("< /dev/null > out") == 0
    assert (tmp_path / "out").read_bytes() == HEAD
    assert shell("< in >> out") == 0
    assert shell("< in | head -c 1 > out") == 0


def test_a_command_on_a_terminal(guest: Guest, state: Path) -> None:
    terminal, device = pty.openpty()
    command = [EDGE, "up", str(guest("cgi")), "--state-dir", str(state), "--once", "--", "/body"]
    process = subprocess.Popen(command, stdin=device, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        with process.stdout as output:
            os.write(terminal, b"one\n")
            os.write(terminal, b"two\n\x04")  # end of input
            assert output.read() == HEAD + b"one\ntwo\n"
        assert process.wait(10) == 0
    finally:
        os.close(terminal)
        os.close(device)


def test_ctrl_c_ends_a_command(guest: Guest, state: Path) -> None:
    command = [
        EDGE,
        "up",
        str(guest("cgi")),
        "--state-dir",
        str(state),
        "--once",
        "--",
        "/sleep/60000",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    maps = Path(f"/proc/{process.pid}/maps")
    while str(state) not in maps.read_text():  # its code: it is about to run
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 130
    assert b"Traceback" not in errors


# --- options ------------------------------------------------------------------------------------


@contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


def test_variables_reach_the_application_and_our_environment_does_not(
    guest: Guest, serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("from a file\n")
    (tmp_path / "spin.toml").write_text(
        f"""
spin_manifest_version = 2
[application]
name = "variables"
[variables]
given = {{ required = true }}
kept = {{ default = "as it is" }}
[[trigger.http]]
route = "/..."
component = "cgi"
executor = {{ type = "wagi" }}
[component.cgi]
source = "{guest("cgi")}"
environment = {{ OWN = "own" }}
"""
    )
    with (
        environment("EDGE_TEST_SECRET", "leaked"),
        serve(tmp_path, "--variable", f"given=@{tmp_path / 'secret'}") as served,
    ):
        text = get(served, "/env")[1].decode()
        assert "OWN=own\n" in text
        assert "leaked" not in text
    text = complaint(edge("check", tmp_path), CONFIG)
    assert "given" in text
