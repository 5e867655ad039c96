"""Plans on disk: those that were made for this host, binary and code; everything else is a miss."""

from __future__ import annotations

import asyncio
import hashlib
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from guests import engine
from wat import assemble

from edge.engine import guest as engine_guest
from edge.engine import plans
from edge.engine.cache import CodeCache
from edge.engine.host import CoreFunction, CoreInterface, Interface, Interfaces
from edge.engine.leastused import prune_plans
from edge.engine.loader import load_plan
from edge.engine.plan import Plan
from edge.engine.plans import PlanCache
from edge.node.node import EXPORTS, interfaces

HOST = interfaces()
ONE = Interfaces([Interface("interface t:t/host { f: func() -> u32; }", functions={"f": int})])
SMALL = assemble("""
    (component
      (import "t:t/host" (instance $host (export "f" (func (result u32)))))
      (core func $f (canon lower (func $host "f")))
      (core module $m (import "t:t/host" "f" (func $f (result i32)))
        (func (export "g") (result i32) (call $f)))
      (core instance $i (instantiate $m
        (with "t:t/host" (instance (export "f" (func $f))))))
      (func (export "g") (result u32) (canon lift (core func $i "g"))))
""")


def digest(binary: bytes) -> str:
    return hashlib.sha256(binary).hexdigest()


@pytest.fixture
def kept(tmp_path: Path) -> PlanCache:
    tmp_path.chmod(0o700)
    return PlanCache(tmp_path, ONE, ())


@pytest.fixture
def file(kept: PlanCache, tmp_path: Path) -> Path:
    """Where the plan of SMALL is kept."""
    kept.put(digest(SMALL), SMALL, load_plan(SMALL, ONE))
    (found,) = tmp_path.iterdir()
    return found


def got(kept: PlanCache, binary: bytes = SMALL) -> Plan | None:
    return kept.get(digest(binary), binary)


@pytest.mark.parametrize(
    "name", ["hello", "thermostat", "composed", "python", "javascript", "spin-python", "cgi"]
)
def test_a_plan_comes_back_as_it_was(
    name: str, guest: Callable[[str], Path], tmp_path: Path
) -> None:
    binary = guest(name).read_bytes()
    plan = load_plan(binary, HOST, EXPORTS)
    PlanCache(tmp_path, HOST, EXPORTS).put(digest(binary), binary, plan)
    assert PlanCache(tmp_path, interfaces(), EXPORTS).get(digest(binary), binary) == plan
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size < len(binary)


def test_nothing_is_there_before_it_was_put(kept: PlanCache) -> None:
    assert got(kept) is None


def test_every_changed_byte_is_a_miss(kept: PlanCache, file: Path) -> None:
    whole = file.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1
        file.write_bytes(changed)
        assert got(kept) is None, place
    file.write_bytes(whole)
    assert got(kept) is not None


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, -1])
def test_what_a_power_cut_left_is_a_miss(kept: PlanCache, file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])
    assert got(kept) is None


OTHERS = {
    "another result": Interface("interface t:t/host { f: func() -> s32; }", functions={"f": int}),
    "one function more": Interface(
        "interface t:t/host { f: func() -> u32; g: func(); }", functions={"f": int, "g": int}
    ),
    "only declared": Interface("interface t:t/host { f: func() -> u32; }", guest=True),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_another_host_makes_its_own(other: Interface, file: Path) -> None:
    assert got(PlanCache(file.parent, ONE, ())) is not None
    assert got(PlanCache(file.parent, Interfaces([other]), ())) is None


def test_what_else_a_host_offers_counts_too(file: Path) -> None:
    core = CoreInterface("m", {"f": CoreFunction("i", "", int)})
    more = CoreInterface("m", {"f": CoreFunction("I", "", int)})
    prints = {Interfaces(items).fingerprint for items in ((), (core,), (more,))}
    assert len(prints) == 3
    assert got(PlanCache(file.parent, ONE, EXPORTS)) is None


def test_other_code_makes_its_own(file: Path, tmp_path: Path) -> None:
    source = tmp_path / "elsewhere" / "plans.py"
    source.parent.mkdir()
    source.write_text("changed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans, "__file__", str(source))
        assert got(PlanCache(file.parent, ONE, ())) is None


def test_a_directory_where_others_may_write_is_not_read(kept: PlanCache, file: Path) -> None:
    file.parent.chmod(0o777)
    assert got(kept) is None
    file.parent.chmod(0o700)
    assert got(kept) is not None


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("it was called",)


@pytest.mark.parametrize("value", [_Evil(), ([], _Evil()), ([], 7), 7, ([("a", 1)], None)])
def test_only_plans_are_made_of_what_is_read(
    kept: PlanCache, file: Path, value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    body = pickle.dumps(value)
    basis = file.read_bytes()[:32]
    file.write_bytes(basis + hashlib.sha256(body).digest() + body)
    assert got(kept) is None
    assert not capsys.readouterr().out


def test_modules_that_are_no_part_of_the_binary_are_not_kept(kept: PlanCache) -> None:
    kept.put(digest(SMALL), SMALL, replace(load_plan(SMALL, ONE), modules=(b"made up",)))
    assert got(kept) is None


def test_a_component_is_planned_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bytes] = []

    def counted(binary: bytes, *arguments: object) -> Plan:
        made.append(binary)
        return load_plan(binary, ONE)

    monkeypatch.setattr(engine_guest, "load_plan", counted)

    async def load() -> engine_guest.Component:
        cache = CodeCache(engine(), tmp_path)
        assert cache.directory
        kept = PlanCache(cache.directory, ONE, ())
        return await engine_guest.load(SMALL, "small", ONE, cache, plans=kept)

    first, second = asyncio.run(load()), asyncio.run(load())
    assert made == [SMALL]
    assert first.exports == second.exports == {"g": 0}
    assert first.digest == second.digest == digest(SMALL)


def test_a_full_disk_is_no_error(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    kept = PlanCache(gone, ONE, ())
    kept.put(digest(SMALL), SMALL, load_plan(SMALL, ONE))
    assert got(kept) is None


def test_the_oldest_plans_go_first(tmp_path: Path) -> None:
    for number in range(5):
        path = tmp_path / f"{number}.plan"
        path.write_bytes(bytes(100))
        os.utime(path, (number, number))
    (tmp_path / "x.1.plan.tmp").write_bytes(b"of a process that runs")
    (tmp_path / "x.999999999.plan.tmp").write_bytes(b"left")
    prune_plans(tmp_path, most=250)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["3.plan", "4.plan", "x.1.plan.tmp"]
