"""A real `redis-server` on a free port of 127.0.0.1, and certificates to reach it by TLS."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

PROGRAM = shutil.which("redis-server") or shutil.which("valkey-server")


@dataclass
class Server:
    """A server that may be stopped and started again, on the same port and with the same data."""

    directory: Path
    options: tuple[str, ...] = ()
    password: str | None = None
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    clients: list[redis.Redis] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def client(self) -> Any:
        """Of the tests, beside what is tested."""
        if not self.clients:
            self.clients.append(redis.Redis("127.0.0.1", self.port, password=self.password))
        return self.clients[0]

    def start(self) -> None:
        for _ in range(5):
            self.port = self.port or free_port()
            command = [str(PROGRAM), "--port", str(self.port), "--bind", "127.0.0.1"]
            command += ["--dir", str(self.directory), "--save", "", *self.options]
            if self.password:
                command += ["--requirepass", self.password]
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            if self._answers():
                return
            self.stop()
            self.port = 0
        raise AssertionError("redis-server does not start")

    def stop(self) -> None:
        """SIGTERM, and its end."""
        while self.clients:
            self.clients.pop().close()
        if self.process is not None:
            self.process.terminate()
            self.process.wait(20)
            self.process = None

    def connections(self) -> int:
        """Of others than the tests' own client."""
        return len(self.client.client_list()) - 1

    def _answers(self) -> bool:
        assert self.process is not None
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(redis.exceptions.RedisError):
                return bool(self.client.ping())
            time.sleep(0.01)
        return False


@contextlib.contextmanager
def redis_server(directory: Path, *options: str, password: str | None = None) -> Iterator[Server]:
    assert PROGRAM is not None, "needs the Debian package redis-server"
    server = Server(directory, options, password)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def certificate(directory: Path, name: str = "localhost") -> tuple[Path, Path]:
    """A certificate that vouches for itself under that name, and its key."""
    cert, key = directory / "cert.pem", directory / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", f"/CN={name}", "-addext"]
    command += [f"subjectAltName=DNS:{name}", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


def trusting(cert: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=cert)
