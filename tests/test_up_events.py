"""`edge up` with messages and ticks, from the outside: real brokers, real servers, real guests."""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

EDGE = str(Path(sys.executable).parent / "edge")
CONFIG = 78  # exit code

# Seconds. What takes milliseconds may take long on a machine that is busy.
PATIENCE = 30.0

Guest = Callable[[str], Path]


class Process:
    """An `edge up` under way and what it says, on both streams."""

    def __init__(self, arguments: tuple[str | Path, ...], cwd: Path) -> None:
        command = [EDGE, "up", *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=cwd
        )
        self.said: list[str] = []
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def says(self, words: str, timeout: float = PATIENCE) -> str:
        """The next line with these words."""
        end = time.monotonic() + timeout
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                line = None
            assert line is not None, f"it did not say {words!r}:\n" + "\n".join(self.said)
            self.said.append(line)
            if words in line:
                return line

    @property
    def everything(self) -> str:
        return "\n".join(self.said)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Its exit code; all it said is in `said`."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        while not self._lines.empty():
            if (line := self._lines.get()) is not None:
                self.said.append(line)
        return self.process.returncode


Up = Callable[..., AbstractContextManager[Process]]


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def up(tmp_path: Path, code: Path, monkeypatch: pytest.MonkeyPatch) -> Up:
    """`with up(APP, "--mqtt", url) as process:`; leaving ends it, cleanly."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(code))  # what is compiled once stays compiled

    @contextlib.contextmanager
    def start(*arguments: str | Path) -> Iterator[Process]:
        process = Process((*arguments, "--listen", "127.0.0.1:0"), tmp_path)
        try:
            yield process
        except BaseException:
            process.end(signal.SIGKILL)
            raise
        assert process.end() == 0, process.everything

    return start


def write(folder: Path, *parts: str) -> Path:
    """An application of these parts of a manifest."""
    head = 'spin_manifest_version = 2\n[application]\nname = "plant"\n'
    (folder / "spin.toml").write_text("\n".join((head, *parts)))
    return folder


def component(name: str, wasm: Path, more: str = "") -> str:
    return f'[component.{name}]\nsource = "{wasm}"\n{more}\n'


def refused(*arguments: str | Path, verb: str = "up") -> str:
    """The complaint of a command that ends with a mistake of its configuration."""
    command = [EDGE, verb, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == CONFIG, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


# --- timers ---------------------------------------------------------------------------------------

TIMER = '[[trigger.cron]]\nid = "pulse"\ncomponent = "tick"\ncron_expression = "{}"\n'


def test_an_application_may_have_nothing_but_a_timer(guest: Guest, tmp_path: Path, up: Up) -> None:
    app = write(tmp_path, TIMER.format("* * * * * *"), component("tick", guest("on_tick")))
    with up(app) as process:
        assert "pulse" in process.says("timer")
        first = int(process.says("tick ").rpartition(" ")[2])
        second = int(process.says("tick ").rpartition(" ")[2])
        assert second > first
    assert "listening" not in process.everything


def test_a_swap_changes_the_timers(guest: Guest, tmp_path: Path, up: Up) -> None:
    parts = component("tick", guest("on_tick"))
    app = write(tmp_path, TIMER.format("0 0 3 1 1 *"), parts)
    with up(app, "--watch") as process:
        process.says("timer pulse")
        write(tmp_path, TIMER.format("every minute"), parts)
        assert "cron_expression" in process.says("not swapped")
        write(tmp_path, TIMER.format("* * * * * *"), parts)
        process.says("swapped: plant")
        process.says("tick ")


@pytest.mark.parametrize("verb", ["up", "check"])
@pytest.mark.parametrize(
    ("trigger", "guest_name", "words"),
    [
        (TIMER.format("61 * * * * *"), "on_tick", "trigger.cron[0].cron_expression"),
        (TIMER.format("* * * * * *"), "on_redis", "component tick: exports"),
        ('[[trigger.sqs]]\ncomponent = "tick"\n', "on_tick", "no trigger that this version runs"),
    ],
)
def test_what_cannot_be_served_is_refused_at_once(
    verb: str, trigger: str, guest_name: str, words: str, guest: Guest, tmp_path: Path
) -> None:
    app = write(tmp_path, trigger, component("tick", guest(guest_name)))
    command = [EDGE, verb, str(app), "--state-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_check_tells_what_would_be_served(guest: Guest, tmp_path: Path) -> None:
    unknown = '[[trigger.sqs]]\nid = "q"\ncomponent = "tick"\n'
    app = write(tmp_path, TIMER.format("0 * * * * *"), unknown, component("tick", guest("on_tick")))
    command = [EDGE, "check", str(app), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    found = json.loads(done.stdout)
    assert found["events"] == ["timer pulse for tick"]
    assert found["notes"] == ["triggers that this version does not run: sqs"]
