"""Options of a node over, and under, those of an application."""

from __future__ import annotations

import pytest

from edge.application import manifest
from edge.application.fields import Where
from edge.application.model import Application
from edge.application.options import given
from edge.application.overrides import overridden
from edge.errors import ConfigError

WHERE = Where("edge.toml", "component")


@pytest.fixture
def application() -> Application:
    return manifest.read(
        """
        spin_manifest_version = 2
        [application]
        name = "thermo"
        [[trigger.http]]
        route = "/"
        component = "web"
        [[trigger.mqtt]]
        id = "readings"
        topic = "t"
        qos = "1"
        component = "sensor"
        [component.web]
        source = "w.wasm"
        [component.web.tool.edge]
        timeout = "5s"
        [component.sensor]
        source = "s.wasm"
        [component.sensor.tool.edge.trigger.readings]
        retries = 2
        share = "fleet"
        """
    )


def test_only_what_is_written_is_given() -> None:
    assert given({}, WHERE) == {}
    written = {"timeout": "3s", "health": "", "trigger": {"x": {"retries": 1}}}
    assert given(written, WHERE) == {
        "timeout": 3.0,
        "health": None,
        "triggers": {"x": {"retries": 1}},
    }
    with pytest.raises(ConfigError, match=r"component\.timeout"):
        given({"timeout": 3}, WHERE)


def test_nothing_given_changes_nothing(application: Application) -> None:
    assert overridden(application, {}, {}) == application


def test_an_override_wins_over_the_manifest_which_wins_over_defaults(
    application: Application,
) -> None:
    defaults = {"timeout": 60.0, "memory": 1 << 20}
    found = overridden(application, defaults, {"web": {"memory": 2 << 20}}).components
    assert found["web"].options.timeout == 5.0, "the manifest says so"
    assert found["web"].options.memory == 2 << 20, "the node says so of this one"
    assert found["sensor"].options.timeout == 60.0
    assert found["sensor"].options.memory == 1 << 20
    over = overridden(application, defaults, {"web": {"timeout": 7.0}}).components
    assert over["web"].options.timeout == 7.0


def test_options_of_a_trigger_are_merged_key_by_key(application: Application) -> None:
    over = {"sensor": {"triggers": {"readings": {"retries": 9}}}}
    options = overridden(application, {}, over).components["sensor"].options
    assert options.triggers == {"readings": {"retries": 9, "share": "fleet"}}


@pytest.mark.parametrize(
    ("overrides", "why", "hint"),
    [
        ({"wep": {}}, 'thermo: has no component "wep"', 'did you mean "web"?'),
        ({"x": {}}, 'thermo: has no component "x"', "there is sensor, web"),
        (
            {"sensor": {"triggers": {"reading": {}}}},
            'thermo: component sensor: has no trigger "reading"',
            'did you mean "readings"?',
        ),
        ({"web": {"triggers": {"x": {}}}}, 'thermo: component web: has no trigger "x"', None),
    ],
)
def test_what_the_application_does_not_have_is_refused(
    application: Application, overrides: dict[str, dict[str, object]], why: str, hint: str | None
) -> None:
    with pytest.raises(ConfigError) as caught:
        overridden(application, {}, overrides)
    assert (caught.value.message, caught.value.hint) == (why, hint)
