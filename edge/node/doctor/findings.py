"""What a check found, and what its reader should do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Finding", "Status", "error", "ok", "warning"]

# ok       as it should be, or nothing can be known and that is no fault
# warning  it works, but worse than it could, or not for long
# error    something does not work, or will be lost
Status = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report. `advice`: what to do; None where there is nothing."""

    check: str
    status: Status
    found: str
    advice: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def ok(check: str, found: str) -> Finding:
    return Finding(check, "ok", found)


def warning(check: str, found: str, advice: str) -> Finding:
    return Finding(check, "warning", found, advice)


def error(check: str, found: str, advice: str) -> Finding:
    return Finding(check, "error", found, advice)
