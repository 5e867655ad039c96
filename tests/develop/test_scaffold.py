"""`edge new`: what it makes, and what it refuses to."""

from __future__ import annotations

import ast
import json
import os
import pty
import re
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from edge import cli
from edge.application import manifest
from edge.develop import building, scaffold
from edge.develop.pins import TOOLS
from edge.develop.scaffold import TEMPLATES
from edge.errors import ConfigError, EdgeError

ROOT = Path(__file__).parent.parent.parent
EDGE = str(Path(sys.executable).parent / "edge")
PATIENCE = 60


@pytest.fixture(params=TEMPLATES)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An application of each template."""
    folder = tmp_path / "my-thing"
    scaffold.create(TEMPLATES[request.param], "my-thing", folder)
    return folder


def test_a_new_application_is_one_that_edge_reads(made: Path) -> None:
    application, (item,) = building.read(made)
    assert application.name == "my-thing"
    assert list(application.components) == [item.component] == ["my-thing"]
    assert [trigger.component for trigger in application.http] == ["my-thing"]
    assert list(building.sources(item)), "its watch patterns name what it is built from"


def test_nothing_is_left_to_fill_in(made: Path) -> None:
    for path in made.rglob("*"):
        if path.is_file():
            assert not re.search(r"%[a-z]+%", path.read_text()), path
            assert path.suffix != ".in"


def test_its_files_are_for_who_made_it_and_its_test_runs(made: Path) -> None:
    assert (made / ".gitignore").is_file()
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(made.stat().st_mode) == 0o777 & ~mask
    for path in made.rglob("*"):
        if path.is_file():
            wanted = 0o777 if path.name == "test.sh" else 0o666
            assert stat.S_IMODE(path.stat().st_mode) & ~0o022 == wanted & ~mask & ~0o022, path
    subprocess.run(["/bin/sh", "-n", made / "test.sh"], check=True)
    assert [path.name for path in made.parent.iterdir()] == ["my-thing"], "nothing beside it"


def test_the_languages_files_are_well_formed(made: Path) -> None:
    for path in made.rglob("*"):
        if path.suffix == ".py":
            ast.parse(path.read_text())
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".toml":
            tomllib.loads(path.read_text())


def test_there_is_a_template_of_each_trigger_in_each_language() -> None:
    assert len(TEMPLATES) == 12
    assert [t.name for t in TEMPLATES.values() if t.language == "rust"] == [
        name for name, t in TEMPLATES.items() if "untested" in t.description
    ]


def test_what_spin_cannot_read_stands_where_it_does_not_look(made: Path) -> None:
    """Its trigger tables refuse unknown keys; ours are below `tool`."""
    document = tomllib.loads((made / "spin.toml").read_text())
    for trigger in document["trigger"].get("mqtt", ()):
        assert set(trigger) <= {"id", "topic", "qos", "component"}
    for trigger in document["trigger"].get("cron", ()):
        assert set(trigger) <= {"id", "cron_expression", "component"}


def test_the_versions_are_those_that_the_tests_use(tmp_path: Path) -> None:
    scaffold.create(TEMPLATES["http-python"], "a", tmp_path / "a")
    lines = (tmp_path / "a/requirements.txt").read_text().splitlines()
    pinned = {p.requirement for p in TOOLS["componentize-py"].packages}
    assert {line for line in lines if not line.startswith("#")} == pinned

    scaffold.create(TEMPLATES["http-javascript"], "b", tmp_path / "b")
    package = json.loads((tmp_path / "b/package.json").read_text())
    lock = json.loads((tmp_path / "b/package-lock.json").read_text())["packages"]
    ours = json.loads((ROOT / "tests/guests/javascript/package-lock.json").read_text())["packages"]
    assert package["dependencies"] == lock[""]["dependencies"] == ours[""]["dependencies"]
    for name in package["dependencies"]:
        key = f"node_modules/{name}"
        assert lock[key]["integrity"] == ours[key]["integrity"]
    assert [k for k, v in lock.items() if k and not v.get("integrity")] == [], "pinned by digest"


def test_the_examples_in_c_use_the_templates_headers() -> None:
    for name in ("wasi_http.h", "spin.h"):
        assert (ROOT / "examples" / name).samefile(ROOT / "edge/develop/templates/c" / name)


# Names, folders


@pytest.mark.parametrize("name", ["hello", "my-first-function", "a1", "a"])
def test_a_name_is_kebab_case(name: str) -> None:
    assert scaffold.check_name(name) == name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "cannot be the name"),
        ("Hello", "cannot be the name"),
        ("my_function", "cannot be the name"),
        ("1st", "cannot be the name"),
        ("a--b", "cannot be the name"),
        ("hällo", "cannot be the name"),
        ("a b", "cannot be the name"),
        ("-t", "cannot be the name"),
        ("a" * 64, "cannot be the name"),
        ("../x", "is a path"),
        (".", "is a path"),
        ("a\nb", "cannot be the name"),
    ],
)
def test_a_wrong_name_is_explained(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        scaffold.check_name(name)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("given", "name"),
    [("http-python", "http-python"), ("http-py", "http-python"), ("cron-js", "timer-javascript")],
)
def test_templates_are_known_by_spins_names_too(given: str, name: str) -> None:
    assert scaffold.find(given).name == name


def test_an_unknown_template_is_told_with_those_there_are() -> None:
    with pytest.raises(ConfigError) as caught:
        scaffold.find("http-pyhton")
    assert caught.value.hint is not None
    assert "http-python" in caught.value.hint
    with pytest.raises(ConfigError, match='no template "cobol"') as caught:
        scaffold.find("cobol")
    assert caught.value.hint is not None
    assert "mqtt-c" in caught.value.hint


def test_what_is_there_is_never_overwritten(tmp_path: Path) -> None:
    template = TEMPLATES["http-c"]
    full, file, link, empty = (tmp_path / n for n in ("full", "file", "link", "empty"))
    full.mkdir()
    (full / "precious").write_text("data")
    file.write_text("data")
    link.symlink_to(tmp_path / "nowhere")
    empty.mkdir()
    for there in (full, file, link):
        with pytest.raises(EdgeError, match="is there already"):
            scaffold.create(template, "x", there)
    assert [p.name for p in full.iterdir()] == ["precious"]
    assert file.read_text() == "data"
    scaffold.create(template, "x", empty)
    assert (empty / "app.c").is_file()
    assert {p.name for p in tmp_path.iterdir()} == {"full", "file", "link", "empty"}


def test_a_folder_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EdgeError, match="file"):
        scaffold.create(TEMPLATES["http-c"], "x", tmp_path / "file" / "x")
    with pytest.raises(EdgeError, match="/proc/self/x"):
        scaffold.create(TEMPLATES["http-c"], "x", Path("/proc/self/x"))


# The verb


def test_the_verb_makes_it_and_says_what_is_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["new", "hello", "--template", "http-c"]) == 0
    said = capsys.readouterr().out
    assert "cd hello" in said
    assert "edge build" in said
    assert manifest.read((tmp_path / "hello/spin.toml").read_text(), file="x").name == "hello"
    assert cli.main(["new", "hello", "-t", "http-c", "-o", "some where/else"]) == 0
    assert "cd 'some where/else'" in capsys.readouterr().out
    assert cli.main(["new", "hello", "-t", "http-c"]) == 1
    assert capsys.readouterr().err.startswith("edge: hello: is there already\nhint: ")


def test_the_list_is_for_people_and_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["new", "--list"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown] == list(TEMPLATES)
    assert cli.main(["new", "--list", "--json"]) == 0
    assert [t["name"] for t in json.loads(capsys.readouterr().out)] == list(TEMPLATES)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["new", "hello"], "--template is missing\nhint: `edge new --list`"),
        (["new", "-t", "http-c"], "NAME is missing\nhint: "),
        (["new", "--json"], "--json: needs --list"),
    ],
)
def test_without_a_terminal_nothing_is_asked(
    arguments: list[str], words: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [EDGE, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 78
    assert done.stderr.startswith(f"edge: {words}")
    assert not list(tmp_path.iterdir())


def test_in_a_terminal_it_asks_until_it_knows(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            [EDGE, "new"], stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, cwd=tmp_path
        ) as process:
            # A terminal keeps what is typed ahead.
            os.write(ours, b"99\nhttp-cobol\nmqtt-c\nMy Name\nmy-name\n")
            said, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
        assert said.startswith(b"made my-name: ")
        asked = os.read(ours, 65536).decode()
        assert 'there is no template "http-cobol"' in asked
        assert '"My Name" cannot be the name' in asked
    finally:
        os.close(ours)
        os.close(theirs)
    assert (tmp_path / "my-name/app.c").is_file()
