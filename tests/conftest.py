"""What every test gets: coroutines as tests, a check that nothing is left running, built guests."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says something about the machine only.
settings.register_profile("here", deadline=None)
settings.load_profile("here")

GUESTS = Path(__file__).parent / "guests"
REPOSITORY = Path(__file__).parents[1]

# A test that hangs is a failed test, not a hung run. The slowest (a cold compilation) take seconds.
ASYNC_TEST_SECONDS = 120
LEFT_SECONDS = 2
# The same for tests that wait for processes; a campaign of a chosen size takes what it takes.
TEST_SECONDS = 0 if os.environ.keys() & {"EDGE_SOAK", "EDGE_FUZZ_CASES"} else 420


def pytest_configure() -> None:
    """Nobody tests what was compiled of other sources than those he reads."""
    options = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    for extension in options["tool"]["setuptools"]["ext-modules"]:
        source = REPOSITORY / extension["sources"][0]
        compiled = source.with_suffix(EXTENSION_SUFFIXES[0])
        sources = [path for path in (source, source.with_suffix(".pxd")) if path.exists()]
        if compiled.exists() and compiled.stat().st_mtime < max(p.stat().st_mtime for p in sources):
            raise pytest.UsageError(
                f"{compiled.relative_to(REPOSITORY)} is older than its source: `make lint` compiles"
                " it anew; without it the source itself is used"
            )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    marker = item.get_closest_marker("patience")
    patience = int(marker.args[0]) if marker and TEST_SECONDS else TEST_SECONDS

    def expired(*_: object) -> None:
        raise TimeoutError(f"{item.name}: not done after {patience} s")

    before = signal.signal(signal.SIGALRM, expired)
    signal.alarm(patience)
    try:
        return (yield)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What is logged of hostile requests may be no text: it would not get to who prints reports."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs `async def test_…` on a loop of its own and fails it for each task it leaves behind."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}

    async def body() -> set[str]:
        async with asyncio.timeout(ASYNC_TEST_SECONDS):
            await pyfuncitem.obj(**arguments)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        # One that is ending may need some turns of the loop; one that was left never ends.
        if others:
            _, others = await asyncio.wait(others, timeout=LEFT_SECONDS)
        return {f"{t.get_name()}: {t.get_coro()}" for t in others}

    with asyncio.Runner() as runner:
        left = runner.run(body())
    assert not left, f"tasks left running: {sorted(left)}"
    return True


@pytest.fixture(autouse=True)
def settled() -> Iterator[None]:
    """No thread and no child process outlives its test."""
    threads, children = set(threading.enumerate()), _children()
    yield
    for thread in set(threading.enumerate()) - threads:
        thread.join(timeout=2)
    left = [t.name for t in set(threading.enumerate()) - threads]
    assert not left, f"threads left running: {left}"
    assert not _children() - children, "child processes left running"


@pytest.fixture(scope="session")
def guest() -> Callable[[str], Path]:
    """`guest("c/echo")` is the path of that guest's Wasm file, built if it is not there yet."""

    def build(name: str) -> Path:
        output = GUESTS / "out" / f"{name}.wasm"
        command = [sys.executable, str(GUESTS / "build.py"), name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail(f"guest {name} does not build:\n{done.stderr}", pytrace=False)
        return output

    known: dict[str, Path] = {}

    def cached(name: str) -> Path:
        if name not in known:
            known[name] = build(name)
        return known[name]

    return cached


@dataclass(slots=True)
class Served:
    """An `edge up` under way. `log`: its lines on stderr, complete once it has ended."""

    url: str
    process: subprocess.Popen[str]
    log: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


Serve = Callable[..., AbstractContextManager[Served]]


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Serve:
    """`with serve(APP, "--variable", "k=v") as served:` runs `edge up APP` on a free port.

    One state directory for the session: what is compiled once stays compiled. Leaving the block
    sends SIGTERM and expects a clean end. `prefix`: a command that runs it, like `prlimit`.
    """
    state = tmp_path_factory.mktemp("state")

    @contextmanager
    def up(
        application: Path, *arguments: str, expected_exit: int = 0, prefix: Sequence[str] = ()
    ) -> Iterator[Served]:
        command = [*prefix, str(Path(sys.executable).parent / "edge"), "up", str(application)]
        command += ["--listen", "127.0.0.1:0", "--state-dir", str(state), *arguments]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=state
        )
        assert process.stdout is not None
        assert process.stderr is not None
        served = Served("", process)
        reader = threading.Thread(target=lambda f: served.log.extend(f), args=(process.stderr,))
        reader.start()
        try:
            line = process.stdout.readline()  # empty when it ends without serving
            served.url = line.removeprefix("listening on ").strip()
            assert served.url, "edge up did not start:\n" + _ended(process, reader, served)
            yield served
        finally:
            process.send_signal(signal.SIGTERM)
            log = _ended(process, reader, served)
            process.stdout.close()
            process.stderr.close()
        assert process.returncode == expected_exit, log

    return up


def _ended(process: subprocess.Popen[str], reader: threading.Thread, served: Served) -> str:
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    reader.join()
    return "".join(served.log)


@pytest.fixture
def application(tmp_path: Path) -> Callable[..., Path]:
    """`make_application` in the test's own folder."""

    def make(wasm: Path, **options: object) -> Path:
        return make_application(tmp_path, wasm, **options)

    return make


def make_application(folder: Path, wasm: Path, more: str = "", **options: object) -> Path:
    """A folder with the Spin application of that one component; `options` of its `tool.edge`.

    `more` is TOML of the component's own table, like `environment = { … }`.
    """
    own = "\n".join(
        f'{name} = "{value}"' if isinstance(value, str) else f"{name} = {value}"
        for name, value in options.items()
    )
    manifest = MANIFEST.format(wasm=wasm, more=more, own=own)
    (folder / "spin.toml").write_text(manifest)
    return folder


MANIFEST = """
spin_manifest_version = 2

[application]
name = "test"
version = "1.0.0"

[[trigger.http]]
route = "/..."
component = "guest"

[component.guest]
source = "{wasm}"
{more}

[component.guest.tool.edge]
{own}
"""


def _children() -> set[int]:
    """Processes that this one has started and that still run."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found.update(map(int, (task / "children").read_text().split()))
        except FileNotFoundError:  # the thread has ended meanwhile
            continue
    return {pid for pid in found if not _is_zombie(pid)}


def _is_zombie(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z" and os.getpid() != pid
