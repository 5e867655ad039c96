"""An instance from its start to its end: waiting, failing, being cancelled; nothing is left."""

from __future__ import annotations

import asyncio
import gc
import json
import mmap
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from copy import copy
from pathlib import Path
from typing import Any

import pytest
from guests import (
    LIBC,
    SPIN,
    SPINNING_REALLOC,
    SPINNING_RESET,
    Function,
    Item,
    Turn,
    calling,
    host_of,
    instance,
    ready,
    run,
    settle,
    wired,
    written,
)
from wat import assemble

from edge.engine import types as wit
from edge.engine._core import Call, Code, Instance, counters
from edge.engine.drive import TURNS, Lane, drive
from edge.engine.host import Err, Ok, Trap
from edge.engine.types import Primitive

U32, STRING = Primitive("u32"), Primitive("string")
TEXT = Function((STRING,), STRING)
NUMBER = Function((U32,), U32)
OUTCOME = Function((STRING,), wit.Result(STRING, STRING))
STAGES = [["utf8"], ["utf8", "utf16"], ["utf16", "latin1+utf16", "utf8"]]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    gc.collect()  # a coroutine that nobody awaited or closed says so here
    assert not any(counters().values())


# --- starting -------------------------------------------------------------------------------------

TICK = Item("tick")
FETCH = Item("fetch", "(result string)", "(param i32)", "func() -> string")


def starting(start: str, calls: dict[str, Callable[..., Any]] | None = None) -> Code:
    imports = [TICK, FETCH]
    calls = {"tick": lambda _: None, "fetch": lambda _: "text"} | (calls or {})
    body = f'(func $start {start}) (start $start) (func (export "go"))'
    return ready(assemble(written(body, imports, [Item("go")])), host_of(imports, calls))


def test_a_start_function_may_call_the_host() -> None:
    calls: list[object] = []
    code = starting("(call $tick) (call $tick)", {"tick": calls.append})
    with instance(code, "context") as made:
        assert calls == ["context", "context"]
        run(made, "go")


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("unreachable", "unreachable"),
        (SPIN, "ran too long"),
        ("(call $start)", "stack"),
        ("(call $fetch (i32.const 65536))", "out of bounds"),
        ("(drop (memory.grow (i32.const 1000000))) unreachable", "unreachable"),
    ],
)
def test_a_start_function_that_fails(start: str, message: str) -> None:
    code = starting(start)
    time.sleep(0.1)  # the ticker is asleep
    for _ in range(3):
        began = time.monotonic()
        with pytest.raises(Trap, match=message), instance(code):
            pass
        assert time.monotonic() - began < 20
        assert not any(counters().values())


def test_a_start_function_that_waits_is_refused() -> None:
    async def tick(_context: object) -> None:
        raise AssertionError

    code = starting("(call $tick)", {"tick": tick})
    with pytest.raises(Trap, match="may not wait here"), instance(code):
        pass


@pytest.mark.parametrize(
    "error", [ValueError("no"), Trap("no"), Err("no"), KeyboardInterrupt("no")]
)
def test_a_host_that_fails_in_a_start_function(error: BaseException) -> None:
    def tick(_context: object) -> None:
        raise error

    with pytest.raises(type(error), match="no"), instance(starting("(call $tick)", {"tick": tick})):
        pass


def test_a_start_function_that_calls_what_is_not_made_yet() -> None:
    """The host's text goes through an allocator of a core instance that comes later."""
    text = """
      (component
        (import "t:t/host" (instance $host (export "fetch" (func (result string)))))
        (core module $Shim
          (type $f (func (param i32))) (table (export "t") 1 funcref)
          (func (export "fetch") (param i32) (call_indirect (type $f) (local.get 0) (i32.const 0))))
        (core instance $shim (instantiate $Shim))
        (core module $Main
          (import "host" "fetch" (func $fetch (param i32)))
          (memory (export "memory") 1)
          (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 64))
          (func $start (call $fetch (i32.const 16)))
          (start $start)
          (func (export "go")))
        (core instance $main (instantiate $Main (with "host" (instance $shim))))
        (core func $fetch (canon lower (func $host "fetch")
          (memory (core memory $main "memory")) (realloc (core func $main "realloc"))))
        (core module $Fix
          (import "" "t" (table 1 funcref)) (import "" "f" (func $f (param i32)))
          (elem (i32.const 0) $f))
        (core instance (instantiate $Fix (with "" (instance
          (export "t" (table $shim "t")) (export "f" (func $fetch))))))
        (func (export "go") (canon lift (core func $main "go"))))
    """
    code = ready(assemble(text), host_of([FETCH], {"fetch": lambda _: "text"}))
    with pytest.raises(Trap), instance(code):
        pass


