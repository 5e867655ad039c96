"""What is not offered says so in the types of its own, and no import of Spin's SDK stays open."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edge import spin, wasi
from edge.engine.host import Err, Interface, Interfaces
from edge.engine.loader import load_plan
from edge.engine.plan import HostCall, Missing
from edge.engine.types import Primitive, Result, Variant
from edge.spin import llm, mysql, postgres

CALLS: list[tuple[Interface, str, tuple[Any, ...]]] = [
    *(
        (interface, "[static]connection.open", (None, "host=localhost"))
        for interface in (
            postgres.POSTGRES,
            postgres.POSTGRES_3,
            postgres.POSTGRES_4,
            mysql.MYSQL,
        )
    ),
    (postgres.POSTGRES_4, "[method]connection-builder.build", (postgres.ConnectionBuilder(),)),
    *(
        (interface, name, (None, "address", "SELECT 1", []))
        for interface in (postgres.UNVERSIONED, mysql.UNVERSIONED)
        for name in ("query", "execute")
    ),
    *((i, "infer", (None, "model", "prompt", None)) for i in (llm.LLM, llm.UNVERSIONED)),
    *((i, "generate-embeddings", (None, "model", [])) for i in (llm.LLM, llm.UNVERSIONED)),
]


@pytest.mark.parametrize(
    ("interface", "name", "arguments"), CALLS, ids=[f"{i.name}#{n}" for i, n, _ in CALLS]
)
def test_a_call_fails_with_the_interfaces_own_error(
    interface: Interface, name: str, arguments: tuple[Any, ...]
) -> None:
    function = interface.functions[name]
    with pytest.raises(Err) as raised:
        function.call(*arguments)
    case, text = raised.value.payload
    result = function.type.result
    assert isinstance(result, Result)
    assert isinstance(result.err, Variant)
    assert (case, Primitive("string")) in result.err.cases
    assert "edge does not offer" in text


def test_a_connection_can_be_described_before_it_fails() -> None:
    builder = postgres.ConnectionBuilder.new(None, "host=localhost")
    assert builder.set_ca_root("certificate") is None


def test_every_import_of_the_python_sdk_is_served(tmp_path: Path) -> None:
    build = guests()
    wit = tmp_path / "wit"
    shutil.copytree(build.site_packages(build.toolchain("wit")) / "spin_sdk/wit", wit)
    world = "fermyon:spin/spin-all@2.0.0"
    embedded, output = tmp_path / "sdk.embedded", tmp_path / "sdk.wasm"
    build.wasm_tools("component", "embed", "--dummy", wit, "-w", world, "-o", embedded)
    build.wasm_tools("component", "new", embedded, "-o", output)
    served = Interfaces((*wasi.interfaces(), *spin.interfaces()))
    plan = load_plan(output.read_bytes(), served)
    assert not [t for t in plan.trampolines if isinstance(t, Missing)]
    called = {t.interface for t in plan.trampolines if isinstance(t, HostCall)}
    assert {"fermyon:spin/redis@2.0.0", "spin:postgres/postgres@4.0.0"} <= called
    assert [name for name in plan.imports if served.find(name) is None] == []


def guests() -> ModuleType:
    """The builder of guests, which knows where the SDK's WIT is."""
    path = Path(__file__).parents[1] / "guests/build.py"
    spec = importlib.util.spec_from_file_location("guest_builder", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
