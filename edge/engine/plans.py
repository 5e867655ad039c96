"""Plans on disk, beside the compiled code: making one is most of what wakes a sleeping component.

`<sha256 of the binary>.plan`: what the plan depends on, the digest of what follows, the plan. It
depends on the binary, on what the host declares and on how plans are made. As with compiled code,
only files of a directory that nobody else can write to are read, and anything odd is a miss.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from edge.engine import plan as plans
from edge.engine import types
from edge.engine.cache import is_private
from edge.engine.host import Interface, Interfaces
from edge.engine.plan import Plan

__all__ = ["PlanCache"]

_DIGEST = hashlib.sha256().digest_size
# Nothing near it is a plan: a Spin application in Python has 100 KB.
_MAX_SIZE = 16 << 20


class PlanCache:
    """Plans for one host. All of it blocks; nothing of it raises for what is on the disk."""

    def __init__(
        self, directory: Path, interfaces: Interfaces, exports: Iterable[Interface]
    ) -> None:
        self._directory = directory
        self._host = interfaces, tuple(exports)

    @cached_property
    def _basis(self) -> bytes:
        return _basis(*self._host)  # a node may start without any plan

    def get(self, digest: str, binary: bytes) -> Plan | None:
        """The plan of a binary, whose sha256 is `digest`."""
        if not is_private(self._directory):
            return None
        try:
            with self._path(digest).open("rb") as file:
                data = file.read(_MAX_SIZE)
        except OSError:
            return None
        basis, checksum, body = data[:_DIGEST], data[_DIGEST : 2 * _DIGEST], data[2 * _DIGEST :]
        if basis != self._basis or hashlib.sha256(body).digest() != checksum:
            return None
        return _read(body, binary)

    def put(self, digest: str, binary: bytes, plan: Plan) -> None:
        """Keeps a plan. Not durably: after a power cut it is made again."""
        body = _written(plan, binary)
        if body is None or len(body) > _MAX_SIZE - 2 * _DIGEST:
            return
        path = self._path(digest)
        temporary = path.with_name(f"{path.stem}.{os.getpid()}.plan.tmp")
        with contextlib.suppress(OSError):
            temporary.write_bytes(self._basis + hashlib.sha256(body).digest() + body)
            temporary.replace(path)
            return
        temporary.unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        return self._directory / f"{digest}.plan"


def _basis(interfaces: Interfaces, exports: Iterable[Interface]) -> bytes:
    """What plans depend on beside their binary: the host's declarations, and our own code."""
    total = hashlib.sha256(interfaces.fingerprint)
    for interface in exports:
        total.update(interface.fingerprint)
    for source in sorted(Path(__file__).parent.glob("*.py")):
        total.update(hashlib.sha256(source.read_bytes()).digest())
    return total.digest()


# A plan's modules are parts of its binary, which is at hand: only where they are is kept.


def _written(plan: Plan, binary: bytes) -> bytes | None:
    places = [(binary.find(module), len(module)) for module in plan.modules]
    if any(start < 0 for start, _ in places):
        return None
    return pickle.dumps((places, replace(plan, modules=())), protocol=5)


def _read(body: bytes, binary: bytes) -> Plan | None:
    try:
        places, plan = _Unpickler(io.BytesIO(body)).load()
        modules = tuple([binary[start : start + size] for start, size in places])
        made: Plan = replace(plan, modules=modules)
    except (pickle.UnpicklingError, ValueError, TypeError, EOFError, AttributeError):
        return None  # made by another version of Python
    return made


class _Unpickler(pickle.Unpickler):
    """Makes plans and types of values, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        for known in (plans, types):
            if module == known.__name__ and isinstance(found := getattr(known, name, None), type):
                return found
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a plan")
