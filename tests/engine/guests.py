"""Guests for the tests of the engine: components made of text, and a short way to run them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from wat import assemble

from edge.engine import types as wit
from edge.engine._core import Call, Code, Instance, Module
from edge.engine.guest import Bindings
from edge.engine.host import Interface, Interfaces
from edge.engine.loader import load_plan
from edge.engine.pool import options_for
from edge.engine.renewal import exposed
from edge.engine.runtime import create_engine
from edge.engine.types import Type

MEMORY = 64 << 20
HOST = "t:t/host"


@cache
def engine() -> Any:
    """One for the whole run: small, so that a leak of its slots is soon an error."""
    return create_engine(options_for(8))


def ready(binary: bytes, *interfaces: Interface) -> Code:
    """A binary, loaded and compiled."""
    offered = Interfaces(interfaces)
    plan = load_plan(binary, offered)
    modules = [Module.compile(engine(), wasm) for wasm in exposed(plan)]
    return Code(plan, modules, Bindings(plan, offered))


@contextmanager
def instance(code: Code, context: object = None, memory: int = MEMORY) -> Iterator[Instance]:
    made = Instance.create(code, context, memory)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def calling(made: Instance, name: str, *args: object) -> Iterator[Call]:
    call = made.call(made.export(name), args)
    try:
        yield call
    finally:
        call.close()


def run(made: Instance, name: str, *args: object) -> Any:
    """Calls an export to its end. Host functions that wait may only await bare yields."""
    with calling(made, name, *args) as call:
        while not call.poll():
            if call.waiting is not None:
                settle(call)
        return call.result


def settle(call: Call) -> None:
    """Runs what a call waits for to its end."""
    waiting = call.waiting
    assert waiting is not None
    try:
        while True:
            waiting.send(None)
    except StopIteration as exc:
        call.resume(exc.value)
    except Exception as exc:
        call.fail(exc)


class Turn:
    """`await Turn()`: waits for one turn."""

    def __await__(self) -> Iterator[None]:
        yield


# --- types as text --------------------------------------------------------------------------------


@dataclass
class Spelling:
    """Types written as component text and as WIT. Each type is defined once, under a name."""

    text: list[str] = field(default_factory=list)
    wit: list[str] = field(default_factory=list)
    names: dict[Type, tuple[str, str]] = field(default_factory=dict)

    def __call__(self, type_: Type) -> tuple[str, str]:
        """How to refer to a type: in component text, in WIT."""
        if isinstance(type_, wit.Primitive):
            return type_.name, type_.name
        if type_ not in self.names:
            text, spelled = self.define(type_)
            name = f"t{len(self.names)}"
            self.text.append(f"(type ${name} {text})")
            if isinstance(type_, wit.Record | wit.Variant | wit.Enum | wit.Flags):
                self.wit.append(spelled.replace("NAME", name))
                spelled = name
            self.names[type_] = f"${name}", spelled
        return self.names[type_]

    def optional(self, type_: Type | None) -> tuple[str, str]:
        return ("", "_") if type_ is None else self(type_)

    def define(self, type_: Type) -> tuple[str, str]:
        match type_:
            case wit.Own() | wit.Borrow():
                word = type(type_).__name__.lower()
                return f"({word} $thing)", f"{word}<thing>"
            case wit.List(element):
                text, spelled = self(element)
                return f"(list {text})", f"list<{spelled}>"
            case wit.Option(payload):
                text, spelled = self(payload)
                return f"(option {text})", f"option<{spelled}>"
            case wit.Tuple(elements):
                texts, spelt = zip(*map(self, elements), strict=True)
                return f"(tuple {' '.join(texts)})", f"tuple<{', '.join(spelt)}>"
            case wit.Result(ok, err):
                (a, b), (c, d) = self.optional(ok), self.optional(err)
                error = f"(error {c})" if c else ""
                return f"(result {a} {error})", f"result<{b}, {d}>" if err else f"result<{b}>"
            case wit.Enum(names) | wit.Flags(names):
                word = type(type_).__name__.lower()
                quoted = " ".join(f'"{name}"' for name in names)
                return f"({word} {quoted})", f"{word} NAME {{ {', '.join(names)} }}"
            case wit.Record(fields):
                parts = [(name, *self(part)) for name, part in fields]
                texts = [f'(field "{name}" {text})' for name, text, _ in parts]
                spelt = [f"{name}: {spelled}" for name, _, spelled in parts]
                return f"(record {' '.join(texts)})", f"record NAME {{ {', '.join(spelt)} }}"
            case wit.Variant(cases):
                parts = [(name, *self.optional(part)) for name, part in cases]
                texts = [f'(case "{name}" {text})' for name, text, _ in parts]
                spelt = [f"{name}({s})" if t else name for name, t, s in parts]
                return f"(variant {' '.join(texts)})", f"variant NAME {{ {', '.join(spelt)} }}"
        raise TypeError(type_)


# --- components that pass everything on -----------------------------------------------------------


class Thing:
    """A resource of the host."""


THING = wit.ImportedResource(HOST, "thing")
THING_EXPORT = '(export "thing" (type $thing (sub resource)))'

SPIN = "(loop $spin (br $spin))"

# A bump allocator. What a call left behind is gone after it: post-return starts anew.
LIBC = """
  (core module $Libc
    (memory (export "memory") 1)
    (global $next (mut i32) (i32.const 16))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
      (local.set $at (i32.and
        (i32.add (global.get $next) (i32.sub (local.get 2) (i32.const 1)))
        (i32.sub (i32.const 0) (local.get 2))))
      (global.set $next (i32.add (local.get $at) (local.get 3)))
      (block $fits (loop $more
        (br_if $fits (i32.le_u (global.get $next) (i32.mul (memory.size) (i32.const 65536))))
        (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))
        unreachable))
      (local.get $at))
    (func (export "reset") (global.set $next (i32.const 16))))
