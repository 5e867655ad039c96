"""A subscription, and the order in which its messages run."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from edge.application.messages import MqttTrigger
from edge.application.topics import TopicTemplate, check_topic
from edge.invocation.event import EventHandler
from edge.platform.sums import Sums
from edge.spin.broker import Message

_log = logging.getLogger("edge.mqtt")

__all__ = ["Lanes", "Subscription", "Target"]

# Rendered topics that are remembered; long ones are not.
_TOPICS_MAX = 1024
_LENGTH_MAX = 256


@dataclass(frozen=True, slots=True)
class Subscription:
    """A trigger of an application, and what runs its component."""

    trigger: MqttTrigger
    application: str
    handle: EventHandler


class Startable(Protocol):
    """What waits in a lane."""

    def begin(self) -> None: ...


# What must not run at the same time -> who waits, in order. Empty lanes are not kept.
Lanes = dict[str, deque[Startable]]


class Target:
    """A subscription at work. `lanes` outlive it: a swap keeps the order of what is under way."""

    __slots__ = ("_topics", "application", "failing", "handle", "lanes", "trigger", "warned")

    def __init__(self, subscription: Subscription, lanes: Lanes) -> None:
        self.trigger = subscription.trigger
        self.application = subscription.application
        self.handle = subscription.handle
        self.lanes = lanes
        self.warned = False
        self.failing = Sums(partial(_tell, f"trigger {self.trigger.id}"))
        self._topics: dict[str, str] = {}

    def lane(self, message: Message) -> str | None:
        """What it must be in order with; None: nothing."""
        ordered = self.trigger.ordered
        if ordered == "topic":
            return message.topic
        return "" if ordered == "all" else None

    def reply_topic(self, message: Message) -> str | None:
        """Where its reply goes. A ValueError: it asks for what is not allowed."""
        asked, trigger = message.properties.response_topic, self.trigger
        if asked is not None and trigger.responses:
            check_topic(asked)
            if not any(allowed.matches(asked) for allowed in trigger.responses):
                raise ValueError(f'{trigger.where}.responses does not allow "{asked[:80]}"')
            return self._leading_away(asked, "responses")
        if trigger.reply_topic is None:
            return None
        if (known := self._topics.get(message.topic)) is not None:
            return known
        rendered = self._rendered(trigger.reply_topic, message, "reply_topic")
        if len(message.topic) <= _LENGTH_MAX:
            if len(self._topics) >= _TOPICS_MAX:
                self._topics.clear()
            self._topics[message.topic] = rendered
        return rendered

    def dead_letter(self, message: Message) -> str | None:
        """Where it goes when nothing can handle it. Raises ValueError."""
        template = self.trigger.dead_letter
        return None if template is None else self._rendered(template, message, "dead_letter")

    def _rendered(self, template: TopicTemplate, message: Message, key: str) -> str:
        try:
            rendered = template.render(message.topic)
        except ValueError as exc:
            raise ValueError(f"{self.trigger.where}.{key}: {exc}") from None
        return self._leading_away(rendered, key)

    def _leading_away(self, topic: str, key: str) -> str:
        # Whoever chooses a message's topic could send it round for ever.
        if self.trigger.filter.matches(topic):
            raise ValueError(f'{self.trigger.where}.{key}: "{topic[:80]}" would come back')
        return topic


def _tell(name: str, text: str, _number: int) -> None:
    _log.error("%s: messages were given up %s", name, text)
