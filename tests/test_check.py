"""`edge check` of a node's configuration, and what the command line says of itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import edge.cli
from edge.errors import ConfigError

EXAMPLES = Path(__file__).parent.parent / "examples"
CONFIG, USAGE = ConfigError.exit_code, 2

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


def edge_toml(text: str) -> Path:
    path = Path("edge.toml")
    path.write_text(text)
    return path


def application(name: str, source: str = "hello", more: str = "") -> str:
    path = EXAMPLES / source
    return f'[[application]]\nname = "{name}"\npath = "{path}"\n{more}\n'


def complaint(output: Output, *arguments: object, code: int = CONFIG) -> str:
    assert edge.cli.main([str(argument) for argument in arguments]) == code
    out, err = output.readouterr()
    assert not out
    assert "Traceback" not in err
    return err


def usage(output: Output, *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        edge.cli.main(arguments)
    assert caught.value.code == USAGE
    return output.readouterr().err


def test_a_good_configuration_is_told_as_it_is_understood(capsys: Output) -> None:
    assert edge.cli.main(["check", "--config", str(EXAMPLES / "edge.toml")]) == 0
    out, err = capsys.readouterr()
    assert not err
    lines = out.splitlines()
    assert lines[0] == f"{EXAMPLES}/edge.toml: ok"
    assert "  listens on 127.0.0.1:3000" in lines
    assert f"  application echo on /echo: {EXAMPLES}/echo" in lines


def test_the_same_as_json(capsys: Output) -> None:
    edge_toml(
        '[node]\nname = "n"\nstate_dir = "/s"\n[[application]]\nname = "a"\n'
        'reference = "r.example/a"\nmount = { path = "/a", host = "h" }\n'
    )
    assert edge.cli.main(["check", "--config", "edge.toml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "file": "edge.toml",
        "name": "n",
        "state_dir": "/s",
        "listen": ["0.0.0.0:8080"],
        "applications": [
            {
                "name": "a",
                "mount": {"path": "/a", "host": "h"},
                "reference": "r.example/a",
                "path": None,
            }
        ],
        "notes": [],
    }


def test_every_mistake_is_a_line(capsys: Output) -> None:
    edge_toml('nod = 1\n[http]\nlisten = "x"\ntls_key = 1\n')
    lines = complaint(capsys, "check", "--config", "edge.toml").splitlines()
    assert [line.split(": ")[:3] for line in lines] == [
        ["edge", "edge.toml", "http.listen"],
        ["edge", "edge.toml", "http.tls_key"],
        ["edge", "edge.toml", "nod"],
    ]


def test_one_mistake_has_its_hint_on_a_line(capsys: Output) -> None:
    edge_toml("nod = 1")
    said = complaint(capsys, "check", "--config", "edge.toml")
    assert said == 'edge: edge.toml: nod: unknown key\nhint: did you mean "node"?\n'


def test_applications_of_this_machine_are_examined(capsys: Output, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "spin.toml").write_text("nonsense")
    edge_toml(
        application("good")
        + application("odd", "echo", 'mount = "/odd"\n[application.component.eco]\nqueue = 1')
        + '[[application]]\nname = "broken"\npath = "spin.toml"\n'
    )
    said = complaint(capsys, "check", "--config", "edge.toml").splitlines()
    assert said[0] == (
        'edge: edge.toml: application[1]: odd: has no component "eco" (did you mean "echo"?)'
    )
    assert said[1].startswith(f"edge: edge.toml: application[2]: {tmp_path}/spin.toml: is not TOML")
    assert len(said) == 2


def test_variables_of_an_application_are_checked(capsys: Output, tmp_path: Path) -> None:
    (tmp_path / "value").write_text("30\n")
    needs = (
        'spin_manifest_version = 2\n[application]\nname = "x"\n[variables]\nlimit.required = true\n'
        '[[trigger.http]]\nroute = "/"\ncomponent = "x"\n[component.x]\n'
        f'source = "{EXAMPLES}/hello/hello.wasm"\nvariables.limit = "{{{{ limit }}}}"\n'
    )
    (tmp_path / "spin.toml").write_text(needs)
    entry = '[[application]]\nname = "x"\npath = "spin.toml"\n'
    edge_toml(entry)
    assert "limit" in complaint(capsys, "check", "--config", "edge.toml")
    edge_toml(f'{entry}variables_files.limit = "value"')
    assert edge.cli.main(["check", "--config", "edge.toml"]) == 0
    # Only the service has its credentials.
    edge_toml(f'{entry}variables_credentials.limit = "x"')
    assert edge.cli.main(["check", "--config", "edge.toml"]) == 0


def test_what_the_author_of_an_application_should_know_is_told(
    capsys: Output, tmp_path: Path
) -> None:
    manifest = (EXAMPLES / "hello/spin.toml").read_text()
    manifest = manifest.replace('"hello.wasm"', f'"{EXAMPLES}/hello/hello.wasm"')
    (tmp_path / "spin.toml").write_text(f'{manifest}\n[[trigger.htp]]\ncomponent = "hello"\n')
    edge_toml('[[application]]\nname = "x"\npath = "spin.toml"\n')
    assert edge.cli.main(["check", "--config", "edge.toml"]) == 0
    said = capsys.readouterr().out
    assert "  note: application x: [[trigger.htp]]: not a trigger that this version runs" in said


def test_two_applications_with_one_route_are_told_of_each_other(capsys: Output) -> None:
    edge_toml(application("one") + application("two", "echo"))
    said = complaint(capsys, "check", "--config", "edge.toml")
    assert said.startswith("edge: edge.toml: application[1]: ")
    assert "one" in said
    edge_toml(application("one") + application("two", "echo", 'mount = "/two"'))
    assert edge.cli.main(["check", "--config", "edge.toml"]) == 0


def test_a_configuration_is_not_an_application(capsys: Output, tmp_path: Path) -> None:
    path = edge_toml('[node]\nname = "a"')
    said = complaint(capsys, "check", path)
    assert "hint: for the configuration of a node: edge check --config edge.toml" in said
    (tmp_path / "spin.toml").write_text("spin_manifest_version = 2")
    assert "--config" not in complaint(capsys, "check", "spin.toml")
    assert "hint: edge check spin.toml" in complaint(capsys, "check", "--config", "spin.toml")
    said = complaint(capsys, "check", "--config", "edge.toml", "spin.toml")
    assert "--config: spin.toml: one of the two" in said
    said = complaint(capsys, "check", "--config", "edge.toml", "--variable", "a=b")
    assert said.startswith("edge: --variable: the configuration says that")


def test_the_version_is_told(capsys: Output) -> None:
    with pytest.raises(SystemExit) as caught:
        edge.cli.main(["--version"])
    assert caught.value.code == 0
    name, version = capsys.readouterr().out.split()
    assert name == "edge"
    assert version[0].isdigit()


@pytest.mark.parametrize(
    ("arguments", "verb"),
    [
        (["--nonsense", "check"], "edge"),
        (["check", "--nonsense"], "edge check"),
        (["push", "a", "r.example/a", "--nonsense"], "edge push"),
        (["fleet", "show", "r.example/a:1", "--nonsense"], "edge fleet show"),
    ],
)
def test_an_unknown_option_shows_the_usage_of_its_verb(
    arguments: list[str], verb: str, capsys: Output
) -> None:
    said = usage(capsys, *arguments)
    assert said.startswith(f"usage: {verb} [-h]")
    assert said.endswith(f"{verb}: error: unrecognized arguments: --nonsense\n")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--variable", "x=@nowhere"), "--variable x: nowhere: no such file or directory"),
        (("--variable", "x=@."), "--variable x: .: is a directory"),
        (("--variable", f"x=@{'y' * 300}"), f"--variable x: {'y' * 300}: file name too long"),
        (("--runtime-config-file", "nowhere"), "nowhere: no such file or directory"),
    ],
)
def test_files_that_cannot_be_read_are_told_in_words(
    arguments: tuple[str, ...], text: str, capsys: Output
) -> None:
    said = complaint(capsys, "check", EXAMPLES / "hello", *arguments)
    assert said == f"edge: {text}\n"


def test_a_name_that_no_file_can_have_is_no_crash(capsys: Output) -> None:
    assert "file name too long" in complaint(capsys, "check", "a" * 300)


@pytest.mark.parametrize(
    ("network", "text"),
    [
        ("10.1.2.3/8", '"10.1.2.3/8" is an address within a network\nhint: did you mean "10.0.0.0'),
        ("lan", '"lan" is not a network\nhint: write it like "10.0.0.0/8"'),
    ],
)
def test_a_network_that_is_none_is_told_in_words(network: str, text: str, capsys: Output) -> None:
    Path("runtime.toml").write_text(f'[outbound_networking]\nblock_networks = ["{network}"]')
    arguments = (EXAMPLES / "hello", "--runtime-config-file", "runtime.toml")
    said = complaint(capsys, "check", *arguments)
    assert f"edge: runtime.toml: outbound_networking.block_networks[0]: {text}" in said


def test_a_folder_of_a_node_is_told_from_one_of_an_application(
    tmp_path: Path, capsys: Output
) -> None:
    (tmp_path / "edge.toml").write_text("")
    assert edge.cli.main(["check", str(tmp_path)]) == 78
    said = capsys.readouterr().err
    assert f"edge: {tmp_path}: has no spin.toml\n" in said
    assert f"hint: for the node that {tmp_path / 'edge.toml'} configures: edge run" in said
