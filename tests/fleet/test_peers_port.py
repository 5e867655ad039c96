"""[fleet] listen, where it cannot be."""

from __future__ import annotations

import socket

import pytest

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
