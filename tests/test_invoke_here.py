"""`edge invoke PATH`: one request or event for an application of this machine, without a node."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EDGE = str(Path(sys.executable).parent / "edge")
EXAMPLES = Path(__file__).parent.parent / "examples"
PATIENCE = 120


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def environment(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))  # what is compiled once stays compiled
    monkeypatch.setenv("EDGE_SOCKET", str(tmp_path / "no-node"))
    monkeypatch.chdir(tmp_path)


def invoke(*arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [EDGE, "invoke", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=PATIENCE, check=False)


def answer(*arguments: str | Path, stdin: bytes = b"") -> str:
    done = invoke(*arguments, stdin=stdin)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_a_request_is_answered() -> None:
    assert answer(EXAMPLES / "hello", "--path", "/world") == "hello /world"
    assert answer(EXAMPLES / "hello/spin.toml") == "hello /"
    assert answer(EXAMPLES / "hello/hello.wasm", "--path", "/a") == "hello /a"


def test_the_folder_one_is_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES / "hello")
    assert answer(".") == "hello /"
    assert not (EXAMPLES / "hello/.edge/kv").exists()


def test_data_comes_from_where_it_is_said_to() -> None:
    (Path() / "event").write_bytes(b"a\0b")
    assert answer(EXAMPLES / "echo", "--data", "text") == "text"
    assert answer(EXAMPLES / "echo", "--data", "@event") == "a\0b"
    assert answer(EXAMPLES / "echo", "--data", "-", stdin=b"piped") == "piped"


def test_an_event_is_answered_and_not_published() -> None:
    event = ("--trigger", "readings", "--subject", "sensors/kitchen/temperature", "--data", "31.5")
    assert answer(EXAMPLES / "thermostat", *event) == "kitchen: 31.5 is above 25"
    other = (*event, "--variable", "limit=30")
    assert answer(EXAMPLES / "thermostat", *other) == "kitchen: 31.5 is above 30"


def test_nothing_is_kept_unless_a_directory_is_named(tmp_path: Path) -> None:
    event = ("--trigger", "readings", "--subject", "sensors/kitchen/temperature", "--data", "20")
    assert answer(EXAMPLES / "thermostat", *event) == ""
    assert answer(EXAMPLES / "thermostat") == "no readings yet\n"
    kept = ("--state-dir", tmp_path / "state")
    assert answer(EXAMPLES / "thermostat", *event, *kept) == ""
    assert answer(EXAMPLES / "thermostat", *kept) == "kitchen 20\n"


def test_a_failed_event_says_why() -> None:
    event = ("--trigger", "readings", "--subject", "sensors/kitchen/temperature", "--data", "hot")
    done = invoke(EXAMPLES / "thermostat", *event)
    assert done.returncode == 1
    assert b"edge: the event was not handled: " in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["./nowhere"], 78, "nowhere"),
        ([EXAMPLES], 78, "has no spin.toml"),
        ([EXAMPLES / "thermostat", "--trigger", "reading"], 78, 'did you mean "readings"?'),
        ([EXAMPLES / "thermostat", "--trigger", "readings"], 78, "--subject"),
        ([EXAMPLES / "hello", "--component", "helo"], 78, 'did you mean "hello"?'),
        ([EXAMPLES / "hello", "--header", "x: ä"], 78, "is not printable ASCII"),
        (["hello", "--variable", "a=b"], 78, "--variable: the node has that of hello"),
        (["hello"], 1, "no-node"),
    ],
    ids=lambda value: None,
)
def test_mistakes_are_explained(arguments: list[str | Path], code: int, words: str) -> None:
    done = invoke(*arguments)
    assert done.returncode == code, done.stderr.decode()
    assert words in done.stderr.decode()
    assert b"Traceback" not in done.stderr
