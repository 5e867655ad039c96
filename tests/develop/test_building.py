"""`edge build`: commands as spin.toml has them, what they need, and what is said when they fail."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from edge import cli
from edge.develop import building, commands, engines
from edge.errors import ConfigError, EdgeError

EDGE = str(Path(sys.executable).parent / "edge")
PATIENCE = 60


def write(folder: Path, *components: str) -> Path:
    """An application with these components, each the TOML of its own table's content."""
    parts = [
        'spin_manifest_version = 2\n[application]\nname = "app"\nversion = "1.0.0"\n[trigger]\n'
    ]
    for number, more in enumerate(components):
        parts.append(f'[component.c{number}]\nsource = "c{number}.wasm"\n{more}\n')
    (folder / "spin.toml").write_text("\n".join(parts))
    return folder


def program(folder: Path, name: str, script: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


async def built(app: Path, *, verbose: bool = False) -> list[str]:
    said: list[str] = []
    for item in building.read(app)[1]:
        await building.build(item, said.append, verbose=verbose)
    return said


async def test_commands_run_in_their_order_and_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(
        tmp_path,
        '[component.c0.build]\ncommand = ["echo one >> log", "echo two >> log; cp log c0.wasm"]',
        '[component.c1.build]\ncommand = "pwd > ../c1.wasm"\nworkdir = "sub"',
        "",
    )
    said = await built(tmp_path)
    assert (tmp_path / "c0.wasm").read_text() == "one\ntwo\n"
    assert (tmp_path / "c1.wasm").read_text().strip() == str(tmp_path / "sub")
    assert said[0] == "c0: echo one >> log"
    assert said[1].endswith(" s"), "how long it took"
    assert len(said) == 6


async def test_one_component_of_several(tmp_path: Path) -> None:
    write(tmp_path, '[component.c0.build]\ncommand = "touch c0.wasm"', "")
    assert [i.component for i in building.read(tmp_path)[1]] == ["c0"]
    assert [i.component for i in building.read(tmp_path / "spin.toml", ["c0"])[1]] == ["c0"]
    with pytest.raises(ConfigError, match='no component "co"') as caught:
        building.read(tmp_path, ["co"])
    assert caught.value.hint is not None
    assert "c0" in caught.value.hint
    with pytest.raises(ConfigError, match="component c1: has no build command"):
        building.read(tmp_path, ["c1"])


async def test_a_failed_command_shows_what_it_wrote_and_ends_the_build(tmp_path: Path) -> None:
    write(
        tmp_path,
        '[component.c0.build]\ncommand = ["echo out; echo oops >&2; exit 3", "touch never"]',
    )
    said: list[str] = []
    (item,) = building.read(tmp_path)[1]
    with pytest.raises(
        building.BuildError, match="component c0: its build failed, with exit code 3"
    ):
        await building.build(item, said.append)
    assert said[1:] == ["  out", "  oops"]
    assert not (tmp_path / "never").exists()


async def test_output_without_end_is_cut_at_its_beginning(tmp_path: Path) -> None:
    script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; exit 1"
    done = await commands.run(("/bin/sh", "-c", script))
    assert done.code == 1
    assert len(done.output) <= commands.SHOWN + 10
    assert done.output.startswith("[…]\nline ")
    assert done.output.endswith("line 19999\n")


async def test_a_command_that_writes_another_file_is_noticed(tmp_path: Path) -> None:
    write(tmp_path, '[component.c0.build]\ncommand = "touch c9.wasm"')
    with pytest.raises(ConfigError, match=r"component\.c0\.source: .*c0\.wasm does not exist") as e:
        await built(tmp_path)
    assert e.value.hint is not None
    assert "workdir" in e.value.hint


async def test_a_command_asks_nobody(tmp_path: Path) -> None:
    write(tmp_path, '[component.c0.build]\ncommand = "read answer || touch c0.wasm"')
    await built(tmp_path)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("", "has no spin.toml"),
        ("none", "none: does not exist"),
        ("a.wasm", "is not an application with sources"),
        ("bad.toml", "is not UTF-8"),
    ],
)
def test_what_is_no_application_is_explained(path: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.wasm").write_bytes(b"\0asm")
    (tmp_path / "bad.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=words):
        building.read(tmp_path / path)


def test_a_workdir_that_is_not_there_is_named(tmp_path: Path) -> None:
    write(tmp_path, '[component.c0.build]\ncommand = "true"\nworkdir = "gone"')
    with pytest.raises(ConfigError, match=r"component\.c0\.build\.workdir: .*gone is not"):
        building.read(tmp_path)


# What a command needs


async def test_what_edge_does_not_bring_is_named_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    write(tmp_path, '[component.c0.build]\ncommand = "npm install && npm run build"')
    with pytest.raises(EdgeError, match="needs npm, which is not installed") as caught:
        await built(tmp_path)
    assert caught.value.hint == "sudo apt install nodejs npm"


@pytest.mark.parametrize(
    ("writes", "hint"),
    [
        ("", None),
        ("npm error code ENOTFOUND", "the first build needs a network"),
        ("[6] Could not resolve hostname (Could not resolve host: x)", "needs a network"),
        ("error[E0463]: can't find crate for `std`", "rustup target add wasm32-wasip1"),
        ("ModuleNotFoundError: No module named 'x'", "edge build uses .venv"),
    ],
)
async def test_what_well_known_compilers_say_is_understood(
    writes: str, hint: str | None, tmp_path: Path
) -> None:
    (tmp_path / "words").write_text(writes)
    write(tmp_path, '[component.c0.build]\ncommand = "cat words; exit 1"')
    with pytest.raises(EdgeError) as caught:
        await built(tmp_path)
    assert caught.value.hint is None if hint is None else hint in str(caught.value.hint)


async def test_a_program_we_do_not_know_is_named_from_what_the_shell_says(tmp_path: Path) -> None:
    write(tmp_path, '[component.c0.build]\ncommand = "frobnicate --all"')
    with pytest.raises(EdgeError) as caught:
        await built(tmp_path)
    assert caught.value.hint == "install frobnicate"


@pytest.mark.parametrize(
    ("version", "engine", "ok"),
    [
        ("v18.19.0", ">=20.19", False),
        ("v20.18.9", ">=20.19", False),
        ("v20.19.0", ">=20.19", True),
        ("v24.1.0", ">=20.19", True),
        ("v18.19.0", "^18 || ^20", True),  # not understood: the package's own tools may say
        ("v18.19.0", "", True),
    ],
)
async def test_a_node_that_is_too_old_is_told(
    version: str, engine: str, ok: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin", "node", f"echo {version}")
    program(tmp_path / "bin", "npm", "touch c0.wasm")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "package.json").write_text(json.dumps({"engines": {"node": engine}}))
    write(tmp_path, '[component.c0.build]\ncommand = "npm run build"')
    if ok:
        await built(tmp_path)
    else:
        with pytest.raises(EdgeError, match=r"needs Node.js 20\.19 or newer, this is v"):
            await built(tmp_path)


def test_a_range_of_versions_is_read_where_it_is_simple() -> None:
    assert engines.oldest(">=20.19") == (20, 19)
    assert engines.oldest(">= 18") == (18,)
    assert engines.oldest("^20.19.0 || >=22") is None


@pytest.mark.parametrize("place", [".venv", "active"])
async def test_a_virtual_environment_of_the_developers_comes_first(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = tmp_path / place
    program(environment / "bin", "componentize-py", 'echo "$VIRTUAL_ENV $*" > c0.wasm')
    if place == "active":
        monkeypatch.setenv("VIRTUAL_ENV", str(environment))
    # Nothing may be fetched: there is neither an index nor a place for it.
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/self/none")
    write(tmp_path, '[component.c0.build]\ncommand = "componentize-py -w x -o c0.wasm"')
    await built(tmp_path)
    assert (tmp_path / "c0.wasm").read_text() == f"{environment} -w x -o c0.wasm\n"


@pytest.mark.parametrize(
    ("command", "programs"),
    [
        ("zig cc -o x", ["zig"]),
        ("A=1 zig cc && wasm-tools component new x", ["zig", "wasm-tools"]),
        ("cd x; npm install\nnpm run build", ["npm"]),
        ("cat zig | grep npm", []),
        ("./zig cc", []),
        ("echo cargo", []),
        ("(cargo build)", ["cargo"]),
    ],
)
def test_the_programs_of_a_command_are_those_it_starts(command: str, programs: list[str]) -> None:
    assert list(building._programs(command)) == programs


# Sources


def test_sources_are_what_the_patterns_name_and_building_does_not_make(tmp_path: Path) -> None:
    names = ("a.py", "sub/b.py", "node_modules/c.py", ".venv/d.py", "__pycache__/e.py", "f.txt")
    for name in (*names, "c0.wasm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    write(tmp_path, '[component.c0.build]\ncommand = "true"\nwatch = ["**/*.py", "*.wasm", "no*"]')
    (item,) = building.read(tmp_path)[1]
    assert sorted(p.relative_to(tmp_path).as_posix() for p in building.sources(item)) == [
        "a.py",
        "sub/b.py",
    ]


@pytest.mark.parametrize("pattern", ["/etc/*", ""])
def test_a_pattern_that_is_none_is_explained(pattern: str, tmp_path: Path) -> None:
    write(tmp_path, f'[component.c0.build]\ncommand = "true"\nwatch = ["{pattern}"]')
    (item,) = building.read(tmp_path)[1]
    with pytest.raises(ConfigError, match=r"component\.c0\.build\.watch: ") as caught:
        list(building.sources(item))
    assert caught.value.hint is not None


def test_what_is_older_than_its_sources_is_not_current(tmp_path: Path) -> None:
    write(tmp_path, '[component.c0.build]\ncommand = "true"\nwatch = ["a"]')
    (item,) = building.read(tmp_path)[1]
    assert not item.is_current, "there is nothing yet"
    (tmp_path / "a").touch()
    (tmp_path / "c0.wasm").touch()
    os.utime(tmp_path / "a", (1000, 1000))
    assert item.is_current
    os.utime(tmp_path / "c0.wasm", (999, 999))
    assert not item.is_current


# The verb, interruptions


def test_the_verb_says_what_it_does_and_how_it_ended(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, '[component.c0.build]\ncommand = "echo hidden; touch c0.wasm"')
    assert cli.main(["build", str(tmp_path)]) == 0
    said = capfd.readouterr().err
    assert "c0: echo hidden; touch c0.wasm\n" in said
    assert "\nhidden" not in said
    assert said.endswith("built app; `edge up` runs it\n")
    assert cli.main(["build", str(tmp_path), "--verbose"]) == 0
    assert "\nhidden\n" in capfd.readouterr().err
    write(tmp_path, '[component.c0.build]\ncommand = "false"')
    assert cli.main(["build", str(tmp_path)]) == 1
    assert "edge: component c0: its build failed, with exit code 1\n" in capfd.readouterr().err
    write(tmp_path, "")
    assert cli.main(["build", str(tmp_path)]) == 0
    assert "app: no component has a build command" in capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_leaves_nothing_running(number: int, tmp_path: Path) -> None:
    """Also not what a command has started, which ignores the signal of a terminal."""
    script = "trap : INT; echo $$ > pid; sleep 600 & wait"
    write(tmp_path, f'[component.c0.build]\ncommand = "{script}"')
    with subprocess.Popen([EDGE, "build"], cwd=tmp_path, stderr=subprocess.PIPE) as process:
        pid = _pid(tmp_path / "pid")
        process.send_signal(number)
        process.communicate(timeout=PATIENCE)
    assert process.returncode in (130, 143)
    _gone(pid)


async def test_a_cancelled_command_ends_with_all_it_started(tmp_path: Path) -> None:
    script = "trap '' TERM; echo $$ > pid; sleep 600 & wait; wait; sleep 600"
    task = asyncio.get_running_loop().create_task(
        commands.run(("/bin/sh", "-c", script), cwd=tmp_path)
    )
    pid = await asyncio.to_thread(_pid, tmp_path / "pid")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(_gone, pid)


@pytest.mark.parametrize("turns", range(12))
async def test_a_command_cancelled_while_it_starts_ends_too(turns: int, tmp_path: Path) -> None:
    """However far asyncio has come: its own way kills the shell, and not what that has started."""
    task = asyncio.get_running_loop().create_task(
        commands.run(("/bin/sh", "-c", "sleep 600 & wait"), environ={"MARK": str(tmp_path)})
    )
    for _ in range(turns):
        await asyncio.sleep(0)
    time.sleep(0.1)  # noqa: ASYNC251 - the shell goes on, and the loop does not
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    end = time.monotonic() + PATIENCE
    while running := _marked(str(tmp_path)):
        assert time.monotonic() < end, f"still run: {running}"
        await asyncio.sleep(0.01)


def _marked(mark: str) -> list[str]:
    """What runs with this in its environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"MARK={mark}\0".encode() in path.read_bytes():
                found.append(path.parent.name)
    return found


def _pid(path: Path) -> int:
    end = time.monotonic() + PATIENCE
    while not (path.exists() and path.read_text().strip()):
        assert time.monotonic() < end, "the command did not start"
        time.sleep(0.01)
    return int(path.read_text())


def _gone(group: int) -> None:
    end = time.monotonic() + PATIENCE
    while running := _members(group):
        assert time.monotonic() < end, f"still run: {running}"
        time.sleep(0.01)


def _members(group: int) -> list[str]:
    """What runs in a process group, but for what only waits to be buried."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().rpartition(")")
        except OSError:
            continue
        state, _, of = rest.split()[:3]
        if int(of) == group and state != "Z":
            found.append(name)
    return found