"""
SPINNING_REALLOC = LIBC.replace("(local.set $at", f"{SPIN} (local.set $at")
SPINNING_RESET = LIBC.replace('(export "reset")', f'(export "reset") {SPIN}')


@dataclass(frozen=True)
class Function:
    """A function to pass on: its own parameters and result, whatever they are."""

    params: tuple[Type, ...]
    result: Type | None

    @property
    def type(self) -> wit.Func:
        return wit.Func(tuple((f"p{i}", p) for i, p in enumerate(self.params)), self.result)


def relay(
    functions: list[Function], encodings: Iterable[str], libc: dict[int, str] | None = None
) -> tuple[bytes, str]:
    """A component that exports functions and imports the same ones, and passes each call on.

    One component instance for each encoding, in a row: the first is called from outside, the last
    calls the host. Returns the binary and the WIT of the imported interface. `libc`: other
    allocators than the usual, by the number of the component instance. Types may hold resources
    (`THING`), but borrowed ones only where a parameter is nothing else.
    """
    spell = Spelling()
    declared = [_declare(spell, number, function) for number, function in enumerate(functions)]
    exports = [f'(export "f{n}" (func {text}))' for n, (text, _) in enumerate(declared)]
    interface = "\n".join([THING_EXPORT, *spell.text, *exports])
    stages = list(enumerate(encodings))
    parts = [f'(import "{HOST}" (instance $below{len(stages)} {interface}))']
    for number, encoding in reversed(stages):
        allocator = (libc or {}).get(number, LIBC)
        parts.append(_stage(number, encoding, functions, declared, allocator, spell.text))
        parts.append(
            f"(instance $below{number} (instantiate $Stage{number}"
            f' (with "{HOST}" (instance $below{number + 1}))))'
        )
    parts += [f'(export "f{n}" (func $below0 "f{n}"))' for n in range(len(functions))]
    text = "\n".join(["(component", *parts, ")"])
    signatures = " ".join(f"f{n}: {spelled};" for n, (_, spelled) in enumerate(declared))
    named = " ".join(["resource thing {}", *spell.wit])
    return assemble(text), f"interface {HOST} {{ {named} {signatures} }}"


def _declare(spell: Spelling, number: int, function: Function) -> tuple[str, str]:
    texts, spelt = [], []
    for index, param in enumerate(function.params):
        text, spelled = spell(param)
        texts.append(f'(param "p{index}" {text})')
        spelt.append(f"p{index}: {spelled}")
    result = f"func({', '.join(spelt)})"
    if function.result is not None:
        text, spelled = spell(function.result)
        texts.append(f"(result {text})")
        result += f" -> {spelled}"
    return " ".join(texts), result


def _stage(
    number: int,
    encoding: str,
    functions: list[Function],
    declared: list[tuple[str, str]],
    libc: str,
    types: list[str],
) -> str:
    names = [f"f{index}" for index in range(len(functions))]
    imports = " ".join(
        f'(export "{name}" (func {text}))' for name, (text, _) in zip(names, declared, strict=True)
    )
    options = (
        f'(memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))'
        f" string-encoding={encoding}"
    )
    lowered = "\n".join(
        f'(core func ${name} (canon lower (func $host "{name}") {options}))' for name in names
    )
    given = " ".join(f'(export "{name}" (func ${name}))' for name in names)
    modules = zip(names, functions, strict=True)
    lifted = "\n".join(
        f'(func (export "{name}") {text} (canon lift (core func $main "{name}") {options}'
        f' (post-return (core func $main "free-{name}"))))'
        for name, (text, _) in zip(names, declared, strict=True)
    )
    return f"""
  (component $Stage{number}
    (import "{HOST}" (instance $host {THING_EXPORT} {" ".join(types)} {imports}))
    (alias export $host "thing" (type $thing))
    (core func $drop (canon resource.drop $thing))
    {" ".join(types)}
    {libc}
    (core instance $libc (instantiate $Libc))
    {lowered}
    (core module $Main
      (import "libc" "realloc" (func $realloc (param i32 i32 i32 i32) (result i32)))
      (import "libc" "memory" (memory 1))
      (import "libc" "reset" (func $reset))
      (import "host" "drop" (func $drop (param i32)))
      {" ".join(_import(name, function) for name, function in zip(names, functions, strict=True))}
      {" ".join(_pass(name, function) for name, function in modules)})
    (core instance $main (instantiate $Main
      (with "libc" (instance $libc))
      (with "host" (instance {given} (export "drop" (func $drop))))))
    (export "thing" (type $thing))
    {lifted})
