"""A component's `files`: which files of the application's directory its guest sees, and where."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from edge.application.fields import Where
from edge.application.model import Component, FilePattern, FilePlacement

__all__ = ["MountedFile", "mounted_files", "watched_places"]

# Deeper directories are a mistake, and Python's recursion has an end.
MAX_DEPTH = 64

_MAGIC = re.compile(r"[*?\[]")
_PIECE = re.compile(r"\*\*/|\*+|\?|\[!?\]?[^\]]*\]|.", re.DOTALL)


class MountedFile(NamedTuple):
    """A file a guest may read: its absolute path there, and the real path here."""

    guest: str
    host: Path


def mounted_files(component: Component, root: Path, where: Where) -> tuple[MountedFile, ...]:
    """All files of a component in the order of their paths; later entries replace earlier ones.

    `root` is the application's directory. What a link leads out of it is refused with a
    ConfigError, and so is what does not exist. Reads directories: not for the event loop.
    """
    excluded = [
        _regex(pattern, ".", where.key("exclude_files").item(index))
        for index, pattern in enumerate(component.exclude_files)
    ]
    found: dict[str, Path] = {}
    for index, entry in enumerate(component.files):
        place = where.key("files").item(index)
        for guest, path in _expand(entry, root, place):
            relative = path.relative_to(root).as_posix()
            if not any(pattern.fullmatch(relative) for pattern in excluded):
                found[guest] = _inside(path, root, place)
    for guest in found:
        if (parent := next((p for p in _parents(guest) if p in found), None)) is not None:
            raise where.key("files").error(f'"{parent}" would be both a file and a directory')
    return tuple(MountedFile(guest, found[guest]) for guest in sorted(found))


def watched_places(component: Component, root: Path) -> tuple[Path, ...]:
    """Files and directories where a change may change what the component's guest sees."""
    return tuple(
        root / (_fixed_part(e.pattern) if isinstance(e, FilePattern) else e.source)
        for e in component.files
    )


def _parents(guest: str) -> Iterator[str]:
    while guest := guest.rpartition("/")[0]:
        yield guest


def _expand(
    entry: FilePattern | FilePlacement, root: Path, where: Where
) -> Iterator[tuple[str, Path]]:
    if isinstance(entry, FilePlacement):
        return _placed(entry, root, where)
    return (("/" + p.relative_to(root).as_posix(), p) for p in _matching(entry, root, where))


def _placed(entry: FilePlacement, root: Path, where: Where) -> Iterator[tuple[str, Path]]:
    source = root / os.path.normpath(entry.source)
    _inside(source, root, where)
    guest = os.path.normpath(entry.destination).replace("//", "/")
    if source.is_dir():
        for path in _walk(source, root, where):
            yield f"{guest.rstrip('/')}/{path.relative_to(source).as_posix()}", path
    elif entry.destination.endswith(("/", "/.")):
        raise where.error(f'"{entry.destination}" is not a path for a file: add its name')
    else:
        yield guest, source


def _matching(entry: FilePattern, root: Path, where: Where) -> Iterator[Path]:
    path = root / os.path.normpath(entry.pattern)
    if path.is_file():
        yield path
    elif path.is_dir():
        yield from _walk(path, root, where)
    elif _MAGIC.search(entry.pattern):
        yield from _glob(entry.pattern, root, where)
    else:
        raise where.error(f'"{entry.pattern}" does not exist')


def _glob(pattern: str, root: Path, where: Where) -> Iterator[Path]:
    pattern = os.path.normpath(pattern)
    fixed = _fixed_part(pattern)
    start = root / fixed
    if not start.is_dir():
        raise where.error(f'"{pattern}": "{fixed}" is not a directory')
    # Without "**" nothing deeper than the pattern itself can match.
    depth = MAX_DEPTH if "**" in pattern else len(Path(pattern).parts) - len(Path(fixed).parts)
    matches = _regex(pattern + "/*" if pattern.endswith("**") else pattern, "[^/]", where).fullmatch
    for path in _walk(start, root, where, depth):
        if matches(path.relative_to(root).as_posix()):
            yield path


def _fixed_part(pattern: str) -> str:
    """The directories before the first wildcard; the whole path if there is none."""
    parts = os.path.normpath(pattern).split("/")
    fixed = next((i for i, part in enumerate(parts) if _MAGIC.search(part)), len(parts))
    return "/".join(parts[:fixed])


def _regex(pattern: str, character: str, where: Where) -> re.Pattern[str]:
    """A glob as a regular expression; `character` is what "?" and each of "*" stand for."""

    def translated(piece: str) -> str:
        if piece == "**/":
            return "(?:.*/)?"
        if piece.startswith("*"):
            return f"{character}*"
        if piece == "?":
            return character
        if piece.startswith("[") and len(piece) > 1:
            negated = piece.startswith("[!")
            return f"(?!/)[{'^' if negated else ''}{_escape(piece[1 + negated : -1])}]"
        return re.escape(piece)

    try:
        return re.compile("".join(map(translated, _PIECE.findall(pattern))), re.DOTALL)
    except re.error:
        raise where.error(f'"{pattern}" is not a pattern') from None


def _escape(characters: str) -> str:
    """The inside of a set: "-" and a leading "]" mean there what they mean in a glob."""
    return re.sub(r"[\\\[\]^&~|]", r"\\\g<0>", characters)


def _walk(
    directory: Path, root: Path, where: Where, depth: int = MAX_DEPTH, above: tuple[Path, ...] = ()
) -> Iterator[Path]:
    """The files below a directory, in order. Links to directories are followed, but not around."""
    real = _inside(directory, root, where)
    if real in above or depth == 0:
        return
    for path in sorted(directory.iterdir()):
        if path.is_dir():
            yield from _walk(path, root, where, depth - 1, (*above, real))
        elif path.is_file():
            yield path


def _inside(path: Path, root: Path, where: Where) -> Path:
    """The real path, if it exists within `root`."""
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a link that leads to itself
        raise where.error(f'"{os.path.relpath(path, root)}" does not exist') from None
    if not real.is_relative_to(root.resolve()):
        raise where.error(
            f'"{os.path.relpath(path, root)}" is outside of the application\'s directory'
        )
    return real
