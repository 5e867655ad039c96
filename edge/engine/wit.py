"""Reads the part of WIT in which host interfaces are declared: one `interface` each.

Knows no host and no binary. Stricter than WIT: a type (other than a resource) is declared before it
is used, interfaces are named in full, a function has at most one result, without a name.
Gates such as `@since(…)` are read over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from edge.engine.types import (
    PRIMITIVES,
    Borrow,
    Enum,
    Flags,
    Func,
    ImportedResource,
    List,
    Option,
    Own,
    Primitive,
    Record,
    Result,
    Tuple,
    Type,
    Variant,
    track,
)

Kind = Literal["free", "method", "static", "constructor"]
Named = Type | ImportedResource
T = TypeVar("T")

_TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n]*|/\*.*?\*/|@[a-z]+\([^)]*\))
    |(?P<interface>\$root|[a-z][\w-]*:[a-z][\w-]*/[a-z][\w-]*(@\d+(\.\d+)*(-\w[\w-]*(\.[\w-]+)*)?)?)
    |(?P<label>%?[A-Za-z]\w*(-\w+)*)
    |(?P<mark>->|[{}()<>,:;=._])""",
    re.VERBOSE | re.DOTALL,
)


class WitError(ValueError):
    """A declaration that cannot be read; the message begins with its line."""


@dataclass(frozen=True, slots=True)
class Declared:
    """A function as declared: its type, the receiver of a method included."""

    type: Func
    kind: Kind
    resource: str | None = None


@dataclass(frozen=True, slots=True)
class Declaration:
    """An interface as declared; function names as in binaries (`[method]input-stream.read`)."""

    name: str
    types: dict[str, Named]
    functions: dict[str, Declared]

    @property
    def resources(self) -> tuple[str, ...]:
        """The resources this interface defines; those it uses from elsewhere are not among them."""
        return tuple(
            name for name, type_ in self.types.items() if type_ == ImportedResource(self.name, name)
        )


def parse(text: str, uses: Mapping[str, Mapping[str, Named]]) -> Declaration:
    """Reads one interface. `uses`: the types of each interface it may name in `use`, by track."""
    return _Parser(text, uses).interface()


