"""A signed update, written into the slot that is not running.

An update is a tar archive: `signature`, `manifest.json`, `slot.tar` (kernel, RAM disk, device
trees), `root.sqfs`. The signature covers the manifest, the manifest has the digests. It is read as
a stream: nothing is written before the signature is verified, and what was written is read back.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ab import boards
from ab.disk import BOOT, SLOTS, Problem, device, sync_directory, writable

HERE = Path("/usr/lib/edge-image")
KEY = HERE / "update.pub"
CHUNK = 1 << 20
ORDER = ("signature", "manifest.json", "slot.tar", "root.sqfs")
MOST_METADATA = 1 << 16


@dataclass(frozen=True, slots=True)
class Part:
    """What a file of an update must be."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Image:
    """What an image or an update says of itself."""

    version: int
    board: str


def this_image() -> Image:
    found = json.loads((HERE / "image.json").read_text())
    return Image(found["version"], found["board"])


def apply(source: str, say: Callable[[str], None], *, older: bool = False) -> str:
    """Writes the update and arms its trial; the slot it went to. The caller restarts."""
    slot, on_trial = boards.running(Path("/proc/cmdline").read_text())
    if on_trial:
        raise Problem("this system is itself on trial: wait for its end (edge-image status)")
    if not KEY.exists():
        raise Problem("this image takes no updates: it was built without --update-key")
    here, target = this_image(), boards.other(slot)
    board = boards.of(here.board, BOOT)
    with _opened(source) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        members = _members(archive)
        signature = _small(members, "signature")
        manifest_text = _small(members, "manifest.json")
        verify(manifest_text, signature, KEY)
        parts = check_manifest(manifest_text, here, older=older)
        with writable():
            folder = BOOT / f"slot-{target}"
            # Half a slot must not look like a whole one.
            shutil.rmtree(folder, ignore_errors=True)
            sync_directory(BOOT)
            say(f"slot {target}: kernel")
            _unpack(_whole(members, "slot.tar", parts["slot.tar"]), folder)
            say(f"slot {target}: root, {parts['root.sqfs'].size >> 20} MiB")
            _write_root(members, parts["root.sqfs"], device(SLOTS[target]), say)
            board.write_command_lines(target)
            sync_directory(folder)
            os.sync()
            board.arm(target)
    return target


@contextmanager
def _opened(source: str) -> Iterator[IO[bytes]]:
    if source == "-":
        yield sys.stdin.buffer
    elif source.startswith(("https://", "http://")):
        # Plain HTTP as well: what arrives counts by its signature alone.
        with urllib.request.urlopen(source, timeout=60) as answer:  # noqa: S310
            yield answer
    else:
        with Path(source).open("rb") as file:
            yield file


def _members(archive: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes], int]]:
    for expected in ORDER:
        member = archive.next()
        if member is None or member.name != expected or not member.isfile():
            raise Problem(f"not an update: {expected} is missing")
        file = archive.extractfile(member)
        assert file is not None
        yield expected, file, member.size


def _small(members: Iterator[tuple[str, IO[bytes], int]], name: str) -> bytes:
    found, file, size = next(members)
    assert found == name
    if size > MOST_METADATA:
        raise Problem(f"not an update: {name} has {size} bytes")
    return file.read()


def verify(manifest: bytes, signature: bytes, key: Path) -> None:
    """That the holder of the private key signed these bytes. Raises Problem."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(signature)
        file.flush()
        command = ["openssl", "dgst", "-sha256", "-verify", str(key), "-signature", file.name]
        done = subprocess.run(command, input=manifest, capture_output=True, check=False)  # noqa: S603
    if done.returncode:
        raise Problem("its signature is not by this image's key")


def check_manifest(text: bytes, here: Image, *, older: bool) -> dict[str, Part]:
    """The parts of an update that is for this image. Raises Problem."""
    manifest = json.loads(text)
    if manifest["format"] != 1:
        raise Problem(f"an update of format {manifest['format']}: this system knows 1")
    if manifest["board"] != here.board:
        raise Problem(f"an update for {manifest['board']}: this is {here.board}")
    if manifest["version"] <= here.version and not older:
        raise Problem(
            f"version {manifest['version']} is not newer than {here.version}: --older takes it"
        )
    return {name: Part(**part) for name, part in manifest["parts"].items()}


def _whole(members: Iterator[tuple[str, IO[bytes], int]], name: str, part: Part) -> bytes:
    found, file, size = next(members)
    assert found == name
    data = file.read()
    if size != part.size or hashlib.sha256(data).hexdigest() != part.sha256:
        raise Problem(f"{name} was altered: nothing was changed")
    return data


def _unpack(data: bytes, folder: Path) -> None:
    folder.mkdir()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            if not member.isfile():
                continue
            file = archive.extractfile(member)
            assert file is not None
            # FAT has no owners and no modes, and a slot no folders.
            with (folder / Path(member.name).name).open("wb") as target:
                shutil.copyfileobj(file, target)
                target.flush()
                os.fsync(target.fileno())


def _write_root(
    members: Iterator[tuple[str, IO[bytes], int]],
    part: Part,
    target: Path,
    say: Callable[[str], None],
) -> None:
    _, file, size = next(members)
    room = _size(target)
    if size != part.size or size > room:
        raise Problem(f"root.sqfs has {size} bytes, its slot {room}")
    with target.open("r+b", buffering=0) as device_file:
        found = _copy(file, size, device_file, say)
        os.fsync(device_file.fileno())
        if found != part.sha256:
            raise Problem("root.sqfs was altered: the running system stays")
        # Not the page cache: the card.
        os.posix_fadvise(device_file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        device_file.seek(0)
        if _digest(device_file, size) != part.sha256:
            raise Problem(f"{target}: what was written does not read back: the card is failing")


def _copy(source: IO[bytes], size: int, target: IO[bytes], say: Callable[[str], None]) -> str:
    digest, done, shown = hashlib.sha256(), 0, 0
    while done < size:
        chunk = source.read(min(CHUNK, size - done))
        if not chunk:
            raise Problem("the update ends too early: the running system stays")
        digest.update(chunk)
        target.write(chunk)
        done += len(chunk)
        if done * 10 // size > shown:
            shown = done * 10 // size
            say(f"{shown * 10} %")
    return digest.hexdigest()


def _digest(file: IO[bytes], size: int) -> str:
    digest, left = hashlib.sha256(), size
    while left:
        chunk = file.read(min(CHUNK, left))
        if not chunk:
            break
        digest.update(chunk)
        left -= len(chunk)
    return digest.hexdigest()


def _size(target: Path) -> int:
    with target.open("rb") as file:
        return file.seek(0, os.SEEK_END)
