"""One message in one component, until what becomes of it is final."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from edge.invocation.event import Event, Outcome, Status
from edge.spin.broker import BrokerError, Message, MessageProperties
from edge.triggers.mqtt import deadletter
from edge.triggers.mqtt.counts import Counts
from edge.triggers.mqtt.target import Target

__all__ = ["Delivery", "Host", "Publication", "Run", "shown"]

_log = logging.getLogger("edge.mqtt")

# Seconds before another attempt: anything from nothing to the first, doubled for each failure, up
# to the last. A full jitter keeps what failed together from coming back together.
_FIRST_PAUSE = 0.1
_LAST_PAUSE = 10.0
# The same while the node has no room.
_FIRST_BUSY = 0.02
_LAST_BUSY = 1.0
# MQTT's reason code for a packet that the broker does not take.
_TOO_LARGE = 0x95


class Host(Protocol):
    """The link that a message came by."""

    loop: asyncio.AbstractEventLoop
    runs: set[Run]  # those that are not final
    counts: Counts
    closed: bool  # nothing starts any more

    def event(self, message: Message) -> Event: ...

    def start(self, run: Run, work: Coroutine[Any, Any, None]) -> None:
        """Runs it as a task that ends with the link."""

    def publish(self, run: Run, publication: Publication) -> None:
        """Tells `run.confirmed` once; however many connections that takes."""

    def settled(self, delivery: Delivery) -> None: ...


class Publication:
    """A reply or a dead letter on its way. `plain`: its payload where there are no properties.

    `dead`: a dead letter, which may shrink to what is told of its message.
    """

    __slots__ = ("_plain", "dead", "payload", "properties", "qos", "topic")

    def __init__(
        self,
        topic: str,
        payload: bytes,
        qos: int,
        properties: MessageProperties,
        plain: Callable[[], bytes] | None = None,
        *,
        dead: bool = False,
    ) -> None:
        self.dead = dead
        self.topic = topic
        self.payload = payload
        self.qos = qos
        self.properties = properties
        self._plain = plain

    def content(self, *, version5: bool) -> tuple[bytes, MessageProperties]:
        plain = None if version5 else self._plain
        return (self.payload if plain is None else plain()), self.properties


class Delivery:
    """A message and how many of its runs are not final yet."""

    __slots__ = ("_event", "expires", "host", "message", "open")

    def __init__(self, message: Message, host: Host) -> None:
        self.message = message
        self.host = host
        self.open = 0
        self.expires: float | None = None
        self._event: Event | None = None
        if (expiry := message.properties.expiry) is not None:
            self.expires = host.loop.time() + expiry

    @property
    def expired(self) -> bool:
        return self.expires is not None and self.host.loop.time() > self.expires

    @property
    def event(self) -> Event:
        if self._event is None:
            self._event = self.host.event(self.message)
        return self._event


class Run:
    """Made by a link, `start`ed once. `final` is when the message need not be kept for it."""

    __slots__ = (
        "_attempts",
        "_began",
        "_busy",
        "_key",
        "_reason",
        "_reply_topic",
        "_timer",
        "delivery",
        "final",
        "publication",
        "target",
    )

    def __init__(self, delivery: Delivery, target: Target) -> None:
        self.delivery = delivery
        self.target = target
        self.final = False
        self.publication: Publication | None = None
        self._attempts = 0
        self._busy = 0
        self._began = 0.0
        self._key: str | None = None
        self._reason = ""
        self._reply_topic: str | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begins at once, or when those before it in its lane are final."""
        lanes, key = self.target.lanes, self.target.lane(self.delivery.message)
        if key is not None and (lane := lanes.get(key)) is not None:
            self._key = key
            lane.append(self)
        else:
            self.begin()
            if self.final:
                return
            if key is not None:
                self._key = key
                lanes[key] = deque()
        self.delivery.host.runs.add(self)

    def begin(self) -> None:
        delivery = self.delivery
        if delivery.host.closed:
            return
        self._began = delivery.host.loop.time()
        if delivery.expired:
            self._dead("expired before it could be handled")
            return
        try:
            self._reply_topic = self.target.reply_topic(delivery.message)
        except ValueError as exc:
            self._dead(str(exc))
            return
        self._warn()
        self._attempt()

    def reject(self, reason: str) -> None:
        """It can not be run at all. Instead of `start`."""
        self._dead(reason)
        if not self.final:
            self.delivery.host.runs.add(self)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def send(self) -> None:
        """Publishes what is to be published."""
        if self.publication is not None:
            self.delivery.host.publish(self, self.publication)

    def confirmed(self, error: BrokerError | None) -> None:
        """The broker has the publication, or it is known why not."""
        if self.publication is None:
            return
        if error is not None and error.reason == "full":
            self._later(random.uniform(0, _LAST_BUSY), self.send)  # noqa: S311
            return
        publication, self.publication = self.publication, None
        if error is None:
            self._finish()
        elif publication.dead:
            self._not_told(publication, error)
        else:
            self._dead(f"its reply to {publication.topic} was not taken: {error.message}")

    def _not_told(self, publication: Publication, error: BrokerError) -> None:
        """The broker does not take the dead letter."""
        # What it says of a size, or nothing: then it may take less.
        if publication.payload and error.code in (0, _TOO_LARGE):
            self._bury(publication.topic, f"{self._reason}; its payload was too large to publish")
            return
        _log.error("%s: not published to %s: %s", self, publication.topic, error.message)
        self._finish()

    def __str__(self) -> str:
        return f"trigger {self.target.trigger.id}: message {self.delivery.event.id}"

    def _again(self, pause: float) -> None:
        self.delivery.host.counts.again += 1
        self._later(pause, self._attempt)

    def _attempt(self) -> None:
        self._timer = None
        try:
            result = self.target.handle(self.delivery.event)
        except Exception as exc:  # the border of an invocation: a mistake of ours, not the guest's
            _log.exception("%s: failed within the node", self)
            result = Outcome(Status.FAILED, f"failed within the node: {type(exc).__name__}")
        if isinstance(result, Outcome):
            self._ended(result)
        else:
            self.delivery.host.start(self, self._awaited(result))

    async def _awaited(self, work: Coroutine[Any, Any, Outcome]) -> None:
        try:
            outcome = await work
        except Exception as exc:  # as in _attempt
            _log.exception("%s: failed within the node", self)
            outcome = Outcome(Status.FAILED, f"failed within the node: {type(exc).__name__}")
        self._ended(outcome)

    def _ended(self, outcome: Outcome) -> None:
        if outcome.status is Status.DONE:
            if outcome.reply is None or self._reply_topic is None:
                self._finish()
            else:
                self._reply(self._reply_topic, outcome.reply, outcome)
        elif outcome.status is Status.BUSY and self.delivery.expired:
            self._dead("expired while the node had no room")
        elif outcome.status is Status.BUSY:
            self._busy += 1
            pause = _jittered(_FIRST_BUSY, _LAST_BUSY, self._busy)
            self._began += pause  # waiting for room is not part of the time for retries
            self._again(pause)
        elif outcome.status is Status.REJECTED:
            self._dead(outcome.reason)
        else:
            self._failed(outcome.reason)

    def _failed(self, reason: str) -> None:
        trigger, delivery = self.target.trigger, self.delivery
        self._attempts += 1
        self._busy = 0
        now = delivery.host.loop.time()
        pause = _jittered(_FIRST_PAUSE, _LAST_PAUSE, self._attempts)
        # A message of QoS 0 may be lost, its sender said: nobody waits for it.
        if not delivery.message.qos or self._attempts > trigger.retries:
            self._dead(reason)
        elif now + pause > self._began + trigger.retry_time:
            self._dead(f"{reason} (retried for {now - self._began:.0f} s)")
        elif delivery.expires is not None and now + pause > delivery.expires:
            self._dead(f"{reason}; then it expired")
        else:
            self._again(pause)

    def _later(self, pause: float, call: Any) -> None:
        self._timer = self.delivery.host.loop.call_later(pause, call)

    def _reply(self, topic: str, body: bytes, outcome: Outcome) -> None:
        message, event = self.delivery.message, self.delivery.event
        properties = MessageProperties(
            content_type=outcome.content_type,
            correlation_data=message.properties.correlation_data,
            # Whoever takes the reply sees that it is the same one when it comes again.
            user=(("id", f"{event.id}/{self.target.trigger.id}"), *outcome.trace),
        )
        self.publication = Publication(topic, body, message.qos, properties)
        self.send()

    def _dead(self, reason: str) -> None:
        message = self.delivery.message
        self.delivery.host.counts.dead += 1
        try:
            topic = self.target.dead_letter(message)
        except ValueError as exc:
            topic, reason = None, f"{reason} ({exc})"
        if self.target.failing(reason):
            fate = f"published to {topic}" if topic else "dropped"
            _log.error("%s on %s: %s; %s", self, shown(message.topic), reason, fate)
        if not topic:
            self._finish()
            return
        self._reason = reason
        self._bury(topic, reason, message)

    def _bury(self, topic: str, reason: str, message: Message | None = None) -> None:
        """Publishes the dead letter, without `message` only what is told of it."""
        told, event = self._told(reason), self.delivery.event
        qos = self.delivery.message.qos
        message = message or Message(self.delivery.message.topic, b"")
        self.publication = Publication(
            topic,
            message.payload,
            qos,
            deadletter.properties(message, told),
            lambda: deadletter.structured(message, event, told),
            dead=True,
        )
        self.send()

    def _told(self, reason: str) -> tuple[tuple[str, str], ...]:
        return (
            ("id", self.delivery.event.id),
            ("topic", self.delivery.message.topic),
            ("reason", reason),
            ("attempts", str(max(1, self._attempts))),
            ("application", self.target.application),
            ("component", self.target.trigger.component),
            ("trigger", self.target.trigger.id),
        )

    def _warn(self) -> None:
        asked, target = self.delivery.message.properties.response_topic, self.target
        if asked is not None and not target.trigger.responses and not target.warned:
            target.warned = True
            _log.warning(
                "trigger %s: a message asks for its reply on %s: %s.responses allows none",
                target.trigger.id,
                asked[:80],
                target.trigger.where,
            )

    def _finish(self) -> None:
        self.final = True
        delivery = self.delivery
        host = delivery.host
        host.runs.discard(self)
        if self._key is not None:
            lanes = self.target.lanes
            if waiting := lanes[self._key]:
                # In a turn of its own: a long queue of quick ones must not hold up everybody else.
                host.loop.call_soon(waiting.popleft().begin)
            else:
                del lanes[self._key]
        delivery.open -= 1
        if not delivery.open:
            host.settled(delivery)


def _jittered(first: float, last: float, number: int) -> float:
    return random.uniform(0, min(last, first * 2 ** min(number - 1, 16)))  # noqa: S311


def shown(topic: str) -> str:
    """For the log, whose lines no stranger ends: MQTT allows control characters."""
    short = topic[:80]
    return short if short.isprintable() else ascii(short)
