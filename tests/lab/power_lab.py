"""What the power-cut campaigns share: a machine with a disk that forgets, and its applications."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vm_disk import ForgetfulDisk, forgetful_disk
from vm_machine import PATIENCE, VirtualMachine, vm

from edge.node.client import NodeClient

FULL = os.environ.get("EDGE_SOAK") == "full"
CUTS = int(os.environ.get("EDGE_CUTS") or (20 if FULL else 2))

CONFIGURATION = """
[node]
name = "vm"
[sync]
interval = "1h"
{sync}
[stores.key_value.default]
max_entries = 100_000
{more}
"""


def say(line: str) -> None:
    sys.stderr.write(f"\n{line}")
    sys.stderr.flush()


@dataclass(slots=True)
class Victim:
    """A node whose power is cut. `lost`: sectors that its disk forgot at each cut."""

    machine: VirtualMachine
    disk: ForgetfulDisk
    chance: random.Random
    lost: list[int] = field(default_factory=list)

    def install(self, files: dict[str, str | bytes], more: str, sync: str = "") -> None:
        configuration = CONFIGURATION.format(more=more, sync=sync)
        self.machine.install({"etc/edge/edge.toml": configuration, **files})

    def cut_within(self, seconds: float, writes: int) -> None:
        """At any time of the next seconds, or at one of the next writes to its disk: between a
        write and the flush that follows it there is little time.
        """
        if self.chance.random() < 0.5:
            self.disk.stop_after(self.chance.randint(1, writes))
        self.disk.stopped.wait(self.chance.uniform(0, seconds))
        self.cut()

    def cut(self) -> None:
        self.machine.cut()
        self.lost.append(self.disk.lost)

    def boot(self) -> None:
        """Until it answers; then it has what the node needs, whole."""
        self.machine.start()
        self.machine.get("/well")

    def ask(self, route: str, **body: Any) -> Any:
        """What the node's API answers. Raises EdgeError."""

        async def run(path: Path) -> Any:
            async with asyncio.timeout(PATIENCE), NodeClient(path) as node:
                return await (node.result(route, body) if body else node.get(route))

        with self.machine.api() as path:
            return asyncio.run(run(path))

    def is_whole(self) -> None:
        """Each blob has the digest of its name, no file system error, no failure of the node."""
        said = self.machine.shell(
            "cd /var/lib/edge/blobs/sha256 2>/dev/null &&"
            """ sha256sum -- * 2>/dev/null | awk '{ if ($1 != $2) print "damaged", $2 }'\n"""
            "journalctl -b --no-pager -o cat -k -g 'EXT4-fs error|I/O error' --quiet\n"
            "journalctl -b --no-pager -o cat -u edge -g 'damaged|Traceback' --quiet\n"
            "systemctl is-failed edge.service\ntrue"
        )
        assert said.split() == ["active"], said


@contextmanager
def victim(folder: Path, seed: int, *, lies: bool = False) -> Iterator[Victim]:
    """`lies`: its disk answers flushes and does not do them."""
    with (
        forgetful_disk(folder / "disk", seed, lies=lies) as disk,
        vm(folder / "machine", disk) as machine,
    ):
        yield Victim(machine, disk, random.Random(seed))


def ledger(wasm: Path, trigger: str = "", options: str = "") -> dict[str, str | bytes]:
    """The application that keeps what it is told, as files of a machine."""
    return {
        "srv/ledger/spin.toml": LEDGER.format(trigger=trigger, options=options),
        "srv/ledger/ledger.wasm": wasm.read_bytes(),
    }


LEDGER = """
spin_manifest_version = 2
[application]
name = "ledger"
version = "1.0.0"
[[trigger.http]]
route = "/..."
component = "ledger"
{trigger}
[component.ledger]
source = "ledger.wasm"
key_value_stores = ["default"]
[component.ledger.tool.edge]
memory = "16MiB"
{options}
"""

APPLICATION = '[[application]]\nname = "ledger"\npath = "/srv/ledger"\n'


def kept(machine: VirtualMachine) -> dict[str, str]:
    """All that the ledger has."""
    status, body = machine.get("/")
    assert status == 200, body
    lines = body.decode().splitlines()
    return dict((key, value) for key, _, value in (line.rpartition(" ") for line in lines))


Guest = Callable[[str], Path]
