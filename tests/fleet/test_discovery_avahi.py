"""Beside Avahi, which is another hand's multicast DNS, and on many boards."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from advertising import FLEET, Stage, advertised, made_id
from fleet_lab import Machine, needs_root, promised, until

pytestmark = needs_root

_SETTINGS = "[server]\nenable-dbus=no\nhost-name=other\n[publish]\npublish-workstation=no\n"
_SERVICE = """<?xml version="1.0"?>
<!DOCTYPE service-group SYSTEM "avahi-service.dtd">
<service-group><name>cellar</name><service><type>_edge-node._tcp</type><port>7466</port>
<txt-record>txtvers=1</txt-record><txt-record>id={id}</txt-record>
<txt-record>fleet={fleet}</txt-record></service></service-group>
"""


@contextmanager
def avahi(machine: Machine, folder: Path) -> Iterator[None]:
    """Advertises a node called cellar."""
    services = folder / "services"
    services.mkdir()
    (services / "edge.service").write_text(_SERVICE.format(id=made_id("avahi"), fleet=FLEET))
    (folder / "settings").write_text(_SETTINGS)
    # It keeps its process id in /run, and reads services from one place only.
    script = (
        'mount -t tmpfs none /run && mount --bind "$1" /etc/avahi/services'
        ' && exec avahi-daemon --no-drop-root --no-chroot --no-rlimits -f "$2"'
    )
    command = machine.command(
        "unshare", "--mount", "sh", "-c", script, "sh", services, folder / "settings"
    )
    with (folder / "log").open("w") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            yield
        finally:
            process.terminate()


def test_nodes_live_with_avahi_on_the_network_and_on_the_same_machine(tmp_path: Path) -> None:
    with Stage(tmp_path) as stage:
        machine = stage.machine()
        with avahi(machine, tmp_path):
            first, beside = stage.node(), stage.node(machine)
            everybody = {made_id("avahi"), first.id, beside.id}
            for node in (first, beside):
                others = everybody - {node.id}
                until(lambda node=node, others=others: set(node.adverts()) == others, promised(5))
            assert machine.address in first.hosts(made_id("avahi"))
            # It defends what it advertises, and we ask before we do.
            late = stage.node(name="cellar")
            until(lambda: advertised(late) == f"cellar-{late.id[:4]}", promised(4))
