"""A guest that lies about pointers, lengths, cases and text is stopped; nobody else notices."""

from __future__ import annotations

import mmap
import struct
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from guests import Item, calling, host_of, instance, ready, run, written
from wat import assemble

from edge.engine._core import Code, Instance, counters
from edge.engine.host import Err, Trap

PAGE = 65536


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    assert not any(counters().values())


class Probe:
    """A guest that does as it is told: it passes raw core values to the host and back.

    `call`: its export of that name hands its arguments to the host's function of one parameter,
    whatever they are. `give`: it returns its argument as the core result of that type.
    """

    def __init__(
        self,
        text: str,
        core: str,
        wit: str,
        encoding: str = "utf8",
        types: str = "",
        wit_types: str = "",
    ) -> None:
        self.seen: list[Any] = []
        flat = core.split()
        raw = {"i32": "u32", "i64": "u64", "f32": "f32", "f64": "f64"}
        params = " ".join(f'(param "p{n}" {raw[c]})' for n, c in enumerate(flat))
        gets = " ".join(f"(local.get {n})" for n in range(len(flat)))
        imports = [Item("take", f'(param "x" {text})', f"(param {core})", f"func(x: {wit})")]
        exports = [
            Item("call", params),
            Item("poke", '(param "at" u32) (param "value" u32)'),
            Item("give", f'(param "at" u32) (result {text})'),
        ]
        body = f"""
          (func (export "call") (param {core}) (call $take {gets}))
          (func (export "poke") (param i32 i32) (i32.store (local.get 0) (local.get 1)))
          (func (export "give") (param i32) (result i32) (local.get 0))
        """
        host = host_of(imports, {"take": lambda _, x: self.seen.append(x)}, wit_types)
        written_text = written(body, imports, exports, types=types, encoding=encoding)
        self.code: Code = ready(assemble(written_text), host)

    def call(self, *flat: float, memory: bytes = b"", at: int = 256) -> Any:
        """What the host received when the guest passed these core values. Memory begins at 256."""
        with instance(self.code) as made:
            self._fill(made, memory, at)
            run(made, "call", *flat)
        return self.seen.pop()

    def give(self, at: int, memory: bytes = b"") -> Any:
        """What the host received when the guest returned this number or pointer."""
        with instance(self.code) as made:
            self._fill(made, memory, 256)
            return run(made, "give", at)

    @staticmethod
    def _fill(made: Instance, memory: bytes, at: int) -> None:
        for offset in range(0, len(memory), 4):
            word = memory[offset : offset + 4].ljust(4, b"\0")
            run(made, "poke", at + offset, struct.unpack("<I", word)[0])


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


# --- pointers and lengths -------------------------------------------------------------------------

BEYOND = [
    (PAGE, 1),
    (PAGE + 1, 0),
    (PAGE - 1, 2),
    (0, PAGE + 1),
    (0xFFFFFFFF, 0),
    (0xFFFFFFFF, 1),
    (0xFFFFFFFF, 0xFFFFFFFF),
    (1, 0xFFFFFFFF),
    (0x80000000, 0x80000000),
]
POINTED = [
    ("(list u8)", "list<u8>", "utf8", 1),
    ("string", "string", "utf8", 1),
    ("string", "string", "utf16", 2),
    ("string", "string", "latin1+utf16", 1),
    ("(list s8)", "list<s8>", "utf8", 1),
    ("(list u64)", "list<u64>", "utf8", 8),
    ("(list string)", "list<string>", "utf8", 8),
]