class _Parser:
    def __init__(self, text: str, uses: Mapping[str, Mapping[str, Named]]) -> None:
        self.uses = uses
        self.tokens = list(_tokens(text))
        self.position = 0
        self.name = ""
        self.types: dict[str, Named] = {}
        self.functions: dict[str, Declared] = {}
        self.items: dict[str, Callable[[], None]] = {
            "use": self.use,
            "type": self.alias,
            "record": self.record,
            "variant": self.variant,
            "enum": self.enum,
            "flags": self.flags,
            "resource": self.resource,
        }
        self.generics: dict[str, Callable[[], Type]] = {
            "list": lambda: List(self.type()),
            "option": lambda: Option(self.type()),
            "tuple": lambda: Tuple(tuple(self.until(">", self.type))),
            "own": lambda: Own(self.resource_name()),
            "borrow": lambda: Borrow(self.resource_name()),
            "result": self.result,
        }

    # tokens

    @property
    def token(self) -> tuple[str, str, int]:
        return self.tokens[self.position]

    def error(self, message: str) -> WitError:
        return WitError(f"line {self.token[2]}: {message}")

    def take(self, kind: str) -> str:
        found, text, _ = self.token
        if found != kind:
            raise self.error(f"expected a {kind}, found {text!r}")
        self.position += 1
        return text

    def accept(self, mark: str) -> bool:
        if self.token[1] != mark:
            return False
        self.position += 1
        return True

    def expect(self, *marks: str) -> None:
        for mark in marks:
            if not self.accept(mark):
                raise self.error(f"expected {mark!r}, found {self.token[1]!r}")

    def label(self) -> str:
        return self.take("label").removeprefix("%")

    def until(self, end: str, item: Callable[[], T]) -> list[T]:
        """Items separated by commas, a last comma allowed."""
        items: list[T] = []
        while not self.accept(end):
            items.append(item())
            if not self.accept(","):
                self.expect(end)
                break
        return items

    # items

    def interface(self) -> Declaration:
        self.expect("interface")
        self.name = track(self.take("interface"))
        self.expect("{")
        self.declare_resources()
        while not self.accept("}"):
            self.item()
        self.take("end")
        return Declaration(self.name, self.types, self.functions)

    def declare_resources(self) -> None:
        # A resource may be used before its declaration, and real interfaces do.
        for (_, word, _), (kind, name, _) in zip(self.tokens, self.tokens[1:], strict=False):
            if word == "resource" and kind == "label":
                self.types[name] = ImportedResource(self.name, name)

    def item(self) -> None:
        word = self.label()
        if self.accept(":"):
            self.function(word, "free")
        elif word in self.items:
            self.items[word]()
        else:
            raise self.error(f"expected an item, found {word!r}")

    def define(self, name: str, type_: Named) -> None:
        if name in self.types:
            raise self.error(f"{name!r} is declared twice")
        self.types[name] = type_

    def use(self) -> None:
        name = track(self.take("interface"))
        self.expect(".", "{")
        for theirs, ours in self.until("}", self.use_name):
            if theirs not in self.uses.get(name, {}):
                raise self.error(f"{name} has no type {theirs!r}")
            self.define(ours, self.uses[name][theirs])
        self.expect(";")

    def use_name(self) -> tuple[str, str]:
        name = self.label()
        return name, self.label() if self.accept("as") else name

    def alias(self) -> None:
        name = self.label()
        self.expect("=")
        named = self.types.get(self.token[1])
        if isinstance(named, ImportedResource):
            self.position += 1
        self.define(name, named if isinstance(named, ImportedResource) else self.type())
        self.expect(";")

    def record(self) -> None:
        self.body(self.field, Record)

    def variant(self) -> None:
        self.body(self.case, Variant)

    def enum(self) -> None:
        self.body(self.label, Enum)

    def flags(self) -> None:
        self.body(self.label, Flags)

    def body(self, part: Callable[[], T], make: Callable[[tuple[T, ...]], Type]) -> None:
        name = self.label()
        self.expect("{")
        parts = self.until("}", part)
        if not parts:
            raise self.error(f"{name!r} is empty")
        self.define(name, make(tuple(parts)))

    def field(self) -> tuple[str, Type]:
        name = self.label()
        self.expect(":")
        return name, self.type()

    def case(self) -> tuple[str, Type | None]:
        name = self.label()
        if not self.accept("("):
            return name, None
        payload = self.type()
        self.expect(")")
        return name, payload

    def resource(self) -> None:
        name = self.label()
        if self.accept(";"):
            return
        self.expect("{")
        while not self.accept("}"):
            word = self.label()
            if word == "constructor" and self.token[1] == "(":
                self.constructor(name)
            else:
                self.expect(":")
                self.function(word, "static" if self.accept("static") else "method", name)

    def constructor(self, resource: str) -> None:
        self.expect("(")
        params = tuple(self.until(")", self.field))
        self.expect(";")
        made = Own(ImportedResource(self.name, resource))
        self.add(f"[constructor]{resource}", Func(params, made), "constructor", resource)

    def function(self, name: str, kind: Kind, resource: str | None = None) -> None:
        self.expect("func", "(")
        params = tuple(self.until(")", self.field))
        result = self.type() if self.accept("->") else None
        self.expect(";")
        if kind == "method":
            receiver = Borrow(ImportedResource(self.name, resource or ""))
            params = (("self", receiver), *params)
        full = name if resource is None else f"[{kind}]{resource}.{name}"
        self.add(full, Func(params, result), kind, resource)

    def add(self, name: str, func: Func, kind: Kind, resource: str | None) -> None:
        if name in self.functions:
            raise self.error(f"{name!r} is declared twice")
        self.functions[name] = Declared(func, kind, resource)

    # types

    def type(self) -> Type:
        name = self.label()
        if name in self.generics and (name == "result" or self.token[1] == "<"):
            return self.generic(name)
        if name in PRIMITIVES:
            return Primitive(name)
        named = self.types.get(name)
        if named is None:
            raise self.error(f"unknown type {name!r}")
        return Own(named) if isinstance(named, ImportedResource) else named

    def generic(self, name: str) -> Type:
        if not self.accept("<"):
            return Result(None, None)
        made = self.generics[name]()
        if name != "tuple":
            self.expect(">")
        return made

    def result(self) -> Result:
        ok = None if self.accept("_") else self.type()
        err = self.type() if self.accept(",") else None
        return Result(ok, err)

    def resource_name(self) -> ImportedResource:
        name = self.label()
        named = self.types.get(name)
        if not isinstance(named, ImportedResource):
            raise self.error(f"{name!r} is not a resource")
        return named


def _tokens(text: str) -> list[tuple[str, str, int]]:
    tokens: list[tuple[str, str, int]] = []
    position, line = 0, 1
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise WitError(f"line {line}: cannot read {text[position]!r}")
        kind = match.lastgroup or ""
        if kind != "skip":
            tokens.append((kind, match[kind], line))
        line += match[0].count("\n")
        position = match.end()
    tokens.append(("end", "the end", line))
    return tokens
