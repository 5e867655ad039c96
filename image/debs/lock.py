"""Writes requirements.txt and build-requirements.txt anew: `lock.py`, run by Python 3.11.

Exact versions with the digests of the wheels for both interpreters and both architectures, so a
package that is built later holds the same. What the newest of each is, pyproject.toml bounds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PYTHONS = ("3.11", "3.13")
MACHINES = ("x86_64", "aarch64")
# The oldest glibc of any is 2.36, Debian 12's.
PLATFORMS = ("manylinux2014", "manylinux_2_28", "manylinux_2_31", "manylinux_2_34")


def main() -> int:
    # pip takes markers like python_version from the interpreter that runs it.
    if sys.version_info[:2] != (3, 11):
        sys.stderr.write("lock: needs Python 3.11: what only that one needs would be missing\n")
        return 69
    project = tomllib.loads((HERE.parent.parent / "pyproject.toml").read_text())
    write("requirements.txt", project["project"]["dependencies"])
    write("build-requirements.txt", project["build-system"]["requires"])
    return 0


def write(name: str, requirements: list[str]) -> None:
    versions: dict[str, str] = {}
    digests: defaultdict[str, set[str]] = defaultdict(set)
    for package, version, digest in found(requirements):
        versions[package] = version
        digests[package].add(digest)
    text = "# Written by lock.py.\n"
    for package, version in sorted(versions.items()):
        hashes = (f"    --hash=sha256:{digest}" for digest in sorted(digests[package]))
        text += " \\\n".join((f"{package}=={version}", *hashes)) + "\n"
    (HERE / name).write_text(text)
    sys.stderr.write(f"lock: {name}: {len(versions)} packages\n")


def found(requirements: list[str]) -> Iterator[tuple[str, str, str]]:
    """Name, version and digest of each wheel that pip would install."""
    for python, machine in product(PYTHONS, MACHINES):
        for entry in report(requirements, python, machine)["install"]:
            about = entry["metadata"]
            digest = entry["download_info"]["archive_info"]["hashes"]["sha256"]
            yield about["name"].lower().replace("_", "-"), about["version"], digest


def report(requirements: Iterable[str], python: str, machine: str) -> Any:
    platforms = [word for name in PLATFORMS for word in ("--platform", f"{name}_{machine}")]
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory) / "report.json"
        command = [sys.executable, "-m", "pip", "--quiet", "install", "--dry-run"]
        command += ["--ignore-installed", "--report", str(target), "--target", directory]
        command += ["--only-binary", ":all:", "--implementation", "cp", *platforms]
        subprocess.run([*command, "--python-version", python, *requirements], check=True)  # noqa: S603
        return json.loads(target.read_text())


if __name__ == "__main__":
    sys.exit(main())
