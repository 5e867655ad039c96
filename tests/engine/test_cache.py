"""Compiled code on disk: mapped when it is what this node wrote, else compiled again."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from guests import engine
from wat import assemble

from edge.engine import cache, leastused
from edge.engine._core import Module
from edge.engine.cache import CodeCache, engine_key
from edge.engine.pool import PoolOptions, options_for
from edge.errors import ComponentError

WASM = assemble('(module (func (export "f") (result i32) (i32.const 7)))')
OTHER = assemble('(module (func (export "g") (result i32) (i32.const 8)))')


class Counting(CodeCache):
    """A cache that says how often it compiled, and does so in this process, which is quicker."""

    def __init__(self, directory: Path) -> None:
        super().__init__(engine(), directory)
        self.compiled = 0

    async def _compile(
        self, missing: Mapping[Path, bytes], name: str, progress: Callable[[str], None]
    ) -> None:
        for path, wasm in missing.items():
            self.compiled += 1
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            cache.store(path, Module.compile(engine(), wasm).serialize())


def compiled(directory: Path, wasm: bytes = WASM, *, times: int) -> None:
    """A new start gets its module, after so many compilations."""
    counting = Counting(directory)
    assert isinstance(asyncio.run(counting.module(wasm, "test")), Module)
    assert counting.compiled == times


def real(directory: Path | None, wasm: bytes = WASM, progress: Any = print) -> Module:
    """The module by the compiler in its own process."""
    return asyncio.run(CodeCache(engine(), directory).module(wasm, "test", progress))


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """The file of compiled code, as an earlier start left it."""
    compiled(tmp_path, times=1)
    (found,) = tmp_path.glob("*/*.cwasm")
    return found


def proof(code: Path) -> Path:
    return code.with_suffix(".json")


def test_the_next_start_maps_the_file(tmp_path: Path) -> None:
    real(tmp_path)
    compiled(tmp_path, times=0)
    real(tmp_path, OTHER)
    compiled(tmp_path, OTHER, times=0)
    compiled(tmp_path, times=0)
    names = {path.name for path in tmp_path.glob("*/*")}
    assert len(names) == 4
    assert {Path(name).suffix for name in names} == {".cwasm", ".json"}


def test_only_what_is_missing_is_compiled(tmp_path: Path) -> None:
    compiled(tmp_path, times=1)
    counting = Counting(tmp_path)
    assert len(asyncio.run(counting.modules((OTHER, WASM, OTHER), "test"))) == 3
    assert counting.compiled == 1


def test_the_first_look_after_a_boot_renews_the_proof(tmp_path: Path) -> None:
    compiled(tmp_path, times=1)
    (path,) = tmp_path.glob("*/*.json")
    kept = path.read_text()
    path.write_text(json.dumps(json.loads(kept) | {"seen": ["another boot", 1, 2, 3]}))
    compiled(tmp_path, times=0)
    assert path.read_text() == kept


# --- files that are not what they should be -------------------------------------------------------


def flipped(code: Path) -> None:
    data = bytearray(code.read_bytes())
    data[len(data) // 2] ^= 1
    code.write_bytes(data)


def truncated(code: Path) -> None:
    os.truncate(code, code.stat().st_size // 2)


def longer(code: Path) -> None:
    with code.open("ab") as file:
        file.write(b"\0")


def another_proof(text: str) -> Callable[[Path], None]:
    return lambda code: proof(code).write_text(text) and None


ODD: dict[str, Callable[[Path], None]] = {
    "a bit flipped": flipped,
    "truncated": truncated,
    "empty": lambda code: code.write_bytes(b"") and None,
    "longer": longer,
    "no code": lambda code: code.unlink(),
    "no proof": lambda code: proof(code).unlink(),
    "a directory": lambda code: (code.unlink(), code.mkdir(), None)[-1],
    "an empty proof": another_proof(""),
    "half a proof": lambda code: os.truncate(proof(code), 40),
    "a proof that is no JSON": another_proof("{"),
    "a proof that is no text": lambda code: proof(code).write_bytes(b"\xff\xfe") and None,
    "a proof that is a list": another_proof("[1, 2]"),
    "a proof that is a number": another_proof("7"),
    "a proof with too little": another_proof('{"sha256": "00"}'),
    "a proof with too much": another_proof('{"sha256": "00", "seen": [], "more": 1}'),
    "a proof of something else": another_proof('{"sha256": "00", "seen": []}'),
    "a proof of other types": another_proof('{"sha256": 7, "seen": 7}'),
    "a proof nested deeply": another_proof("[" * 100_000),
}


@pytest.mark.parametrize("odd", [name for name in ODD if name != "a directory"])
def test_what_is_odd_is_compiled_again(odd: str, code: Path, tmp_path: Path) -> None:
    ODD[odd](code)
    compiled(tmp_path, times=1)
    compiled(tmp_path, times=0)


def test_what_can_not_be_replaced_is_an_error(code: Path, tmp_path: Path) -> None:
    ODD["a directory"](code)
    with pytest.raises(ComponentError, match="test: "):
        real(tmp_path)


def test_code_of_another_module_is_not_taken_for_it(code: Path, tmp_path: Path) -> None:
    compiled(tmp_path, OTHER, times=1)
    (other,) = set(tmp_path.glob("*/*.cwasm")) - {code}
    code.write_bytes(other.read_bytes())
    compiled(tmp_path, times=1)


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"\x7fELF" + bytes(10_000), bytes(10_000)])
def test_code_that_wasmtime_refuses_is_compiled_again(
    data: bytes, code: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its proof is right."""
    cache.store(code, data)
    with caplog.at_level(logging.WARNING):
        compiled(tmp_path, times=1)
    assert "not for this engine" in caplog.text


