"""Builds the extension with AddressSanitizer and UBSan and runs the engine's tests with it.

    python tests/engine/sanitize.py [arguments for pytest]

Needs gcc with its sanitizers' libraries, and Cython. The build goes to build/sanitize and is the
only one the tests see. Without arguments: all of tests/engine, the fuzz with EDGE_FUZZ_CASES cases
(2,000 unless told otherwise). Fails when a test does, and for every report whatever the tests say:
AddressSanitizer's are printed in the end, UBSan's where they happen, which ends the process.

Python allocates by malloc here, so that its objects are watched too. Leaks are not looked for:
the interpreter has its own. Wasmtime handles signals itself, and its fibers are stacks that the
sanitizer does not know, hence the options. Neither Wasmtime nor Python is instrumented: what is
found is found in the extension's own code, or in what it hands to them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "sanitize"
FLAGS = (
    "-shared", "-fPIC", "-g", "-O1", "-fno-omit-frame-pointer", "-Wno-unreachable-code",
    "-fsanitize=address,undefined",
)  # fmt: skip

# They assert how fast something is or how little memory it takes, or leave too little of it.
UNFIT = (
    "tests/engine/test_pool.py",
    "tests/engine/test_instances.py::test_the_process_does_not_grow",
    "tests/engine/test_review.py::test_many_instances_of_a_module_with_many_imports_are_refused_soon",
)

# Signals are Wasmtime's: a guest's trap is one of them.
ASAN = {
    "detect_leaks": 0,
    "detect_stack_use_after_return": 0,
    "handle_segv": 0,
    "handle_sigbus": 0,
    "handle_sigfpe": 0,
    "handle_sigill": 0,
    "allow_user_segv_handler": 1,
    "use_sigaltstack": 0,
    "abort_on_error": 1,
}
# Said once when an exception passes a fiber: the sanitizer then leaves that stack alone.
_HARMLESS = re.compile(r"==\d+==WARNING: ASan is ignoring requested __asan_handle_no_return.*?\n"
                       r"(False positive.*\n)?(For details.*\n)?")  # fmt: skip


def main() -> int:
    shutil.rmtree(BUILD, ignore_errors=True)
    ignored = shutil.ignore_patterns("*.so", "*.c", "__pycache__")
    shutil.copytree(ROOT / "edge", BUILD / "edge", ignore=ignored)
    build(BUILD / "edge" / "engine")
    arguments = sys.argv[1:] or ["tests/engine", *(f"--deselect={test}" for test in UNFIT)]
    # -P: the sources in the current directory are not the ones to test.
    # -s: UBSan writes to stderr whatever it is told, and what pytest holds back ends with it.
    options = ["-q", "-s", "-p", "no:cacheprovider"]
    command = [sys.executable, "-P", "-m", "pytest", *options, *arguments]
    failed = subprocess.run(command, cwd=ROOT, env=environment(), check=False).returncode
    found = reports()
    sys.stderr.write("".join(found) or ("" if failed else "no report of a sanitizer\n"))
    return failed or bool(found)


def build(engine: Path) -> None:
    source = engine / "_core.c"
    run(sys.executable, "-m", "cython", "-3", "-o", source, engine / "_core.pyx")
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    include = sysconfig.get_path("include")
    run("gcc", *FLAGS, f"-I{include}", f"-I{engine}", source, "-o", engine / f"_core{suffix}")


def environment() -> dict[str, str]:
    library = run("gcc", "-print-file-name=libasan.so").strip()
    report = f"log_path={BUILD / 'report'}"
    return {
        **os.environ,
        "LD_PRELOAD": library,
        "PYTHONPATH": str(BUILD),
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": ":".join([report, *(f"{name}={value}" for name, value in ASAN.items())]),
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "EDGE_FUZZ_CASES": os.environ.get("EDGE_FUZZ_CASES", "2000"),
    }


def reports() -> list[str]:
    texts = [_HARMLESS.sub("", path.read_text()) for path in sorted(BUILD.glob("report.*"))]
    return [text for text in texts if text.strip()]


def run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


if __name__ == "__main__":
    sys.exit(main())
