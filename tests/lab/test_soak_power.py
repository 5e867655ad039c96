"""A machine whose power is cut: while it writes to its key-value store. Its disk forgets what was
not flushed, and keeps some of it in no order. Nothing that was answered may be lost, nothing may
be there in part, and the node comes back by itself.
"""

from __future__ import annotations

import hashlib
import http.client
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from power_lab import APPLICATION, CUTS, Guest, Victim, kept, ledger, say, victim
from vm_machine import KIND, PATIENCE, needs_vm

pytestmark = needs_vm

WRITERS = 4
SIZES = (1, 40, 40, 2500)


@dataclass(slots=True)
class Account:
    """What was asked to be kept, and what of it was answered."""

    asked: dict[str, str] = field(default_factory=dict)
    answered: set[str] = field(default_factory=set)
    # Keys that are written again and again: the last number asked and answered.
    asked_last: dict[str, int] = field(default_factory=dict)
    answered_last: dict[str, int] = field(default_factory=dict)

    def check(self, found: dict[str, str]) -> tuple[int, int]:
        """How many answered keys there are, and how many that were not answered."""
        lost = sorted(key for key in self.answered if key not in found)
        assert not lost, f"{len(lost)} of {len(self.answered)} lost: {lost[:5]}"
        torn = [key for key, value in self.asked.items() if found.get(key, value) != value]
        assert not torn, f"not what was written: {torn[:5]}"
        for key, least in self.answered_last.items():
            last = int(found[key])
            assert least <= last <= self.asked_last[key], f"{key} is {last}, answered was {least}"
        made_up = set(found) - set(self.asked) - set(self.asked_last)
        assert not made_up, sorted(made_up)[:5]
        return len(self.answered), len((set(found) & set(self.asked)) - self.answered)


def test_key_value_writes_that_were_answered_outlive_each_power_cut(
    tmp_path: Path, guest: Guest
) -> None:
    account = Account()
    began = time.monotonic()
    with victim(tmp_path, seed=1) as node:
        node.install(ledger(guest("ledger")), APPLICATION)
        for number in range(CUTS):
            node.boot()
            answered, more = account.check(kept(node.machine))
            node.is_whole()
            before = len(account.answered)
            with writing(node, account, number):
                wait_for_answers(node, account, before)
                node.cut_within(3, writes=120)
            say(
                f"cut {number + 1}: {len(account.answered) - before} writes answered since the"
                f" start; {node.disk.lost} of {node.disk.unflushed} unflushed sectors lost"
            )
        node.boot()
        answered, more = account.check(kept(node.machine))
        node.is_whole()
    say(
        f"key-value, {KIND.__name__}: {CUTS} cuts in {time.monotonic() - began:.0f} s; {answered}"
        f" writes answered, all there, and {more} that were not answered; {sum(node.lost)} sectors"
        f" lost, at {sum(lost > 0 for lost in node.lost)} cuts"
    )


def test_a_disk_that_lies_is_found_out(tmp_path: Path, guest: Guest) -> None:
    account = Account()
    with victim(tmp_path, seed=4, lies=True) as node:
        node.install(ledger(guest("ledger")), APPLICATION)
        node.boot()
        with writing(node, account, 0):
            wait_for_answers(node, account, 0)
        node.boot()
        found = kept(node.machine)
    with pytest.raises(AssertionError, match=f"{len(account.answered)} of"):
        account.check(found)


def wait_for_answers(node: Victim, account: Account, before: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while len(account.answered) < before + WRITERS:
        node.machine.alive(deadline, "no write is answered")
        time.sleep(0.01)


@contextmanager
def writing(node: Victim, account: Account, cut: int) -> Iterator[None]:
    """Clients that write, until the machine is gone."""
    place = node.machine.place("http")
    connections = [http.client.HTTPConnection(*place, timeout=PATIENCE) for _ in range(WRITERS)]
    threads = [
        threading.Thread(target=write, args=(connection, account, f"{cut}-{number}"))
        for number, connection in enumerate(connections)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        node.machine.cut()
        for connection in connections:  # without power nobody ends them
            if connection.sock is not None:
                with suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


def write(connection: http.client.HTTPConnection, account: Account, name: str) -> None:
    chance = random.Random(name)
    hot = f"hot-{name.partition('-')[2]}"
    with suppress(OSError, http.client.HTTPException):
        for number in range(100_000):
            key, value = f"key-{name}-{number}", text(f"{name}-{number}", chance.choice(SIZES))
            account.asked[key] = value
            post(connection, key, value)
            account.answered.add(key)
            last = account.asked_last.get(hot, 0) + 1
            account.asked_last[hot] = last
            post(connection, hot, str(last))
            account.answered_last[hot] = last
    connection.close()


def post(connection: http.client.HTTPConnection, key: str, value: str) -> None:
    connection.request("POST", f"/{key}", value.encode())
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b"kept")


def text(seed: str, size: int) -> str:
    return hashlib.shake_128(seed.encode()).hexdigest(size)