def test_memory_beyond_the_limit() -> None:
    code = starting("")
    with pytest.raises(Trap), instance(code, memory=32 << 10):
        pass
    with instance(code, memory=64 << 10) as made:
        run(made, "go")


def test_a_pool_without_a_place() -> None:
    code = starting("")
    made: list[Instance] = []
    try:
        with pytest.raises(MemoryError, match="pool is full"):
            made.extend(Instance.create(code, None, 1 << 20) for _ in range(9))
        assert len(made) == 8
    finally:
        for each in made:
            each.close()


# --- from inside ----------------------------------------------------------------------------------


def test_a_host_function_can_not_reach_into_the_instance_that_calls_it() -> None:
    code, wire = wired([NUMBER], ["utf8"])
    refused: list[str] = []

    def reply() -> int:
        for attempt in (
            lambda: made.call(made.export("f0"), (1,)),
            made.close,
            call.poll,
            call.close,
        ):
            with pytest.raises(RuntimeError) as caught:
                attempt()
            refused.append(str(caught.value))
        return 7

    wire.reply = reply
    with instance(code) as made:
        with calling(made, "f0", 1) as call:
            assert call.poll()
            assert call.result == 7
        assert len(refused) == 4
        wire.reply = lambda: 8
        assert run(made, "f0", 1) == 8


def test_other_instances_run_inside_a_host_function() -> None:
    """Each on a fiber of its own; the last of eight has no place for its stack or memory."""
    code, wire = wired([NUMBER], ["utf8"])
    depth = 0

    def reply() -> int:
        nonlocal depth
        depth += 1
        try:
            with instance(code) as inner:
                return run(inner, "f0", 1) + 1
        except MemoryError:
            return 0

    wire.reply = reply
    with instance(code) as made:
        assert run(made, "f0", 1) == depth - 1
    assert depth == 8


def test_one_call_at_a_time() -> None:
    code, _ = wired([NUMBER], ["utf8"])
    with instance(code) as made:
        with calling(made, "f0", 1):
            with pytest.raises(RuntimeError):
                made.call(0, (1,))
            with pytest.raises(RuntimeError):
                made.close()
        assert made.broken  # it had not ended
        with pytest.raises(RuntimeError):
            made.call(0, (1,))
    with pytest.raises(RuntimeError):
        made.call(0, (1,))
    made.close()


def test_an_ended_call_is_not_polled_again() -> None:
    code, wire = wired([NUMBER], ["utf8"])
    wire.reply = lambda: 3
    with instance(code) as made, calling(made, "f0", 1) as call:
        assert not call.ended
        assert call.poll()
        assert call.ended
        with pytest.raises(RuntimeError):
            call.poll()
        call.close()
        call.close()
        assert call.result == 3


@pytest.mark.parametrize("number", [-1, 1, 1000, 2**40])
def test_an_export_that_does_not_exist(number: int) -> None:
    code, _ = wired([NUMBER], ["utf8"])
    with instance(code) as made:
        with pytest.raises((IndexError, OverflowError)):
            made.call(number, ())
        with pytest.raises(KeyError):
            made.export("f1")


def test_a_poll_too_early_changes_nothing() -> None:
    code, wire = wired([NUMBER], ["utf8"])
    wire.reply = waits(5)
    with instance(code) as made, calling(made, "f0", 1) as call:
        for _ in range(5):
            assert not call.poll()
            assert call.waiting is not None
        settle(call)
        assert call.poll()
        assert call.result == 5


# --- host functions that fail ---------------------------------------------------------------------


class Odd(BaseException):
    """Of no kind that anybody expects."""


def waits(value: object = None, error: BaseException | None = None) -> Callable[[], Any]:
    async def reply() -> object:
        await Turn()
        if error is not None:
            raise copy(error)  # each with a traceback of its own
        return value

    return reply


def raises(error: BaseException) -> Callable[[], Any]:
    def reply() -> object:
        raise copy(error)

    return reply


ERRORS = [ValueError("x"), Trap("x"), StopIteration("x"), RecursionError("x"), MemoryError("x")]
ODD = [Odd("x"), KeyboardInterrupt("x"), SystemExit("x"), GeneratorExit("x")]


