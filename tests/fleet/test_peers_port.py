"""Addresses of the configuration that are wrong: [fleet] listen, [fleet] peers."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from peers_lab import Fleet, group, peers, until

from edge.config import Address
from edge.errors import EdgeError
from edge.fleet.listening import listener


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(EdgeError) as error:
            listener(Address("127.0.0.1", port))
    assert error.value.message == f"127.0.0.1:{port}: address already in use"
    assert "[fleet] listen" in (error.value.hint or "")


def test_an_address_that_is_not_of_this_machine() -> None:
    with pytest.raises(EdgeError) as error:
        listener(Address("192.0.2.1", 7466))
    assert error.value.message == "192.0.2.1:7466: cannot assign requested address"
    assert error.value.hint == "it is what [fleet] listen says"


def test_a_name_that_is_nobodys() -> None:
    with pytest.raises(EdgeError) as error:
        listener(Address("nobody.invalid", 7466))
    assert error.value.message.startswith("nobody.invalid:7466: ")
    assert "None" not in error.value.message


def a_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


async def test_who_is_not_at_its_address_is_told(tmp_path: Path) -> None:
    fleet, gone, own = Fleet(tmp_path), f"127.0.0.1:{a_port()}", f"127.0.0.1:{a_port()}"
    async with group(fleet, 1) as (first,):
        # One list for all boards has the board itself in it.
        static = [str(first.address), own, gone]
        async with peers(fleet.member("x"), "x", static=static, listen=own) as one:
            told = f"[fleet] peers: {gone} (no node of this fleet answers)"
            await until(lambda: one.unreached == told)
    assert first.unreached is None
