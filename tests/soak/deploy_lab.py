"""What the campaigns of deploys share: releases, a board, load, and misfortunes.

A release is one version of the guest `release`: it answers with its version, and is as good as its
fate says. A board is `edge run` as a process, which may be killed and started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from mmap import mmap
from pathlib import Path
from typing import Any

from deploy_forks import Forked, Nursery
from soak_lab import FULL

from edge.errors import EdgeError
from edge.node.client import NodeClient
from edge.registry import bundle, local, transfer
from edge.registry.client import RegistryClient
from edge.registry.digest import Digest
from edge.registry.reference import Reference
from edge.registry.store import ContentStore

EDGE = str(Path(sys.executable).parent / "edge")
# Seconds, for a machine that is busy with other things.
PATIENCE = 120.0  # two files of tests share the machine
# Connections of the load, each with one request under way.
CLIENTS = 16

MANIFEST = """
spin_manifest_version = 2
[application]
name = "release"
version = "1.0.0"
[variables]
version = {{ default = "{version}" }}
fate = {{ default = "{fate}" }}
[[trigger.http]]
route = "/..."
component = "release"
[component.release]
source = "release.wasm"
key_value_stores = ["default"]
[component.release.variables]
version = "{{{{ version }}}}"
fate = "{{{{ fate }}}}"
[component.release.tool.edge]
memory = "1MiB"
concurrency = 64
"""

# --- releases -------------------------------------------------------------------------------------


def write_release(folder: Path, wasm: Path, version: str, fate: str = "good", pad: int = 0) -> Path:
    """A folder with that version. `pad`: bytes that make its Wasm unlike any other's."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spin.toml").write_text(MANIFEST.format(version=version, fate=fate))
    more = random.Random(version).randbytes(pad)
    (folder / "release.wasm").write_bytes(
        wasm.read_bytes() + (_custom_section(more) if pad else b"")
    )
    return folder


def _custom_section(data: bytes) -> bytes:
    content = b"\x03pad" + data
    size, length = len(content), bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return b"\0" + bytes([*length, size]) + content


@dataclass(frozen=True, slots=True)
class Publisher:
    """Pushes releases to one registry."""

    host: str
    folder: Path
    wasm: Path

    def push(self, tag: str, version: str, fate: str = "good", pad: int = 0) -> str:
        """The reference that it has then."""
        reference = Reference.parse(f"{self.host}/team/release:{tag}")
        folder = write_release(self.folder / version, self.wasm, version, fate, pad)
        if FULL:
            assert _verb("push", str(folder), str(reference)).returncode == 0
        else:
            asyncio.run(self._push(folder, reference))
        return str(reference)

    async def _push(self, folder: Path, reference: Reference) -> None:
        """As the verb does it."""
        store = ContentStore(folder.with_suffix(".store"))
        digest = await build(folder, store)
        async with RegistryClient() as client:
            await transfer.push(client, digest, store, reference)


async def build(folder: Path, store: ContentStore) -> Digest:
    """The bundle of an application that needs nothing from elsewhere."""
    found = await local.load(folder, state_dir=folder, fetch=_nothing)
    return bundle.build(found, store)


async def _nothing(url: str, limit: int) -> bytes:
    raise AssertionError(url)