@pytest.mark.parametrize("encodings", STAGES)
@pytest.mark.parametrize("error", [*ERRORS, *ODD, asyncio.CancelledError("x"), Err("x")], ids=repr)
def test_what_a_host_function_raises_ends_its_guest(
    error: BaseException, encodings: list[str]
) -> None:
    code, wire = wired([TEXT], encodings)
    wire.reply = raises(error)
    with instance(code) as made:
        with pytest.raises(type(error), match="x"):
            run(made, "f0", "text")
        assert made.broken
    wire.reply = lambda: "fine"
    with instance(code) as made:
        assert run(made, "f0", "text") == "fine"


@pytest.mark.parametrize("encodings", STAGES)
@pytest.mark.parametrize("error", [e for e in ERRORS if not isinstance(e, StopIteration)], ids=repr)
def test_what_a_host_function_raises_after_waiting_ends_its_guest(
    error: BaseException, encodings: list[str]
) -> None:
    code, wire = wired([TEXT], encodings)
    wire.reply = waits(error=error)
    with instance(code) as made:
        with pytest.raises(type(error), match="x"):
            run(made, "f0", "text")
        assert made.broken


@pytest.mark.parametrize("encodings", STAGES)
def test_err_is_a_value_whenever_it_comes(encodings: list[str]) -> None:
    code, wire = wired([OUTCOME], encodings)
    for reply in (
        raises(Err("no")),
        waits(error=Err("no")),
        waits(Err("no")),
        lambda: Err("no"),
    ):
        wire.reply = reply
        with instance(code) as made:
            assert run(made, "f0", "text") == Err("no")
    for reply in (lambda: "yes", waits("yes"), waits(Ok("yes")), lambda: Ok("yes")):
        wire.reply = reply
        with instance(code) as made:
            assert run(made, "f0", "text") == Ok("yes")


@pytest.mark.parametrize("encodings", STAGES)
@pytest.mark.parametrize(
    "wrong",
    [5, None, b"x", "\ud800", object()],
    ids=["int", "None", "bytes", "surrogate", "object"],
)
def test_a_wrong_result_ends_its_guest(wrong: object, encodings: list[str]) -> None:
    code, wire = wired([TEXT], encodings)
    for reply in (lambda: wrong, waits(wrong)):
        wire.reply = reply
        with instance(code) as made:
            with pytest.raises((TypeError, UnicodeEncodeError, AttributeError)):
                run(made, "f0", "text")
            assert made.broken


def test_a_coroutine_that_gives_a_coroutine() -> None:
    async def inner() -> str:
        return "text"

    code, wire = wired([TEXT], ["utf8"])
    leaked = inner()
    wire.reply = waits(leaked)
    with instance(code) as made, pytest.raises(TypeError):
        run(made, "f0", "text")
    leaked.close()


# --- waiting and being cancelled ------------------------------------------------------------------


class Cleaning:
    """A host function that waits for ever and cleans up when it is cancelled."""

    def __init__(self) -> None:
        self.entered = self.left = 0

    async def __call__(self) -> str:
        self.entered += 1
        try:
            while True:
                await Turn()
        finally:
            self.left += 1


@pytest.mark.parametrize("encodings", STAGES)
@pytest.mark.parametrize("turns", [None, 0, 1, 5])
def test_a_call_is_cancelled_while_the_host_works(encodings: list[str], turns: int | None) -> None:
    """`turns`: of the host function before; None: it has not even begun."""
    code, wire = wired([TEXT], encodings)
    wire.reply = cleaning = Cleaning()
    with instance(code) as made:
        with calling(made, "f0", "text") as call:
            while (waiting := call.waiting) is None:  # on a slow machine a slice may not suffice
                assert not call.poll()
            if turns is not None:
                for _ in range(turns + 1):
                    waiting.send(None)
            assert not call.poll()
        assert call.ended
        assert made.waiting is None
        assert made.broken
        assert cleaning.left == cleaning.entered == (turns is not None)


@pytest.mark.parametrize("stages", [1, 2, 3])
@pytest.mark.parametrize("spinning", [SPINNING_REALLOC, SPINNING_RESET])
def test_a_call_is_cancelled_wherever_a_guest_spins(stages: int, spinning: str) -> None:
    """Arguments into the callee, the result into the caller, cleaning up after either."""
    for stage in range(stages):
        code, wire = wired([TEXT], ["utf8", "utf16", "utf8"][:stages], {stage: spinning})
        wire.reply = lambda: "text"
        with instance(code) as made:
            if stage == 0:  # off its fiber: it is stopped
                with pytest.raises(Trap, match="ran too long"):
                    run(made, "f0", "text")
            else:
                with calling(made, "f0", "text") as call:
                    for _ in range(5):
                        assert not call.poll()
                        assert call.waiting is None
            assert made.broken


