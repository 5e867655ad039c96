"""Components with the values of their variables."""

from __future__ import annotations

import pytest

from edge.application import manifest
from edge.application.resolved import resolve_components
from edge.errors import ConfigError

APPLICATION = manifest.read("""
spin_manifest_version = 2
application.name = "a"
trigger = {}

[variables]
host = { default = "localhost" }
token = { required = true, secret = true }

[component.one]
source = "one.wasm"
variables = { url = "http://{{ host }}/", bearer = "Bearer {{ token }}" }
allowed_outbound_hosts = ["http://{{ host }}", "http://*.spin.internal"]

[component.two]
source = "two.wasm"
""")


def test_each_component_gets_its_own() -> None:
    found = resolve_components(APPLICATION, {"token": "t", "host": "a.example"})
    assert found["one"].variables == {"url": "http://a.example/", "bearer": "Bearer t"}
    assert found["one"].hosts.allows("http", "a.example")
    assert found["one"].hosts.allows("http", "two.spin.internal")
    assert not found["one"].hosts.allows("http", "three.spin.internal")
    assert found["two"].variables == {}
    assert not found["two"].hosts


def test_a_value_that_makes_no_host_names_the_component() -> None:
    with pytest.raises(ConfigError, match=r"component one: allowed_outbound_hosts: .*host"):
        resolve_components(APPLICATION, {"token": "t", "host": "a b"})


def test_values_are_required() -> None:
    with pytest.raises(ConfigError, match="token: required"):
        resolve_components(APPLICATION, {})