def _verb(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [EDGE, *arguments], capture_output=True, text=True, timeout=3 * PATIENCE, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


# --- a board --------------------------------------------------------------------------------------


@dataclass(slots=True)
class Board:
    """A node whose configuration, state and log are in `folder`. `state`: elsewhere, if so."""

    folder: Path
    config: str = ""
    environ: Mapping[str, str] = field(default_factory=dict)
    nursery: Nursery | None = None  # which has an environment of its own
    state: Path = field(init=False)
    process: subprocess.Popen[str] | Forked | None = None
    url: str = ""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.state = self.folder / "state"
        (self.folder / "edge.toml").write_text(f'{self.config}\n[mirror]\nlisten = ""\n')

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        """It does not outlive its test, however that ends."""
        if self.process is not None:
            self.kill()

    def launch(self) -> None:
        """Begins to start it."""
        options = ["run", "--config", "edge.toml", "--listen", "127.0.0.1:0"]
        options += ["--state-dir", str(self.state), "--socket", "api"]
        if self.nursery is not None:
            self.process = self.nursery.launch(self.folder, options)
            return
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                [EDGE, *options],
                cwd=self.folder,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **self.environ},
            )

    def serves(self) -> bool:
        """Waits until it does; False: it has ended before."""
        assert self.process is not None
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.url = line.removeprefix("listening on ").strip()
        return bool(self.url)

    def start(self) -> None:
        self.launch()
        assert self.serves(), self.log

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.wait()

    def wait(self) -> int:
        assert self.process is not None
        code = self.process.wait(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None
        return code

    def stop(self) -> int:
        """As an operator would; its exit code."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        return self.wait()

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    # What it answers

    def get(self, path: str = "/") -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def edge(self, *arguments: str, code: int = 0) -> str:
        """A verb that asks this node, as people do it; what it says."""
        done = _verb(*arguments, "--socket", str(self.folder / "api"))
        assert done.returncode == code, (done, self.log[-4000:])
        return done.stdout + done.stderr

    def ask(self, route: str, **body: Any) -> Any:
        """The same without a process, in a hundredth of the time. Raises EdgeError."""

        async def run() -> Any:
            async with asyncio.timeout(PATIENCE), NodeClient(self.folder / "api") as node:
                return await (node.result(route, body) if body else node.get(route))

        return asyncio.run(run())

    def deploy(self, reference: str) -> None:
        if FULL:
            self.edge("deploy", reference)
        else:
            self.ask("/v1/deploy", reference=reference)

    def refuses(self, reference: str) -> str:
        """Deploys what cannot go live; why it did not."""
        if FULL:
            return self.edge("deploy", reference, code=1).partition("\nhint: ")[0]
        try:
            self.ask("/v1/deploy", reference=reference)
        except EdgeError as error:
            return error.message
        raise AssertionError(f"{reference} went live")

    def sync(self) -> None:
        if FULL:
            self.edge("sync")
        else:
            self.ask("/v1/sync", retry=False)

    def apps(self) -> dict[str, dict[str, Any]]:
        """What it has, by name; a reason is text."""
        known = self.ask("/v1/apps")
        return {app["name"]: {**app, "reason": app["reason"] or ""} for app in known}

    def app(self) -> dict[str, Any]:
        """The one that the campaigns deploy."""
        return self.apps()["release"]

    def until(self, true: Callable[[], object], seconds: float = PATIENCE) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, self.log[-4000:]
            time.sleep(0.02)

    # What it keeps

    def litter(self) -> list[str]:
        """Files that nobody finished."""
        files = (path for path in self.state.rglob("*") if path.is_file())
        names = (str(path.relative_to(self.state)) for path in files)
        return [
            n for n in names if "incoming/" in n or n.rpartition("/")[2].startswith((".", "tmp"))
        ]

    def blobs(self) -> int:
        return len(list((self.state / "blobs" / "sha256").iterdir()))

    def files(self) -> Counter[str]:
        """How many there are, by directory."""
        files = (path for path in self.state.rglob("*") if path.is_file())
        return Counter(str(path.parent.relative_to(self.state)) for path in files)

    def remembers(self) -> dict[str, Any]:
        """Its state file, which can be read at any time."""
        found = json.loads((self.state / "apps.json").read_text())
        assert found["schema"] == 1
        return dict(found)


@contextmanager
def board(folder: Path, config: str = "", **environ: str) -> Iterator[Board]:
    """One that runs. It must end well."""
    with Board(folder, config, environ) as found:
        found.start()
        try:
            yield found
        except BaseException:
            sys.stderr.write(found.log[-4000:])
            raise
        assert found.stop() == 0, found.log[-4000:]
    assert "Traceback" not in found.log, found.log


# --- load -----------------------------------------------------------------------------------------

COUNTED = """
local threads, seen = {}, {}
function setup(thread) table.insert(threads, thread) end
function init() counts = {} end
function response(status, headers, body)
  local key = status .. " " .. body:gsub('"invocation":%s*"[^"]*"', ""):gsub("%s+$", "")
  counts[key] = (counts[key] or 0) + 1
end
function done(summary)
  for _, thread in ipairs(threads) do
    for key, count in pairs(thread:get("counts")) do seen[key] = (seen[key] or 0) + count end
  end
  for key, count in pairs(seen) do io.stderr:write(count .. "\\t" .. key .. "\\n") end
  local e = summary.errors
  io.stderr:write((e.connect + e.read + e.write + e.timeout) .. "\\terrors\\n")
end
"""


@dataclass(slots=True)
class Load:
    """What the clients saw, once it is over: status and body, and how often."""

    seen: Counter[str] = field(default_factory=Counter)
    errors: int = 0  # of connections

    @property
    def total(self) -> int:
        return self.seen.total()

    def failed(self) -> dict[str, int]:
        """Answers but 200."""
        return {key: count for key, count in self.seen.items() if not key.startswith("200 ")}


@contextmanager
def load(board: Board, folder: Path, *, clients: int = CLIENTS) -> Iterator[Load]:
    """wrk, without a pause, while the block runs."""
    script = folder / "counted.lua"
    script.write_text(COUNTED)
    command = ["wrk", "-t1", f"-c{clients}", "-d1h", "--timeout", "20s", "-s", str(script)]
    process = subprocess.Popen(
        [*command, f"{board.url}/"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    found = Load()
    try:
        time.sleep(0.2)  # wrk has no other way to say that it runs
        yield found
    finally:
        process.send_signal(signal.SIGINT)
        said, counted = process.communicate(timeout=PATIENCE)
    for line in counted.splitlines():
        count, _, key = line.partition("\t")
        if key == "errors":
            found.errors = int(count)
        elif key:
            found.seen[key] += int(count)
    assert found.total, said + counted


# --- misfortunes ----------------------------------------------------------------------------------


class Misfortune:
    """What befalls a process that is started with `environ`: see misfortune.c."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        library, self._steering = folder / "misfortune.so", folder / "steering"
        source = Path(__file__).with_name("misfortune.c")
        compiler = shutil.which("cc")
        assert compiler is not None, "needs the Debian package gcc"
        command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
        subprocess.run([*command, "-o", str(library), str(source)], check=True)
        self._steering.write_bytes(bytes(4096))
        with self._steering.open("r+b") as file:
            self._shared = mmap(file.fileno(), 4096)
        self.environ = {"LD_PRELOAD": str(library), "MISFORTUNE": str(self._steering)}

    def close(self) -> None:
        self._shared.close()

    def _put(self, place: int, value: int) -> None:
        struct.pack_into("q", self._shared, place * 8, value)

    def _get(self, place: int) -> int:
        return int(struct.unpack_from("q", self._shared, place * 8)[0])

    def kill_at(self, step: int) -> None:
        """It dies before the change of the disk of that number, counted from now on."""
        self._put(1, step)
        self._put(0, 1)

    def steps(self, begun_at: int) -> int:
        """Changes of the disk since `kill_at(begun_at)`."""
        return begun_at - self._get(1)

    def quiet(self, seconds: float = 0.2) -> None:
        """Returns when nothing has changed the disk for so long."""
        last = None
        while last != (last := self._get(1)):
            time.sleep(seconds)

    def spare(self) -> None:
        self._put(0, 0)

    def offline(self, *, offline: bool) -> None:
        self._put(2, int(offline))

    def set_clock(self, moment: float) -> None:
        """Its clock begins there, in Unix time."""
        self._put(3, int(time.time() - moment))  # noqa: TID251 - what a clock says

    def right_clock(self) -> None:
        self._put(3, 0)


@contextmanager
def misfortune(folder: Path) -> Iterator[Misfortune]:
    with contextlib.closing(Misfortune(folder)) as found:
        yield found
