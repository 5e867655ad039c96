"""All workers, as the first process sees them: what they serve, what they count, their end.

What is prepared and placed is kept here, so that one that is started anew begins with it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from socket import socket
from types import TracebackType
from typing import Any, Self

from edge import config
from edge.application.model import Application
from edge.errors import EdgeError
from edge.invocation.meter import Meters
from edge.node.slot import Version
from edge.node.soak import Soak
from edge.node.workers import records, shares, wire
from edge.node.workers.counts import Counts, total
from edge.node.workers.worker import Worker
from edge.platform.ends import both_ours
from edge.registry.local import LocalApplication

__all__ = ["Crew"]

# Seconds for loading a version: its code may have to be compiled, where no cache keeps it. A worker
# that hangs is found by looking at it.
_PREPARE = 900.0
# Seconds for what takes no time, and those of them that a deployment waits.
_AT_ONCE, _PLACED = 10.0, 1.0
# Seconds for figures: what a worker told last is taken where it is slower.
_FIGURES = 2.0

_log = logging.getLogger("edge.node")


@dataclass(slots=True)
class _Known:
    """What is known of one worker. `figures`: as they were asked for last; `spent`: of processor
    and disk, as it said last; `before`: by those that ended.
    """

    worker: Worker
    counts: Counts
    figures: dict[str, Any] | None = None
    spent: dict[str, Any] | None = None
    before: dict[str, Any] | None = None


class Crew:
    """The workers of a node, while entered; `start` starts them. `settings`: the node's.

    What changes before that is what they begin with.
    """

    def __init__(self, settings: config.Daemon, meters: Meters) -> None:
        self._settings = settings
        self._numbers = itertools.count(1)
        self._versions: dict[Version, tuple[int, wire.Spec]] = {}
        self._placed: dict[str, tuple[Version, Soak | None]] = {}
        self._sockets: list[tuple[socket, bool]] = []
        self._known = [self._made(n, meters) for n in range(2, settings.http.workers + 1)]
        self._told: set[tuple[Worker, asyncio.Future[Any]]] = set()
        self._soaks: dict[int, Soak] = {}  # by the number of the version

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for known in self._known:
            await known.worker.close()
        self._stop_listening()

    def _stop_listening(self) -> None:
        for sock, _ in self._sockets:
            sock.close()

    async def start(self, sockets: Iterable[tuple[socket, bool]]) -> None:
        """They accept on these, which the crew then owns; returns when each serves, or could not be
        started at first. True: TLS.
        """
        self._sockets += sockets
        async with asyncio.TaskGroup() as group:
            for known in self._known:
                group.create_task(known.worker.start())

    async def drain(self, timeout: float) -> None:
        """They accept no more and finish what is under way, at most `timeout` seconds; then they
        end.
        """
        self._stop_listening()
        async with asyncio.TaskGroup() as group:
            for known in self._known:
                group.create_task(known.worker.drain(timeout))

    def notes(self) -> list[str]:
        """What an operator should know."""
        away = [known.worker.number for known in self._known if not known.worker.serving]
        return [f"worker {number} does not serve" for number in away]

    # What is served

    def own(self, local: LocalApplication) -> LocalApplication:
        """An application as the first process runs it. Raises ConfigError."""
        return self._share(local, 0)

    async def prepare(
        self, version: Version, local: LocalApplication, variables: Mapping[str, str]
    ) -> None:
        """Every worker loads it. Raises EdgeError when one of them cannot."""
        number, spec = next(self._numbers), wire.Spec(local, variables, version.mount)
        self._versions[version] = number, spec
        asked = [
            (worker, worker.ask("prepare", number, self._spec(spec, worker)))
            for worker in self._open()
        ]
        for worker, answer in asked:
            await worker.answer(answer, _PREPARE)

    def place(self, placed: Mapping[str, tuple[Version, Soak | None] | None]) -> None:
        """What serves under these names from now on, and who watches it."""
        told: dict[str, wire.Place | None] = {}
        for name, one in placed.items():
            if one is None:
                self._placed.pop(name, None)
                for known in self._known:
                    known.counts.drop(name)
            else:
                self._placed[name] = one
                self._watch(*one)
            told[name] = None if one is None else self._place(*one)
        self._tell("place", told)

    async def placed(self) -> None:
        """Until all of them serve what was placed. Not for long: a version is not watched before,
        and a worker that hangs is found by looking at it.
        """
        if answers := {answer for worker, answer in self._told if worker.serving}:
            await asyncio.wait(answers, timeout=_PLACED)

    def retire(self, version: Version) -> None:
        """It is not needed any more; what it serves until the end of this turn it serves still."""
        asyncio.get_running_loop().call_soon(self._retire, version)

    async def forget(self, application: str) -> None:
        """Its stores are closed everywhere."""
        asked = [(worker, worker.ask("forget", application)) for worker in self._open()]
        for worker, answer in asked:
            await _in_time(worker, answer)

    # What they tell

    async def figures(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """Of all processes together. `own`: of the first one; what workers counted is in the
        node's meters then.
        """
        async with asyncio.TaskGroup() as group:
            for known in self._known:
                group.create_task(self._refresh(known))
        all = [dict(own)]
        for known in self._known:
            found = known.figures if known.worker.open else None
            all += [found] if found else []
            if known.before:
                all[0] |= {name: total([all[0][name], known.before[name]]) for name in known.before}
        return total(all)  # type: ignore[no-any-return]

    def state(self) -> dict[str, int]:
        """How many processes there should be, how many serve, how often one was started anew."""
        workers = [known.worker for known in self._known]
        return {
            "processes": 1 + len(workers),
            "serving": 1 + sum(worker.serving for worker in workers),
            "restarts": sum(max(0, worker.starts - 1) for worker in workers),
        }

    async def holds(self, here: Any, there: Any) -> bool:
        """Whether the other end of a connection between these addresses is one of ours, as that of
        a guest is. Who does not answer may be it.
        """
        if both_ours(here, there):
            return True
        asked = [(worker, worker.ask("holds", here, there)) for worker in self._open()]
        answers = [await _in_time(worker, answer) for worker, answer in asked]
        return any(answer is not False for answer in answers)

    def _heard(self, message: dict[str, Any]) -> None:
        if "log" in message:
            records.take(message["log"])
            return
        number, outcomes = message["outcomes"]
        if (soak := self._soaks.get(number)) is not None:
            for good in outcomes:
                (soak.well if good else soak.ill)()

    def _looked(self, index: int, told: Mapping[str, Any]) -> None:
        known = self._known[index]
        known.spent = told["spent"]
        known.counts.take(told["components"])

    async def _refresh(self, known: _Known) -> None:
        if known.worker.serving:
            answer = known.worker.ask("figures")
            await asyncio.wait((answer,), timeout=_FIGURES)
            if answer.done() and answer.exception() is None:
                known.figures = answer.result()["process"]
                self._looked(known.worker.number - 2, answer.result())

    # Each of them

    def _made(self, number: int, meters: Meters) -> _Known:
        worker = Worker(
            number,
            partial(self._opening, number - 1),
            self._heard,
            partial(self._looked, number - 2),
            partial(self._ended, number - 2, meters),
        )
        return _Known(worker, Counts(meters, self._placed.__contains__))

    def _ended(self, index: int, meters: Meters) -> None:
        """What it had counted stays; its gauges are gone."""
        known = self._known[index]
        known.counts = Counts(meters, self._placed.__contains__)
        spent = [one for one in (known.before, known.spent) if one is not None]
        known.before = total(spent) if spent else None
        known.figures = known.spent = None
        self._told = {(w, answer) for w, answer in self._told if w is not known.worker}

    def _opening(self, index: int) -> wire.Opening:
        worker = self._known[index - 1].worker
        return wire.Opening(
            shares.of_settings(self._settings, index),
            logging.getLogger().level,
            [(sock.fileno(), secure) for sock, secure in self._sockets],
            {number: self._spec(spec, worker) for number, spec in self._versions.values()},
            {name: self._place(*one) for name, one in self._placed.items()},
        )

    def _open(self) -> list[Worker]:
        return [known.worker for known in self._known if known.worker.open]

    def _spec(self, spec: wire.Spec, worker: Worker) -> wire.Spec:
        return replace(spec, local=self._share(spec.local, worker.number - 1))

    def _share(self, local: LocalApplication, index: int) -> LocalApplication:
        count = self._settings.http.workers
        shared: Application = shares.of_application(local.application, index, count)
        return replace(local, application=shared)

    def _place(self, version: Version, soak: Soak | None) -> wire.Place:
        return wire.Place(self._versions[version][0], watched=soak is not None)

    def _watch(self, version: Version, soak: Soak | None) -> None:
        number, _ = self._versions[version]
        if soak is None:
            self._soaks.pop(number, None)
        else:
            self._soaks[number] = soak

    def _retire(self, version: Version) -> None:
        if version in self._versions:
            number, _ = self._versions.pop(version)
            self._soaks.pop(number, None)
            self._tell("retire", number)

    def _tell(self, verb: str, *arguments: Any) -> None:
        """In the order in which it happens. Who cannot do it is ended, and begins anew."""
        for worker in self._open():
            told = worker, worker.ask(verb, *arguments)
            self._told.add(told)
            told[1].add_done_callback(partial(self._done, told))

    def _done(self, told: tuple[Worker, asyncio.Future[Any]], answer: asyncio.Future[Any]) -> None:
        self._told.discard(told)
        if not answer.cancelled() and (error := answer.exception()) is not None:
            told[0].kill(str(error))


async def _in_time(worker: Worker, answer: asyncio.Future[Any]) -> Any:
    """The answer; None: there was none, or it was an error."""
    try:
        return await worker.answer(answer, _AT_ONCE)
    except EdgeError as error:
        _log.debug("%s", error.message)
        return None