def test_the_key_names_what_code_depends_on() -> None:
    options = options_for(64)
    key = engine_key(options)
    assert len(key) == 16
    for same in (options_for(8), PoolOptions(0), replace(options, warm_slots=1)):
        assert engine_key(same) == key
    for other in (
        replace(options, wasm_stack=1 << 20),
        replace(options, max_memory=1 << 30),
        replace(options, fiber_stack=4 << 20),
    ):
        assert engine_key(other) != key


def test_what_a_power_cut_left_is_removed(code: Path, tmp_path: Path) -> None:
    proof(code).unlink()
    gone = 2**22 + 1  # no process has this number
    left = [code.with_name(f"{code.stem}.{gone}{suffix}.tmp") for suffix in (".cwasm", ".json")]
    for path in left:
        path.write_bytes(b"half")
    other = code.with_name(f"{code.stem}.{os.getpid()}.cwasm.tmp")
    other.write_bytes(b"another worker's, which is at it")
    real(tmp_path)
    assert not any(path.exists() for path in left)
    assert other.exists()


# --- compilers that fail --------------------------------------------------------------------------


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a shell script in the place of the compiler."""

    def put(script: str) -> None:
        path = tmp_path / "compiler"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))

    return put


def fails(directory: Path, match: str) -> None:
    with pytest.raises(ComponentError, match=match):
        real(directory / "code")
    assert not list(directory.glob("code/*/*.cwasm"))


def test_a_compiler_that_hangs(
    compiler: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "COMPILE_DEADLINE", 0.2)
    compiler("exec sleep 60")
    fails(tmp_path, "test: compiling took longer than")


@pytest.mark.parametrize(
    ("script", "match"),
    [
        ("kill -KILL $$", "test: the compiler was killed by SIGKILL"),
        ("kill -SEGV $$", "test: the compiler was killed by SIGSEGV"),
        ("exec <&-; exit 3", "test: the compiler ended without a message"),
        ("cat >/dev/null; echo first >&2; echo it is broken >&2; exit 1", "test: it is broken"),
        ("cat >/dev/null; echo 12 MiB >&2", "can not be read back"),
        ("exit 0", "can not be read back"),
        ("printf '\\377\\376' >&2; exit 1", "test: "),
    ],
)
def test_a_compiler_that_fails(
    script: str, match: str, compiler: Callable[[str], None], tmp_path: Path
) -> None:
    compiler(script)
    fails(tmp_path, match)


async def test_a_compilation_that_is_cancelled_ends_its_process(
    compiler: Callable[[str], None], tmp_path: Path
) -> None:
    compiler("exec sleep 60")
    for seconds in (0, 0.01, 0.2):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(seconds):
                await CodeCache(engine(), tmp_path / "code").module(WASM, "test")


def test_a_module_that_is_none_is_an_error_of_the_component(tmp_path: Path) -> None:
    bad = WASM[:-3] + b"\x01\x01\x01"
    for directory in (tmp_path, None):
        with pytest.raises(ComponentError, match="test: "):
            real(directory, bad)
    assert not list(tmp_path.glob("*/*.cwasm"))


def test_a_place_where_nothing_can_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ComponentError, match="test: "):
        real(tmp_path / "file")


def test_long_compilations_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SLOW", 0.0)
    lines: list[str] = []
    real(tmp_path, progress=lines.append)
    assert lines[0] == "test: compiling 0 KiB"
    assert lines[1].startswith("test: compiled in ")
    assert lines[1].endswith(" MiB")


def test_the_code_that_was_used_least_lately_goes_when_there_is_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    third = assemble('(module (func (export "h") (result i32) (i32.const 9)))')
    compiled(tmp_path, WASM, times=1)
    compiled(tmp_path, OTHER, times=1)
    compiled(tmp_path, WASM, times=0)
    for number, wasm in enumerate((OTHER, WASM)):  # as boots would date their proofs
        os.utime(proof(path_of(tmp_path, wasm)), (1e9 + number, 1e9 + number))
    size = path_of(tmp_path, WASM).stat().st_size
    used = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(leastused.shutil, "disk_usage", lambda _: used)
    monkeypatch.setattr(leastused.prune, "__kwdefaults__", {"least": 5 * size // 2})
    compiled(tmp_path, third, times=1)
    kept = {path.stem for path in path_of(tmp_path, WASM).parent.iterdir()}
    assert kept == {path_of(tmp_path, wasm).stem for wasm in (WASM, third)}
    compiled(tmp_path, OTHER, times=1)


def test_what_this_start_uses_outlives_what_earlier_ones_used(tmp_path: Path) -> None:
    paths = [tmp_path / "key" / f"{n}.cwasm" for n in range(3)]
    paths[0].parent.mkdir()
    for path in paths:
        path.write_bytes(bytes(10))
        path.with_suffix(".json").write_text("{}")
    os.utime(paths[0].with_suffix(".json"), (1, 1))  # a boot without a clock
    least = -shutil.disk_usage(tmp_path).free
    leastused.prune(tmp_path / "key", [paths[0]], least=least)
    assert all(path.exists() for path in paths)  # half of the disk is free
    with pytest.MonkeyPatch.context() as patch:
        used = shutil.disk_usage(tmp_path)._replace(free=0)
        patch.setattr(leastused.shutil, "disk_usage", lambda _: used)
        leastused.prune(tmp_path / "key", [paths[0]], least=10)
    assert [path.exists() for path in paths] == [True, False, False]


def test_an_engine_that_nobody_uses_any_more_is_forgotten(tmp_path: Path) -> None:
    old, other = tmp_path / "old", tmp_path / "other"
    for directory in (old, other):
        directory.mkdir()
        (directory / "1.cwasm").write_bytes(b"code")
    os.utime(old, (1.7e9, 1.7e9))
    compiled(tmp_path, times=1)
    assert (old.exists(), other.exists()) == (False, True)


def path_of(directory: Path, wasm: bytes) -> Path:
    return directory / engine_key(engine().options) / f"{hashlib.sha256(wasm).hexdigest()}.cwasm"
