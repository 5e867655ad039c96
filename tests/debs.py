"""The Debian packages, built by the one command for it, and clean roots to put them in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import machine_roots
from machine_roots import CACHE, REPOSITORY, SUITES, overlaid

__all__ = ["ARCHITECTURES", "CleanRoot", "clean_root", "emulate", "package", "with_version"]

ARCHITECTURES = ("amd64", "arm64")
MIRROR = "http://deb.debian.org/debian"
# Seconds. Emulated, on a machine that others keep busy, an installation takes minutes.
COMMAND = 1500
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

RELEASES = {"bookworm": 12, "trixie": 13}
# What the packages are made of, beside the tools.
SOURCES = ("edge", "systemd", "image/debs", "image/build-debs.sh", "docs", "pyproject.toml")
# What apt would fetch: here it may not, so it shows that nothing else is needed.
DEPENDENCIES = ("ca-certificates", "systemd", "tzdata")


def package(suite: str, architecture: str) -> Path:
    """Of this checkout; built unless it was already. `EDGE_DEBS` names a folder of built ones."""
    pattern = f"edge_*+deb{RELEASES[suite]}_{architecture}.deb"
    if folder := os.environ.get("EDGE_DEBS"):
        return _newest(Path(folder), pattern)
    listed = _git("ls-files", "--cached", "--others", "--exclude-standard", "--", *SOURCES)
    files = [REPOSITORY / name for name in listed.splitlines()]
    ingredients = [f"{f}\0{f.read_text()}" for f in files if f.is_file()]
    target = CACHE / f"{suite}-{architecture}-debs"

    def build(folder: Path) -> None:
        command = ["nice", "-n", "10", str(REPOSITORY / "image/build-debs.sh")]
        command += ["--suite", suite, "--arch", architecture, "--output", str(folder)]
        _run(*command, PYTHON=sys.executable)

    return _newest(machine_roots._once(target, build, *ingredients), pattern)


def _newest(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime)
    assert found, f"{folder} has no {pattern}: make debs"
    return found[-1]


def with_version(
    original: Path, version: str, folder: Path, change: Callable[[Path], None] | None = None
) -> Path:
    """The same package under another version: what a release of only a fix is to dpkg. `change`: of
    the tree of its files.
    """
    target = folder / f"edge_{version}.deb"
    with tempfile.TemporaryDirectory(dir=folder) as work:
        tree = Path(work, "tree")
        _run("dpkg-deb", "--raw-extract", str(original), str(tree))
        control = tree / "DEBIAN/control"
        lines = control.read_text().splitlines()
        changed = [f"Version: {version}" if x.startswith("Version:") else x for x in lines]
        control.write_text("\n".join(changed) + "\n")
        if change is not None:
            change(tree)
        _run("dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(target))
    return target


@dataclass(frozen=True, slots=True)
class CleanRoot:
    """A Debian without edge, and without systemd running."""

    path: Path

    def run(self, *command: str, expected: int | None = 0) -> str:
        """What a command prints there, as root, without a network but its own loopback."""
        script = (
            'mount -t proc proc "$0/proc"; mount -t tmpfs tmpfs "$0/tmp"; mount -t tmpfs tmpfs'
            ' "$0/run"; ip link set lo up; exec chroot "$0" "$@"'
        )
        enter = ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "sh", "-euc"]
        done = subprocess.run(
            [*enter, script, str(self.path), *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND,
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "HOME": "/root",
                "LANG": "C.UTF-8",
                "DEBIAN_FRONTEND": "noninteractive",
                # A board: QEMU keeps books of each page that a larger pool reserves.
                "QEMU_RESERVED_VA": hex(1 << 39),
                "QEMU_CPU": "cortex-a53",
            },
        )
        if expected is not None:
            assert done.returncode == expected, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def files(self) -> set[str]:
        """All that is there, but what dpkg and apt keep for themselves."""
        own = ("var/lib/dpkg", "var/lib/apt", "var/cache", "var/log")
        found = (path.relative_to(self.path).as_posix() for path in self.path.rglob("*"))
        return {name for name in found if not name.startswith(own)}


@contextmanager
def clean_root(suite: str, architecture: str) -> Iterator[CleanRoot]:
    """A fresh one. Another architecture than this machine's is emulated: that needs binfmt_misc."""
    include = ",".join((f"python{SUITES[suite]}", *DEPENDENCIES))

    def make(root: Path) -> None:
        source = f"deb [signed-by={KEYRING}] {MIRROR} {suite} main"
        command = ["mmdebstrap", "--quiet", "--mode=root", "--variant=apt", f"--include={include}"]
        _run("nice", *command, f"--architectures={architecture}", suite, str(root), source)

    base = machine_roots._once(CACHE / f"{suite}-{architecture}-clean", make, include)
    folder = Path(tempfile.mkdtemp(prefix="root-", dir=CACHE))
    try:
        for name in ("root", "upper", "work"):
            (folder / name).mkdir()
        with overlaid(folder / "root", [base], folder / "upper", folder / "work"):
            yield CleanRoot(folder / "root")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def emulate(architecture: str) -> None:
    """This machine runs programs of that architecture from here on."""
    native = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, check=True)
    if native.stdout.decode().strip() == architecture:
        return
    # As image/lib/common.sh does.
    registry = Path("/proc/sys/fs/binfmt_misc")
    if not (registry / "register").exists():
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", registry], check=True)
    if not (registry / "qemu-aarch64").exists():
        subprocess.run(["update-binfmts", "--enable", "qemu-aarch64"], check=True)
    # mmdebstrap asks it whether it can go on.
    subprocess.run(["arch-test", architecture], check=True)


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return done.stdout


def _run(*command: str, **environ: str) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environ}
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
