"""`edge up --watch` builds what its sources become; a mistake keeps what was there."""

from __future__ import annotations

import shutil
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Serve, Served

PATIENCE = 60
EXAMPLES = Path(__file__).parent.parent / "examples"
HELLO, ECHO = (EXAMPLES / name / f"{name}.wasm" for name in ("hello", "echo"))

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """An application that is built from src/main by this command."""

    def make(command: str, watch: str = "src/*") -> Path:
        (tmp_path / "src").mkdir(exist_ok=True)
        (tmp_path / "spin.toml").write_text(
            'spin_manifest_version = 2\n[application]\nname = "app"\nversion = "1.0.0"\n'
            '[[trigger.http]]\nroute = "/..."\ncomponent = "main"\n'
            '[component.main]\nsource = "main.wasm"\n'
            f"[component.main.build]\ncommand = '''{command}'''\nwatch = [\"{watch}\"]\n"
        )
        return tmp_path

    return make


def put(app: Path, wasm: Path) -> None:
    """As an editor does: whole."""
    new = app / "new"
    shutil.copyfile(wasm, new)
    new.replace(app / "src/main")


def ask(served: Served) -> str:
    with urllib.request.urlopen(f"{served.url}/x", b"data", timeout=PATIENCE) as response:
        return str(response.read().decode())


def answers(served: Served, wanted: str) -> None:
    end = time.monotonic() + PATIENCE
    while (said := ask(served)) != wanted:
        assert time.monotonic() < end, f"{said!r}: " + "".join(served.log)
        time.sleep(0.05)


def says(served: Served, words: str, times: int = 1) -> None:
    end = time.monotonic() + PATIENCE
    while sum(words in line for line in served.log) < times:
        assert time.monotonic() < end, "".join(served.log)
        time.sleep(0.05)


COPY = "cp src/main main.wasm; echo built >> log"


def builds(app: Path) -> int:
    return (app / "log").read_text().count("built")


def test_what_changes_is_built_and_swapped_in(make: Make, serve: Serve) -> None:
    app = make(COPY)
    put(app, HELLO)
    with serve(app, "--watch") as served:
        assert ask(served) == "hello /x"
        assert builds(app) == 1
        put(app, ECHO)
        answers(served, "data")
        assert builds(app) == 2
    with serve(app, "--watch") as served:
        assert ask(served) == "data"
        assert builds(app) == 2, "nothing is newer than what was built"


def test_a_build_that_fails_keeps_the_version_before(make: Make, serve: Serve) -> None:
    app = make("test ! -e src/broken && cp src/main main.wasm || { echo no good; exit 7; }")
    put(app, HELLO)
    with serve(app, "--watch") as served:
        (app / "src/broken").touch()
        says(served, "not swapped: component main: its build failed, with exit code 7")
        assert any(line == "  no good\n" for line in served.log)
        assert ask(served) == "hello /x"
        put(app, ECHO)
        says(served, "not swapped: ", 2)
        assert ask(served) == "hello /x"
        (app / "src/broken").unlink()
        answers(served, "data")
    assert sum("not swapped" in line for line in served.log) == 2, "once for each change"


def test_what_is_built_and_cannot_be_loaded_keeps_the_version_before(
    make: Make, serve: Serve
) -> None:
    app = make(COPY)
    put(app, HELLO)
    with serve(app, "--watch") as served:
        (app / "src/main").write_bytes(b"no component")
        says(served, "not swapped: ")
        assert ask(served) == "hello /x"
        put(app, ECHO)
        answers(served, "data")
    assert sum("not swapped" in line for line in served.log) == 1
    assert builds(app) == 3


def test_what_is_edited_while_it_is_built_is_built_again(make: Make, serve: Serve) -> None:
    # The first change's build waits until the second change has been made.
    app = make(
        "cp src/main main.wasm; echo built >> log;"
        " if [ -e hold ]; then touch held; until [ -e go ]; do sleep 0.05; done; rm hold; fi"
    )
    put(app, HELLO)
    with serve(app, "--watch") as served:
        (app / "hold").touch()
        put(app, ECHO)
        end = time.monotonic() + PATIENCE
        while not (app / "held").exists():
            assert time.monotonic() < end
            time.sleep(0.01)
        (app / "src/later").touch()
        (app / "go").touch()
        answers(served, "data")
        end = time.monotonic() + PATIENCE
        while builds(app) < 3:
            assert time.monotonic() < end, "".join(served.log)
            time.sleep(0.05)


def test_the_manifest_says_how_it_is_built_from_now_on(make: Make, serve: Serve) -> None:
    app = make(COPY)
    put(app, HELLO)
    with serve(app, "--watch") as served:
        manifest = (app / "spin.toml").read_text()
        (app / "spin.toml").write_text("nonsense")
        says(served, "not swapped: ")
        assert ask(served) == "hello /x"
        (app / "spin.toml").write_text(manifest.replace("cp src/main", f"cp {ECHO}"))
        answers(served, "data")


def test_it_ends_at_once_while_it_builds(make: Make, serve: Serve) -> None:
    app = make("cp src/main main.wasm; if [ -e src/slow ]; then touch started; sleep 600; fi")
    put(app, HELLO)
    with serve(app, "--watch") as served:
        (app / "src/slow").touch()
        end = time.monotonic() + PATIENCE
        while not (app / "started").exists():
            assert time.monotonic() < end
            time.sleep(0.01)
        assert ask(served) == "hello /x"
    # Leaving the block has sent SIGTERM and seen a clean end.


def test_without_watch_nothing_is_built(make: Make, serve: Serve) -> None:
    app = make("touch never")
    shutil.copyfile(HELLO, app / "main.wasm")
    (app / "src/main").touch()
    with serve(app) as served:
        assert ask(served) == "hello /x"
    assert not (app / "never").exists()
