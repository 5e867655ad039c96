"""Where an application is on a node: its name there, and the host and path its routes begin at."""

from __future__ import annotations

import re

from edge.application.fields import Table, Where, parsed
from edge.application.hosts import host_of
from edge.config import Mount

__all__ = ["application_name", "mount", "mount_host", "mount_path"]

# Part of URLs, file names and journal fields.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
# What stands in paths as it is; "%41" and "A" would be two mounts for one place.
_SEGMENT = re.compile(r"[A-Za-z0-9._~-]+")


def application_name(text: str) -> str:
    """A name for an application on a node, or ValueError."""
    if not _NAME.fullmatch(text):
        raise ValueError(
            f"{text[:80]!a} is not a name: letters, digits, . _ and -, at most 63,"
            " beginning with a letter or digit"
        )
    return text


def mount_path(text: str) -> str:
    """ "/", or "/a/b" without a slash at the end; ValueError for what is no path."""
    if not text.startswith("/"):
        raise ValueError(f'must begin with "/", like "/{text}"')
    if text == "/":
        return text
    segments = text.removeprefix("/").removesuffix("/").split("/")
    for segment in segments:
        if not _SEGMENT.fullmatch(segment) or not segment.strip("."):
            raise ValueError(
                f"{segment!a} is not a part of a mount: letters, digits, . _ ~ and -"
                if segment
                else f'"{text}" has two slashes in a row'
            )
    return f"/{'/'.join(segments)}"


def mount_host(text: str) -> str:
    """A host name or address as it is compared: lower case, without a port. Or ValueError."""
    try:
        return str(host_of(text))
    except ValueError:
        raise ValueError(f"{text!a} is not a host name or address; no port, no wildcard") from None


def mount(value: object, where: Where) -> Mount:
    """A path, or a table of `path` and `host`."""
    if isinstance(value, str):
        return Mount(parsed(mount_path)(value, where))
    with Table(value, where) as table:
        path = table.get("path", parsed(mount_path), "/")
        host = table.optional("host", parsed(mount_host))
    return Mount(path, host)
