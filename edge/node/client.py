"""Talks to the node of this machine over its UNIX socket. Errors of the node are raised here."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Self

import aiohttp

from edge.errors import ConfigError, EdgeError
from edge.node.socket import check_length
from edge.platform.files import unreadable

__all__ = ["NodeClient"]

# Seconds. A node that works on something long says so every ten.
_CONNECT = 5.0
_SILENCE = 60.0

_ENDED = "it ended before it had answered"


class NodeClient:
    """One node's API, as an async context manager. Raises EdgeError; ConfigError where the node
    would.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    async def __aenter__(self) -> Self:
        check_length(self._path)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(str(self._path)),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=_SILENCE),
            read_bufsize=1 << 20,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def get(self, path: str) -> Any:
        """What a reading route answers."""
        async with self._request("GET", path) as response:
            return await response.json()

    async def lines(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """What a route answers as it comes. An error among it is raised."""
        data = io.BytesIO(json.dumps(body).encode())
        async with aclosing(self._lines("POST", path, data=data)) as lines:
            async for line in lines:
                yield line

    async def follow(self, path: str) -> AsyncGenerator[dict[str, Any], None]:
        """What a reading route tells as it comes."""
        async with aclosing(self._lines("GET", path)) as lines:
            async for line in lines:
                yield line

    async def send(self, path: str, pieces: AsyncIterable[bytes]) -> Any:
        """What a route has brought about that takes bytes."""
        async with aclosing(self._lines("POST", path, data=pieces)) as lines:
            async for line in lines:
                if "result" in line:
                    return line["result"]
        raise self._lost(_ENDED)

    async def _lines(
        self, method: str, path: str, **body: Any
    ) -> AsyncGenerator[dict[str, Any], None]:
        async with self._request(method, path, **body) as response:
            rest = b""
            async for piece in response.content.iter_any():
                *complete, rest = (rest + piece).split(b"\n")
                for line in complete:
                    yield _checked(json.loads(line))
        if rest:
            raise self._lost("its answer was cut off")

    async def result(
        self, path: str, body: Mapping[str, Any], progress: Callable[[str], None] = lambda _: None
    ) -> Any:
        """What a changing route has brought about; `progress` is told how far it is."""
        async for line in self.lines(path, body):
            if "result" in line:
                return line["result"]
            if text := line.get("progress"):
                progress(text)
        raise self._lost(_ENDED)

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, **body: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with self._session.request(method, f"http://node{path}", **body) as response:
                if response.status != 200:
                    _checked(await response.json())
                    raise self._lost(f"it answered {response.status}")
                yield response
        except aiohttp.ClientConnectorError as exc:
            raise self._unreachable(exc.os_error) from exc
        except TimeoutError as exc:
            raise self._lost("it does not answer", "`systemctl status edge`") from exc
        except aiohttp.ClientPayloadError as exc:  # it says only how HTTP noticed
            raise self._lost(_ENDED, "once it runs again, `edge apps` shows what it has") from exc
        except (aiohttp.ClientError, ValueError) as exc:
            raise self._lost(f"the connection broke: {exc}") from exc

    def _unreachable(self, error: OSError) -> EdgeError:
        if isinstance(error, PermissionError):
            return EdgeError(
                f"{self._path}: permission denied",
                hint="members of the group edge may use it: sudo usermod -aG edge $USER, and log in"
                " again",
            )
        return EdgeError(
            f"no node answers at {self._path}: {unreadable(error)}",
            hint="start one with `edge run`; or say where it is with --socket or EDGE_SOCKET",
        )

    def _lost(self, why: str, hint: str | None = None) -> EdgeError:
        return EdgeError(f"the node at {self._path}: {why}", hint=hint)


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    error = answer.get("error")
    if error is None:
        return answer
    kind = ConfigError if error.get("exit_code") == ConfigError.exit_code else EdgeError
    raise kind(error["message"], hint=error.get("hint"))
