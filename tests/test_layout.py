"""The shape of the code: layers, one importer for each third-party library, sizes."""

from __future__ import annotations

import ast
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "edge"

# From the bottom up: each layer may import itself and what is above its line.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("config", "platform"),
    ("application",),
    ("engine", "develop"),
    ("wasi", "spin"),
    ("invocation",),
    ("triggers", "registry", "fleet"),
    ("node",),
    ("cli", "__main__"),
)
# These import `errors` and nothing else of ours.
BESIDE = {"config", "platform"}

# Third-party library -> the packages (or modules) that may import it.
IMPORTERS: dict[str, tuple[str, ...]] = {
    "wasmtime": ("edge.engine",),
    "httptools": ("edge.triggers.http",),
    "aiohttp": ("edge.fleet", "edge.registry", "edge.wasi.http", "edge.node"),
    "zeroconf": ("edge.fleet",),
    "paho": ("edge.spin.broker",),
    "redis": ("edge.spin.redisclient",),
    "systemd": ("edge.platform",),
    "amqtt": ("edge.triggers.broker",),
    "cryptography": ("edge.registry.signatures.keys", "edge.fleet.certificates"),
    "nacl": ("edge.registry.signatures.sealed",),
    "prometheus_client": ("edge.node.metrics",),
    "textual": ("edge.cli.screen",),
    "opentelemetry": ("edge.node.otlp",),
}
# Where a package is not called what it is imported as.
PACKAGES = {"paho": "paho-mqtt", "nacl": "PyNaCl", "prometheus_client": "prometheus-client"}
# Names that aiohttp brings along and that its importers may use.
TRANSITIVE = {"yarl": "aiohttp", "multidict": "aiohttp", "rich": "textual"}

PRELOADED = (
    *("aiohttp.web", "cryptography.x509", "httptools", "nacl.secret", "paho.mqtt.client"),
    *("redis.asyncio", "textual.widgets", "wasmtime", "zeroconf.asyncio"),
)

# Above this a module holds two ideas.
MAX_LINES = 400


def modules() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    """Full names of what a module imports, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module is not None
            # `from edge import config` names the module only together with the alias.
            if node.module == "edge":
                yield from (f"edge.{alias.name}" for alias in node.names)
            else:
                yield node.module


def layer(name: str) -> int:
    part = name.split(".")[1]
    for rank, names in enumerate(LAYERS):
        if part in names:
            return rank
    raise AssertionError(f"{name}: belongs to no layer")


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_imports_point_down_only(path: Path) -> None:
    name = dotted(path)
    if name == "edge":
        assert not list(imports(path)), "the map imports nothing"
        return
    own = name.split(".")[1]
    for target in imports(path):
        if not target.startswith("edge."):
            continue
        other = target.split(".")[1]
        if other == own:
            if own == "triggers" and name.count(".") > 1 and target.count(".") > 1:
                same = target.split(".")[2] == name.split(".")[2]
                assert same, f"{name} imports {target}: triggers do not know each other"
            continue
        assert layer(target) < layer(name), f"{name} imports {target}: that is not below it"
        if own in BESIDE:
            assert other == "errors", f"{name} imports {target}: only errors is allowed"


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_a_third_party_library_has_one_importer(path: Path) -> None:
    name = dotted(path)
    for target in imports(path):
        top = target.split(".")[0]
        if top == "edge" or top in sys.stdlib_module_names:
            continue
        allowed = IMPORTERS.get(TRANSITIVE.get(top, top))
        assert allowed is not None, f"{name} imports {target}: not a dependency of this project"
        assert any(name == a or name.startswith(f"{a}.") for a in allowed), (
            f"{name} imports {target}: only {', '.join(allowed)} may"
        )


def test_what_is_declared_as_a_dependency_has_an_importer() -> None:
    required = {
        r.split(";")[0].split("=")[0].split("~")[0].strip()
        for r in importlib.metadata.requires("edge") or ()
        if "extra ==" not in r
    }
    known = {PACKAGES.get(name, name) for name in IMPORTERS}
    assert required <= known


@pytest.mark.parametrize("path", [*modules(), *PACKAGE.rglob("*.p[yx][xi]")], ids=lambda p: p.name)
def test_a_module_is_one_idea_long(path: Path) -> None:
    lines = path.read_text().count("\n")
    assert lines <= MAX_LINES, f"{lines} lines: two ideas in one file?"


def test_each_module_imports_alone() -> None:
    # A fork for each module: what an earlier import left behind would hide a missing one.
    # Other people's libraries are loaded before: they take most of the time.
    script = """
import contextlib, importlib, os, sys, traceback
import asyncio, ctypes, dataclasses, typing, collections.abc
for name in sys.argv[1].split():
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
bad, under_way = [], {}
def end_one():
    child, status = os.wait()
    name = under_way.pop(child)
    if status:
        bad.append(name)
for name in sys.argv[2:]:
    child = os.fork()
    if child == 0:
        try:
            importlib.import_module(name)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    under_way[child] = name
    if len(under_way) >= os.cpu_count():
        end_one()
while under_way:
    end_one()
sys.exit(f"do not import alone: {bad}" if bad else 0)
"""
    names = [dotted(p) for p in modules() if p.name != "__main__.py"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, " ".join(PRELOADED), *names],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
