"""One machine with real systemd, in every run: the service starts, serves, and is sandboxed. All of
what the units promise is in tests/lab (`make test-lab`).
"""

from __future__ import annotations

from pathlib import Path

from machines import eventually, lab, needs_machines
from service import prepared, serves

from edge.platform.messages import READY

HELLO = Path(__file__).parents[1] / "examples/hello/hello.wasm"


@needs_machines
def test_a_debian_boots_to_a_service_that_answers() -> None:
    with lab() as machines:
        machine = machines.machine("bookworm", prepare=prepared(HELLO, "edge.socket"))
        eventually("the service answers", lambda: serves(machine))
        assert machine.property("edge.service", "StatusText") == "serving 1 application"
        assert "0 loaded units listed" in machine.run("systemctl", "--failed", "--no-pager")
        (ready,) = machine.journal("-u", "edge.service", f"MESSAGE_ID={READY}")
        assert ready["EDGE_LOGGER"] == "edge.node"
