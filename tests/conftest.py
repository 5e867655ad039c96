"""What every test gets: coroutines as tests, a check that nothing is left running, built guests."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

GUESTS = Path(__file__).parent / "guests"

# A test that hangs is a failed test, not a hung run. The slowest (a cold compilation) take seconds.
ASYNC_TEST_SECONDS = 120


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "soak" in (config.option.markexpr or ""):
        return
    soak = [item for item in items if item.get_closest_marker("soak")]
    if soak:
        config.hook.pytest_deselected(items=soak)
        items[:] = [item for item in items if item not in soak]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs `async def test_…` on a loop of its own and fails it for each task it leaves behind."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}

    async def body() -> set[str]:
        async with asyncio.timeout(ASYNC_TEST_SECONDS):
            await pyfuncitem.obj(**arguments)
        # A task that was cancelled just now may need a turn or two to end.
        for _ in range(5):
            await asyncio.sleep(0)
        return {t.get_name() for t in asyncio.all_tasks() if t is not asyncio.current_task()}

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


def _children() -> set[int]:
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
