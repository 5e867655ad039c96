"""One process of the fuzz: `python fuzz.py KIND FIRST COUNT PROGRESS`.

Runs cases FIRST to FIRST + COUNT, each from its number alone. Writes it to the file PROGRESS
before it begins, so that whoever started the process knows what crashed it or made it hang. Ends
with a summary as JSON; what is neither an error of the binary nor a trap of the guest ends the
process at once with a traceback.

KIND "binaries": real components with some bytes changed, loaded, instantiated, every export called.
KIND "outlines": core modules with some bytes changed; what the loader reads in them of imports and
exports is what Wasmtime does, since nobody checks it again.
KIND "values": core values, memory and allocators at random, between the host and types at random.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import test_loader_hostile as mutations
import wasmtime
from guests import Function, Item, Spelling, engine, host_of, relay, written
from test_instances_composed import SHARED, Host
from wat import assemble

from edge.engine import types as wit
from edge.engine._core import Code, Instance, Module, counters
from edge.engine.coremodule import parse_module
from edge.engine.coretypes import CoreExtern, CoreFunc, CoreGlobal, CoreMemory, CoreTable, Limits
from edge.engine.drive import Lane, drive
from edge.engine.guest import Bindings
from edge.engine.host import CoreInterface, Err, Interface, Interfaces, Ok, Some, Trap
from edge.engine.loader import load_plan
from edge.engine.renewal import exposed
from edge.engine.types import Primitive, Type
from edge.errors import ComponentError

MEMORY = 16 << 20
DEADLINE = 0.03  # seconds; endless loops are frequent
CASE = 20  # seconds; for loading and calling, on a slow machine
GUESTS = Path(__file__).parents[1] / "guests" / "out"
SMALL = (
    "hello", "echo", "counter", "exit", "touch", "lies", "outbound", "recursion", "composed", "cgi",
)  # fmt: skip


# --- types and values -----------------------------------------------------------------------------

NAMES = tuple(wit.PRIMITIVES)


def any_type(chance: random.Random, depth: int = 3) -> Type:
    kind = chance.randrange(12) if depth else 0
    parts = [any_type(chance, depth - 1) for _ in range(chance.randrange(1, 4))] if depth else []
    optional = [chance.choice((None, part)) for part in [*parts, None, None]]
    match kind:
        case 5 | 6:
            return wit.List(parts[0])
        case 7:
            return wit.Tuple(tuple(parts))
        case 8:
            cases = tuple((f"c{n}", part) for n, part in enumerate(optional))
            return wit.Variant(cases)
        case 9:
            return wit.Option(parts[0])
        case 10:
            return wit.Result(optional[0], optional[1])
        case 11:
            return chance.choice(
                (
                    wit.Enum(tuple(f"e{n}" for n in range(chance.choice((1, 3, 300))))),
                    wit.Flags(tuple(f"g{n}" for n in range(chance.choice((1, 8, 9, 32))))),
                    wit.List(Primitive("u8")),
                )
            )
    return Primitive(chance.choice(NAMES))


SIMPLE: dict[str, Callable[[random.Random], Any]] = {
    "bool": lambda c: c.random() < 0.5,
    "f32": lambda c: c.choice((0.0, -1.5, float("inf"), float("nan"))),
    "f64": lambda c: c.choice((0.0, -1.5, float("inf"), float("nan"))),
    "char": lambda c: c.choice("aé日\U0010ffff"),
    "string": lambda c: "".join(c.choices("aé日\U0010ffff", k=c.randrange(6))),
}


def any_value(chance: random.Random, type_: Type, host: dict[str, type]) -> Any:
    match type_:
        case Primitive(name) if name in SIMPLE:
            return SIMPLE[name](chance)
        case Primitive(name):
            bits = int(name[1:])
            return chance.choice((0, 1, chance.getrandbits(bits - 1)))
        case wit.List(Primitive("u8")):
            return chance.randbytes(chance.randrange(20))
        case wit.List(element):
            return [any_value(chance, element, host) for _ in range(chance.randrange(4))]
        case wit.Record(fields):
            return tuple(any_value(chance, part, host) for _, part in fields)
        case wit.Tuple(elements):
            return tuple(any_value(chance, part, host) for part in elements)
        case wit.Enum(names):
            return chance.choice(names)
        case wit.Flags(names):
            return chance.getrandbits(len(names))
        case wit.Variant(cases):
            name, payload = chance.choice(cases)
            return name, payload and any_value(chance, payload, host)
        case wit.Option(payload):
            if chance.random() < 0.3:
                return None
            value = any_value(chance, payload, host)
            return Some(value) if isinstance(payload, wit.Option) else value
        case wit.Result(ok, err):
            made, payload = chance.choice(((Ok, ok), (Err, err)))
            return made(payload and any_value(chance, payload, host))
        case wit.Own(wit.ImportedResource(_, name)) | wit.Borrow(wit.ImportedResource(_, name)):
            return host[name]()
    return None  # a handle of the guest's own, which only it can make


# --- binaries -------------------------------------------------------------------------------------


class Seed:
    """A real component, and the host it is for."""

    def __init__(
        self,
        binary: bytes,
        interfaces: list[Interface | CoreInterface],
        context: Callable[[], Any] = object,
        arguments: Callable[[str], tuple[Any, ...] | None] = lambda _: None,
    ) -> None:
        self.binary = binary
        self.interfaces = Interfaces(interfaces)
        self.context = context
        self.arguments = arguments
        starts = [at for at in range(len(binary)) if binary.startswith(b"\0asm\1\0\0\0", at)]
        self.cores = starts or [8]

    def mutated(self, chance: random.Random) -> bytes:
        data = bytearray(self.binary)
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            if chance.random() < 0.6:  # in code: it still loads more often
                start = chance.choice(self.cores)
                at = min(start + 8 + int(chance.expovariate(1 / 600)), len(data) - 1)
            else:
                at = chance.randrange(8, len(data))
            chance.choice(MUTATIONS)(chance, data, at)
        return bytes(data)


def constant(chance: random.Random, data: bytearray, at: int) -> None:
    """Another number behind the next `i32.const`: a pointer, a length, a case, a handle."""
    at = data.find(b"\x41", at) + 1
    if 0 < at < len(data):
        data[at] = data[at] & 0x80 | chance.getrandbits(7)


MUTATIONS: tuple[mutations.Mutation, ...] = (
    mutations.flip, mutations.flip, mutations.replace, mutations.replace, mutations.replace,
    mutations.delete, mutations.insert, mutations.copy, *[constant] * 8,
)  # fmt: skip


@cache
def seeds() -> tuple[Seed, ...]:
    return (*written_seeds(), *guest_seeds())


def written_seeds() -> Iterator[Seed]:
    chance = random.Random(1)
    for encodings in (["utf8"], ["utf16"], ["latin1+utf16", "utf8"], ["utf8", "utf16", "utf8"]):
        functions = []
        for _ in range(4):
            params = tuple(any_type(chance) for _ in range(chance.randrange(4)))
            functions.append(Function(params, any_type(chance)))
        binary, declared = relay(functions, encodings)
        calls = {f"f{n}": replying(function) for n, function in enumerate(functions)}
        yield Seed(binary, [Interface(declared, functions=calls)])
    gone = Interface("interface t:t/host { gone: func(rep: u32); }", functions={"gone": print_not})
    yield Seed(assemble(SHARED.replace("{dtor}", "(call $gone (local.get 0))")), [gone])
    for waits in (False, True):
        yield Seed(composed(), [Host(waits=waits).interface])
    from test_abi_hostile_handles import prober_binary

    yield Seed(*prober_binary())


def print_not(*_: object) -> None:
    pass


def replying(function: Function) -> Callable[..., Any]:
    """A host function that gives anything of its type, now or later."""
    chance = random.Random(2)

    async def later(value: Any) -> Any:
        await asyncio.sleep(0)
        return value

    def reply(_context: object, *_args: object) -> Any:
        value = function.result and any_value(chance, function.result, {})
        return later(value) if chance.random() < 0.3 else value

    return reply


def composed() -> bytes:
    from test_instances_composed import two_text

    return assemble(two_text())


def guest_seeds() -> Iterator[Seed]:
    """The guests in C, for as many as are built, with all of WASI behind them."""
    from edge import wasi
    from edge.wasi.context import Context
    from edge.wasi.http.incoming import IncomingRequest, ResponseOutparam
    from edge.wasi.http.message import LocalReply, Request
    from edge.wasi.pipe import BytesSource

    def arguments(export: str) -> tuple[Any, ...] | None:
        if not export.endswith("incoming-handler@0.2.0#handle"):
            return None
        request = Request("GET", "http", "h", "/p?q", [(b"a", b"b")], BytesSource(b"body"), "c:1")
        return IncomingRequest(request), ResponseOutparam(LocalReply(), "GET")

    interfaces = list(wasi.interfaces())
    for name in SMALL:
        path = GUESTS / f"{name}.wasm"
        if path.exists():
            yield Seed(path.read_bytes(), interfaces, Context, arguments)


@lru_cache(maxsize=200)
def compiled(wasm: bytes) -> Module:
    """Most modules of a changed component are as they were."""
    return Module.compile(engine(), wasm)


async def binary_case(number: int) -> str:
    chance = random.Random(number)
    seed = chance.choice(seeds())
    binary = seed.mutated(chance)
    try:
        plan = load_plan(binary, seed.interfaces)
        code = Code(
            plan, [compiled(wasm) for wasm in exposed(plan)], Bindings(plan, seed.interfaces)
        )
    except (ComponentError, ValueError) as exc:
        if isinstance(exc, ValueError) and type(exc) is not ValueError:
            raise
        return "refused"
    try:
        made = Instance.create(code, seed.context(), MEMORY)
    except (Trap, MemoryError):
        return "did not start"
    ended = set()
    try:
        for export, lift in plan.exports.items():
            func = plan.lifts[lift].func
            try:
                args = seed.arguments(export) or tuple(
                    any_value(chance, type_, {"thing": thing}) for _, type_ in func.params
                )
            except KeyError:
                continue  # it takes a resource that only WASI's own functions make
            ended.add(await outcome(made, lift, args))
            if made.broken:
                made.close()
                made = Instance.create(code, seed.context(), MEMORY)
    except (Trap, MemoryError):  # from its second start
        pass
    finally:
        made.close()
    return "ran: " + ", ".join(sorted(ended))


def thing() -> Any:
    from test_instances_composed import Thing

    Thing.alive.clear()
    return Thing()


async def outcome(made: Instance, lift: int, args: tuple[Any, ...]) -> str:
    call = None
    try:
        async with asyncio.timeout(DEADLINE):
            call = made.call(lift, args)
            if not call.poll():
                await drive(call, Lane())
        return "returned"
    except (Trap, MemoryError):
        return "trapped"
    except TimeoutError:
        return "timed out"
    except Exception as exc:
        # What the host's functions make of arguments nobody meant is not the engine's affair.
        return f"failed ({type(exc).__name__})"
    finally:
        if call is not None:
            call.close()


# --- outlines -------------------------------------------------------------------------------------

MODULES = (
    """(module
      (type $a (func (param i32 i64 f32 f64) (result i32 i64)))
      (type $b (func (param funcref externref)))
      (import "a" "f" (func (type $a))) (import "a" "g" (func $g (type $b)))
      (import "a" "m" (memory 1 4)) (import "b" "t" (table 2 9 funcref))
      (import "b" "u" (table 0 externref)) (import "" "h" (global $h i32))
      (import "b" "v" (global (mut f64)))
      (table $t 3 funcref) (table 1 5 externref)
      (global $i (mut i64) (i64.const -5)) (global $j i32 (global.get $h))
      (global f32 (f32.const 1.5)) (global $n funcref (ref.null func))
      (global funcref (ref.func $k))
      (func $k (export "k") (type $a) unreachable)
      (func $l (param i32) (local i64 i32) (drop (i32.const 1)))
      (export "l" (func $l)) (export "t" (table $t)) (export "i" (global $i))
      (export "n" (global $n)) (export "m" (memory 0)) (export "g" (func $g))
      (elem (table $t) (i32.const 0) func $k $l) (data (i32.const 0) "data"))""",
    """(module
      (type (func)) (type $r (func (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1) (memory 0 1)
      (func $s) (start $s)
      (func (export "realloc") (type $r) (i32.const 0))
      (func (export "post") (param i64 f32)) (func (export "many") (result i32 i32 f64) unreachable)
      (global (export "sum") i32 (i32.add (i32.const 1) (i32.mul (i32.const 2) (i32.const 3)))))""",
)


@cache
def cores() -> tuple[bytes, ...]:
    made = [assemble(text) for text in MODULES]
    for seed in (*written_seeds(), *guest_seeds()):
        plan = load_plan(seed.binary, seed.interfaces)
        made += [wasm for wasm in plan.modules if len(wasm) < 3000]
    return tuple(made)


async def outline_case(number: int) -> str:
    chance = random.Random(number)
    data = bytearray(chance.choice((*cores()[:2] * 4, *cores())))
    for _ in range(chance.choice((1, 1, 2))):
        at = min(8 + int(chance.expovariate(1 / 150)), len(data) - 1)
        chance.choice(MUTATIONS)(chance, data, at)
    binary = bytes(data)
    try:
        Module.compile(engine(), binary)
    except ValueError:
        return "refused"
    try:
        outline = parse_module(binary)
        ours = [(i.module, i.name, i.type) for i in outline.imports]
        ours += [(None, name, outline.export_type(name)) for name in outline.exports]
    except ComponentError as exc:
        if not exc.message.startswith("unsupported"):
            raise  # Wasmtime takes it
        return "ran: unsupported"
    if "v128" in repr(ours):
        return "ran: v128"  # the C API has no such type
    theirs = wasmtime.Module(reference(), binary)
    found = [(i.module, i.name, core_extern(i.type)) for i in theirs.imports]
    found += [(None, e.name, core_extern(e.type)) for e in theirs.exports]
    assert ours == found, f"{ours} is {found}"
    return "ran: same"


@cache
def reference() -> wasmtime.Engine:
    return wasmtime.Engine()


def core_extern(type_: Any) -> CoreExtern:
    """What Wasmtime says of an import or export, as the loader spells it."""
    match type_:
        case wasmtime.FuncType():
            params, results = map(
                tuple, (map(core_type, type_.params), map(core_type, type_.results))
            )
            return CoreFunc(params, results)
        case wasmtime.MemoryType():
            return CoreMemory(Limits(type_.limits.min, type_.limits.max))
        case wasmtime.TableType():
            return CoreTable(core_type(type_.element), Limits(type_.limits.min, type_.limits.max))
        case wasmtime.GlobalType():
            return CoreGlobal(core_type(type_.content), int(type_.mutable))
    raise TypeError(type_)


def core_type(type_: wasmtime.ValType) -> str:
    return {"funcref": "ref 0x70", "externref": "ref 0x6f"}.get(str(type_), str(type_))


# --- values ---------------------------------------------------------------------------------------


class Probe:
    """A guest that hands raw core values to functions of random types and back.

    Its memory is filled, and its allocator told what to answer, before each call.
    """

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)
        self.types = [any_type(chance) for _ in range(12)]
        encoding = chance.choice(("utf8", "utf16", "latin1+utf16"))
        self.flat = [wit.core_signature(wit.Func((("x", t),), t), "lower") for t in self.types]
        spell = Spelling()
        spelt = [spell(type_) for type_ in self.types]
        imports, exports, body = [BLOB], [Item("fill", '(param "at" u32)')], FILL
        for n, (text, spelled) in enumerate(spelt):
            params, results = self.flat[n]
            core = f"(param {' '.join(params)}) (result {' '.join(results)})"
            item = f'(param "x" {text}) (result {text})'
            imports.append(Item(f"f{n}", item, core, f"func(x: {spelled}) -> {spelled}"))
            raw = " ".join(f'(param "p{i}" {RAW[c]})' for i, c in enumerate(params))
            gets = " ".join(f"(local.get {i})" for i in range(len(params)))
            exports.append(Item(f"call{n}", raw))
            drop = "(drop)" * len(results)
            body += (
                f'(func (export "call{n}") (param {" ".join(params)}) (call $f{n} {gets}) {drop})'
            )
            (result,) = wit.core_signature(wit.Func((), self.types[n]), "lift")[1]
            exports.append(Item(f"give{n}", f'(param "x" {RAW[result]}) (result {text})'))
            body += f'(func (export "give{n}") (param {result}) (result {result}) (local.get 0))'
            exports.append(Item(f"take{n}", f'(param "x" {text})'))
            lifted = wit.core_signature(wit.Func((("x", self.types[n]),), None), "lift")[0]
            body += f'(func (export "take{n}") (param {" ".join(lifted)}))'
        self.blob = b""
        calls: dict[str, Callable[..., Any]] = {f"f{n}": self.echo for n in range(len(spelt))}
        calls["blob"] = lambda _: self.blob
        text = written(body, imports, exports, types=" ".join(spell.text), encoding=encoding)
        host = host_of(imports, calls, " ".join(spell.wit))
        binary = assemble(text)
        plan = load_plan(binary, Interfaces([host]))
        modules = [Module.compile(engine(), wasm) for wasm in exposed(plan)]
        self.code = Code(plan, modules, Bindings(plan, Interfaces([host])))
        self.plan = plan

    @staticmethod
    def echo(_context: object, value: Any) -> Any:
        return value

    def case(self, chance: random.Random) -> str:
        made = Instance.create(self.code, None, 1 << 20)
        try:
            for _ in range(4):
                self.blob = any_memory(chance)
                self.run(made, "fill", (0,))
                self.run(made, "fill", (any_address(chance),))
                n = chance.randrange(len(self.types))
                match chance.randrange(3):
                    case 0:
                        flat = [any_core(chance, kind) for kind in self.flat[n][0]]
                        self.run(made, f"call{n}", tuple(flat))
                    case 1:
                        kind = wit.core_signature(wit.Func((), self.types[n]), "lift")[1][0]
                        self.run(made, f"give{n}", (any_core(chance, kind),))
                    case 2:
                        self.run(made, f"take{n}", (any_value(chance, self.types[n], {}),))
        except Trap:
            return "trapped"
        finally:
            made.close()
        return "returned"

    def run(self, made: Instance, name: str, args: tuple[Any, ...]) -> None:
        call = made.call(self.plan.exports[name], args)
        try:
            while not call.poll():  # on a busy machine a slice may not suffice
                pass
        finally:
            call.close()


BLOB = Item("blob", "(result (list u8))", "(param i32)", "func() -> list<u8>")
# The first fill goes to 0; the second leaves an address for the allocator behind.
FILL = """
  (global $at (mut i32) (i32.const 0))
  (func $realloc (param i32 i32 i32 i32) (result i32) (global.get $at))
  (func (export "fill") (param i32)
    (if (i32.eqz (local.get 0))
      (then (global.set $at (i32.const 0)) (call $blob (i32.const 65528)))
      (else (global.set $at (local.get 0)))))
"""
RAW = {"i32": "u32", "i64": "u64", "f32": "f32", "f64": "f64"}


def any_address(chance: random.Random) -> int:
    edge = chance.choice((8, 1024, 32768, 65536, 1 << 31, (1 << 32) - 16))
    return max(1, edge + chance.choice((0, 0, 0, 0, 8, -8, 1, -1)))


def any_core(chance: random.Random, kind: str) -> Any:
    if kind[0] == "f":
        return chance.choice((0.0, -1.0, float("nan"), 1e38))
    bits = int(kind[1:])
    small = chance.choice((0, 1, 2, 3, 255, 256, chance.randrange(64), any_address(chance)))
    return chance.choice((small, small, small, chance.getrandbits(bits)))


def any_memory(chance: random.Random) -> bytes:
    """Words like pointers, lengths and cases, here and there text."""
    size = chance.choice((0, 64, 512, 4096))
    words = [any_core(chance, "i32") for _ in range(min(size // 4, 256))]
    data = b"".join(word.to_bytes(4, "little") for word in words) * max(1, size // 1024)
    return data[: size // 2] + chance.choice((b"", "aé日\U0010ffff".encode() * 20, data))


@cache
def probe(seed: int) -> Probe:
    return Probe(seed)


async def value_case(number: int) -> str:
    # 50 probes in all; one serves a thousand cases in a row, since making it takes longer.
    return probe(number // 1000 % 50).case(random.Random(number))


# --- the process ----------------------------------------------------------------------------------

KINDS = {"binaries": binary_case, "outlines": outline_case, "values": value_case}


async def cases(kind: str, first: int, count: int, progress: Path) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    descriptor = os.open(progress, os.O_WRONLY | os.O_CREAT)
    for number in range(first, first + count):
        os.pwrite(descriptor, b"%-20d" % number, 0)
        started = time.monotonic()
        outcomes[await KINDS[kind](number)] += 1
        assert not any(counters().values()), f"case {number}: {counters()}"
        assert time.monotonic() - started < CASE, f"case {number} took too long"
    os.close(descriptor)
    return outcomes


def main() -> None:
    kind, first, count, progress = sys.argv[1:]
    with contextlib.redirect_stdout(sys.stderr):
        outcomes = asyncio.run(cases(kind, int(first), int(count), Path(progress)))
    sys.stdout.write(json.dumps(outcomes))


if __name__ == "__main__":
    main()
