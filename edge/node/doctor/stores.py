"""The servers that key-value labels name: whether they answer, and let this node in."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from edge.application.addresses import RedisAddress
from edge.node.doctor.findings import Finding, error, ok
from edge.node.doctor.site import Site
from edge.node.doctor.waiting import complete

__all__ = ["stores"]

# Seconds that each server gets.
_PATIENCE = 6.0
# Bytes of its answer.
_REPLY = 1 << 10


def stores(site: Site) -> Iterator[Finding]:
    urls = {
        store.url: label for label, store in site.settings.stores.key_value.items() if store.url
    }
    if not urls:
        yield ok("stores", "all are on this machine")
        return
    yield from complete(_asked(urls))


async def _asked(labels: dict[str, str]) -> list[Finding]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_answers(url, name), name=name) for url, name in labels.items()]
    return [task.result() for task in tasks]


async def _answers(url: str, label: str) -> Finding:
    # Takes a while to load, and few nodes need it.
    from edge.spin import dial
    from edge.spin.redisclient import Connection
    from edge.spin.resp import RedisFailure, Refused, TooLarge

    address = RedisAddress.parse(url)
    what = f"{label}: {address}"
    advice = f"is the server up, its name known? url in [stores.key_value.{label}] names it"
    connection = None
    try:
        async with asyncio.timeout(_PATIENCE):
            streams = await dial.trusted_streams(address.endpoint, None, _PATIENCE)
            connection = await Connection.open(address, streams, timeout=_PATIENCE, limit=_REPLY)
            await connection.command(b"PING")
    except TimeoutError:
        return error("stores", f"{what}: no answer within {_PATIENCE:g} s", advice)
    except OSError as exc:
        return error("stores", f"{what}: {dial.reason(exc)}", advice)
    except (RedisFailure, Refused, TooLarge) as exc:
        return error("stores", f"{what}: {exc}", advice)
    finally:
        if connection is not None:
            connection.close()
    return ok("stores", f"{what}: answers")
