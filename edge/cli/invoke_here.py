"""`edge invoke PATH`: the same without a node, on an application of this machine."""

from __future__ import annotations

import argparse
import asyncio
import base64
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from edge.cli import remote
from edge.cli.common import code_dir, runtime_config, variables
from edge.errors import ConfigError
from edge.invocation.application import LiveApplication
from edge.node.invoke import Call, Part, invoke
from edge.node.node import open_node
from edge.spin.platform import Stores
from edge.spin.runtime_config import RuntimeConfig

__all__ = ["parts"]


async def parts(options: argparse.Namespace, body: Mapping[str, Any]) -> AsyncIterator[Part]:
    """The answer as it comes, as a node's API would give it for `body`. Raises EdgeError."""
    async with _live(options) as live, aclosing(invoke(live, _call(body), None)) as found:
        async for part in found:
            yield part


def _call(body: Mapping[str, Any]) -> Call:
    for name, value in body.get("headers", ()):
        if not (f"{name}{value}".isascii() and f"{name}{value}".isprintable()):
            raise ConfigError(f"--header {name!a}: is not printable ASCII text")
    return Call(
        body.get("method", "GET"),
        body.get("path", "/"),
        tuple(body.get("headers", ())),
        base64.b64decode(body.get("data", "")),
        body.get("component"),
        body.get("trigger"),
        body.get("subject"),
    )


@asynccontextmanager
async def _live(options: argparse.Namespace) -> AsyncIterator[LiveApplication]:
    """What it keeps is gone afterwards, unless --state-dir says where it stays."""
    options.app = Path(options.name)
    runtime = runtime_config(options)
    with tempfile.TemporaryDirectory(prefix="edge-invoke-") as scratch:
        given: Path | None = options.state_dir or runtime.state_dir
        state = given or Path(scratch)
        async with _loaded(options, runtime, state) as live:
            yield live


@asynccontextmanager
async def _loaded(
    options: argparse.Namespace, runtime: RuntimeConfig, state: Path
) -> AsyncIterator[LiveApplication]:
    loaded = await remote.load(options.app, options, state)
    # Compiling takes longer than all else: what is compiled is kept, whatever happens to the state.
    code = code_dir(argparse.Namespace(state_dir=None))
    stores = Stores(state, runtime.stores)
    async with open_node(code, stores=stores, blocked=runtime.blocked) as node:
        values = variables(options, runtime, loaded.application)
        live = await node.activate(loaded, values)
        try:
            yield live
        finally:
            await asyncio.sleep(0)  # what ended with the guest is put away
            live.close()
