"""The examples' committed Wasm files are what their sources give, byte for byte."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.guests
@pytest.mark.parametrize("name", ["hello", "echo"])
def test_a_committed_example_is_what_its_source_gives(
    name: str, guest: Callable[[str], Path]
) -> None:
    assert digest(guest(name)) == digest(EXAMPLES / name / f"{name}.wasm"), (
        f"rebuild it: tests/guests/build.py --example {name}"
    )


def test_only_the_small_examples_are_committed() -> None:
    command = ["git", "ls-files", "-z", "*.wasm"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, done.stdout.split("\0")):
        assert (ROOT / name).stat().st_size < 64 * 1024, f"{name} is too big to commit"
