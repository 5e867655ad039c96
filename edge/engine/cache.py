"""Compiled code on disk: compiled in a child process, mapped by the next start.

`directory/<engine key>/<sha256 of the module>.cwasm` with its proof beside it. The key names
everything the code depends on: Wasmtime's version, the engine's options, the CPU's features. A file
is native code and Wasmtime checks none of it, so only files that this node wrote and whose bytes
still have the digest it recorded are mapped; anything odd is a miss and is compiled again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from edge.engine._core import Engine, Module
from edge.engine.leastused import prune
from edge.engine.pool import PoolOptions
from edge.errors import ComponentError
from edge.platform.messages import CODE_ALTERED

_log = logging.getLogger("edge.engine")

# Options that change neither the code nor what it assumes of its surroundings.
_WITHOUT_EFFECT_ON_CODE = {
    "slots", "stacks", "core_instances", "tables", "warm_slots",
    "memory_keep", "table_keep", "stack_keep", "host_stack",
}  # fmt: skip

# A compiler that hangs must not hang the node. A Raspberry Pi 3 takes about a minute for a Python
# guest.
COMPILE_DEADLINE = 900.0  # seconds
SLOW = 1.0  # seconds after which a compilation is reported


@dataclass(frozen=True, slots=True)
class Proof:
    """What makes a cached file trusted: its digest, and the file that was last seen to have it.

    `seen`: boot id, inode, size, mtime in ns. While they stay the same the bytes are not hashed
    again: hashing 100 MB would cost more than the first request may.
    """

    sha256: str
    seen: list[str | int]


class CodeCache:
    """Compiled modules of one engine. `directory` None: nothing is kept, compilation happens in
    this process.
    """

    def __init__(self, engine: Engine, directory: Path | None) -> None:
        self._engine = engine
        self.directory = directory / engine_key(engine.options) if directory else None
        # One compiler at a time: it takes all cores and several hundred MB.
        self._compiling = asyncio.Lock()
        self._used: dict[Path, None] = {}  # the latest last

    async def module(
        self, wasm: bytes, name: str, progress: Callable[[str], None] = _log.info
    ) -> Module:
        """One compiled module, see `modules`."""
        return (await self.modules((wasm,), name, progress))[0]

    async def modules(
        self, wasms: Sequence[bytes], name: str, progress: Callable[[str], None] = _log.info
    ) -> list[Module]:
        """The compiled modules of a component, mapped when they are known, else compiled (seconds
        for large ones).

        `name` is for messages. Raises ComponentError when Wasmtime refuses a module.
        """
        if self.directory is None:
            return [await asyncio.to_thread(_compile_here, self._engine, w, name) for w in wasms]
        paths = [self.directory / f"{hashlib.sha256(w).hexdigest()}.cwasm" for w in wasms]
        found = dict(zip(paths, map(self._map, paths), strict=True))
        if None not in found.values():
            self._lately(paths)
        else:
            async with self._compiling:
                missing = {p: w for p, w in zip(paths, wasms, strict=True) if found[p] is None}
                # Somebody may have compiled them meanwhile.
                missing = {p: w for p, w in missing.items() if self._map(p) is None}
                if missing:
                    await self._compile(missing, name, progress)
            found |= {path: self._map(path) for path, module in found.items() if module is None}
            # What is mapped stays so, whatever becomes of its file.
            await asyncio.to_thread(prune, self.directory, self._lately(paths))
        return [_readable(found[path], path, name) for path in paths]

    def _lately(self, paths: Iterable[Path]) -> list[Path]:
        """Everything that was used, these last."""
        for path in paths:
            self._used.pop(path, None)
            self._used[path] = None
        return list(self._used)

    def _map(self, path: Path) -> Module | None:
        if not _trusted(path):
            return None
        try:
            return Module.map(self._engine, str(path))
        except ValueError as exc:
            _log.warning(
                "%s: compiled code is not for this engine, compiling again: %s", path.name, exc
            )
            return None

    async def _compile(
        self, missing: Mapping[Path, bytes], name: str, progress: Callable[[str], None]
    ) -> None:
        """In a child process: the compiler's memory (several hundred MB for a Python guest) is gone
        afterwards.
        """
        try:
            for path in missing:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                _remove_leftovers(path)
        except OSError as exc:
            raise ComponentError(
                f"{name}: its compiled code can not be kept: {exc}",
                hint="compiled code needs a writable directory: --state-dir",
            ) from exc
        work = [(str(path), len(wasm)) for path, wasm in missing.items()]
        wasm = b"".join(missing.values())
        # On stdin: a thousand paths are more than an argument may hold.
        request = json.dumps(work).encode() + b"\n" + wasm
        started = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            # -P: a working directory with a json.py of its own must not be imported from.
            sys.executable, "-P", "-m", "edge.engine.compile",
            json.dumps(asdict(self._engine.options)),
            stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        timer = asyncio.get_running_loop().call_later(
            SLOW, progress, f"{name}: compiling {len(wasm) >> 10} KiB"
        )
        try:
            async with asyncio.timeout(COMPILE_DEADLINE):
                _, errors = await process.communicate(request)
        except TimeoutError:
            raise ComponentError(
                f"{name}: compiling took longer than {COMPILE_DEADLINE:.0f} s"
            ) from None
        finally:
            timer.cancel()
            if process.returncode is None:
                process.kill()
                await process.wait()
                await _closed(process.stdin)
            if process.returncode:
                for path in missing:
                    _remove_leftovers(path)
        if process.returncode:
            raise ComponentError(f"{name}: {_failure(process.returncode, errors)}")
        if (elapsed := time.monotonic() - started) > SLOW:
            progress(f"{name}: compiled in {elapsed:.1f} s, peak memory {_last_line(errors)}")


async def _closed(pipe: asyncio.StreamWriter | None) -> None:
    """A pipe whose reader was killed: that it broke is no news, and asyncio would log it."""
    if pipe is not None:
        pipe.close()
        with contextlib.suppress(OSError):
            await pipe.wait_closed()


def _readable(module: Module | None, path: Path, name: str) -> Module:
    if module is None:
        raise ComponentError(f"{name}: the compiled code at {path} can not be read back")
    return module


def _remove_leftovers(path: Path) -> None:
    """What writers of `path` that are gone left behind; another worker may be at it right now."""
    for left in path.parent.glob(f"{path.stem}.*.tmp"):
        if not Path("/proc", left.name.split(".")[1]).exists():
            left.unlink(missing_ok=True)


def store(path: Path, code: bytes) -> None:
    """Writes compiled code and its proof, each atomically and durably; the proof last, so half a
    write is a miss.
    """
    replace_file(path, code)
    proof = Proof(hashlib.sha256(code).hexdigest(), _identity(path))
    replace_file(_proof_path(path), json.dumps(asdict(proof)).encode())


def replace_file(path: Path, data: bytes) -> None:
    """Puts `data` at `path`: a reader, or the next boot, sees the old file or the new one."""
    temporary = path.with_name(f"{path.stem}.{os.getpid()}{path.suffix}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def engine_key(options: PoolOptions) -> str:
    """Names everything compiled code depends on except the module itself."""
    relevant = {k: v for k, v in asdict(options).items() if k not in _WITHOUT_EFFECT_ON_CODE}
    parts = [
        "1",
        metadata.version("wasmtime"),
        platform.machine(),
        _cpu_features(),
        json.dumps(relevant),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _compile_here(engine: Engine, wasm: bytes, name: str) -> Module:
    try:
        return Module.compile(engine, wasm)
    except ValueError as exc:
        raise ComponentError(f"{name}: {exc}") from exc


def _trusted(path: Path) -> bool:
    """Whether the file is the one this node wrote. Hashes it at most once per boot."""
    if not is_private(path.parent):
        _log.warning("%s: others may write there, so its compiled code is not used", path.parent)
        return False
    try:
        proof = Proof(**json.loads(_proof_path(path).read_bytes()))
        identity = _identity(path)
        if proof.seen == identity:
            return True
        digest = _digest(path)
    except (OSError, ValueError, TypeError, RecursionError):
        return False
    if digest != proof.sha256:
        _log.warning(
            "%s: compiled code was altered, compiling again", path.name,
            extra={"MESSAGE_ID": CODE_ALTERED},
        )  # fmt: skip
        return False
    with contextlib.suppress(OSError):
        replace_file(_proof_path(path), json.dumps(asdict(Proof(proof.sha256, identity))).encode())
    return True


def is_private(directory: Path) -> bool:
    """Whether only this user, or root, can have put files there."""
    try:
        stat = directory.stat()
    except OSError:
        return True  # not there yet: `_compile` makes it
    return stat.st_uid in (0, os.geteuid()) and not stat.st_mode & 0o002


def _identity(path: Path) -> list[str | int]:
    stat = path.stat()
    return [_boot_id(), stat.st_ino, stat.st_size, stat.st_mtime_ns]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _proof_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(os.getpid())  # no such file: trust nothing from another process


def _cpu_features() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line for line in lines if line.startswith(("flags", "Features"))), platform.processor()
    )


def _failure(returncode: int, errors: bytes) -> str:
    if returncode < 0:
        # Not its last words: a kernel that runs out of memory lets nobody have any.
        return f"the compiler was killed by {signal.Signals(-returncode).name}"
    return _last_line(errors)


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "the compiler ended without a message"
