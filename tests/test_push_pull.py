"""`edge push`, `edge pull` and `edge up REF`, with Debian's docker-registry and skopeo."""

from __future__ import annotations

import base64
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import Serve, Served, make_application
from registry_lab import PASSWORD, USER, Authority, docker_registry, skopeo

from edge.cli import main

Guest = Callable[[str], Path]

HERE = Path(__file__).parent
HELLO = HERE.parent / "examples" / "hello"
SCRIPT = HERE / "spin_artifact.py"
EDGE = str(Path(sys.executable).parent / "edge")
USAGE, CONFIG = 2, 78  # exit codes


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Authority]]:
    """By TLS, for USER."""
    authority = Authority.make(tmp_path_factory.mktemp("authority"))
    folder = tmp_path_factory.mktemp("guarded")
    with docker_registry(folder, users=True, authority=authority) as host:
        yield host, authority


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


Edge = Callable[..., Done]
Push = Callable[..., str]


@pytest.fixture
def edge(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Edge:
    """`edge …` within this process, in the test's folder: it starts in no time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))

    def run(*arguments: str | Path) -> Done:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as error:  # argparse
            code = int(error.code or 0)
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture
def push(edge: Edge) -> Push:
    """The reference that it prints."""

    def run(*arguments: str | Path) -> str:
        done = edge("push", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def script(*arguments: str | Path) -> str:
    """The digest of what the independent script pushed."""
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def get(served: Served, path: str = "/") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_what_is_pushed_runs_by_its_tag_and_by_its_digest(
    registry: str, serve: Serve, push: Push, edge: Edge
) -> None:
    digest = push(HELLO, f"{registry}/team/hello:1.0")
    assert digest.startswith(f"{registry}/team/hello@sha256:")
    assert push(HELLO, f"{registry}/team/hello:1.0") == digest, "the same application"
    for reference in (f"{registry}/team/hello:1.0", digest):
        with serve(reference) as served:
            assert get(served, "/there")[0] == 200
            assert b"hello" in get(served, "/there")[1]
    done = edge("check", digest, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["routes"] == ["/..."]


def test_another_implementation_reads_what_is_pushed(registry: str, push: Push) -> None:
    digest = push(HELLO, f"{registry}/read:1")
    inspected = json.loads(skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{digest}"))
    assert inspected["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    kinds = [layer["mediaType"] for layer in inspected["layers"]]
    assert kinds == [
        "application/vnd.wasm.content.layer.v1+wasm",
        "application/vnd.fermyon.spin.application.v1+config",
    ]
    config = json.loads(
        skopeo("inspect", "--config", "--raw", "--tls-verify=false", f"docker://{digest}")
    )
    assert config["architecture"] == "wasm"
    label = config["config"]["Labels"]["com.fermyon.spin.lockedAppDigest"]
    assert label == inspected["layers"][-1]["digest"]


def test_what_another_implementation_copies_is_pulled_and_runs(
    registry: str,
    guarded: tuple[str, Authority],
    serve: Serve,
    tmp_path: Path,
    push: Push,
    edge: Edge,
) -> None:
    host, authority = guarded
    digest = push(HELLO, f"{registry}/copied:1").partition("@")[2]
    (tmp_path / "ca").mkdir()
    (tmp_path / "ca" / "ca.crt").write_bytes(authority.ca.read_bytes())
    skopeo(
        "copy",
        "--src-tls-verify=false",
        *("--dest-creds", f"{USER}:{PASSWORD}", "--dest-cert-dir", tmp_path / "ca"),
        *(f"docker://{registry}/copied:1", f"docker://{host}/elsewhere/copied:2"),
    )
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    login = ["--username", USER, "--password-file", tmp_path / "password"]
    tls = ["--registry-ca", authority.ca]
    reference = f"{host}/elsewhere/copied:2"
    done = edge("pull", reference, *login, *tls)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{host}/elsewhere/copied@{digest}\n"
    state = ["--state-dir", str(tmp_path / ".edge")]
    with serve(f"{host}/elsewhere/copied@{digest}", *state) as served:
        assert get(served)[0] == 200


def test_an_application_goes_to_a_guarded_registry_by_dockers_login(
    guarded: tuple[str, Authority], tmp_path: Path, push: Push, edge: Edge
) -> None:
    host, authority = guarded
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    tls = ["--registry-ca", authority.ca]
    digest = push(HELLO, f"{host}/docker:1", *tls)
    done = edge("check", digest, "--state-dir", tmp_path, *tls)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("old", [False, True])
def test_an_artifact_of_an_independent_script_runs(old: bool, registry: str, serve: Serve) -> None:
    more = ["--old"] if old else []
    script(*more, registry, "independent", "1", HELLO / "hello.wasm")
    with serve(f"{registry}/independent:1") as served:
        assert get(served, "/x")[0] == 200
        assert b"hello" in get(served, "/x")[1]


def test_an_application_keeps_its_files_options_and_environment(
    guest: Guest, registry: str, serve: Serve, tmp_path: Path, push: Push
) -> None:
    (tmp_path / "files" / "deep").mkdir(parents=True)
    (tmp_path / "files" / "small.txt").write_text("a note")
    (tmp_path / "files" / "deep" / "large.bin").write_bytes(bytes(range(256)) * 9)
    application = make_application(
        tmp_path,
        guest("cgi"),
        'files = [{ source = "files", destination = "/" }]\nenvironment = { MINE = "yes" }',
        timeout="7s",
    )
    manifest = application / "spin.toml"
    wagi = 'component = "guest"\nexecutor = { type = "wagi" }'
    manifest.write_text(manifest.read_text().replace('component = "guest"', wagi))
    digest = push(application, f"{registry}/files:1")
    with serve(digest) as served:
        assert get(served, "/file/small.txt") == (200, b"a note")
        assert get(served, "/file/deep/large.bin") == (200, bytes(range(256)) * 9)
        assert b"MINE=yes" in get(served, "/env")[1]


def test_a_tag_that_moves_is_followed(
    registry: str, guest: Guest, serve: Serve, push: Push
) -> None:
    reference = f"{registry}/moves:stable"
    first = push(HELLO, reference)
    with serve(reference) as served:
        assert b"hello" in get(served)[1]
    second = push(guest("status"), reference)
    assert second != first
    with serve(reference) as served:
        assert get(served, "/204")[0] == 204
    with serve(first) as served:
        assert b"hello" in get(served)[1]


def test_without_a_registry_what_is_here_is_served(
    serve: Serve, tmp_path: Path, push: Push, edge: Edge
) -> None:
    (tmp_path / "registry").mkdir()
    state = ["--state-dir", str(tmp_path / "state")]
    with docker_registry(tmp_path / "registry") as host:
        reference = f"{host}/app:1"
        digest = push(HELLO, reference)
        done = edge("pull", reference, *state)
        assert done.stdout.strip() == digest
    with serve(reference, *state) as served:
        assert get(served)[0] == 200
    text = f"serving what is here: {digest.partition('@')[2]}\n"
    assert [line for line in served.log if line.endswith(text)]
    with serve(digest, *state) as served:
        assert get(served)[0] == 200
    assert "serving what is here" not in "".join(served.log)
    done = edge("up", f"{host}/other:1", *state, "--listen", "127.0.0.1:0")
    assert done.returncode == 1
    assert "connection refused" in done.stderr.splitlines()[-1]


def test_a_registry_that_hangs_is_not_waited_for(
    serve: Serve, tmp_path: Path, push: Push, edge: Edge
) -> None:
    (tmp_path / "registry").mkdir()
    state = ["--state-dir", str(tmp_path / "state")]
    with docker_registry(tmp_path / "registry") as host:
        reference = f"{host}/app:1"
        push(HELLO, reference)
        assert edge("pull", reference, *state).returncode == 0
    port = int(host.rpartition(":")[2])
    silent = socket.create_server(("127.0.0.1", port))
    with silent, serve(reference, *state) as served:
        assert get(served)[0] == 200
    assert "does not answer in 5 s; serving what is here" in "".join(served.log)


def test_a_registry_that_says_no_is_believed(
    registry: str, serve: Serve, tmp_path: Path, push: Push, edge: Edge
) -> None:
    reference = f"{registry}/gone:1"
    push(HELLO, reference)
    state = ["--state-dir", str(tmp_path / "state")]
    with serve(reference, *state):
        pass
    for arguments in (["up", "--listen", "127.0.0.1:0"], ["pull"], ["check"]):
        done = edge(*arguments, f"{registry}/nowhere:1", *state)
        assert done.returncode == 1
        assert f"edge: {registry}/nowhere:1: not found" in done.stderr
        assert "hint: " in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["push", str(HELLO), "team/hello"], USAGE, "names no registry"),
        (["push", str(HELLO), f"a.example/x@sha256:{'0' * 64}"], USAGE, "a push goes to a tag"),
        (["push", "/nonexistent", "127.0.0.1:1/x"], CONFIG, "no such file or directory"),
        (["pull", "a.example/X"], USAGE, "is not the name of a repository"),
        (["pull", "127.0.0.1:1/x", "--username", "u"], CONFIG, "need each other"),
        (
            ["pull", "127.0.0.1:1/x", "--username", "u", "--password-file", "/nonexistent"],
            CONFIG,
            "--password-file /nonexistent: No such file",
        ),
        (
            ["pull", "127.0.0.1:1/x", "--insecure", "--registry-ca", "/nonexistent"],
            CONFIG,
            "exclude each other",
        ),
        (["pull", "127.0.0.1:1/x", "--registry-ca", "/nonexistent"], CONFIG, "/nonexistent: No"),
        (["up", "127.0.0.1:1/x", "--watch"], CONFIG, "--watch"),
        (["up", "examples/none"], CONFIG, "examples/none: no such file"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], code: int, message: str, tmp_path: Path, edge: Edge
) -> None:
    done = edge(*arguments)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_path_that_exists_is_not_a_reference(tmp_path: Path, edge: Edge) -> None:
    folder = tmp_path / "a.example" / "x"
    folder.mkdir(parents=True)
    (folder / "spin.toml").write_text("x")
    done = edge("check", "a.example/x")
    assert done.returncode == CONFIG
    assert "a.example/x/spin.toml" in done.stderr


def test_a_wrong_password_has_a_hint_and_is_not_shown(
    guarded: tuple[str, Authority], tmp_path: Path, edge: Edge
) -> None:
    host, authority = guarded
    (tmp_path / "password").write_text("s3kr3t\n")
    login = ["--username", USER, "--password-file", tmp_path / "password"]
    done = edge("push", HELLO, f"{host}/x:1", *login, "--registry-ca", authority.ca)
    assert done.returncode == 1
    assert f"edge: {host}/x:1: access denied" in done.stderr
    assert f"hint: log in with `docker login {host}`" in done.stderr
    assert "s3kr3t" not in done.stderr


def test_what_takes_long_says_how_far_it_is(tmp_path: Path) -> None:
    """A registry that takes a second and a half to answer, with an error that is final."""
    release = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                release.wait(60)
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        reference = f"127.0.0.1:{listener.getsockname()[1]}/slow:1"
        process = subprocess.Popen(
            [EDGE, "pull", reference], cwd=tmp_path, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        try:
            assert process.stderr.readline() == f"pulling {reference}\n"
            release.set()
            assert process.stderr.readline() == f"edge: {reference}: not found\n"
        finally:
            release.set()
            thread.join()
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stderr.close()
