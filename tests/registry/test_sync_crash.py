"""Sync is killed at every step that touches the disk, and begins again."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
from registry_lab import liar
from sync_lab import SETTINGS, FakeHost, put, syncing, until

from edge.config import ApplicationEntry, Mount
from edge.registry.digest import Digest
from edge.registry.store import ContentStore
from edge.registry.sync import Sync

# What changes the disk: the process dies before the n-th of them.
STEPS = ["replace", "rename", "unlink"]
if os.environ.get("EDGE_SOAK") == "full":  # between these SIGKILL finds nothing else
    STEPS += ["fsync", "ftruncate", "mkdir"]
KILLED, DONE, WRONG = 9, 0, 1

Script = Callable[[Sync, FakeHost, ApplicationEntry, ApplicationEntry], Awaitable[None]]


def die_at(step: int) -> None:
    """The kernel keeps what was written, as after SIGKILL."""
    left = [step]
    for name in STEPS:
        real = getattr(os, name)

        def dying(*arguments: Any, real: Callable[..., Any] = real, **named: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os._exit(KILLED)
            return real(*arguments, **named)

        setattr(os, name, dying)


def child(work: Callable[[], None]) -> int:
    """In a process of its own; its exit code."""
    pid = os.fork()
    if pid == 0:
        _run(work)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run(work: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> None:
    asyncio.run(work(*arguments))


def _run(work: Callable[[], None]) -> NoReturn:
    try:
        work()
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(WRONG)
    os._exit(DONE)


async def at_work(folder: Path, script: Script, step: int) -> None:
    async with liar() as registry:
        registry_of(registry, folder)
        one, two = entries(registry.host)
        host = FakeHost()
        async with syncing(folder / "state", host, settings=QUICK) as sync:
            if step:
                die_at(step)
            await script(sync, host, one, two)


QUICK = replace(SETTINGS, interval=0.01, soak=5)
DIGESTS: dict[str, Digest] = {}


def registry_of(registry: Any, folder: Path) -> None:
    for text in ("one", "two"):
        DIGESTS[text] = put(registry, folder / "scratch", "hello", text, text)


def entries(host: str) -> tuple[ApplicationEntry, ApplicationEntry]:
    one, two = (
        ApplicationEntry("a", f"{host}/hello:{tag}", mount=Mount(f"/{tag}"))
        for tag in ("one", "two")
    )
    return one, two


# What is killed. Each begins where `first` ended.


async def first(sync: Sync, host: FakeHost, one: ApplicationEntry, _: ApplicationEntry) -> None:
    await sync.deploy(one)


async def second(sync: Sync, host: FakeHost, _: ApplicationEntry, two: ApplicationEntry) -> None:
    await sync.deploy(two)


async def proved(sync: Sync, host: FakeHost, _: ApplicationEntry, two: ApplicationEntry) -> None:
    await sync.deploy(two)
    host.pass_("a")
    await sync.wait_idle()
    await until(lambda: not sync._worker.stage._settling)


async def failed(sync: Sync, host: FakeHost, _: ApplicationEntry, two: ApplicationEntry) -> None:
    await sync.deploy(two)
    host.fail("a", "bad")
    await sync.wait_idle()
    await until(lambda: not sync._worker.stage._settling)


async def undeployed(sync: Sync, host: FakeHost, _: ApplicationEntry, __: ApplicationEntry) -> None:
    await sync.undeploy("a")
    await until(lambda: not sync._worker.stage.garbage)
    await sync.wait_idle()


@pytest.mark.parametrize("script", [first, second, proved, failed, undeployed])
def test_a_kill_at_any_step_leaves_the_old_or_the_new_version(
    script: Script, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    if script is not first:
        assert child(partial(run, at_work, base, first, 0)) == DONE
    step = 0
    while True:
        step += 1
        folder = tmp_path / f"{step}"
        shutil.copytree(base, folder, symlinks=True)
        code = child(partial(run, at_work, folder, script, step))
        assert code in (KILLED, DONE)
        assert child(partial(run, begins_again, folder, script)) == DONE, f"step {step}"
        shutil.rmtree(folder)
        if code == DONE:
            break
    assert step > 5  # it died often


async def begins_again(folder: Path, script: Script) -> None:
    """Without a network: the old or the new version, whole. Then nothing is left over."""
    async with liar() as registry:
        registry_of(registry, folder)
    host = FakeHost()
    state_dir = folder / "state"
    async with syncing(state_dir, host, settings=QUICK) as sync:
        booted = host.digest("a")
        known: tuple[str | None, ...] = (None, "one") if script in (first, undeployed) else ("one",)
        if script is proved:
            known = ("one", "two")
        assert booted in {DIGESTS.get(text or "") for text in known}, booted
        entry = host.live["a"].wanted.entry if "a" in host.live else None
        if entry:
            text = "one" if booted == DIGESTS["one"] else "two"
            assert entry.mount == Mount(f"/{text}")
        await sync.wait_idle()
        if "a" in host.watches:
            host.pass_("a")
        await until(lambda: not sync._worker.stage.garbage and not sync._worker.stage._settling)
        await sync.wait_idle()
        check_store(state_dir, sync)
        if sync.apps():
            await sync.undeploy("a")
        await until(lambda: not sync._worker.stage.garbage)
        await sync.wait_idle()
    left = [p for p in (state_dir / "blobs").rglob("*") if p.is_file()]
    assert {p.name for p in left} <= {"lock", "tags.json", "tags.lock", "reserve"}, left
    assert {p.name for p in state_dir.iterdir()} <= {"apps.json", "apps.json.reserve", "blobs"}
    if (state_dir / "apps.json").exists():
        assert json.loads((state_dir / "apps.json").read_text())["pulled"] == []
    assert not ContentStore(state_dir).tags.all()


def check_store(state_dir: Path, sync: Sync) -> None:
    """What the state names is here, and whole."""
    store = ContentStore(state_dir)
    for path in (state_dir / "blobs" / "sha256").glob("*"):
        assert Digest.of(path.read_bytes()).hex == path.name
    for app in sync._state.now.apps.values():
        for version in (app.live, app.trial):
            assert version is None or store.size(version.digest)
