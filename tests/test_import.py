"""`edge import`: from a stick to a node without a network, and on to the next by its registry."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from node_lab import node
from registry_lab import skopeo

from edge.cli import main
from edge.registry import transfer
from edge.registry.layout import import_path
from edge.registry.reference import Reference
from edge.registry.store import ContentStore

HELLO = Path(__file__).parent.parent / "examples" / "hello"

PUSHES = '[mirror]\nlisten = "127.0.0.1:0"\naccept_pushes = true\n'
# Where nobody answers: what is not on the stick does not come.
NOWHERE = "127.0.0.1:9/team/hello"


def test_from_a_stick_to_a_node_and_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    stick, packed = tmp_path / "stick", tmp_path / "stick.tar"
    with node(folders[0], PUSHES) as lab:
        registry = mirror_of(lab.tell("status", "--json"))
        state = str(tmp_path / "push")
        assert main(["push", str(HELLO), f"{registry}/hello:1.0", "--state-dir", state]) == 0
        source = ("copy", "--src-tls-verify=false", f"docker://{registry}/hello:1.0")
        skopeo(*source, f"oci:{stick}:1.0")
        skopeo(*source, f"oci-archive:{packed}:{NOWHERE}:1.0")
    digest = capsys.readouterr().out.strip().partition("@")[2]
    with node(folders[1]) as lab:
        refused = lab.edge("import", stick)
        assert refused.returncode == 78
        assert "'1.0' names no registry" in refused.stderr
        assert "hint: say what it is: --name" in refused.stderr
        assert lab.tell("import", stick, "--name", "registry.example/other").split() == [
            f"registry.example/other@{digest}"
        ]
        assert lab.tell("import", packed).strip() == f"{NOWHERE}@{digest}"
        gone = lab.edge("import", tmp_path / "nix")
        assert (gone.returncode, gone.stderr.count("\n")) == (78, 1)
        lab.tell("deploy", f"{NOWHERE}:1.0")
        assert lab.get("/")[0] == 200
        (app,) = lab.apps().values()
        assert app["digest"] == digest
        registry = mirror_of(lab.tell("status", "--json"))
        there = f"docker://{registry}/team/hello:1.0"
        assert json.loads(skopeo("inspect", "--tls-verify=false", there))["Digest"] == digest
        skopeo("copy", "--src-tls-verify=false", there, f"oci:{tmp_path / 'third'}:1.0")
    name = Reference.parse("registry.example/third")
    (third,) = import_path(tmp_path / "third", ContentStore(tmp_path / "state"), name)
    assert str(third.digest) == digest
    state = tmp_path / "here"
    assert main(["import", str(packed), "--state-dir", str(state)]) == 0
    name = Reference.parse(f"{NOWHERE}:1.0")
    assert str(transfer.complete(ContentStore(state), name)) == digest


def mirror_of(status: str) -> str:
    (url,) = json.loads(status)["mirror"]
    return str(url).removeprefix("http://")
