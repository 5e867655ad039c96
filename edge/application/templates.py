"""`{{ name }}` in strings, and the values of an application's variables.

An expression is the name of an application variable and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge.application.fields import did_you_mean
from edge.errors import ConfigError

__all__ = ["Template", "Variable", "resolve"]


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of an application. Without a default a value must be given."""

    default: str | None = None
    secret: bool = False
    description: str = ""


@dataclass(frozen=True, slots=True)
class Template:
    """Text with expressions: `literals[0] names[0] literals[1] … names[-1] literals[-1]`."""

    literals: tuple[str, ...]
    names: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Template:
        first, *rest = text.split("{{")
        literals, names = [first], []
        for piece in rest:
            name, closed, literal = piece.partition("}}")
            if not closed:
                raise ValueError("unmatched '{{' in template")
            names.append(name.strip())
            literals.append(literal)
        return cls(tuple(literals), tuple(names))

    def render(self, values: Mapping[str, str]) -> str:
        """The text with each name replaced; a name without a value is a KeyError."""
        pieces = [self.literals[0]]
        for name, literal in zip(self.names, self.literals[1:], strict=True):
            pieces += values[name], literal
        return "".join(pieces)

    def __str__(self) -> str:
        return self.render({name: f"{{{{ {name} }}}}" for name in self.names})


def resolve(variables: Mapping[str, Variable], given: Mapping[str, str]) -> dict[str, str]:
    """A value for every declared variable: the one given, else its default."""
    for name in given:
        if name not in variables:
            hint = did_you_mean(name, variables) or "an application declares them in [variables]"
            raise ConfigError(f"variable {name}: the application has no such variable", hint=hint)
    missing = [n for n, v in variables.items() if v.default is None and n not in given]
    if missing:
        names = ", ".join(missing)
        raise ConfigError(
            f"variable {names}: required, but no value is given",
            hint=f"give one with --variable {missing[0]}=…",
        )
    return {name: given.get(name, variable.default or "") for name, variable in variables.items()}
