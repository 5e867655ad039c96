"""The last lines of a log: bounded, fair to who writes little, followed."""

from __future__ import annotations

import asyncio
import logging
import threading
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise

import pytest

from edge.platform.entries import Wanted
from edge.platform.recent import LIMIT, Recent


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    """One that only the test's own handlers hear."""
    log = logging.Logger("edge.guest", logging.INFO)
    yield log
    for handler in log.handlers:
        handler.close()


@pytest.fixture
def recent(log: logging.Logger) -> Recent:
    kept = Recent()
    log.addHandler(kept)
    return kept


def printed(log: logging.Logger, application: str, text: str, invocation: str = "1-1") -> None:
    fields = {
        "EDGE_APP": application,
        "EDGE_COMPONENT": "guest",
        "EDGE_INVOCATION": invocation,
        "EDGE_STREAM": "stdout",
    }
    log.info("%s [%s] %s", "guest", invocation, text, extra=fields)


def texts(recent: Recent, wanted: Wanted | None = None) -> list[str]:
    wanted = wanted or Wanted()
    return [entry.message for _, entry in recent.after(0) if wanted.fits(entry)]


def test_lines_are_in_order_with_their_names(log: logging.Logger, recent: Recent) -> None:
    log.info("ready")
    printed(log, "a", "one", "1-1")
    printed(log, "b", "guest [1-2] is what it printed", "1-2")
    log.warning("not well", extra={"MESSAGE_ID": "x"})
    assert texts(recent) == ["ready", "one", "guest [1-2] is what it printed", "not well"]
    number, entry = recent.after(3)[0]
    assert (number, entry.level, entry.message_id, entry.stream) == (4, "warning", "x", None)
    assert texts(recent, Wanted(application="a")) == ["one"]
    assert texts(recent, Wanted(invocation="1-2")) == ["guest [1-2] is what it printed"]
    assert texts(recent, Wanted(since=entry.time)) == ["not well"]
    _, first = recent.after(1)[0]
    assert (first.application, first.component, first.invocation, first.stream) == (
        "a", "guest", "1-1", "stdout",
    )  # fmt: skip


def test_a_traceback_is_part_of_its_line(log: logging.Logger, recent: Recent) -> None:
    try:
        raise OSError("broken")
    except OSError:
        log.exception("failed")
    (text,) = texts(recent)
    assert text.startswith("failed\nTraceback ")
    assert text.endswith("OSError: broken")


def test_a_flood_displaces_its_own_lines_only(log: logging.Logger, recent: Recent) -> None:
    log.info("ready")
    printed(log, "quiet", "hello")
    for number in range(50_000):
        printed(log, "loud", f"spam {number}")
    log.info("still here")
    found = texts(recent)
    assert found[:2] == ["ready", "hello"]
    assert found[-2:] == ["spam 49999", "still here"]
    spam = [int(text.split()[1]) for text in found if text.startswith("spam")]
    assert all(b == a + 1 for a, b in pairwise(spam))
    assert 500 < len(spam) < LIMIT / 256


@pytest.mark.parametrize("text", ["", "x" * 8192, "\N{PILE OF POO}" * 2000])
def test_it_takes_no_more_memory_than_it_says(
    text: str, log: logging.Logger, recent: Recent
) -> None:
    tracemalloc.start()
    try:
        for number in range(20_000):
            printed(log, f"app-{number % 50}", text, f"1-{number:x}")
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < 2 * LIMIT


def test_very_many_writers_are_bounded_too(log: logging.Logger, recent: Recent) -> None:
    for number in range(20_000):
        printed(log, f"app-{number}", "hello")
    assert len(recent.after(0)) < LIMIT / 256
    assert texts(recent, Wanted(application="app-19999")) == ["hello"]


async def test_who_follows_is_woken_by_threads(log: logging.Logger, recent: Recent) -> None:
    seen = 0
    thread = threading.Thread(target=lambda: [log.info("%d", n) for n in range(1000)])
    found: list[str] = []
    thread.start()
    while len(found) < 1000:
        await recent.beyond(seen)
        for number, entry in recent.after(seen):
            seen = number
            found.append(entry.message)
    thread.join()
    assert found == [str(n) for n in range(1000)]


async def test_who_follows_is_let_go_at_the_end(recent: Recent) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(recent.beyond(0))
        await asyncio.sleep(0)
        recent.end()
    await recent.beyond(0)


async def test_who_gives_up_leaves_nothing(log: logging.Logger, recent: Recent) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await recent.beyond(0)
    assert recent._waiting == []
    log.info("nobody waits")
