"""fermyon:spin/variables@2 and, of old SDKs, fermyon:spin/config."""

from __future__ import annotations

from edge.application.names import variable_name
from edge.engine.host import Err, Interface
from edge.spin.platform import Context

__all__ = ["CONFIG", "VARIABLES"]


def _get(context: Context, name: str) -> str:
    value = context.platform.variables.get(name)
    if value is None:
        raise Err(_missing(name))
    return value


def _missing(name: str) -> tuple[str, str]:
    try:
        variable_name(name)
    except ValueError as exc:
        return "invalid-name", str(exc)
    return "undefined", f'the component has no variable "{name}"'


_OLD_NAMES = {"invalid-name": "invalid-key", "undefined": "provider"}


def _get_config(context: Context, key: str) -> str:
    value = context.platform.variables.get(key)
    if value is None:
        case, why = _missing(key)
        raise Err((_OLD_NAMES[case], why))
    return value


VARIABLES = Interface(
    """interface fermyon:spin/variables@2 {
      variant error { invalid-name(string), undefined(string), provider(string), other(string) }
      get: func(name: string) -> result<string, error>;
    }""",
    functions={"get": _get},
)

CONFIG = Interface(
    """interface fermyon:spin/config {
      variant error { provider(string), invalid-key(string), invalid-schema(string), other(string) }
      get-config: func(key: string) -> result<string, error>;
    }""",
    functions={"get-config": _get_config},
)