def test_a_guest_that_spins_yields_every_few_milliseconds() -> None:
    body = f'(func (export "go") {SPIN})'
    code = ready(assemble(written(body, [], [Item("go")])), host_of([], {}))
    with instance(code) as made, calling(made, "go") as call:
        began = time.process_time()
        for _ in range(50):
            assert not call.poll()
        assert 0.05 < time.process_time() - began < 2


def test_a_call_that_nobody_closes_is_cleaned_up_with_its_last_reference() -> None:
    code, wire = wired([TEXT], ["utf8", "utf16"])
    wire.reply = waits("text")
    made = Instance.create(code, None, 1 << 20)
    call = made.call(made.export("f0"), ("text",))
    assert not call.poll()
    while call.waiting is None:  # a slow machine: its slice ended before it waited
        assert not call.poll()
    waiting = call.waiting
    del call, made
    gc.collect()
    assert not any(counters().values())
    assert waiting is not None
    waiting.close()


# --- on asyncio -----------------------------------------------------------------------------------


async def driven(made: Instance, lane: Lane, name: str, *args: object) -> Any:
    call: Call = made.call(made.export(name), args)
    try:
        return call.result if call.poll() else await drive(call, lane)
    finally:
        call.close()


async def test_an_event_is_answered_between_two_slices() -> None:
    lane = Lane()
    slices: list[str] = []
    turns: list[int] = []

    async def spin(name: str) -> None:
        while len(slices) < 8:
            await lane.turn()
            slices.append(name)
            turns.append(0)

    async with asyncio.TaskGroup() as group:
        for name in "ab":
            group.create_task(spin(name))
        while len(slices) < 8:
            await asyncio.sleep(0)
            if turns:
                turns[-1] += 1
    assert slices[:8] == list("abababab")
    assert min(turns[:7]) >= TURNS, turns


async def test_many_guests_wait_at_once() -> None:
    code, wire = wired([NUMBER], ["utf8", "utf8"])
    served = 0

    async def reply() -> int:
        nonlocal served
        await asyncio.sleep(0.001 * (served % 3))
        served += 1
        return served

    wire.reply = reply
    lane = Lane()

    async def one() -> None:
        with instance(code) as made:
            for _ in range(20):
                await driven(made, lane, "f0", 1)

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(one())
    assert served == 60


async def test_a_task_that_is_cancelled_cancels_what_its_guest_waits_for() -> None:
    code, wire = wired([NUMBER], ["utf8", "utf8"])
    never = asyncio.get_running_loop().create_future()
    cancelled = 0

    async def reply() -> int:
        nonlocal cancelled
        try:
            await asyncio.shield(never)
        except asyncio.CancelledError:
            cancelled += 1
            raise
        return 1

    wire.reply = reply

    async def one() -> None:
        with instance(code) as made:
            await driven(made, Lane(), "f0", 1)

    for index in range(20):
        task = asyncio.get_running_loop().create_task(one())
        for _ in range(index % 4):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert cancelled == 15  # the others had not begun
    never.cancel()


async def test_a_host_function_may_use_a_timeout() -> None:
    code, wire = wired([OUTCOME], ["utf8", "utf8"])

    async def reply() -> str:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
        except TimeoutError:
            raise Err("late") from None
        return ""

    wire.reply = reply
    with instance(code) as made:
        assert await driven(made, Lane(), "f0", "x") == Err("late")


async def test_guests_that_spin_share_the_loop() -> None:
    """With four guests that never end, who waits 1 ms at a time still gets on."""
    body = f'(func (export "go") {SPIN})'
    spinning = ready(assemble(written(body, [], [Item("go")])), host_of([], {}))
    code, wire = wired([NUMBER], ["utf8"])

    async def reply() -> int:
        await asyncio.sleep(0.001)
        return 1

    wire.reply = reply
    lane = Lane()

    async def spin() -> None:
        with instance(spinning) as made:
            await driven(made, lane, "go")

    tasks = [asyncio.get_running_loop().create_task(spin()) for _ in range(4)]
    began = time.monotonic()
    with instance(code) as made:
        for _ in range(20):
            await driven(made, lane, "f0", 1)
    assert time.monotonic() - began < 20
    for task in tasks:
        task.cancel()
    results = await asyncio.wait(tasks)
    assert all(task.cancelled() for task in results[0])


# --- nothing grows --------------------------------------------------------------------------------


