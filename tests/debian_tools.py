"""Programs of a newer Debian than this one, unpacked and not installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SUITE = "trixie"


@dataclass(frozen=True, slots=True)
class Tools:
    """A tree of packages whose programs run by its own loader, with its own libraries."""

    root: Path

    @classmethod
    def unpack(cls, cache: Path, *packages: str) -> Tools:
        """From Debian, once: later runs find them in `cache`. Needs mmdebstrap, not root."""
        root = cache / "-".join((SUITE, *packages))
        if not root.exists():
            program = shutil.which("mmdebstrap")
            assert program is not None, "needs the Debian package mmdebstrap"
            with tempfile.TemporaryDirectory(dir=cache) as directory:
                new = Path(directory) / "root"
                include = f"--include={','.join(packages)}"
                command = [program, "--quiet", "--variant=extract", include, SUITE, str(new)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                assert done.returncode == 0, done.stderr
                new.rename(root)
        return cls(root)

    def command(self, name: str) -> list[str]:
        (loader,) = self.root.glob("usr/lib/*-linux-gnu/ld-linux-*.so.*")
        program = self.root / "usr/bin" / name
        return [str(loader), "--library-path", str(loader.parent), str(program)]

    def run(
        self, name: str, *arguments: str | Path, cwd: Path, expected: int = 0, **env: str
    ) -> str:
        """What a program writes. Its home is `cwd`: nothing of this user's is used or changed."""
        known: Mapping[str, str] = {"PATH": os.defpath, "HOME": str(cwd)}
        done = subprocess.run(
            [*self.command(name), *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            cwd=cwd,
            env={**known, **env},
        )
        assert done.returncode == expected, done.stderr
        return done.stdout + done.stderr
