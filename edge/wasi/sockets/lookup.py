"""wasi:sockets/ip-name-lookup@0.2: names to addresses, for names that some grant could use."""

from __future__ import annotations

import asyncio
import ipaddress
import re
from typing import final

from edge.engine.host import Err, Interface
from edge.wasi.context import Context
from edge.wasi.io import POLL, Pollable
from edge.wasi.outbound import Outbound
from edge.wasi.pipe import Signal
from edge.wasi.sockets.network import NETWORK, Family, Network, code_of, granted, wasi_ip

__all__ = ["IP_NAME_LOOKUP", "ResolveAddressStream"]

_LABEL = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*\.?")


@final
class ResolveAddressStream:
    """The addresses of one name, once they are known. Dropping it ends the lookup."""

    __slots__ = ("_addresses", "_done", "_error", "_signal", "_task")

    def __init__(self) -> None:
        self._addresses: list[tuple[Family, tuple[int, ...]]] = []  # the next one last
        self._done = False
        self._error: str | None = None
        self._signal = Signal()
        self._task: asyncio.Task[None] | None = None

    def resolve_next_address(self) -> tuple[Family, tuple[int, ...]] | Err | None:
        if not self._done:
            return Err("would-block")
        if self._error is not None:
            return Err(self._error)
        return self._addresses.pop() if self._addresses else None

    def subscribe(self) -> Pollable:
        return Pollable(self._ready, self._wait)

    def drop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def known(self, addresses: list[str]) -> None:
        self._addresses = [wasi_ip(address) for address in reversed(addresses)]
        self._done = True
        self._signal.wake()

    def start(self, outbound: Outbound, name: str) -> None:
        if not outbound.acquire():
            raise Err("temporary-resolver-failure")
        self._task = outbound.start(self._lookup(outbound, name), name=f"lookup {name}")
        self._task.add_done_callback(lambda _task: outbound.release())

    async def _lookup(self, outbound: Outbound, name: str) -> None:
        try:
            async with asyncio.timeout(outbound.grants.limits.connect):
                self.known(await outbound.lookup(name))
        except OSError as error:
            code = code_of(error)
            self._error = "temporary-resolver-failure" if code == "timeout" else code
            self.known([])

    def _ready(self) -> bool:
        return self._done

    async def _wait(self) -> None:
        while not self._done:
            await self._signal.wait()


def _resolve_addresses(context: Context, _network: Network, name: str) -> ResolveAddressStream:
    outbound = granted(context)
    stream = ResolveAddressStream()
    literal = _literal(name)
    if literal is not None:
        stream.known([literal])
        return stream
    ascii_name = _ascii(name)
    if not outbound.grants.hosts.allows_name(ascii_name):
        raise Err("access-denied")
    stream.start(outbound, ascii_name)
    return stream


def _literal(name: str) -> str | None:
    try:
        return str(ipaddress.ip_address(name.removeprefix("[").removesuffix("]")))
    except ValueError:
        return None


def _ascii(name: str) -> str:
    try:
        name = name if name.isascii() else name.encode("idna").decode()
    except UnicodeError:
        raise Err("invalid-argument") from None
    if not _NAME.fullmatch(name):
        raise Err("invalid-argument")
    return name.lower()


IP_NAME_LOOKUP = Interface(
    """interface wasi:sockets/ip-name-lookup@0.2 {
      use wasi:io/poll@0.2.{pollable};
      use wasi:sockets/network@0.2.{network, error-code, ip-address};
      resolve-addresses: func(network: borrow<network>, name: string)
        -> result<resolve-address-stream, error-code>;
      resource resolve-address-stream {
        resolve-next-address: func() -> result<option<ip-address>, error-code>;
        subscribe: func() -> pollable;
      }
    }""",
    uses=(POLL, NETWORK),
    functions={"resolve-addresses": _resolve_addresses},
    resources={"resolve-address-stream": ResolveAddressStream},
)
