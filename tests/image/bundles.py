"""Applications for images: one that the image brings, and one for `setup/` of a boot partition."""

from __future__ import annotations

import json
from pathlib import Path

from node_lab import node
from registry_lab import skopeo

from edge.cli import main

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PUSHES = '[mirror]\nlisten = "127.0.0.1:0"\naccept_pushes = true\n'
# Nobody answers there: what serves came from the image or the card.
REGISTRY = "127.0.0.1:9/team"
GREETING = b"hello"  # in the answer of examples/hello

# examples/thermostat: HTTP, and messages of a broker.
BROUGHT = f"""
[mqtt]
url = "mqtt://localhost:1883"

[[application]]
name = "thermostat"
reference = "{REGISTRY}/thermostat:1.0"
mount = "/thermostat"
"""
EDGE_TOML = f"""{BROUGHT}
[[application]]
name = "hello"
reference = "{REGISTRY}/hello:1.0"
"""


def pack(name: str, folder: Path) -> Path:
    """An example as an OCI archive."""
    target = folder / f"{name}.tar"
    with node(folder, PUSHES) as lab:
        (url,) = json.loads(lab.tell("status", "--json"))["mirror"]
        pushed = f"{url.removeprefix('http://')}/{name}:1.0"
        assert (
            main(["push", str(EXAMPLES / name), pushed, "--state-dir", str(folder / "push")]) == 0
        )
        skopeo(
            "copy", "--src-tls-verify=false", f"docker://{pushed}",
            f"oci-archive:{target}:{REGISTRY}/{name}:1.0",
        )  # fmt: skip
    return target
