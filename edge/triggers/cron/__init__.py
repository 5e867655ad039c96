"""The timer trigger: `service` runs timers, `alarm` is the machine's time, `memory` what ran last.

Knows no Wasm, and of an application only the handler of each timer.
"""

from edge.triggers.cron.service import Schedule, TimerService

__all__ = ["Schedule", "TimerService"]