"""


def _core(function: Function, direction: wit.Direction) -> tuple[str, str]:
    params, results = wit.core_signature(function.type, direction)
    return f"(param {' '.join(params)})", f"(result {' '.join(results)})"


def _import(name: str, function: Function) -> str:
    params, results = _core(function, "lower")
    return f'(import "host" "{name}" (func ${name} {params} {results}))'


def _pass(name: str, function: Function) -> str:
    params, results = _core(function, "lift")
    count = len(wit.core_signature(function.type, "lift")[0])
    body = " ".join(f"(local.get {index})" for index in range(count))
    if wit.spills_result(function.type):
        assert function.result is not None
        size, align = wit.layout(function.result)
        room = f"(i32.const 0) (i32.const 0) (i32.const {align}) (i32.const {size})"
        # The place of the result is made first: it is the result, and the callee's last parameter.
        body = (
            f"(local.set $at (call $realloc {room}))"
            f" {body} (local.get $at) (call ${name}) (local.get $at)"
        )
    else:
        body += f" (call ${name})"
    body += " ".join(_drops(function))
    freed = results.replace("result", "param")
    return (
        f'(func (export "{name}") {params} {results} (local $at i32) {body})'
        f'(func (export "free-{name}") {freed} (call $reset))'
    )


def _drops(function: Function) -> Iterator[str]:
    """What gives up the borrowed handles among the parameters."""
    spilled = wit.spills_params(function.type)
    flat = offset = 0
    for param in function.params:
        size, align = wit.layout(param)
        offset = -(-offset // align) * align
        if isinstance(param, wit.Borrow):
            handle = (
                f"(i32.load offset={offset} (local.get 0))" if spilled else f"(local.get {flat})"
            )
            yield f"(call $drop {handle})"
        flat += wit.flat_count(param)
        offset += size


@dataclass
class Wire:
    """The host at the end of a relay: keeps what came, gives what it is told."""

    received: tuple[Any, ...] | None = None
    reply: Callable[[], Any] = lambda: None

    def __call__(self, _context: object, *args: Any) -> Any:
        self.received = args
        return self.reply()


def wired(
    functions: list[Function], encodings: Iterable[str], libc: dict[int, str] | None = None
) -> tuple[Code, Wire]:
    """A relay, ready, and the host it calls."""
    binary, declared = relay(functions, encodings, libc)
    wire = Wire()
    calls = {f"f{number}": wire for number in range(len(functions))}
    return ready(binary, Interface(declared, functions=calls, resources={"thing": Thing})), wire


# --- components written by hand -------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """A function of a hand-written component, as each of its readers spells it.

    `text`: its component type, `core`: its core type, `wit`: what the host declares.
    """

    name: str
    text: str = ""
    core: str = ""
    wit: str = "func()"
    options: str = ""


def written(
    body: str,
    imports: Iterable[Item] = (),
    exports: Iterable[Item] = (),
    *,
    types: str = "",
    host_types: str = "",
    extra: str = "",
    canonical: dict[str, str] | None = None,
    libc: str = "",
    encoding: str = "utf8",
) -> str:
    """A component around the core code `body`, which says what it does to its callers and callees.

    `body` may define `$realloc`, which is everybody's allocator then, and finds imports under their
    names. `types` are definitions, `host_types` what the host's interface exports besides
    functions, `extra` more definitions, `canonical` the core functions among them that the code
    imports as well, with their types.
    """
    imports = tuple(imports)
    options = (
        f'(memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))'
        f" string-encoding={encoding}"
    )
    declared = " ".join(f'(export "{i.name}" (func {i.text}))' for i in imports)
    lowered = " ".join(
        f'(core func ${i.name} (canon lower (func $host "{i.name}") {options} {i.options}))'
        for i in imports
    )
    cores = {i.name: i.core for i in imports} | (canonical or {})
    given = " ".join(f'(export "{name}" (func ${name}))' for name in cores)
    linked = " ".join(f'(import "host" "{n}" (func ${n} {core}))' for n, core in cores.items())
    lifted = " ".join(
        f'(func (export "{e.name}") {e.text}'
        f' (canon lift (core func $main "{e.name}") {options} {e.options}))'
        for e in exports
    )
    return f"""
