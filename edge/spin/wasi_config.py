"""wasi:config/store, the draft of 2024-09-27: a component's variables."""

from __future__ import annotations

from edge.engine.host import Interface
from edge.spin.platform import Context

__all__ = ["STORE"]


def _get(context: Context, key: str) -> str | None:
    return context.platform.variables.get(key)


def _get_all(context: Context) -> list[tuple[str, str]]:
    return list(context.platform.variables.items())


STORE = Interface(
    """interface wasi:config/store@0.2.0-draft-2024-09-27 {
      variant error { upstream(string), io(string) }
      get: func(key: string) -> result<option<string>, error>;
      get-all: func() -> result<list<tuple<string, string>>, error>;
    }""",
    functions={"get": _get, "get-all": _get_all},
)
