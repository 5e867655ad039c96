"""The files that `edge.toml` names: where they are, and whether they are what they should be."""

from __future__ import annotations

import ssl
import stat
from dataclasses import dataclass, field
from pathlib import Path

from edge.application.fields import Where, string
from edge.errors import ConfigError
from edge.platform.files import exists, is_directory, unreadable
from edge.platform.tls import server_tls

__all__ = ["Files"]


@dataclass(slots=True)
class Files:
    """Readers of paths. `directory`: where relative ones begin; `credentials`: where systemd puts
    secrets, which are looked for there by their name first. With `check` files are opened: blocks.
    """

    directory: Path
    credentials: Path | None = None
    check: bool = False
    notes: list[str] = field(default_factory=list)
    holds_secret: bool = False  # the configuration itself: a password stands in it

    def note(self, where: Where, text: str) -> None:
        self.notes.append(f"{where}: {text}")

    def path(self, value: object, where: Where) -> Path:
        text = string(value, where)
        if not text or "\0" in text:
            raise where.error("must be a path")
        return self.directory / text

    def file(self, value: object, where: Where) -> Path:
        path = self.path(value, where)
        if self.check:
            readable(path, where)
        return path

    def private(self, value: object, where: Where) -> Path:
        """A file that nobody else should read."""
        path = self.file(value, where)
        self._unshared(path, where)
        return path

    def application(self, value: object, where: Where) -> Path:
        """A directory with a spin.toml, a spin.toml, or a Wasm file."""
        path = self.path(value, where)
        if self.check:
            readable(path / "spin.toml" if is_directory(path) else path, where)
        return path

    def secret_file(self, value: object, where: Where) -> Path:
        """A file, or one of systemd's credentials by its name."""
        path = self.path(value, where)
        name = string(value, where)
        if "/" in name:
            return self.private(value, where)
        if self.credentials is not None and exists(self.credentials / name):
            path = self.credentials / name
        elif self.check and self.credentials is None and not exists(path):
            self.note(where, f"{name}: not beside this file; is it a credential of the service?")
            return path
        if self.check:
            readable(path, where)
        self._unshared(path, where)
        return path

    def passing(self, value: object, where: Where) -> Path:
        """As `secret_file`, of one that is removed once it has served."""
        path, name = self.path(value, where), string(value, where)
        if "/" not in name and self.credentials and exists(self.credentials / name):
            path = self.credentials / name
        if self.check and exists(path):
            readable(path, where)
            self._unshared(path, where)
        return path

    def _unshared(self, path: Path, where: Where) -> None:
        if self.check and path.stat().st_mode & 0o004:
            self.note(where, f"{path}: everybody here may read it")

    def credential(self, value: object, where: Where) -> str:
        """The name of a credential."""
        name = string(value, where)
        if not name or "/" in name or name.startswith("."):
            raise where.error("must be the name of a credential")
        if self.check and self.credentials is not None:
            readable(self.credentials / name, where)
        return name

    def authority(self, value: object, where: Where) -> Path:
        """Certificates of authorities."""
        path = self.file(value, where)
        if self.check:
            try:
                ssl.create_default_context(cafile=path)
            except ssl.SSLError:
                raise where.error(f"{path}: holds no certificate in PEM") from None
        return path

    def key(self, value: object, where: Where) -> Path:
        """A public key that signatures are checked with."""
        path = self.file(value, where)
        if self.check:
            # Its library takes long to load, and a node without signatures never does.
            from edge.registry.signatures.keys import PublicKey

            try:
                PublicKey.load(path)
            except ConfigError as error:
                raise where.error(error.message, error.hint) from None
        return path

    def certificate(self, certificate: Path | str, key: Path | str, where: Where) -> None:
        """Whether the two belong together, where both are there: `secret_file` has seen to that."""
        if not self.check or not exists(Path(key)):
            return
        try:
            server_tls(Path(certificate), Path(key))
        except ConfigError as error:
            raise where.error(error.message) from None


def readable(path: Path, where: Where) -> None:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise where.error(f"{path}: is not a file")
        path.open("rb").close()
    except OSError as error:
        raise where.error(f"{path}: {unreadable(error)}") from None
