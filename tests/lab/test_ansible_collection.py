"""The collection, on this machine alone: what its filters write, and that all is documented."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from ansible_lab import REPOSITORY, install_collection

pytestmark = pytest.mark.skipif(shutil.which("ansible") is None, reason="needs ansible-core")

ROLE = REPOSITORY / "ansible/roles/edge"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("collection")
    install_collection(folder)
    return folder


def run(home: Path, *command: str) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=home,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "ANSIBLE_COLLECTIONS_PATH": str(home / "collections"),
        },
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rendered(home: Path, expression: str, value: object) -> str:
    """What a template makes of a value of the inventory."""
    told = ["-m", "debug", "-a", f"msg={{{{ {expression} }}}}", "-e", json.dumps({"value": value})]
    said = run(home, "ansible", "localhost", "-c", "local", *told)
    found: str = json.loads(said.partition("=> ")[2])["msg"]
    return found


def test_edge_toml_says_what_the_inventory_says(home: Path) -> None:
    value = {
        "node": {"name": 'qu"ote\\', "labels": {"site": "Straße\n", "a.b": "\x7f"}},
        "http": {"listen": ["0.0.0.0:80", "[::]:80"], "limits": {"max_connections": 512}},
        "registry": {"registry.example:5000": {"insecure": True, "keys": []}},
        "sync": {"jitter": 0.2, "interval": None},
        "application": [
            {"name": "a", "mount": {"path": "/a", "host": "a.local"}, "variables": {}},
            {"name": "b", "component": {"web": {"memory": "1MiB"}}},
        ],
        "fleet": {},
    }
    del (expected := json.loads(json.dumps(value)))["sync"]["interval"]
    assert tomllib.loads(rendered(home, "value | edge.appliance.to_toml", value)) == expected


def test_the_same_users_give_the_same_file(home: Path) -> None:
    users = {"node": "secret", "ada": "secret"}
    files = [rendered(home, "value | edge.appliance.mosquitto_users", users) for _ in range(2)]
    assert files[0] == files[1]
    ada, node = files[0].strip().splitlines()
    assert re.fullmatch(r"ada:\$7\$101\$[A-Za-z0-9+/]{16}\$[A-Za-z0-9+/]{86}==", ada)
    assert node.split("$")[3] != ada.split("$")[3]


def test_every_variable_is_documented(home: Path) -> None:
    defaults = re.findall(r"^(edge_\w+):", (ROLE / "defaults/main.yml").read_text(), re.MULTILINE)
    documented = re.findall(
        r"^      (edge_\w+):", (ROLE / "meta/argument_specs.yml").read_text(), re.MULTILINE
    )
    assert sorted(defaults) == sorted(documented)
    assert "edge_packages" in run(home, "ansible-doc", "-t", "role", "edge.appliance.edge")
    assert "(reference)" not in run(home, "ansible-doc", "edge.appliance.application")


def test_the_example_is_an_inventory(home: Path) -> None:
    example = REPOSITORY / "ansible/inventory/hosts.example.yml"
    found = json.loads(run(home, "ansible-inventory", "-i", str(example), "--list"))
    assert found["edge"]["hosts"] == ["pi-1", "pi-2", "pi-3"]
    assert found["_meta"]["hostvars"]["pi-1"]["ansible_host"] == "192.168.1.11"
