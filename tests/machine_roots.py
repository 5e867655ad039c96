"""Root file systems for machines: Debian with systemd, and the project as a package would put it.

Both are made once, below `.machines/`, and are never changed afterwards: a machine lays its own
changes over them. Needs root, mmdebstrap, a C compiler and pip.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
CACHE = REPOSITORY / ".machines"
# Debian release -> its Python.
SUITES = {"bookworm": "3.11", "trixie": "3.13"}

# What a bare Debian server has, and what a fleet is reached by. No network manager but systemd's.
PACKAGES = [
    "ca-certificates", "curl", "dbus", "iproute2", "openssh-server", "procps", "python3", "sudo",
    "systemd", "systemd-sysv", "udev",
]  # fmt: skip
PLATFORMS = ["manylinux2014_x86_64", "manylinux_2_28_x86_64", "manylinux_2_31_x86_64"]
PREFIX = "usr/lib/edge"
PROGRAM = f"""#!/{PREFIX}/bin/python -I
import sys

from edge.cli import main

sys.exit(main())
"""


def debian(suite: str) -> Path:
    """A bare Debian with systemd."""
    return _once(CACHE / suite, lambda root: _bootstrap(root, suite, PACKAGES), *PACKAGES)


def product(suite: str) -> Path:
    """What an installation of this checkout adds to it: to be laid over `debian(suite)`."""
    files = [file for name in ("edge", "systemd") for file in _sources(REPOSITORY / name)]
    ingredients = [f"{file.relative_to(REPOSITORY)}\0{file.read_text()}" for file in files]
    return _once(CACHE / f"{suite}-product", lambda tree: _install(tree, suite), *ingredients)


def _sources(folder: Path) -> list[Path]:
    unwanted = {".so", ".c", ".pyc"}
    found = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return [file for file in found if file.suffix not in unwanted]


def _install(tree: Path, suite: str) -> None:
    shutil.copytree(_environment(suite), tree, symlinks=True)
    packages = tree / PREFIX / "lib" / f"python{SUITES[suite]}" / "site-packages"
    for file in _sources(REPOSITORY / "edge"):
        _copy(file, packages / file.relative_to(REPOSITORY))
    shutil.copy(_extension(suite), packages / "edge/engine")
    _install_units(tree)
    _enter(suite, tree, "python3", "-m", "compileall", "-q", f"/{PREFIX}")


def _install_units(tree: Path) -> None:
    source = REPOSITORY / "systemd"
    for unit in [*source.glob("*.service"), *source.glob("*.socket")]:
        _copy(unit, tree / "usr/lib/systemd/system" / unit.name)
    for name in ("sysusers", "tmpfiles"):
        _copy(source / f"edge.{name}", tree / f"usr/lib/{name}.d/edge.conf")
    _copy(source / "edge.catalog", tree / "usr/lib/systemd/catalog/edge.catalog")
    _copy(REPOSITORY / "systemd/drop-ins", tree / "usr/share/edge/drop-ins")


def _environment(suite: str) -> Path:
    """The virtual environment with what edge needs, and not yet edge."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    requirements = project["dependencies"]

    def make(tree: Path) -> None:
        version = SUITES[suite]
        home = tree / PREFIX
        packages = home / "lib" / f"python{version}" / "site-packages"
        command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        command += ["install", "--no-compile", "--target", str(packages), "--only-binary=:all:"]
        command += [f"--platform={name}" for name in PLATFORMS]
        _run(*command, "--implementation=cp", f"--python-version={version}", *requirements)
        (home / "bin").mkdir()
        (home / "pyvenv.cfg").write_text(
            f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {version}\n"
        )
        (home / "bin/python").symlink_to("/usr/bin/python3")
        _program(home / "bin/edge", PROGRAM)
        (tree / "usr/bin").mkdir()
        (tree / "usr/bin/edge").symlink_to(f"/{PREFIX}/bin/edge")
        metadata = packages / f"edge-{project['version']}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: edge\nVersion: {project['version']}\n"
        )
        _enter(suite, tree, "python3", "-m", "compileall", "-q", f"/{PREFIX}")

    return _once(CACHE / f"{suite}-environment", make, *requirements, PROGRAM)


def _extension(suite: str) -> Path:
    """Compiled by this machine's compiler, with the headers of that release's Python."""
    engine = REPOSITORY / "edge/engine"
    sources = sorted(f for kind in ("pyx", "pxi", "pxd", "h") for f in engine.glob(f"*.{kind}"))
    tag = SUITES[suite].replace(".", "")

    def make(folder: Path) -> None:
        folder.mkdir()
        name = f"libpython{SUITES[suite]}-dev"
        headers = _once(
            CACHE / f"{suite}-headers", lambda tree: _bootstrap(tree, suite, [name], "extract")
        )
        include = headers / "usr/include"
        native = include / "x86_64-linux-gnu"
        flags = [f"-I{d}" for d in (include / f"python{SUITES[suite]}", include, native, engine)]
        flags += ["-shared", "-fPIC", "-O2", "-g0", "-fwrapv", "-DNDEBUG", "-w"]
        code, target = folder / "_core.c", f"_core.cpython-{tag}-x86_64-linux-gnu.so"
        _run(sys.executable, "-m", "cython", "-3", str(engine / "_core.pyx"), "-o", str(code))
        _run("cc", *flags, str(code), "-o", str(folder / target))

    built = _once(CACHE / f"{suite}-extension", make, *(file.read_text() for file in sources))
    (extension,) = built.glob("*.so")
    return extension


def _bootstrap(root: Path, suite: str, packages: Sequence[str], variant: str = "apt") -> None:
    include = f"--include={','.join(packages)}"
    _run("mmdebstrap", "--quiet", f"--variant={variant}", include, suite, str(root))


def _enter(suite: str, tree: Path, *command: str) -> None:
    """Runs a command in the machine that `tree` makes of a bare one, and keeps what it writes."""
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        work, root = Path(folder, "work"), Path(folder, "root")
        work.mkdir()
        root.mkdir()
        with overlaid(root, [debian(suite)], tree, work):
            _run("chroot", str(root), *command)


@contextmanager
def overlaid(root: Path, below: Sequence[Path], upper: Path, work: Path) -> Iterator[None]:
    """`below`, the last one first, shown at `root`; what is changed there goes to `upper`."""
    lower = ":".join(str(layer) for layer in reversed(below))
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    _run("mount", "-t", "overlay", "overlay", "-o", options, str(root))
    try:
        yield
    finally:
        _run("umount", "--lazy", str(root))


def _once(target: Path, make: Callable[[Path], None], *ingredients: str) -> Path:
    """`target`, made unless it is there and was made of the same; by one process at a time."""
    CACHE.mkdir(exist_ok=True)
    digest = hashlib.sha256("\0".join(ingredients).encode()).hexdigest()
    stamp = target.with_name(f"{target.name}.made-of")
    with target.with_name(f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists() and stamp.exists() and stamp.read_text() == digest:
            return target
        print(f"machines: {target.name}", flush=True)
        stamp.unlink(missing_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        make(target)
        stamp.write_text(digest)
    return target


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)


def _program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _run(*command: str) -> None:
    done = subprocess.run(
        ["nice", "-n", "10", *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