def fates() -> dict[str, Callable[[], None]]:
    """Ways an invocation goes, each of which leaves nothing."""
    code, wire = wired([TEXT, OUTCOME, NUMBER], ["utf8", "utf16"])
    broken = LIBC.replace("(local $at i32)", "(local $at i32) unreachable")
    crash, _ = wired([TEXT], ["utf8", "utf8"], {1: broken})
    start = starting("unreachable")
    context = object()

    def fine(reply: Callable[[], Any], name: str = "f0") -> Callable[[], None]:
        def act() -> None:
            wire.reply = reply
            with instance(code, context) as made:
                run(made, name, "text" * 50)

        return act

    def failing(reply: Callable[[], Any], kind: type[BaseException]) -> Callable[[], None]:
        act = fine(reply)

        def fail() -> None:
            try:
                act()
            except kind:
                return
            raise AssertionError

        return fail

    def cancelled() -> None:
        wire.reply = waits("text")
        with instance(code, context) as made, calling(made, "f0", "text") as call:
            call.poll()

    def never_polled() -> None:
        with instance(code, context) as made, calling(made, "f0", "text"):
            pass

    def wrong_argument() -> None:
        with instance(code, context) as made:
            try:
                run(made, "f0", 5)
            except TypeError:
                return

    def trap() -> None:
        with instance(crash, context) as made:
            try:
                run(made, "f0", "text")
            except Trap:
                return

    def no_start() -> None:
        try:
            Instance.create(start, context, 1 << 20)
        except Trap:
            return

    return {
        "fine": fine(lambda: "text" * 100),
        "waits": fine(waits("text")),
        "err": fine(raises(Err("no")), "f1"),
        "waits and errs": fine(waits(error=Err("no")), "f1"),
        "raises": failing(lambda: {}["x"], KeyError),
        "raises later": failing(waits(error=ValueError()), ValueError),
        "wrong result": failing(lambda: 5, TypeError),
        "wrong result later": failing(waits(5), TypeError),
        "cancelled": cancelled,
        "never polled": never_polled,
        "wrong argument": wrong_argument,
        "trap": trap,
        "no start": no_start,
    }


FATES = [
    "fine", "waits", "err", "waits and errs", "raises", "raises later", "wrong result",
    "wrong result later", "cancelled", "never polled", "wrong argument", "trap", "no start",
]  # fmt: skip


@pytest.mark.parametrize("fate", FATES)
def test_nothing_grows_however_an_invocation_ends(fate: str) -> None:
    act = fates()[fate]
    for _ in range(50):
        act()
    gc.collect()
    gc.disable()  # what needs the collector counts as left
    blocks = sys.getallocatedblocks()
    try:
        for _ in range(1000):
            act()
        grown = sys.getallocatedblocks() - blocks
    finally:
        gc.enable()
    assert grown < 300, f"{grown} blocks more after 1,000 invocations"


def test_a_trace_of_what_was_allocated_does_not_grow_either() -> None:
    acts = fates().values()
    for act in acts:
        act()
    gc.collect()
    tracemalloc.start()
    for act in acts:
        act()
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(30):
        for act in acts:
            act()
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 30_000, f"{grown} bytes more after 30 rounds"


def test_the_process_does_not_grow() -> None:
    """What Python does not count: stores, fibers, messages of traps."""
    acts = fates().values()
    for act in acts:
        for _ in range(200):
            act()
    before = resident()
    for act in acts:
        for _ in range(1500):
            act()
    assert resident() - before < 2 << 20


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def test_a_context_and_arguments_are_let_go() -> None:
    code, wire = wired([TEXT], ["utf8"])

    class Context:
        pass

    context = Context()
    references = sys.getrefcount(context)
    for reply in (lambda: "x", raises(ValueError()), waits("x"), waits(error=ValueError())):
        wire.reply = reply
        with instance(code, context) as made:
            try:
                run(made, "f0", "text")
            except ValueError:
                pass
        wire.received = None
        assert sys.getrefcount(context) == references


def test_deep_recursion_in_a_host_function_is_an_error_of_the_host() -> None:
    """It runs on the fiber's stack, which is smaller than the thread's."""
    deep = "[" * 100_000
    code, wire = wired([TEXT], ["utf8", "utf8", "utf8"])

    def recurse(depth: int) -> int:
        return recurse(depth + 1) + 1

    def nested() -> str:
        value: list[object] = []
        for _ in range(100_000):
            value = [value]
        return repr(value)

    for reply in (lambda: json.loads(deep), lambda: recurse(0), nested):
        wire.reply = reply
        with instance(code) as made, pytest.raises(RecursionError):
            run(made, "f0", "text")
