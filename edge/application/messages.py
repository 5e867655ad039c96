"""`[[trigger.mqtt]]` and what `tool.edge.trigger.ID` adds to it, checked. Pure.

[application.trigger.mqtt]
address = "mqtt://{{ broker }}:1883"     # where the node's own configuration names no broker

[[trigger.mqtt]]
topic = "sensors/+/temperature"
qos = "1"
component = "thermo"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar, cast

from edge.application.fields import Reader, Table, Where, did_you_mean, show, string
from edge.application.model import Application, Component, TriggerDeclaration
from edge.application.templates import Template
from edge.application.topics import Filter, TopicTemplate, check_group

__all__ = ["OPTIONS", "DeclaredBroker", "MqttTrigger", "Ordered", "read_broker", "read_mqtt"]

Ordered = Literal["topic", "all", "none"]

T = TypeVar("T")

# The keys of `tool.edge.trigger.ID` that mean something to messages.
OPTIONS = (
    "ordered",
    "share",
    "reply_topic",
    "responses",
    "retries",
    "retry_time",
    "dead_letter",
)


@dataclass(frozen=True, slots=True)
class DeclaredBroker:
    """The broker that an application names itself."""

    address: str = field(repr=False)  # it may hold a password
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    keepalive: int | None = None  # seconds


@dataclass(frozen=True, slots=True)
class MqttTrigger:
    """Runs a component for each message of the filter's topics.

    `ordered`: one after the other within a topic, all of them, or none. `retries`: after the first
    attempt, within `retry_time` seconds. `responses`: where a message may ask for its reply to go.
    `where` is where it stands, for messages about what it does not allow.
    """

    id: str
    component: str
    filter: Filter
    qos: int = 1
    ordered: Ordered = "topic"
    reply_topic: TopicTemplate | None = None
    responses: tuple[Filter, ...] = ()
    retries: int = 5
    retry_time: float = 60.0
    dead_letter: TopicTemplate | None = None
    where: str = ""
    notes: tuple[str, ...] = ()  # what its author should know


def read_mqtt(
    application: Application, values: Mapping[str, str], file: str = "spin.toml"
) -> tuple[MqttTrigger, ...]:
    """Its message triggers in the order of the file. `values`: of the application's variables.

    Raises ConfigError, which names file and key.
    """
    declared = [t for t in application.triggers if t.type == "mqtt"]
    return tuple(
        _trigger(application, one, values, Where(file, f"trigger.mqtt[{index}]"))
        for index, one in enumerate(declared)
    )


def read_broker(
    application: Application, values: Mapping[str, str], file: str = "spin.toml"
) -> DeclaredBroker | None:
    """What `[application.trigger.mqtt]` says; None when it says nothing. Raises ConfigError."""
    settings = application.trigger_settings.get("mqtt")
    if not settings:
        return None
    with Table(settings, Where(file, "application.trigger.mqtt")) as table:
        text = _filled(values)
        seconds = table.optional("keep_alive_interval", _seconds(values))
        # An empty user is how Spin's examples write "none": the key is not optional there.
        return DeclaredBroker(
            table.need("address", text),
            table.optional("username", text) or None,
            table.optional("password", text) or None,
            seconds,
        )


def _trigger(
    application: Application,
    declared: TriggerDeclaration,
    values: Mapping[str, str],
    where: Where,
) -> MqttTrigger:
    if declared.components or declared.component is None:
        raise where.error('a message runs one component: write component = "…"')
    component = application.components[declared.component]
    options = component.options.triggers.get(declared.id, {})
    place = Where(where.file, f"component.{component.id}.tool.edge.trigger").key(declared.id)
    for key in options:
        if key not in OPTIONS:
            hint = did_you_mean(key, OPTIONS) or f"known here: {', '.join(OPTIONS)}"
            raise place.key(key).error("a trigger of messages has no such option", hint)
    with Table(declared.fields, where) as table:
        filter = table.need("topic", _parsed(values, Filter.parse))
        qos = table.get("qos", _qos, 1)
    filter = _shared(filter, options.get("share"), values, place.key("share"))
    read = _Options(application, component, declared.id, filter, values, options, place)
    return MqttTrigger(
        id=declared.id,
        component=component.id,
        filter=filter,
        qos=min(qos, 1),
        ordered=cast(Ordered, options.get("ordered", "topic")),
        reply_topic=read.template("reply_topic"),
        responses=read.responses(),
        retries=cast(int, options.get("retries", 5)),
        retry_time=cast(float, options.get("retry_time", 60.0)),
        dead_letter=read.template("dead_letter"),
        where=str(place),
        notes=_notes(declared.id, qos),
    )


@dataclass(frozen=True, slots=True)
class _Options:
    """The options of one trigger whose values are topics."""

    application: Application
    component: Component
    id: str
    filter: Filter
    values: Mapping[str, str]
    given: Mapping[str, object]
    place: Where

    def template(self, key: str) -> TopicTemplate | None:
        if key not in self.given:
            return None
        names = {
            "application": self.application.name,
            "component": self.component.id,
            "trigger": self.id,
        }
        read = _parsed(self.values, lambda text: TopicTemplate.parse(text, names, self.filter))
        return read(self.given[key], self.place.key(key))

    def responses(self) -> tuple[Filter, ...]:
        place = self.place.key("responses")
        read = _parsed(self.values, _response_filter)
        texts = cast(tuple[str, ...], self.given.get("responses", ()))
        return tuple(read(text, place.item(index)) for index, text in enumerate(texts))


def _response_filter(text: str) -> Filter:
    filter = Filter.parse(text)
    if filter.share is not None or text.startswith("$"):
        raise ValueError(f'"{text}": replies do not go to topics of the broker')
    return filter


def _shared(filter: Filter, share: object, values: Mapping[str, str], place: Where) -> Filter:
    if share is None:
        return filter
    group = _parsed(values, check_group)(share, place)
    if filter.share not in (None, group):
        raise place.error(f'the topic names another group, "{filter.share}"')
    return Filter(filter.text, group)


def _qos(value: object, where: Where) -> int:
    # A string in Spin's manifest; a number is what everybody else would write.
    if str(value) not in ("0", "1", "2") or isinstance(value, bool | float):
        raise where.error(f'must be "0", "1" or "2", not {show(value)}')
    return int(str(value))


def _notes(id: str, qos: int) -> tuple[str, ...]:
    if qos < 2:
        return ()
    return (f"trigger {id}: messages are taken with QoS 1, not 2: at least once, not exactly once",)


def _seconds(values: Mapping[str, str]) -> Reader[int]:
    def read(value: object, where: Where) -> int:
        text = _filled(values)(value, where) if isinstance(value, str) else str(value)
        if not (text.isascii() and text.isdigit() and 0 < int(text) <= 65535):
            raise where.error(f"must be a number of seconds up to 65535, not {show(value)}")
        return int(text)

    return read


def _filled(values: Mapping[str, str]) -> Reader[str]:
    return _parsed(values, lambda text: text)


def _parsed(values: Mapping[str, str], parse: Callable[[str], T]) -> Reader[T]:
    """A string whose `{{ name }}` are filled in and that `parse` then understands."""

    def read(value: object, where: Where) -> T:
        try:
            return parse(Template.parse(string(value, where)).render(values))
        except KeyError as error:
            hint = did_you_mean(error.args[0], values) or "applications declare them in [variables]"
            raise where.error(f'no variable is named "{error.args[0]}"', hint) from None
        except ValueError as error:
            raise where.error(str(error)) from None

    return read
