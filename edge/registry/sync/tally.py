"""What is counted of the work of sync, since the node began."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Tally"]


@dataclass(slots=True)
class Tally:
    """Attempts to bring one application to what is wanted of it, most of which change nothing:
    `succeeded`, `undelivered` where a registry did not answer, `failed` otherwise. `seconds`: of
    all of them together.
    """

    succeeded: int = 0
    undelivered: int = 0
    failed: int = 0
    seconds: float = 0.0
