"""New applications. A template is made of folders below templates/, later files before earlier."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge.application.fields import did_you_mean
from edge.application.names import kebab
from edge.errors import ConfigError, EdgeError
from edge.platform.files import is_directory

__all__ = ["TEMPLATES", "Template", "check_name", "create", "find"]

_HERE = Path(__file__).with_name("templates")

_LANGUAGES: Mapping[str, str] = {
    "python": "Python, with Spin's SDK",
    "javascript": "JavaScript; needs Node.js 20 and npm",
    "c": "C, without an SDK: the smallest and fastest",
    "rust": "Rust, with Spin's SDK; needs cargo; untested",
}
_TRIGGERS: Mapping[str, str] = {
    "http": "answers requests",
    "mqtt": "takes messages from a broker and answers some",
    "timer": "runs by the clock",
}
# What a language's applications have in common with others'.
_SHARED: Mapping[str, tuple[str, ...]] = {"c": ("world",), "javascript": ("world",)}
# The version of WASI that each toolchain's own parts are written for.
_WASI: Mapping[str, str] = {"javascript": "0.2.10"}
# As Spin's templates call them.
_SHORT: Mapping[str, str] = {"py": "python", "js": "javascript", "rs": "rust", "cron": "timer"}
# A path that a shell completes, a package of npm, a topic: nothing takes longer ones.
_NAME_MAX = 63


@dataclass(frozen=True, slots=True)
class Template:
    """What `edge new` makes."""

    trigger: str
    language: str

    @property
    def name(self) -> str:
        return f"{self.trigger}-{self.language}"

    @property
    def description(self) -> str:
        return f"{_TRIGGERS[self.trigger]}, in {_LANGUAGES[self.language]}"

    def files(self) -> Iterator[tuple[Path, Path]]:
        """Each file: where it is, and where it goes."""
        shared = _SHARED.get(self.language, ())
        for part in ("every", *shared, self.language, self.trigger, self.name):
            root = _HERE / part
            for path in sorted(root.rglob("*")):
                if path.is_file():
                    yield path, _target(path.relative_to(root))


TEMPLATES: Mapping[str, Template] = {
    template.name: template
    for template in (Template(t, language) for language in _LANGUAGES for t in _TRIGGERS)
}


def _target(path: Path) -> Path:
    """Names end in .in where ours would mean something else: `app.py` is no module of this package,
    and files that begin with a dot are left out of packages.
    """
    if path.name == "gitignore.in":
        return path.with_name(".gitignore")
    return path.with_suffix("") if path.suffix == ".in" else path


def find(name: str) -> Template:
    """The template of that name. Raises ConfigError."""
    trigger, _, language = name.partition("-")
    full = f"{_SHORT.get(trigger, trigger)}-{_SHORT.get(language, language)}"
    if full not in TEMPLATES:
        hint = did_you_mean(name, TEMPLATES) or f"there are {', '.join(TEMPLATES)}"
        raise ConfigError(f'there is no template "{name}"', hint=hint)
    return TEMPLATES[full]


def check_name(name: str) -> str:
    """The name of an application and its component. Raises ConfigError."""
    hint = "lower-case words with - between them, like my-first-function"
    if "/" in name or name in (".", ".."):
        raise ConfigError(
            f'"{name}" is a path, not a name', hint="a name, and perhaps --output FOLDER"
        )
    try:
        kebab(name)
    except ValueError:
        raise ConfigError(f'"{name}" cannot be the name of an application', hint=hint) from None
    if name != name.lower() or len(name) > _NAME_MAX:
        raise ConfigError(f'"{name}" cannot be the name of an application', hint=hint)
    return name


def create(template: Template, name: str, folder: Path) -> None:
    """Makes the folder with a new application: all of it or nothing. Raises EdgeError."""
    if folder.is_symlink() or (folder.exists() and not _is_empty(folder)):
        raise EdgeError(
            f"{folder}: is there already", hint="another name, or --output for another folder"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _create(template, name, folder)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise EdgeError(f"{folder}: is there already") from error
        raise EdgeError(f"{folder}: {(error.strerror or str(error)).lower()}") from error


def _is_empty(folder: Path) -> bool:
    try:
        return is_directory(folder) and not any(folder.iterdir())
    except OSError:
        return False


def _create(template: Template, name: str, folder: Path) -> None:
    unfinished = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=folder.parent))
    try:
        for source, target in template.files():
            place = unfinished / target
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(_filled(source.read_text(), template, name))
            shutil.copymode(source, place)
            if place.suffix == ".sh":  # an installer may have dropped it
                place.chmod(place.stat().st_mode | 0o111 & ~_umask())
        unfinished.chmod(0o777 & ~_umask())
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _filled(text: str, template: Template, name: str) -> str:
    wasi = _WASI.get(template.language, "0.2.0")
    for key, value in (("name", name), ("crate", name.replace("-", "_")), ("wasi", wasi)):
        text = text.replace(f"%{key}%", value)
    return text


def _umask() -> int:
    # There is no way to ask but to set it.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
