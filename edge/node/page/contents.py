"""What of a node its page is made of: a part of the node API, and of what changes one thing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aiohttp import web

from edge import config
from edge.node.answers import Reading
from edge.node.control import Control
from edge.node.page.server import Holds, Page, Shown
from edge.platform.credentials import credentials_directory

__all__ = ["page_of"]

# Of the readings of other parts of the node.
_READ = ("/v1/metrics", "/v1/peers")


def page_of(
    settings: config.Daemon,
    control: Control,
    readings: Mapping[str, Reading],
    routes: Sequence[web.RouteDef],
    holds: Holds | None = None,
) -> Page:
    """`readings`: of the node API. `routes`: what the page has of it as it is. `holds`: Page's."""
    read = {path: readings[path] for path in _READ}
    own = {"/v1/apps": control.apps, "/v1/status": control.status}
    shown = Shown({**read, **own}, routes, control.app, control.rollback)
    credentials = settings.node.credentials_dir or credentials_directory()
    return Page(settings.page, settings.http, shown, credentials=credentials, holds=holds)
