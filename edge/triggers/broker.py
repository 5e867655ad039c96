"""An MQTT broker for a first try, in a child process: amqtt, of the extra `broker`.

It speaks MQTT 3.1.1 only, on the loopback address and to anybody there; it keeps nothing on disk,
and forgets the session of a client without a user name a second after it is gone. A node for work
uses mosquitto.

As a program (`python -m edge.triggers.broker PORT`) it is that child: it writes one line of JSON,
`{"port": …}` or `{"error": …, "hint": …}`, and serves until its standard input ends, which it does
with its parent however that ends.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from edge.errors import EdgeError

__all__ = ["embedded_broker"]

HOST = "127.0.0.1"
# Importing it takes a second on a small board, tens when that is busy with other things.
START = 60.0
STOP = 5.0

_log = logging.getLogger("edge.triggers.broker")


@asynccontextmanager
async def embedded_broker(port: int = 0) -> AsyncIterator[str]:
    """A broker while the context lasts, by its URL. Port 0: whichever is free.

    Its clients must speak MQTT 3.1.1. EdgeError when it can not be started.
    """
    # A session of its own: Ctrl-C in a terminal is for the parent, which still has to drain.
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-W", "ignore", "-m", "edge.triggers.broker", str(port)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    watch: asyncio.Task[None] | None = None
    try:
        url = f"mqtt://{HOST}:{await _port(child)}"
        watch = asyncio.get_running_loop().create_task(_watch(child), name="embedded-broker")
        yield url
    finally:
        if watch is not None:
            watch.cancel()
        await _stop(child)


async def _port(child: asyncio.subprocess.Process) -> int:
    assert child.stdout is not None
    try:
        async with asyncio.timeout(START):
            line = await child.stdout.readline()
    except TimeoutError:
        raise EdgeError(f"embedded broker: not ready within {START:.0f} s") from None
    said = json.loads(line) if line else {"error": f"ended with {await child.wait()}"}
    if "port" not in said:
        raise EdgeError(f"embedded broker: {said['error']}", hint=said.get("hint"))
    return int(said["port"])


async def _watch(child: asyncio.subprocess.Process) -> None:
    _log.error("the embedded broker ended with %d", await child.wait())


async def _stop(child: asyncio.subprocess.Process) -> None:
    assert child.stdin is not None
    child.stdin.close()
    try:
        async with asyncio.timeout(STOP):
            await child.wait()
    except TimeoutError:
        child.kill()
        await child.wait()


# --- the child ------------------------------------------------------------------------------------


def main() -> int:
    logging.getLogger().addHandler(logging.NullHandler())  # what goes wrong is its clients' news
    try:
        return asyncio.run(_serve(int(sys.argv[1])))
    except ImportError as exc:
        hint = "pip install '.[broker]' beside edge's README, or name one: --mqtt mqtt://HOST"
        _say({"error": f"{exc.name} is not installed", "hint": hint})
    except OSError as exc:
        hint = "another program listens there: use it with --mqtt URL, or take --mqtt embedded:PORT"
        reason = os.strerror(exc.errno) if exc.errno is not None else str(exc)
        _say({"error": f"{HOST}:{sys.argv[1]}: {reason.lower()}", "hint": hint})
    return 1


async def _serve(port: int) -> int:
    from amqtt.adapters import StreamReaderAdapter, StreamWriterAdapter
    from amqtt.broker import Broker

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        adapters = StreamReaderAdapter(reader), StreamWriterAdapter(writer)
        await broker.external_connected(*adapters, "default")

    anonymous = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
    broker = Broker({"listeners": {"default": {"type": "external"}}, "plugins": anonymous})
    server = await asyncio.start_server(connected, HOST, port)
    await broker.start()
    _say({"port": server.sockets[0].getsockname()[1]})
    await _parent_ended()
    # Nothing of it outlives the process, and its own shutdown waits for clients.
    os._exit(0)


async def _parent_ended() -> None:
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    await reader.read()


def _say(line: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
