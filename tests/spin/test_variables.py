from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from stores_lab import component

from edge.application.templates import Template
from edge.engine.host import Err
from edge.errors import ConfigError
from edge.spin import variables, wasi_config
from edge.spin.platform import Platform, Stores

GET = variables.VARIABLES.functions["get"].call
GET_CONFIG = variables.CONFIG.functions["get-config"].call
WASI = {name: item.call for name, item in wasi_config.STORE.functions.items()}


def context(**values: str) -> Any:
    return SimpleNamespace(platform=Platform(values), outbound=None)


def declared(**templates: str) -> Any:
    return component((), (), variables={n: Template.parse(t) for n, t in templates.items()})


def granted(tmp_path: Path, values: Mapping[str, str], **templates: str) -> Platform:
    return Stores(tmp_path).grant("app", declared(**templates), values)


def test_a_component_sees_its_own_variables_with_the_application_s_values(tmp_path: Path) -> None:
    values = {"host": "example.org", "token": "t0"}
    platform = granted(tmp_path, values, url="https://{{ host }}/", key="{{ token }}", plain="x")
    guest = SimpleNamespace(platform=platform)
    assert [GET(guest, name) for name in ("url", "key", "plain")] == [
        "https://example.org/", "t0", "x",
    ]  # fmt: skip
    with pytest.raises(Err) as caught:
        GET(guest, "token")  # the application's, not the component's
    assert caught.value.payload[0] == "undefined"
    assert "t0" not in repr(platform), "secrets are not for logs"


def test_a_variable_without_a_value_is_refused_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        granted(tmp_path, {"a": "1"}, b="{{ a }}{{ nope }}")
    assert caught.value.message.startswith("app: component.guest.variables.b: ")
    assert "nope" in caught.value.message


@pytest.mark.parametrize("name", ["", "A", "1a", "a-b", "a__b", "a_", "ü", "a\0"])
def test_a_name_that_is_none_is_told_from_one_that_is_unknown(name: str) -> None:
    for call, invalid, unknown in (
        (GET, "invalid-name", "undefined"),
        (GET_CONFIG, "invalid-key", "provider"),
    ):
        with pytest.raises(Err) as caught:
            call(context(), name)
        assert caught.value.payload[0] == invalid
        with pytest.raises(Err) as caught:
            call(context(), "well_formed")
        assert caught.value.payload[0] == unknown
    assert WASI["get"](context(), name) is None  # what wasi:config says to both


def test_wasi_config_shows_the_same() -> None:
    guest = context(a="1", b="")
    assert GET_CONFIG(guest, "b") == ""
    assert WASI["get"](guest, "a") == "1"
    assert WASI["get-all"](guest) == [("a", "1"), ("b", "")]