(component
  {types}
  (import "{HOST}" (instance $host {host_types} {declared}))
  (core module $Libc
    (type $realloc (func (param i32 i32 i32 i32) (result i32)))
    (table (export "table") 1 funcref)
    (memory (export "memory") 1 100)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (call_indirect (type $realloc) (local.get 0) (local.get 1) (local.get 2) (local.get 3)
        (i32.const 0)))
    {libc})
  (core instance $libc (instantiate $Libc))
  {lowered}
  {extra}
  (core module $Main
    (import "libc" "memory" (memory 1))
    (import "libc" "table" (table 1 funcref))
    {linked}
    {body if "(func $realloc" in body else ALLOCATOR + body}
    (elem (i32.const 0) $realloc))
  (core instance $main (instantiate $Main
    (with "libc" (instance $libc))
    (with "host" (instance {given}))))
  {lifted})
"""


# Hands out what lies at 1024 and above, as if everything before were free again.
ALLOCATOR = """
  (func $realloc (param i32 i32 i32 i32) (result i32) (i32.const 1024))
"""


def host_of(
    imports: Iterable[Item],
    calls: dict[str, Callable[..., Any]],
    types: str = "",
    resources: dict[str, type] | None = None,
) -> Interface:
    """The interface that such a component imports."""
    functions = " ".join(f"{i.name}: {i.wit};" for i in imports if not i.name.startswith("["))
    return Interface(
        f"interface {HOST} {{ {types} {functions} }}", functions=calls, resources=resources
    )
