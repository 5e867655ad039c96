"""Addresses of Redis servers and brokers, and Redis triggers as spin.toml declares them."""

from __future__ import annotations

import re

import pytest

from edge.application import manifest
from edge.application.addresses import MqttAddress, RedisAddress
from edge.application.channels import RedisTrigger, read_redis
from edge.errors import ConfigError

HEAD = """
spin_manifest_version = 2
[application]
name = "shop"
[component.bill]
source = "bill.wasm"
"""


def read(text: str, **values: str) -> tuple[RedisTrigger, ...]:
    return read_redis(manifest.read(HEAD + text), values)


def refused(text: str, **values: str) -> str:
    with pytest.raises(ConfigError) as raised:
        read(text, **values)
    return raised.value.message


def test_triggers_share_an_address_or_have_their_own() -> None:
    found = read(
        """
        [application.trigger.redis]
        address = "redis://{{ host }}:7000/2"
        [[trigger.redis]]
        channel = "orders"
        component = "bill"
        [[trigger.redis]]
        id = "own"
        channel = "{{ shop }}.orders"
        address = "rediss://:{{ password }}@other"
        component = "bill"
        [[trigger.http]]
        route = "/"
        component = "bill"
        """,
        host="db.example",
        shop="berlin",
        password="s3c%2Fret",
    )
    assert found == (
        RedisTrigger(
            "bill-redis-trigger", "bill", RedisAddress.parse("redis://db.example:7000/2"), "orders"
        ),
        RedisTrigger(
            "own", "bill", RedisAddress.parse("rediss://:s3c%2Fret@other:6379"), "berlin.orders"
        ),
    )
    assert found[1].address.password == "s3c/ret"
    assert "s3c" not in repr(found)
    assert str(found[1].address) == "rediss://other:6379"


def test_an_application_without_redis_needs_no_address() -> None:
    assert read('[[trigger.http]]\nroute = "/"\ncomponent = "bill"') == ()


TRIGGER = '[[trigger.redis]]\ncomponent = "bill"\n'
ADDRESS = 'address = "redis://localhost"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TRIGGER + 'channel = "c"', 'trigger.redis[0]: missing key "address"'),
        (TRIGGER + ADDRESS, 'trigger.redis[0]: missing key "channel"'),
        (TRIGGER + ADDRESS + "channel = 1", "trigger.redis[0].channel: must be a string, not 1"),
        (TRIGGER + ADDRESS + 'channel = ""', "trigger.redis[0].channel: must not be empty"),
        (
            TRIGGER + ADDRESS + f'channel = "{"x" * 1025}"',
            "trigger.redis[0].channel: is longer than 1024 bytes",
        ),
        (
            TRIGGER + ADDRESS + 'channel = "{{ none }}"',
            'trigger.redis[0].channel: the application has no variable "none"',
        ),
        (
            TRIGGER + ADDRESS + 'channel = "{{ none"',
            "trigger.redis[0].channel: unmatched '{{' in template",
        ),
        (TRIGGER + ADDRESS + 'channel = "c"\nqos = 1', "trigger.redis[0].qos: unknown key"),
        (
            TRIGGER + 'channel = "c"\naddress = "{{ url }}"',
            "trigger.redis[0].address: not the address of a Redis server:"
            " its port is not a number up to 65535",
        ),
        (
            '[application.trigger.redis]\naddress = "localhost"\n' + TRIGGER + 'channel = "c"',
            "application.trigger.redis.address: not the address of a Redis server:"
            " must begin with redis:// or rediss://",
        ),
        (
            '[application.trigger.redis]\nadress = "x"\n' + TRIGGER + ADDRESS + 'channel = "c"',
            "application.trigger.redis.adress: unknown key",
        ),
        (
            "[[trigger.redis]]\n" + ADDRESS + 'channel = "c"\ncomponents.a = "bill"',
            "trigger.redis[0].components: a Redis trigger has one component",
        ),
        (
            "[[trigger.redis]]\n" + ADDRESS + 'channel = "c"',
            'trigger.redis[0]: missing key "component"',
        ),
        (
            TRIGGER
            + ADDRESS
            + 'id = "t"\nchannel = "c"\n[component.bill.tool.edge.trigger.t]\nretries = 3',
            "component.bill.tool.edge.trigger.t: a Redis trigger has no options",
        ),
    ],
)
def test_a_mistake_is_told_with_its_key(text: str, message: str) -> None:
    # The password holds a slash that should have been encoded.
    assert refused(text, url="redis://:s3/cret@localhost") == f"shop: {message}"


def test_addresses_are_read_as_people_write_them() -> None:
    address = RedisAddress.parse("redis://us%65r:p%40ss@[::1]:7000/3?protocol=resp2")
    assert (address.username, address.password, address.database) == ("user", "p@ss", 3)
    assert str(address) == "redis://[::1]:7000/3"
    assert RedisAddress.parse(" REDIS://Host/ ") == RedisAddress.parse("redis://host:6379/0")
    assert RedisAddress.parse("redis://a") != RedisAddress.parse("redis://:x@a")
    broker = MqttAddress.parse("mqtts://broker?client_id=me&clean_session=true")
    assert (str(broker), broker.client_id, broker.endpoint.tls) == (
        "mqtts://broker:8883",
        "me",
        True,
    )
    assert MqttAddress.parse("mqtt://u:s3cret@h").password == "s3cret"
    assert "s3cret" not in repr(MqttAddress.parse("mqtt://u:s3cret@h"))


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://h/db", "the path is the number of a database, like /0"),
        ("redis://h/-1", "the path is the number of a database, like /0"),
        ("redis://:a?s3cret=1@h", "has an option other than protocol"),
        ("redis://h#insecure", "must end with the database; certificates are always checked"),
        ("redis://:s3cret@", "has no host name or address"),
        ("redis://s3cret@h:70000", "its port is not a number up to 65535"),
        ("redis://[h", "not a URL"),
        ("redis://h/1/s3cret", "the path is the number of a database, like /0"),
    ],
)
def test_what_is_no_redis_address(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(why)}$"):
        RedisAddress.parse(url)
