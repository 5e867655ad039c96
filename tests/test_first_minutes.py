"""The mistakes that one makes in the first ten minutes: each says what is wrong, and what to do."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from node_lab import Done, run_edge

from edge.cli import main
from edge.develop import scaffold
from edge.develop.building import _hint
from edge.develop.commands import Done as Built
from edge.develop.scaffold import TEMPLATES
from edge.spin.broker import Broker, BrokerError, BrokerOptions

Guest = Callable[[str], Path]


@pytest.fixture
def alarm(guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The manifest of a new application that seems to be built, in the folder one is in."""
    folder = tmp_path / "alarm"
    scaffold.create(TEMPLATES["mqtt-python"], "alarm", folder)
    (folder / "app.wasm").write_bytes(guest("cloudevent").read_bytes())
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder / "spin.toml"


def refused(*arguments: str | Path) -> str:
    """What it says, in one line with its hint."""
    done: Done = run_edge(*arguments)
    assert done.returncode, done.stdout
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ('name = "alarm"', 'name = "alarm', "(at line 4, column 14) hint: a text ends in its line"),
        ('qos = "1"', 'qos = "3"', 'trigger.mqtt[0].qos: must be "0", "1" or "2", not "3"'),
        ("sensors/+/t", "sensors/+t", '"+" stands for a whole level'),
        ('component = "alarm"', 'component = "alrm"', 'did you mean "alarm"?'),
        ('source = "', 'sourec = "', 'missing key "source" hint: "sourec" is not a key here; did'),
        ('"app.wasm"', '"ap.wasm"', 'hint: did you mean "app.wasm"? build it: edge build'),
        ("[[trigger.mqtt]]", "[trigger.mqtt]", "must be a list, not a table hint: write [[trig"),
        ('id = "readings"', 'id = "reading"', 'no trigger with the id "readings" hint: did you'),
        ("reply_topic", "reply_topc", 'reply_topc: unknown key hint: did you mean "reply_topic"?'),
        ("mqtt://localhost:1883", "localhost", 'hint: write it like "mqtt://broker:1883"'),
        ("{{ limit }}", "{{ limt }}", 'has no variable "limt" hint: declare it: variables.limt'),
        ('["default"]', '"default"', 'key_value_stores: must be a list, not "default"'),
    ],
)
def test_a_slip_in_the_manifest_is_explained(
    right: str, wrong: str, said: str, alarm: Path
) -> None:
    text = alarm.read_text()
    assert right in text
    alarm.write_text(text.replace(right, wrong, 1))
    assert said in refused("check")


def test_what_was_not_built_says_so_whatever_is_done_with_it(alarm: Path) -> None:
    (alarm.parent / "app.wasm").unlink()
    for verb in (("up",), ("check",), ("invoke", "."), ("push", ".", "127.0.0.1:7465/alarm:1")):
        said = refused(*verb)
        assert said.endswith("app.wasm does not exist hint: build it: edge build"), verb


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("up", "--variable", "limt=30"), 'has no such variable hint: did you mean "limit"?'),
        (("up", "--mqtt", "localhost"), 'hint: write it like "mqtt://broker:1883"'),
        (("up", "--listen", "192.0.2.1:3000"), "it is no address of this machine"),
        (("invoke", ".", "--trigger", "reading", "--subject", "x"), 'did you mean "readings"?'),
        (("invoke", ".", "--trigger", "readings"), "hint: name one with --subject"),
        (
            ("invoke", ".", "--trigger", "readings", "--subject", "kitchen"),
            'trigger readings: "kitchen" is no topic of sensors/+/temperature',
        ),
        (("invoke", ".", "--path", "/", "--data", "@nofile"), "no such file or directory"),
        (("new", "alarm", "-t", "mqtt-python", "-o", "."), "hint: "),
    ],
)
def test_a_slip_on_the_command_line_is_explained(
    arguments: tuple[str, ...], said: str, alarm: Path
) -> None:
    assert said in refused(*arguments)


def test_a_port_that_is_taken_names_the_option(alarm: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        said = refused("up", "--listen", f"127.0.0.1:{other.getsockname()[1]}")
    assert "address already in use hint: another program listens there" in said
    assert "--listen" in said


def test_a_folder_without_an_application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for verb in ("up", "build", "check"):
        assert refused(verb).startswith("edge: .: has no spin.toml hint: ")


def test_a_verb_of_swapped_letters(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["nwe", "alarm"])
    assert 'there is no verb "nwe"; did you mean "new"?' in capsys.readouterr().err


async def test_a_broker_that_is_not_there_says_how_to_get_one() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        options = BrokerOptions(host="127.0.0.1", port=nobody.getsockname()[1])
        with pytest.raises(BrokerError, match="connection refused") as caught:
            await Broker(options).connect()
    assert "--mqtt embedded" in str(caught.value.hint)
    with pytest.raises(BrokerError) as caught:
        await Broker(BrokerOptions(host="nobody.invalid", port=1883)).connect()
    assert caught.value.hint == "is its name right, and is there a network?"


@pytest.mark.parametrize(
    ("output", "hint"),
    [
        ("ModuleNotFoundError: No module named 'requests'", ".venv/bin/pip install -r"),
        (
            "AttributeError: module 'app' has no attribute 'IncomingHandler'",
            "class IncomingHandler",
        ),
        ("sh: 1: tinygo: not found", "tinygo"),
    ],
)
def test_a_build_that_failed_has_a_hint(output: str, hint: str) -> None:
    assert hint in str(_hint(Built(1, output, 1.0)))


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("store", ("--path", "/open/x"), 'may not use the key-value store "x": name it in key_v'),
        ("store", ("--path", "/sql"), 'may not use the database "default": name it in sqlite_data'),
        ("outbound", ("-H", "x-url: http://a.example/x"), "may not send a request to a.example: n"),
    ],
)
def test_what_was_not_granted_is_named(
    name: str,
    arguments: tuple[str, ...],
    said: str,
    guest: Guest,
    alarm: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    (alarm.parent / "app.wasm").write_bytes(guest(name).read_bytes())
    assert run_edge("invoke", ".", *arguments, "--data", "SELECT 1").returncode == 1
    assert said in caplog.text