@pytest.mark.parametrize(("text", "wit", "encoding", "size"), POINTED)
def test_pointers_beyond_the_memory(text: str, wit: str, encoding: str, size: int) -> None:
    types = f"(type $t {text})" if "(" in text else ""
    probe = Probe("$t" if types else text, "i32 i32", wit, encoding, types)
    for pointer, length in BEYOND:
        with pytest.raises(Trap, match="pointer"):
            probe.call(pointer, length)
        with pytest.raises(Trap, match="pointer"):
            probe.give(256, words(pointer, length))
    for pointer, length in ((0, PAGE // size + 1), (8, (1 << 32) // size), (8, PAGE // size)):
        with pytest.raises(Trap, match="pointer"):
            probe.call(pointer, length & 0xFFFFFFFF or 0xFFFFFFFF)
    assert probe.call(PAGE, 0) in ([], b"", "")
    assert probe.call(8, 0) in ([], b"", "")


@pytest.mark.parametrize(("text", "wit", "encoding", "align"), [
    ("string", "string", "utf16", 2), ("string", "string", "latin1+utf16", 2),
    ("(list u16)", "list<u16>", "utf8", 2), ("(list u32)", "list<u32>", "utf8", 4),
    ("(list u64)", "list<u64>", "utf8", 8), ("(list f64)", "list<f64>", "utf8", 8),
    ("(list char)", "list<char>", "utf8", 4),
])  # fmt: skip
def test_pointers_that_are_not_aligned(text: str, wit: str, encoding: str, align: int) -> None:
    types = f"(type $t {text})" if "(" in text else ""
    probe = Probe("$t" if types else text, "i32 i32", wit, encoding, types)
    for pointer in range(256, 256 + align):
        for length in (0, 1):
            if pointer % align:
                with pytest.raises(Trap, match="not aligned"):
                    probe.call(pointer, length)
            else:
                assert len(probe.call(pointer, length)) == length


@pytest.mark.parametrize("at", [1, 2, 257, PAGE - 4, PAGE, 0xFFFFFFFC, 0xFFFFFFFF])
def test_a_result_where_none_can_be(at: int) -> None:
    with pytest.raises(Trap, match="pointer"):
        Probe("string", "i32 i32", "string").give(at)


def spilling() -> tuple[Code, list[Any]]:
    """A guest whose `call` passes its argument as the pointer to spilled parameters, and `fetch`
    as where the host shall put a result."""
    seen: list[Any] = []
    many = " ".join(f'(param "p{n}" u32)' for n in range(17))
    imports = [
        Item("take", many, "(param i32)", f"func({', '.join(f'p{n}: u32' for n in range(17))})"),
        Item("fetch", "(result string)", "(param i32)", "func() -> string"),
    ]
    exports = [Item("call", '(param "at" u32)'), Item("get", '(param "at" u32)')]
    body = """
      (func (export "call") (param i32) (call $take (local.get 0)))
      (func (export "get") (param i32) (call $fetch (local.get 0)))
    """
    calls = {"take": lambda *args: seen.append(args[1:]), "fetch": lambda _: "text"}
    host = host_of(imports, calls)
    return ready(assemble(written(body, imports, exports)), host), seen


@pytest.mark.parametrize("name", ["call", "get"])
def test_spilled_parameters_and_results_where_none_can_be(name: str) -> None:
    code, seen = spilling()
    for at in (1, 2, 3, PAGE, 0xFFFFFFFF, 0xFFFFFFFC, PAGE - 4):
        with instance(code) as made, pytest.raises(Trap, match="pointer"):
            run(made, name, at)
    assert not seen
    with instance(code) as made:
        run(made, name, PAGE - 68)


# --- text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [
    b"\x80", b"\xff", b"\xc3", b"\xc0\xaf", b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xed\xbf\xbf",
    b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80", b"ok\xf0\x9f\x98",
])  # fmt: skip
def test_what_is_no_utf8(data: bytes) -> None:
    probe = Probe("string", "i32 i32", "string")
    with pytest.raises(Trap, match="invalid string"):
        probe.call(256, len(data), memory=data)
    with pytest.raises(Trap, match="invalid string"):
        probe.give(256, words(264, len(data)) + data)


@pytest.mark.parametrize(
    "data", [b"\0\xd8", b"\0\xdc", b"\0\xd8a\0", b"\0\xdc\0\xd8", b"a\0\xff\xdb"]
)
def test_what_is_no_utf16(data: bytes) -> None:
    units = len(data) // 2
    with pytest.raises(Trap, match="invalid string"):
        Probe("string", "i32 i32", "string", "utf16").call(256, units, memory=data)
    with pytest.raises(Trap, match="invalid string"):
        Probe("string", "i32 i32", "string", "latin1+utf16").call(256, units | 1 << 31, memory=data)


def test_a_byte_order_mark_is_a_character() -> None:
    data = b"\xff\xfea\0"
    assert Probe("string", "i32 i32", "string", "utf16").call(256, 2, memory=data) == "\ufeffa"
    data = b"\xfe\xffa\0"
    assert Probe("string", "i32 i32", "string", "utf16").call(256, 2, memory=data) == "\ufffea"


