"""The host interfaces of the Spin platform, and what stands behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge.engine.host import Interface


def interfaces() -> tuple[Interface, ...]:
    """Every interface this host has, one a line."""
    # Not at the top: whoever needs only the back ends would load every interface with them.
    from edge.spin import redis

    return (
        redis.REDIS,
        redis.REDIS_TYPES,
        redis.UNVERSIONED,
    )
