"""Tools that are brought along: a real pip, an index in a folder, small packages."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from edge.develop import tools
from edge.develop.pins import TOOLS, Package, Tool
from edge.errors import EdgeError

PATIENCE = 60


def wheel(folder: Path, name: str, files: dict[str, tuple[str, int]]) -> Package:
    """A wheel of version 1.0 with these files and modes, as an index has it."""
    folder.mkdir(exist_ok=True)
    module = name.replace("-", "_")
    path = folder / f"{module}-1.0-py3-none-any.whl"
    about = f"{module}-1.0.dist-info"
    files = {
        **files,
        f"{about}/METADATA": (f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", 0o644),
        f"{about}/WHEEL": ("Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n", 0o644),
        f"{about}/RECORD": ("", 0o644),
    }
    with zipfile.ZipFile(path, "w") as archive:
        for target, (text, mode) in files.items():
            item = zipfile.ZipInfo(target)
            item.external_attr = (0o100000 | mode) << 16
            archive.writestr(item, text)
    data = path.read_bytes()
    return Package(name, "1.0", (hashlib.sha256(data).hexdigest(),), len(data))


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of pip's world."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def binary(index: Path) -> Tool:
    script = '#!/bin/sh\necho "ran with $*"\n'
    package = wheel(index, "tool-of-ours", {"tool_of_ours/bin/tool": (script, 0o755)})
    return Tool("tool", (package,), file="tool_of_ours/bin/tool")


@pytest.fixture
def script(index: Path) -> Tool:
    """A program that is a function of a module, and needs a second package."""
    code = (
        "import sys\nimport other\ndef main():\n    print(sys.argv, other.NAME)\n"
        "    assert 'fail' not in sys.argv, 'a reason'\n"
    )
    packages = (
        wheel(index, "a-script", {"a_script/__init__.py": (code, 0o644)}),
        wheel(index, "other", {"other.py": ("NAME = 'found'\n", 0o644)}),
    )
    return Tool("script", packages, function="a_script:main")


def run(home: Path, name: str, *arguments: str) -> str:
    command = [str(home / "bin" / name), *arguments]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, timeout=PATIENCE, cwd="/"
    )
    return done.stdout


def failure(home: Path, name: str, *arguments: str) -> str:
    command = [str(home / "bin" / name), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=PATIENCE, cwd="/"
    )
    assert done.returncode == 1
    return done.stderr


async def test_a_tool_is_fetched_once_and_then_there(binary: Tool, tmp_path: Path) -> None:
    root, said = tmp_path / "cache" / "tools", list[str]()
    assert tools.brought(binary, root) is None
    home = await tools.bring(binary, root, said.append)
    assert said == ["fetching tool (under 1 MB, once)"]
    assert run(home, "tool", "a", "b") == "ran with a b\n"
    assert tools.brought(binary, root) == home
    assert await tools.bring(binary, root, said.append) == home
    assert len(said) == 1
    assert sorted(p.name for p in root.iterdir()) == sorted([home.name, "tool.lock"])


async def test_a_function_becomes_a_program(script: Tool, tmp_path: Path) -> None:
    home = await tools.bring(script, tmp_path / "a place", lambda _: None)
    assert run(home, "script", "x y") == "['script', 'x y'] found\n"
    assert failure(home, "script", "fail") == "AssertionError: a reason\n"


async def test_what_has_another_digest_is_not_taken(
    binary: Tool, tmp_path: Path, index: Path
) -> None:
    """As when an index delivers something else than was pinned."""
    wheel(index, "tool-of-ours", {"tool_of_ours/bin/tool": ("#!/bin/sh\necho evil\n", 0o755)})
    with pytest.raises(EdgeError, match=r"tool: cannot be fetched: tool-of-ours==1\.0: ") as caught:
        await tools.bring(binary, tmp_path / "root", lambda _: None)
    assert "HASH" in caught.value.message.upper()
    assert tools.brought(binary, tmp_path / "root") is None


async def test_without_an_index_it_is_said_what_is_missing(
    binary: Tool, tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    with pytest.raises(EdgeError, match="the package index cannot be reached") as caught:
        await tools.bring(binary, tmp_path / "root", lambda _: None)
    hint = caught.value.hint
    assert hint is not None
    assert "pip download --no-deps -d DIR tool-of-ours==1.0" in hint
    # What the hint says helps.
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    assert await tools.bring(binary, tmp_path / "root", lambda _: None)


async def test_a_machine_for_which_there_is_none_is_named(binary: Tool, tmp_path: Path) -> None:
    package = replace(binary.packages[0], name="tool-of-nobody")
    with pytest.raises(EdgeError, match="there is none for this machine"):
        await tools.bring(replace(binary, packages=(package,)), tmp_path / "r", lambda _: None)


async def test_what_an_interrupted_run_has_fetched_is_kept(
    script: Tool, tmp_path: Path, index: Path
) -> None:
    (index / "other-1.0-py3-none-any.whl").rename(tmp_path / "away")
    root = tmp_path / "root"
    with pytest.raises(EdgeError, match=r"other==1\.0"):
        await tools.bring(script, root, lambda _: None)
    assert [p.name for p in (root / "script.partial").glob("*/*.whl")] == [
        "a_script-1.0-py3-none-any.whl"
    ]
    # The index has forgotten the first: it is not asked for it again.
    (index / "a_script-1.0-py3-none-any.whl").unlink()
    (tmp_path / "away").rename(index / "other-1.0-py3-none-any.whl")
    home = await tools.bring(script, root, lambda _: None)
    assert "found" in run(home, "script")
    assert not (root / "script.partial").exists()


async def test_half_a_file_of_an_interrupted_run_is_fetched_anew(
    binary: Tool, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    place = root / "tool.partial" / "tool-of-ours"
    place.mkdir(parents=True)
    (place / "tool_of_ours-1.0-py3-none-any.whl").write_bytes(b"PK half")
    (root / f"{tools._key(binary)}.unfinished" / "bin").mkdir(parents=True)
    home = await tools.bring(binary, root, lambda _: None)
    assert run(home, "tool") == "ran with \n"


async def test_a_cancelled_run_leaves_the_next_one_a_clean_start(
    binary: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, said = tmp_path / "root", asyncio.Event()
    work = tools.bring(binary, root, lambda _: said.set())
    task = asyncio.get_running_loop().create_task(work)
    await said.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert tools.brought(binary, root) is None
    assert run(await tools.bring(binary, root, lambda _: None), "tool") == "ran with \n"


async def test_two_at_once_fetch_it_once(binary: Tool, tmp_path: Path) -> None:
    root, said = tmp_path / "root", list[str]()
    async with asyncio.TaskGroup() as group:
        both = [group.create_task(tools.bring(binary, root, said.append)) for _ in range(2)]
    assert both[0].result() == both[1].result()
    assert sorted(said) == [
        "fetching tool (under 1 MB, once)",
        "tool: another process is fetching it, waiting",
    ]


async def test_who_waits_for_another_process_can_be_interrupted(
    binary: Tool, tmp_path: Path
) -> None:
    waits = asyncio.Event()
    with (tmp_path / "tool.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        task = asyncio.get_running_loop().create_task(
            tools.bring(binary, tmp_path, lambda _: waits.set())
        )
        await waits.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_cache_that_cannot_be_written_is_explained(binary: Tool) -> None:
    with pytest.raises(EdgeError, match=r"^tool: /proc/self/") as caught:
        await tools.bring(binary, Path("/proc/self/tools"), lambda _: None)
    assert caught.value.hint is not None
    assert "XDG_CACHE_HOME" in caught.value.hint


async def test_without_pip_it_is_said_how_to_get_it(
    binary: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EdgeError, match="pip is not installed") as caught:
        await tools.bring(binary, tmp_path / "root", lambda _: None)
    assert caught.value.hint == "sudo apt install python3-pip"


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tools.directory({"XDG_CACHE_HOME": "/x"}) == Path("/x/edge/tools")
    assert tools.directory({}) == Path.home() / ".cache/edge/tools"


def test_each_release_is_pinned_for_both_kinds_of_machine() -> None:
    for tool in TOOLS.values():
        assert (tool.file is None) != (tool.function is None)
        for package in tool.packages:
            assert len(set(package.sha256)) == (1 if package.name == "spin-sdk" else 2)
            assert all(len(digest) == 64 for digest in package.sha256)
