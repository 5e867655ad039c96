"""What Home Assistant is told: a device for the node and one for each application, with their
sensors, as retained messages. Pure: knows no connection.

https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

from edge.registry.sync.status import AppStatus, Health

__all__ = ["Application", "Count", "Device", "Seen", "Topics", "devices", "plain"]

# States in which an operator should look.
_BAD = ("failed", "rolled back")
# Characters of a reason that are shown; Home Assistant takes 255 of a state.
_MOST = 250
# Applications that the node's own problem names.
_NAMED = 20

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True, slots=True)
class Count:
    """Events since the node began: all that ran, and those of them that failed."""

    events: int = 0
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Application:
    """`version`: what its author calls it, "" when nothing serves or it has none."""

    status: AppStatus
    version: str = ""
    count: Count = Count()


@dataclass(frozen=True, slots=True)
class Seen:
    """A node at a moment. `release`: of edge."""

    name: str
    release: str
    applications: tuple[Application, ...] = ()


@dataclass(frozen=True, slots=True)
class Topics:
    """`prefix`: under which Home Assistant listens; `id`: the node's, unique at its broker."""

    prefix: str
    id: str

    @property
    def birth(self) -> str:
        """Where Home Assistant says that it has started."""
        return f"{self.prefix}/status"

    @property
    def available(self) -> str:
        return f"edge/{self.id}/home-assistant/available"

    def announced(self, device: str = "+") -> str:
        return f"{self.prefix}/device/{self.id}/{device}/config"

    def state(self, device: str) -> str:
        return f"edge/{self.id}/home-assistant/{device}"

    def device(self, topic: str) -> str | None:
        """Which of this node's devices a topic announces, if it does."""
        before, _, after = self.announced("\0").partition("\0")
        middle = topic.removeprefix(before).removesuffix(after)
        return middle if topic == f"{before}{middle}{after}" and "/" not in middle else None


class Device(NamedTuple):
    """What is retained of one: how it is announced, and its state."""

    announced: bytes
    state: bytes


def devices(seen: Seen, topics: Topics) -> dict[str, Device]:
    """All of a node, the node itself first, by what they are called in topics."""
    found = {"node": _device(topics, "node", _node_about(seen), _NODE_SENSORS, _node_state(seen))}
    for one in seen.applications:
        name = f"app-{plain(one.status.name)}"
        found[name] = _device(topics, name, _about(seen, one), _SENSORS, _state(one))
    return found


def plain(name: str) -> str:
    """A name in the characters that discovery allows, still another one for each name."""
    safe = _UNSAFE.sub("_", name)
    return safe if safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def _device(
    topics: Topics,
    device: str,
    about: Mapping[str, Any],
    sensors: Mapping[str, Mapping[str, Any]],
    state: Mapping[str, Any],
) -> Device:
    id = topics.id if device == "node" else f"{topics.id}-{device}"
    via = {} if device == "node" else {"via_device": topics.id}
    payload = {
        "device": {"identifiers": [id], **about, **via},
        "origin": _ORIGIN,
        "components": {
            name: {"unique_id": f"{id}-{name}", **sensor, **_attributes(name, topics.state(device))}
            for name, sensor in sensors.items()
        },
        "availability": [{"topic": topics.available}],
        "state_topic": topics.state(device),
        "qos": 1,
    }
    return Device(_json(payload), _json(state))


def _sensor(name: str, key: str, **more: Any) -> dict[str, Any]:
    return {
        "platform": "sensor", "name": name, "value_template": f"{{{{ value_json.{key} }}}}", **more
    }  # fmt: skip


def _attributes(sensor: str, topic: str) -> dict[str, str]:
    """What stands beside a problem: why."""
    if sensor != "problem":
        return {}
    template = "{{ value_json.details | tojson }}"
    return {"json_attributes_topic": topic, "json_attributes_template": template}


def _problem() -> dict[str, Any]:
    return {
        "platform": "binary_sensor", "name": "Problem", "device_class": "problem",
        "value_template": "{{ 'ON' if value_json.problem else 'OFF' }}",
    }  # fmt: skip


_ORIGIN = {"name": "edge"}
_DIAGNOSTIC = {"entity_category": "diagnostic"}
_TOTAL = {"state_class": "total_increasing"}
_NODE_SENSORS: Mapping[str, Mapping[str, Any]] = {
    "problem": _problem(),
    "applications": _sensor("Applications", "applications", state_class="measurement"),
}
_SENSORS: Mapping[str, Mapping[str, Any]] = {
    "problem": _problem(),
    "state": _sensor("State", "state", device_class="enum", options=[*get_args(Health)]),
    "events": _sensor("Events", "events", **_TOTAL),
    "failures": _sensor("Failures", "failures", **_TOTAL),
    "version": _sensor("Version", "version", **_DIAGNOSTIC),
}


def _node_about(seen: Seen) -> dict[str, Any]:
    return {"name": seen.name, "manufacturer": "edge", "model": "Node", "sw_version": seen.release}


def _node_state(seen: Seen) -> dict[str, Any]:
    bad = [one.status.name for one in seen.applications if one.status.state in _BAD]
    return {
        "applications": len(seen.applications),
        "problem": bool(bad),
        "details": {"applications": bad[:_NAMED]},
    }


def _about(seen: Seen, one: Application) -> dict[str, Any]:
    about = {
        "name": f"{one.status.name} on {seen.name}",
        "manufacturer": "edge",
        "model": "Application",
    }
    return {**about, "sw_version": one.version} if one.version else about


def _state(one: Application) -> dict[str, Any]:
    status = one.status
    digest = None if status.digest is None else status.digest.hex[:12]
    return {
        "state": status.state,
        "problem": status.state in _BAD,
        "version": " ".join(filter(None, (one.version, digest))) or "none",
        "events": one.count.events,
        "failures": one.count.failures,
        "details": {"reason": status.reason[:_MOST] or None, "reference": status.reference},
    }


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
