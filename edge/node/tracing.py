"""Whether a node traces, and with what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from edge import config
from edge.errors import ConfigError
from edge.invocation.tracing import Tracer

if TYPE_CHECKING:
    from edge.node.otlp import OtlpTracer

__all__ = ["open_tracer"]


@asynccontextmanager
async def open_tracer(settings: config.Traces, node: str) -> AsyncIterator[Tracer | None]:
    """None where nothing is traced. `node`: its name. Raises ConfigError without the libraries."""
    if settings.endpoint is None:
        yield None
        return
    tracer = await asyncio.to_thread(_tracer, settings, node)
    try:
        yield tracer
    finally:
        await asyncio.to_thread(tracer.close)


def _tracer(settings: config.Traces, node: str) -> OtlpTracer:
    """Takes a second on a small board."""
    try:
        from edge.node.otlp import OtlpTracer
    except ImportError as exc:
        raise ConfigError(
            f"traces.endpoint: what sends traces is not installed: {exc.name}",
            hint="pip install 'edge[traces]', or leave out [traces]",
        ) from exc
    return OtlpTracer(settings, node)
