"""What one process has of the node's limits, so that all together have no more than was stated."""

from __future__ import annotations

from dataclasses import replace

from edge import config
from edge.application.model import Application
from edge.errors import ConfigError

__all__ = ["of_application", "of_settings", "share"]


def share(total: int, index: int, count: int) -> int:
    """Of `total`, for the process `index` (from 0 on) of `count`. They add up to the total, and the
    first one has the least: what has room there has room in all.
    """
    return total // count + (index >= count - total % count)


def of_settings(whole: config.Daemon, index: int) -> config.Daemon:
    """The node's settings as one process has them."""
    count = whole.http.workers
    limits, stores, http = whole.limits, whole.stores, whole.http.settings
    return replace(
        whole,
        limits=replace(
            limits,
            memory=share(limits.memory, index, count),
            # Without a number it is what the address space holds, of which each has its own.
            instances=share(limits.instances, index, count),
            queue=share(limits.queue, index, count),
        ),
        stores=replace(
            stores,
            open=max(1, share(stores.open, index, count)),
            queue=max(1, share(stores.queue, index, count)),
        ),
        http=replace(
            whole.http,
            settings=replace(
                http,
                max_connections=max(1, share(http.max_connections, index, count)),
                # How many asyncio accepts at once: one that wakes up first must not take all.
                backlog=1,
            ),
        ),
    )


def of_application(whole: Application, index: int, count: int) -> Application:
    """Its components that requests reach have a share of their concurrency and queue; the others
    run in the first process only. Raises ConfigError where there is not one for each process.
    """
    components = dict(whole.components)
    for id in {trigger.component for trigger in whole.http if trigger.component}:
        options = components[id].options
        if options.concurrency < count:
            raise ConfigError(
                f"{whole.name}: component {id}: concurrency {options.concurrency} cannot be "
                f"divided among the {count} processes of this node",
                hint=f"give it at least {count} (tool.edge: concurrency), or the node fewer "
                "([http] workers)",
            )
        divided = replace(
            options,
            concurrency=share(options.concurrency, index, count),
            queue=share(options.queue, index, count),
        )
        components[id] = replace(components[id], options=divided)
    return replace(whole, components=components)
