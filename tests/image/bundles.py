"""A bundle as `setup/bundles` of the boot partition takes it."""

from __future__ import annotations

import json
from pathlib import Path

from node_lab import node
from registry_lab import skopeo

from edge.cli import main

HELLO = Path(__file__).resolve().parents[2] / "examples" / "hello"
# Nobody answers there: what serves came from the card.
REFERENCE = "127.0.0.1:9/team/hello:1.0"
PUSHES = '[mirror]\nlisten = "127.0.0.1:0"\naccept_pushes = true\n'
GREETING = b"hello"  # in the answer of examples/hello
EDGE_TOML = f"""
[[application]]
name = "hello"
reference = "{REFERENCE}"
"""


def pack(folder: Path) -> Path:
    """examples/hello as an OCI archive."""
    target = folder / "hello.tar"
    with node(folder, PUSHES) as lab:
        (url,) = json.loads(lab.tell("status", "--json"))["mirror"]
        pushed = f"{url.removeprefix('http://')}/hello:1.0"
        assert main(["push", str(HELLO), pushed, "--state-dir", str(folder / "push")]) == 0
        skopeo(
            "copy", "--src-tls-verify=false", f"docker://{pushed}",
            f"oci-archive:{target}:{REFERENCE}",
        )  # fmt: skip
    return target