@pytest.mark.parametrize("code", [0xD800, 0xDFFF, 0x110000, 0xFFFFFFFF])
def test_what_is_no_character(code: int) -> None:
    probe = Probe("char", "i32", "char")
    with pytest.raises(Trap, match="not a character"):
        probe.call(code)
    with pytest.raises(Trap, match="not a character"):
        probe.give(code)
    listed = Probe("$t", "i32 i32", "list<char>", types="(type $t (list char))")
    with pytest.raises(Trap, match="not a character"):
        listed.call(256, 1, memory=words(code))


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "number", "read"), [
    ("u8", 0x1FF, 255), ("s8", 0x1FF, -1), ("u16", 0xABCDEF01, 0xEF01), ("s16", 0x18000, -32768),
    ("bool", 0, False), ("bool", 2, True), ("bool", 0xFFFFFF00, True),
])  # fmt: skip
def test_bits_beyond_a_number_do_not_count(name: str, number: int, read: Any) -> None:
    probe = Probe(name, "i32", name)
    assert probe.call(number) == read
    assert probe.give(number) == read


def test_flags_that_nobody_knows_do_not_count() -> None:
    types = '(type $t (flags "a" "b" "c"))'
    probe = Probe("$t", "i32", "t", types=types, wit_types="flags t { a, b, c }")
    assert probe.call(0xFFFFFFFF) == 7
    assert probe.give(0xFFFFFFF8) == 0


VARIANTS = [
    ('(variant (case "a" u8) (case "b" f32))', "variant t { a(u8), b(f32) }", "i32 i32", 2),
    ('(variant (case "a" u64) (case "b" f32))', "variant t { a(u64), b(f32) }", "i32 i64", 2),
    ("(option u32)", "type t = option<u32>;", "i32 i32", 2),
    ("(result u32 (error string))", "type t = result<u32, string>;", "i32 i32 i32", 2),
    ('(enum "a" "b" "c")', "enum t { a, b, c }", "i32", 3),
    ("(result)", "type t = result;", "i32", 2),
]


@pytest.mark.parametrize(("text", "wit", "core", "cases"), VARIANTS)
def test_cases_that_do_not_exist(text: str, wit: str, core: str, cases: int) -> None:
    probe = Probe("$t", core, "t", types=f"(type $t {text})", wit_types=wit)
    rest = [0] * (len(core.split()) - 1)
    for tag in (cases, 0xFF, 0x100, 0xFFFFFFFF):
        with pytest.raises(Trap, match="invalid case"):
            probe.call(tag, *rest)
    probe.call(cases - 1, *rest)
    with pytest.raises(Trap, match="invalid case"):
        probe.give(256 if rest else cases, words(cases, 0, 0))


def test_a_payload_in_a_wider_place_is_cut_to_its_size() -> None:
    text = '(variant (case "a" u64) (case "b" f32) (case "c" u8) (case "d" char))'
    wit = "variant t { a(u64), b(f32), c(u8), d(char) }"
    probe = Probe("$t", "i32 i64", "t", types=f"(type $t {text})", wit_types=wit)
    assert probe.call(1, 0xDEADBEEF_3FC00000) == ("b", 1.5)
    assert probe.call(2, 0xFFFFFFFF_FFFFFF07) == ("c", 7)
    assert probe.call(3, 0xFFFFFFFF_00000041) == ("d", "A")
    with pytest.raises(Trap, match="not a character"):
        probe.call(3, 0x41_FFFFFFFF)


# --- lists that take more room here than there ----------------------------------------------------


@pytest.mark.parametrize(("inner", "wit", "length"), [
    ("(list u8)", "list<u8>", 0xF000), ("string", "string", 0xF000),
    ("(list s8)", "list<s8>", 0xF000), ("(list u16)", "list<u16>", 0x7000),
    ("(list char)", "list<char>", 0x3000),
])  # fmt: skip
def test_lists_of_one_place_again_and_again(inner: str, wit: str, length: int) -> None:
    """8,000 entries, all of the same 60 KiB: half a gigabyte if nobody counted."""
    inner, named = ("$i", f"(type $i {inner})") if "(" in inner else (inner, "")
    probe = Probe("$t", "i32 i32", f"list<{wit}>", types=f"{named} (type $t (list {inner}))")
    with instance(probe.code) as made:
        for index in range(2):
            run(made, "poke", 8 * index, 256)
            run(made, "poke", 8 * index + 4, length)
        run(made, "call", 0, 2)
    assert [len(part) for part in probe.seen.pop()] == [length, length]
    entries = words(256, length) * 8000
    with instance(probe.code) as made:
        for offset in range(0, len(entries), 4):
            run(made, "poke", offset, struct.unpack_from("<I", entries, offset)[0])
        tracemalloc.start()
        with pytest.raises(Trap, match=r"too large|not a character|invalid string"):
            run(made, "call", 0, 8000)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 96 << 20


