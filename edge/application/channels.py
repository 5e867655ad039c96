"""Redis triggers as their author declared them: which channel of which server runs which component.

[application.trigger.redis]
address = "redis://{{ host }}:6379"     # of all triggers that name none

[[trigger.redis]]
channel = "orders"
component = "bill"
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from edge.application.addresses import RedisAddress
from edge.application.fields import Table, Where, string
from edge.application.model import Application, TriggerDeclaration
from edge.application.templates import Template

__all__ = ["RedisTrigger", "read_redis"]

# Bytes. Longer names are a mistake in a template, and each is kept for as long as it is subscribed.
_CHANNEL_MAX = 1024


@dataclass(frozen=True, slots=True)
class RedisTrigger:
    """Runs a component for each message of a channel. The name is taken as it is: no patterns."""

    id: str
    component: str
    address: RedisAddress
    channel: str


def read_redis(application: Application, values: Mapping[str, str]) -> tuple[RedisTrigger, ...]:
    """Its Redis triggers in the order of the file, their templates filled in with `values`.

    Raises ConfigError, which names the key.
    """
    return tuple(_read(application, values))


def _read(application: Application, values: Mapping[str, str]) -> Iterator[RedisTrigger]:
    declared = [trigger for trigger in application.triggers if trigger.type == "redis"]
    file = Where(application.name)
    shared = file.key("application").key("trigger").key("redis")
    # Not read without need: its template may use a variable that only some have.
    with Table(dict(application.trigger_settings.get("redis", {})), shared) as table:
        default = table.optional("address", string)
    for index, trigger in enumerate(declared):
        where = file.key("trigger").key("redis").item(index)
        component = _component(trigger, where)
        _no_options(application, component, trigger.id)
        with Table(dict(trigger.fields), where) as table:
            channel = _channel(table.need("channel", string), values, where.key("channel"))
            own = table.optional("address", string)
        if own is not None:
            address = _address(own, values, where.key("address"))
        elif default is not None:
            address = _address(default, values, shared.key("address"))
        else:
            raise where.error(
                'missing key "address"',
                'give one here, or one for all: [application.trigger.redis] address = "redis://…"',
            )
        yield RedisTrigger(trigger.id, component, address, channel)


def _component(trigger: TriggerDeclaration, where: Where) -> str:
    if trigger.components:
        raise where.key("components").error("a Redis trigger has one component")
    if trigger.component is None:
        raise where.error('missing key "component"')
    return trigger.component


def _no_options(application: Application, component: str, id: str) -> None:
    if application.components[component].options.triggers.get(id):
        where = Where(application.name).key("component").key(component)
        raise (
            where.key("tool")
            .key("edge")
            .key("trigger")
            .key(id)
            .error(
                "a Redis trigger has no options",
                "Pub/Sub delivers a message at most once: nothing can be retried or answered",
            )
        )


def _channel(text: str, values: Mapping[str, str], where: Where) -> str:
    channel = _filled(text, values, where)
    if not channel:
        raise where.error("must not be empty")
    if len(channel.encode()) > _CHANNEL_MAX:
        raise where.error(f"is longer than {_CHANNEL_MAX} bytes")
    return channel


def _address(text: str, values: Mapping[str, str], where: Where) -> RedisAddress:
    try:
        return RedisAddress.parse(_filled(text, values, where))
    except ValueError as exc:
        # Not the text: it may hold a password.
        raise where.error(f"not the address of a Redis server: {exc}") from None


def _filled(text: str, values: Mapping[str, str], where: Where) -> str:
    try:
        return Template.parse(text).render(values)
    except KeyError as exc:
        name = exc.args[0]
        raise where.error(f'the application has no variable "{name}"') from None
    except ValueError as exc:
        raise where.error(str(exc)) from None
