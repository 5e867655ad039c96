"""`[[trigger.cron]]` with its options: what is read, and what a mistake is told."""

from __future__ import annotations

import pytest

from edge.application import manifest
from edge.application.cron import Cron, Every
from edge.application.timers import CronTrigger, read_cron
from edge.errors import ConfigError

MANIFEST = """
spin_manifest_version = 2
application.name = "test"

[[trigger.mqtt]]
topic = "a"
component = "report"

[[trigger.cron]]
id = "nightly"
component = "report"
cron_expression = "{expression}"
{more}

[component.report]
source = "report.wasm"
tool.edge.concurrency = 3

[component.report.tool.edge.trigger.nightly]
{options}
"""


def read(expression: str = "@daily", options: str = "", more: str = "") -> CronTrigger:
    text = MANIFEST.format(expression=expression, options=options, more=more)
    (trigger,) = read_cron(manifest.read(text))
    return trigger


def test_a_timer_has_defaults() -> None:
    trigger = read()
    assert (trigger.id, trigger.component) == ("nightly", "report")
    assert isinstance(trigger.schedule, Cron)
    assert str(trigger.zone) == "UTC"
    assert (trigger.overlap, trigger.jitter, trigger.missed) == ("skip", 0.0, "skip")
    assert trigger.concurrency == 3


def test_a_timer_has_options() -> None:
    options = 'time_zone = "Europe/Berlin"\noverlap = "queue"\njitter = "2m"\nmissed = "once"'
    trigger = read("0 30 2 * * MON-FRI", options)
    assert str(trigger.zone) == "Europe/Berlin"
    assert (trigger.overlap, trigger.jitter, trigger.missed) == ("queue", 120.0, "once")


def test_every_is_a_schedule_too() -> None:
    assert read("@every 90s").schedule == Every(90.0)


@pytest.mark.parametrize(
    ("expression", "options", "more", "where", "why"),
    [
        ("* * *", "", "", "trigger.cron[0].cron_expression", "has 3 fields"),
        ("61 * * * * *", "", "", "trigger.cron[0].cron_expression", 'second: "61"'),
        ("@daily", "", "time_zone = 'UTC'", "trigger.cron[0].time_zone", "unknown key"),
        ("@daily", "", "components.a = 'report'", "trigger.cron[0]", "runs one component"),
        ("@daily", "time_zone = 'Mars/Olympus'", "", ".nightly.time_zone", "is no time zone"),
        ("@daily", "time_zone = '../passwd'", "", ".nightly.time_zone", "is no time zone"),
        ("@daily", "time_zone = 'Europe'", "", ".nightly.time_zone", "is no time zone"),
        ("@daily", "time_zone = ''", "", ".nightly.time_zone", "is no time zone"),
        ("@daily", "overlap = 'later'", "", ".nightly.overlap", 'must be "skip", "queue" or'),
        ("@daily", "missed = 'twice'", "", ".nightly.missed", 'must be "skip" or "once"'),
        ("@daily", "jitter = 5", "", ".nightly.jitter", "must be a duration"),
        ("@daily", "retries = 5", "", ".nightly.retries", "a timer has no such option"),
        ("@every 5s", "time_zone = 'UTC'", "", ".nightly.time_zone", "follows no clock"),
        ("@every 5s", "missed = 'once'", "", ".nightly.missed", "follows no clock"),
    ],
)
def test_a_mistake_names_file_and_key(
    expression: str, options: str, more: str, where: str, why: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(expression, options, more)
    assert caught.value.message.startswith("spin.toml: ")
    assert f"{where}: " in caught.value.message
    assert why in caught.value.message


def test_a_timer_needs_its_expression() -> None:
    text = MANIFEST.format(expression="", options="", more="").replace('cron_expression = ""', "")
    with pytest.raises(ConfigError, match=r'trigger.cron\[0\]: missing key "cron_expression"'):
        read_cron(manifest.read(text))
