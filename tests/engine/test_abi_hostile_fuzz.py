"""Changed binaries and random values end in an error or a trap, in processes that survive them.

EDGE_FUZZ_CASES says how many of each; a case is reproduced from its number alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

CASES = int(os.environ.get("EDGE_FUZZ_CASES", "1000"))
BATCH = 2000
SECONDS = 300  # for a batch on a slow machine; each case has a limit of its own
PROGRAM = Path(__file__).with_name("fuzz.py")


def batch(kind: str, first: int, count: int, progress: Path) -> Counter[str]:
    command = [sys.executable, "-X", "faulthandler", str(PROGRAM), kind, str(first), str(count)]
    again = f"; again: python tests/engine/fuzz.py {kind} {{}} 1 {os.devnull}"
    try:
        done = subprocess.run(
            [*command, str(progress)], capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        case = progress.read_text().strip()
        pytest.fail(f"case {case} hangs" + again.format(case), pytrace=False)
    if done.returncode:
        case = progress.read_text().strip()
        pytest.fail(
            f"case {case} ended its process with {done.returncode}{again.format(case)}\n"
            f"{done.stderr[-4000:]}",
            pytrace=False,
        )
    return Counter(json.loads(done.stdout))


@pytest.mark.parametrize("kind", ["binaries", "outlines", "values"])
def test_whatever_comes_the_process_goes_on(kind: str, tmp_path: Path) -> None:
    total: Counter[str] = Counter()
    for first in range(0, CASES, BATCH):
        total += batch(kind, first, min(BATCH, CASES - first), tmp_path / "case")
    assert total.total() == CASES
    ran = sum(n for outcome, n in total.items() if outcome.startswith(("ran", "ret", "trap")))
    assert ran > CASES // 5, f"most cases end before anything runs: {total}"
    print(kind, dict(total))


def test_a_case_is_what_its_number_says(tmp_path: Path) -> None:
    for kind in ("binaries", "outlines", "values"):
        once, again = (batch(kind, 40, 5, tmp_path / "case") for _ in range(2))
        assert untimed(once) == untimed(again)


def untimed(found: Counter[str]) -> Counter[str]:
    """Without how the calls of a case ended: a machine that is slow just now ends some of them."""
    total: Counter[str] = Counter()
    for outcome, count in found.items():
        total[outcome.partition(": ")[0]] += count
    return total