def test_wide_elements_cost_what_they_take_here() -> None:
    """A case is two bytes there and a tuple here: 60 elements are 2 MB, of 8,000 lists 17 GB."""
    text = f"""(type $v (variant (case "a") (case "b" u8))) (type $r (tuple {"$v " * 500}))
               (type $l (list $r)) (type $t (list $l))"""
    element = f"tuple<{', '.join(['v'] * 500)}>"
    probe = Probe(
        "$t", "i32 i32", f"list<list<{element}>>", types=text, wit_types="variant v { a, b(u8) }"
    )
    with instance(probe.code) as made:
        for index in range(0, 4000, 8):
            run(made, "poke", index, 4096)
            run(made, "poke", index + 4, 60)
        run(made, "call", 0, 2)
        probe.seen.clear()
        tracemalloc.start()
        with pytest.raises(Trap, match="too large"):
            run(made, "call", 0, 500)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 96 << 20


# --- allocators -----------------------------------------------------------------------------------

SEND = Item("send", '(param "x" string)')
FETCH = Item("fetch", "(result string)", "(param i32)", "func() -> string")
TICK = Item("tick")
REALLOC = "(func $realloc (param i32 i32 i32 i32) (result i32) {})"
BODY = """
  (func (export "send") (param i32 i32))
  (func (export "fetch") (call $fetch (i32.const 64)))
"""


def allocating(code: str, body: str = BODY, text: str = "text" * 25) -> tuple[Code, list[Any]]:
    """A guest with this allocator: `send` uses it for an argument, `fetch` for a result."""
    ticks: list[Any] = []
    imports = [FETCH, TICK]
    host = host_of(imports, {"fetch": lambda _: text, "tick": ticks.append})
    module = written(REALLOC.format(code) + body, imports, [SEND, Item("fetch")])
    return ready(assemble(module), host), ticks


def ends(code: Code, match: str) -> None:
    """Neither way to the allocator is one into the host."""
    with instance(code) as made:
        with pytest.raises(Trap, match=match):
            run(made, "send", "text" * 25)
        assert made.broken
    with instance(code) as made:
        with pytest.raises(Trap, match=match):
            run(made, "fetch")
        assert made.broken


@pytest.mark.parametrize("at", [PAGE - 99, PAGE, 0x7FFFFFFF, -1, -100])
def test_an_allocator_that_points_elsewhere(at: int) -> None:
    ends(allocating(f"(i32.const {at})")[0], "pointer")


def test_an_allocator_that_gives_the_last_bytes() -> None:
    code, _ = allocating(f"(i32.const {PAGE - 100})")
    with instance(code) as made:
        run(made, "send", "text" * 25)
        run(made, "fetch")


def test_an_allocator_that_grows_the_memory_while_it_is_written() -> None:
    code, _ = allocating(
        "(i32.mul (memory.grow (i32.const 1)) (i32.const 65536))", text="日" * 20_000
    )
    with instance(code) as made:
        for _ in range(5):
            run(made, "send", "日" * 20_000)
            run(made, "fetch")


def test_an_allocator_that_is_not_aligned() -> None:
    body = '(func (export "send") (param i32 i32))'
    send = Item("send", '(param "x" $t)')
    text = written(
        REALLOC.format("(i32.const 1028)") + body, [], [send], types="(type $t (list u64))"
    )
    code = ready(assemble(text), host_of([], {}))
    with instance(code) as made, pytest.raises(Trap, match="not aligned"):
        run(made, "send", [1])


def test_an_allocator_that_traps() -> None:
    ends(allocating("unreachable")[0], "unreachable")


def test_an_allocator_that_recurses() -> None:
    again = "(call $realloc (local.get 0) (local.get 1) (local.get 2) (local.get 3))"
    ends(allocating(again)[0], "stack")


