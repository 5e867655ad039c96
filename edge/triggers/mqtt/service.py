"""The MQTT trigger: the subscriptions of all applications over at most two connections."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from edge.config import Mqtt
from edge.triggers.mqtt.access import Access, Role
from edge.triggers.mqtt.link import Link
from edge.triggers.mqtt.outlet import Outlet
from edge.triggers.mqtt.state import State
from edge.triggers.mqtt.table import Table
from edge.triggers.mqtt.target import Lanes, Subscription, Target

__all__ = ["MqttService"]

_log = logging.getLogger("edge.mqtt")


class MqttService:
    """Takes messages from the broker of `settings` to what `update` names.

    `state_dir`: where the session's name is kept; None keeps none. `credentials`: the directory of
    systemd's credentials, where `password_file` is looked for first. Entering raises ConfigError
    for files that can not be read; a broker that is not there is logged and tried again.
    """

    def __init__(
        self, settings: Mqtt, *, state_dir: Path | None = None, credentials: Path | None = None
    ) -> None:
        self._settings = settings
        self._file = None if state_dir is None else state_dir / "mqtt.json"
        self._credentials = credentials
        self._links: dict[str, tuple[Link, asyncio.Task[None]]] = {}
        self._lanes: dict[tuple[str, str], Lanes] = {}
        self._state: State | None = None
        self._access: Access | None = None
        self._outlet: tuple[Outlet, asyncio.Task[None]] | None = None

    async def __aenter__(self) -> Self:
        self._state = state = await asyncio.to_thread(State.load, self._file)
        client_id = self._settings.client_id
        if client_id and client_id != state.client_id:
            # Another client's sessions are not this one's.
            state = self._state = replace(State(self._file), client_id=client_id)
        self._access = access = Access(self._settings, state.client_id, self._credentials)
        await asyncio.to_thread(access.options, "5", "main")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        links, self._links = self._links, {}
        outlet, self._outlet = self._outlet, None
        for link, _ in links.values():
            await link.leave()
        async with AsyncExitStack() as stack:  # whatever one of them raises, all are closed
            if outlet is not None:
                stack.push_async_callback(_cancel, outlet[1])
                stack.push_async_callback(outlet[0].leave)
            for link, task in links.values():
                stack.push_async_callback(link.close)
                stack.push_async_callback(_cancel, task)

    async def update(self, subscriptions: Sequence[Subscription]) -> None:
        """From now on these are served. Messages under way are finished by what they began with."""
        targets = [self._target(one) for one in subscriptions]
        keys = {(t.application, t.trigger.id) for t in targets}
        self._lanes = {key: lanes for key, lanes in self._lanes.items() if key in keys or lanes}
        self._adopt("main", [t for t in targets if t.trigger.filter.share is None])
        self._adopt("share", [t for t in targets if t.trigger.filter.share is not None])

    async def ready(self) -> None:
        """Until the broker has taken every subscription of the last `update`."""
        for link, _ in self._links.values():
            await link.ready()

    def figures(self) -> dict[str, Any]:
        """What is counted. JSON."""
        assert self._access is not None
        connected = [link.connected for link, _ in self._links.values()]
        return {
            "broker": self._access.where,
            "connected": bool(connected) and all(connected),
            **asdict(self._access.counts),
        }

    async def drain(self, timeout: float) -> None:
        """Takes no more messages, finishes and acknowledges those under way, says goodbye.

        What is not finished in time is delivered again to the next process.
        """
        try:
            async with asyncio.timeout(timeout), asyncio.TaskGroup() as group:
                for name, (link, _) in self._links.items():
                    group.create_task(link.drain(), name=f"drain {name}")
        except TimeoutError:
            _log.warning(
                "messages that were not finished within %g s are left to the broker", timeout
            )
        for link, _ in self._links.values():
            await link.leave()

    def _target(self, subscription: Subscription) -> Target:
        key = subscription.application, subscription.trigger.id
        return Target(subscription, self._lanes.setdefault(key, {}))

    def _adopt(self, name: Role, targets: list[Target]) -> None:
        if name in self._links:
            self._links[name][0].adopt(Table(targets))
            return
        assert self._access is not None
        assert self._state is not None
        # What an earlier process subscribed to must be undone even if nothing came in its place.
        left = name in self._state.sessions and bool(self._state.sessions[name].filters)
        if targets or left:
            if self._outlet is None:
                outlet = Outlet(self._access)
                running = asyncio.get_running_loop().create_task(outlet.run(), name="mqtt out")
                running.add_done_callback(_say_if_broken)
                self._outlet = outlet, running
            link = Link(self._access, self._state, self._outlet[0], name)
            link.adopt(Table(targets))
            task = link.loop.create_task(link.run(), name=f"mqtt {name}")
            task.add_done_callback(_say_if_broken)
            self._links[name] = link, task


def _say_if_broken(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.critical("%s: no more messages: a mistake of ours", task.get_name(), exc_info=error)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait((task,))
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error  # a mistake of ours is not hidden
