"""The service on a machine: `edge.service` as installed, with an application that answers HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from machines import Machine, enable

CONFIGURATION = """
[node]
name = "{name}"

[http]
listen = ["0.0.0.0:8080"]

[[application]]
name = "{application}"
path = "/srv/{application}"
"""

MANIFEST = """
spin_manifest_version = 2

[application]
name = "test"
version = "1.0.0"

[[trigger.http]]
route = "/..."
component = "guest"

[component.guest]
source = "guest.wasm"

[component.guest.tool.edge]
{options}
"""

APPLICATION = "hello"


def prepared(guest: Path, *units: str, options: str = "") -> Callable[[Machine], None]:
    """For `Lab.machine`: with `guest` as an application, and these units beside edge.service on."""

    def prepare(machine: Machine) -> None:
        machine.write(
            "etc/edge/edge.toml",
            CONFIGURATION.format(name=machine.name, application=APPLICATION),
        )
        folder = machine.root / "srv" / APPLICATION
        folder.mkdir(parents=True)
        (folder / "spin.toml").write_text(MANIFEST.format(options=options))
        (folder / "guest.wasm").write_bytes(guest.read_bytes())
        enable(machine, "multi-user.target", "edge.service")
        for unit in units:
            enable(machine, "sockets.target", unit)

    return prepare


def serves(machine: Machine, port: int = 80) -> bool:
    """For `eventually`: its application answers."""
    status, _ = machine.get("/", port)
    return status == 200


@contextmanager
def dropped_in(machine: Machine, text: str) -> Iterator[None]:
    """The service with a drop-in of these lines, from its next start on."""
    path = "/run/systemd/system/edge.service.d/test.conf"
    machine.run("mkdir", "-p", "/run/systemd/system/edge.service.d")
    machine.run("tee", path, stdin=text)
    machine.run("systemctl", "daemon-reload")
    try:
        yield
    finally:
        machine.run("rm", path)
        machine.run("systemctl", "daemon-reload")
