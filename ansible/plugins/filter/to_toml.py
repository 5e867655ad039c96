"""Filter: data of an inventory as TOML."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

DOCUMENTATION = """
name: to_toml
short_description: Data as TOML
version_added: 0.1.0
description:
  - Writes a dictionary as a TOML document. Dictionaries become tables, lists of dictionaries arrays
    of tables. Keys without a value (null) are left out.
options:
  _input:
    description: What is to be written.
    type: dict
    required: true
"""
EXAMPLES = """
configuration: "{{ {'http': {'listen': ['0.0.0.0:8080']}} | edge.appliance.to_toml }}"
"""
RETURN = """
_value:
  description: The document.
  type: str
"""

BARE = re.compile(r"[A-Za-z0-9_-]+")
Path = tuple[str, ...]


class FilterModule:
    """What Ansible asks for the filters of this file."""

    def filters(self) -> dict[str, Any]:
        return {"to_toml": to_toml}


def to_toml(value: object) -> str:
    if not isinstance(value, Mapping):
        raise AnsibleFilterError(f"to_toml: a dictionary is needed, not {type(value).__name__}")
    return "\n".join(_table((), value)).lstrip("\n") + "\n"


def _table(path: Path, table: Mapping[Any, Any]) -> Iterator[str]:
    """Its own values first: what stands below a header belongs to that."""
    told: dict[str, Any] = {str(key): value for key, value in table.items() if value is not None}
    for key, value in told.items():
        if not _below(value):
            yield f"{_key(key)} = {_value((*path, key), value)}"
    for key, value in told.items():
        below = (*path, key)
        if isinstance(value, Mapping):
            # A table of nothing but tables needs no header of its own.
            if not value or not all(map(_below, value.values())):
                yield from ("", f"[{_dotted(below)}]")
            yield from _table(below, value)
        elif _tables(value):
            for one in value:
                yield from ("", f"[[{_dotted(below)}]]", *_table(below, one))


def _below(value: object) -> bool:
    """Whether it stands below a header of its own."""
    return isinstance(value, Mapping) or _tables(value)


def _tables(value: object) -> bool:
    return _list(value) and bool(value) and all(isinstance(one, Mapping) for one in value)


def _list(value: Any) -> bool:
    return (
        isinstance(value, Sequence) and not isinstance(value, str | bytes) and not _vaulted(value)
    )


def _vaulted(value: object) -> bool:
    # Ansible before 2.19 has a class of its own for them, which is a sequence and no string.
    return hasattr(value, "vault")


def _value(path: Path, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if _list(value):
        return f"[{', '.join(_value(path, one) for one in value)}]"
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_key(str(k))} = {_value(path, v)}' for k, v in value.items())} }}"
    if isinstance(value, str) or _vaulted(value):
        return _text(str(value))
    raise AnsibleFilterError(f"to_toml: {_dotted(path)}: {type(value).__name__} has no place there")


def _text(text: str) -> str:
    """JSON's escapes are TOML's as well; of the control characters JSON leaves one as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(key: str) -> str:
    return key if BARE.fullmatch(key) else _text(key)


def _dotted(path: Path) -> str:
    return ".".join(map(_key, path))
