"""`edge up --once`: runs a WASI command on this terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace

from edge.cli.terminal import Input, Output
from edge.invocation.once import run_once
from edge.node.node import Node
from edge.registry.local import LocalApplication


async def run(
    node: Node, local: LocalApplication, variables: Mapping[str, str], arguments: Sequence[str]
) -> int:
    """Runs the application's only component once. Returns its exit status."""
    live = await node.activate(_patient(local), variables)
    sandboxes, export = live.command()
    name = local.sources[sandboxes.profile.component].name
    with closing(Input(0)) as stdin, closing(Output(1)) as stdout, closing(Output(2)) as stderr:
        return await run_once(sandboxes, export, (name, *arguments), stdin, stdout, stderr)


def _patient(local: LocalApplication) -> LocalApplication:
    """Who waits at a terminal decides how long."""
    application = local.application
    components = {
        id: replace(component, options=replace(component.options, timeout=math.inf))
        for id, component in application.components.items()
    }
    return replace(local, application=replace(application, components=components))
