"""Message triggers as they are declared: what is read, and what is refused with file and key."""

from __future__ import annotations

import pytest

from edge.application.manifest import read
from edge.application.messages import DeclaredBroker, MqttTrigger, read_broker, read_mqtt
from edge.application.topics import Filter
from edge.errors import ConfigError

MANIFEST = """
spin_manifest_version = 2
[application]
name = "app"
{settings}
[variables]
site = {{ default = "lab" }}
[[trigger.mqtt]]
id = "readings"
component = "thermo"
{trigger}
[component.thermo]
source = "thermo.wasm"
[component.thermo.tool.edge.trigger.readings]
{options}
"""
VALUES = {"site": "lab"}
TOPIC = 'topic = "sensors/+/{{ site }}"'


def one(trigger: str = TOPIC, options: str = "") -> MqttTrigger:
    application = read(MANIFEST.format(settings="", trigger=trigger, options=options))
    (found,) = read_mqtt(application, VALUES)
    return found


def test_a_trigger_of_spin_is_enough() -> None:
    found = one('topic = "sensors/+/{{ site }}"\nqos = "0"')
    assert (found.id, found.component, found.filter) == (
        "readings",
        "thermo",
        Filter("sensors/+/lab"),
    )
    assert (found.qos, found.ordered, found.retries) == (0, "topic", 5)
    assert (found.reply_topic, found.dead_letter, found.responses) == (None, None, ())


def test_all_options() -> None:
    found = one(
        options="""
ordered = "none"
share = "fleet"
reply_topic = "out/{topic.1}"
responses = ["replies/#", "{{ site }}/+"]
retries = 0
retry_time = "5m"
dead_letter = "edge/dead/{application}/{component}/{trigger}"
"""
    )
    assert found.filter == Filter("sensors/+/lab", "fleet")
    assert (found.ordered, found.retries, found.retry_time) == ("none", 0, 300.0)
    assert found.responses == (Filter("replies/#"), Filter("lab/+"))
    assert found.reply_topic is not None
    assert found.reply_topic.render("sensors/k/lab") == "out/k"
    assert found.dead_letter is not None
    assert found.dead_letter.render("sensors/k/lab") == "edge/dead/app/thermo/readings"


def test_qos_2_becomes_1_with_a_note() -> None:
    found = one(f"{TOPIC}\nqos = 2")
    assert found.qos == 1
    assert found.notes == (
        "trigger readings: messages are taken with QoS 1, not 2: at least once, not exactly once",
    )


def test_a_group_may_stand_in_the_topic() -> None:
    assert one('topic = "$share/g/a/+"', 'share = "g"').filter == Filter("a/+", "g")


OPTION = "spin.toml: component.thermo.tool.edge.trigger.readings"


@pytest.mark.parametrize(
    ("trigger", "options", "message"),
    [
        ('topic = "a/#/b"', "", 'spin.toml: trigger.mqtt[0].topic: "a/#/b": "#" is only possible'),
        ('topic = "{{ no }}"', "", 'spin.toml: trigger.mqtt[0].topic: no variable is named "no"'),
        ('topic = "{{ site"', "", "spin.toml: trigger.mqtt[0].topic: unmatched '{{' in template"),
        ("", "", 'spin.toml: trigger.mqtt[0]: missing key "topic"'),
        (f"{TOPIC}\nqos = 3", "", 'spin.toml: trigger.mqtt[0].qos: must be "0", "1" or "2", not 3'),
        (f"{TOPIC}\nqos = true", "", "spin.toml: trigger.mqtt[0].qos: must be"),
        (f"{TOPIC}\nretain = 1", "", "spin.toml: trigger.mqtt[0].retain: unknown key"),
        (TOPIC, 'reply_topic = "x/{topic.9}"', f"{OPTION}.reply_topic: {{topic.9}}: topics of"),
        (TOPIC, 'dead_letter = "x/#"', f'{OPTION}.dead_letter: "x/#" has a wildcard'),
        (TOPIC, 'dead_letter = "sensors/x/lab"', f"{OPTION}.dead_letter: what is published there"),
        (TOPIC, 'responses = ["a", "b#"]', f'{OPTION}.responses[1]: "b#": "#" stands alone'),
        (TOPIC, 'responses = ["$SYS/#"]', f'{OPTION}.responses[0]: "$SYS/#": replies do not go'),
        (TOPIC, 'share = "a/b"', f'{OPTION}.share: "a/b" is no name of a group'),
        (
            'topic = "$share/g/a"',
            'share = "h"',
            f'{OPTION}.share: the topic names another group, "g"',
        ),
        (TOPIC, 'overlap = "skip"', f"{OPTION}.overlap: a trigger of messages has no such option"),
    ],
)
def test_mistakes_name_file_and_key(trigger: str, options: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        one(trigger, options)
    assert caught.value.message.startswith(message)


def broker(settings: str) -> DeclaredBroker | None:
    text = f"[application.trigger.mqtt]\n{settings}" if settings else ""
    return read_broker(read(MANIFEST.format(settings=text, trigger=TOPIC, options="")), VALUES)


def test_the_broker_that_an_application_names() -> None:
    assert broker("") is None
    assert broker('address = "mqtt://{{ site }}:1"\nusername = ""\npassword = ""') == (
        DeclaredBroker("mqtt://lab:1")
    )
    found = broker(
        'address = "mqtt://h"\nusername = "u"\npassword = "secret"\nkeep_alive_interval = "30"'
    )
    assert found == DeclaredBroker("mqtt://h", "u", "secret", 30)
    assert "secret" not in repr(found)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('username = "u"', 'spin.toml: application.trigger.mqtt: missing key "address"'),
        ('address = "mqtt://{{ no }}"', "spin.toml: application.trigger.mqtt.address: no variable"),
        (
            'address = "x"\nkeep_alive_interval = "0"',
            "spin.toml: application.trigger.mqtt.keep_alive_interval: must be a number of seconds",
        ),
        ('address = "x"\nport = 1', "spin.toml: application.trigger.mqtt.port: unknown key"),
    ],
)
def test_mistakes_about_the_broker(settings: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        broker(settings)
    assert caught.value.message.startswith(message)
