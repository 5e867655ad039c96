"""New applications by real compilers: each builds and passes the test it comes with. At full size
(EDGE_SOAK=full) by the tools that edge brings, from the network.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.develop import scaffold
from edge.develop.scaffold import TEMPLATES

sys.path.insert(0, str(Path(__file__).parent.parent / "guests"))
import build

FULL = os.environ.get("EDGE_SOAK") == "full"
BIN = Path(sys.executable).parent
# Python's and JavaScript's take half a minute of computing each.
QUICK = ("http-c", "mqtt-c", "timer-c", "mqtt-python")
SLOW = tuple(n for n, t in TEMPLATES.items() if t.language != "rust" and n not in QUICK)
PATIENCE = 400

Made = Callable[[str], Path]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """A new application of a template, and the compilers that the tests have anyway."""
    monkeypatch.setenv("PATH", f"{BIN}:{os.environ['PATH']}")

    def make(name: str) -> Path:
        scaffold.create(TEMPLATES[name], "thing", tmp_path / "thing")
        if not FULL:
            monkeypatch.setenv("VIRTUAL_ENV", str(_toolchain(TEMPLATES[name].language, tmp_path)))
        return tmp_path / "thing"

    return make


def _toolchain(language: str, tmp_path: Path) -> Path:
    if language == "python":
        return build.toolchain("spin")
    environment = tmp_path / "tools"
    (environment / "bin").mkdir(parents=True)
    home = build.toolchain("c")
    (environment / "bin/zig").symlink_to(build.site_packages(home) / "ziglang/zig")
    (environment / "bin/wasm-tools").symlink_to(home / "bin/wasm-tools")
    return environment


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(params=[*QUICK, *(SLOW if FULL else ())])
def built(request: pytest.FixtureRequest, made: Made) -> Path:
    app = made(request.param)
    run("edge", "build", cwd=app)
    return app


@pytest.mark.guests
def test_a_new_application_builds_and_keeps_what_it_promises(built: Path) -> None:
    assert run("edge", "check", cwd=built).startswith("thing: ok\n")
    assert run("./test.sh", cwd=built).endswith("ok\n")


@pytest.mark.guests
def test_its_test_fails_when_it_does_something_else(made: Made) -> None:
    app = made("http-c")
    source = app / "app.c"
    source.write_text(source.read_text().replace("hello", "goodbye"))
    run("edge", "build", cwd=app)
    done = subprocess.run([app / "test.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert '"goodbye, /world" instead of "hello, /world"' in done.stderr


@pytest.mark.guests
def test_a_compilers_words_reach_the_developer(made: Made) -> None:
    app = made("http-c")
    (app / "app.c").write_text("int x = ;\n")
    done = subprocess.run(
        ["edge", "build"], cwd=app, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 1
    assert "  app.c:1:9: error: expected expression" in done.stderr
    assert "edge: component thing: its build failed, with exit code 1\n" in done.stderr
    assert "Traceback" not in done.stderr