def test_an_allocator_that_calls_the_host() -> None:
    code, ticks = allocating("(call $tick) (i32.const 1024)")
    ends(code, "called an import while it allocated")
    assert not ticks


def test_an_allocator_that_never_ends_is_stopped_when_it_can_not_be_suspended() -> None:
    code, _ = allocating("(loop $l (br $l)) (i32.const 1024)")
    time.sleep(0.1)  # the ticker is asleep
    for _ in range(3):
        with instance(code) as made:
            started = time.monotonic()
            with pytest.raises(Trap, match="ran too long"):
                run(made, "send", "x")
            assert time.monotonic() - started < 20


def test_an_allocator_that_never_ends_yields_and_can_be_cancelled() -> None:
    code, _ = allocating("(loop $l (br $l)) (i32.const 1024)")
    with instance(code) as made:
        with calling(made, "fetch") as call:
            for _ in range(20):
                assert not call.poll()
                assert call.waiting is None
        assert made.broken


def test_post_return_that_never_ends_or_calls_the_host() -> None:
    for code, match in (("(loop $l (br $l))", "ran too long"), ("(call $tick)", "cleaned up")):
        body = f"""
          (func (export "get") (result i32) (i32.const 64))
          (func (export "free") (param i32) {code})
        """
        ticks: list[Any] = []
        get = Item("get", "(result string)", options='(post-return (core func $main "free"))')
        host = host_of([TICK], {"tick": ticks.append})
        made_of = ready(assemble(written(body, [TICK], [get])), host)
        time.sleep(0.1)
        with instance(made_of) as made, pytest.raises(Trap, match=match):
            run(made, "get")
        assert not ticks


def test_a_list_that_its_owner_changes_while_the_guest_allocates() -> None:
    """The allocator yields between two entries; meanwhile the host's own list grows and shrinks."""
    fetch = Item("fetch", "(result $t)", "(param i32)", "func() -> list<string>")
    body = """
      (global $n (mut i32) (i32.const 0))
      (func $realloc (param i32 i32 i32 i32) (result i32)
        (if (i32.eqz (global.get $n)) (then
          (global.set $n (i32.const 1))
          (return (i32.const 65472))))
        (loop $l
          (global.set $n (i32.add (global.get $n) (i32.const 1)))
          (br_if $l (i32.lt_u (global.get $n) (i32.const 20000000))))
        (i32.const 1024))
      (func (export "fetch") (call $fetch (i32.const 64)))
    """
    types = "(type $t (list string))"
    for change in (lambda texts: texts.extend(["y"] * 100_000), list.clear):
        texts = ["x"] * 8
        host = host_of([fetch], {"fetch": lambda _, texts=texts: texts})
        code = ready(assemble(written(body, [fetch], [Item("fetch")], types=types)), host)
        with instance(code) as made, calling(made, "fetch") as call:
            assert not call.poll()
            change(texts)
            while not call.poll():
                assert call.waiting is None


def test_an_error_of_the_host_in_the_middle_of_a_list() -> None:
    fetch = Item("fetch", "(result $t)", "(param i32)", "func() -> list<string>")
    body = '(func (export "fetch") (call $fetch (i32.const 64)))'
    host = host_of([fetch], {"fetch": lambda _: ["a", 5, "c"]})
    text = written(body, [fetch], [Item("fetch")], types="(type $t (list string))")
    with instance(ready(assemble(text), host)) as made, pytest.raises(TypeError):
        run(made, "fetch")


def test_no_memory_is_given_for_more_than_a_guest_can_address() -> None:
    send = Item("send", '(param "x" $t)')
    text = written(BODY, [FETCH], [send], types="(type $t (list u8))")
    code = ready(assemble(text), host_of([FETCH], {"fetch": str}))
    huge = mmap.mmap(-1, 1 << 31)
    with huge as data, instance(code) as made, pytest.raises(Trap, match="too much"):
        run(made, "send", data)


def test_err_is_an_error_of_the_host_only_where_it_has_a_place() -> None:
    ends_with = Item("fetch", "(result string)", "(param i32)", "func() -> string")
    host = host_of([ends_with], {"fetch": lambda _: Err("x")})
    body = '(func (export "fetch") (call $fetch (i32.const 64)))'
    code = ready(assemble(written(body, [ends_with], [Item("fetch")])), host)
    with instance(code) as made, pytest.raises(TypeError):
        run(made, "fetch")
