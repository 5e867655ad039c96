"""Nodes that follow a fleet's document, and a node that is made again from its backup."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from node_lab import Node, application, configured, node, start
from registry_lab import docker_registry

from edge.cli import main
from edge.node import restore

Guest = Callable[[str], Path]
Push = Callable[[str, str], None]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


def edge(*arguments: str | Path, code: int = 0) -> str:
    """A verb without a node, within this process; both of its outputs."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        found = main([str(argument) for argument in arguments])
    assert found == code, said.getvalue()
    return said.getvalue()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COSIGN_PASSWORD", "")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


@pytest.fixture
def key(tmp_path: Path) -> Path:
    edge("sign", "--generate-key", tmp_path / "fleet.key")
    return tmp_path / "fleet.key"


@pytest.fixture
def versions(registry: str, guest: Guest, tmp_path: Path) -> str:
    """An application in two versions, whose routes are /one and /two."""
    for number, word in enumerate(("one", "two"), 1):
        folder = tmp_path / word
        folder.mkdir()
        (folder / "spin.toml").write_text(
            'spin_manifest_version = 2\n[application]\nname = "thermo"\n'
            f'[[trigger.http]]\nroute = "/{word}"\ncomponent = "guest"\n'
            f'[component.guest]\nsource = "{guest("hello")}"\n'
        )
        edge("push", folder, f"{registry}/thermo:{number}")
    return f"{registry}/thermo"


def document(path: Path, body: str) -> Path:
    path.write_text(f'fleet = "site-a"\n{body}')
    return path


def following(reference: str, more: str = "") -> str:
    return (
        f'[fleet]\ndocument = "{reference}"\nkeys = ["fleet.pub"]\n'
        f'[sync]\ninterval = "1h"\nsoak = "0s"\n{more}'
    )


def entry(reference: str, more: str = "") -> str:
    return f'[[application]]\nname = "thermo"\nreference = "{reference}"\n{more}\n'


def served(running: Node, mount: str = "") -> list[str]:
    return [word for word in ("one", "two") if running.get(f"{mount}/{word}")[0] == 200]


def test_a_node_runs_what_its_fleet_says(
    registry: str, versions: str, key: Path, tmp_path: Path
) -> None:
    reference = f"{registry}/fleet/site-a:stable"
    toml = document(tmp_path / "fleet.toml", entry(f"{versions}:1"))
    edge("fleet", "push", toml, reference, "--key", key)
    with node(tmp_path, following(reference)) as running:
        running.until(lambda: served(running) == ["one"])
        assert running.apps()["thermo"]["source"] == "fleet"

        document(toml, entry(f"{versions}:2", 'mount = "/t"'))
        edge("fleet", "push", toml, reference, "--key", key)
        running.tell("sync")
        assert (served(running), served(running, "/t")) == ([], ["two"])

        # Nobody signed it: what runs goes on, and the log says why.
        document(toml, entry(f"{versions}:1"))
        edge("fleet", "push", toml, reference)
        running.edge("sync")
        assert (served(running), served(running, "/t")) == ([], ["two"])
        running.until(lambda: "going on with what is here" in running.text)
        status = json.loads(running.tell("status", "--json"))
        assert status["generation"] == 2
        assert "going on with what is here" in str(status["notes"])

        # Signed by somebody else.
        edge("sign", "--generate-key", tmp_path / "other.key")
        document(toml, entry(f"{versions}:1", 'mount = "/u"'))
        edge("fleet", "push", toml, reference, "--key", tmp_path / "other.key")
        running.edge("sync")
        assert served(running, "/t") == ["two"]

        document(toml, "")
        edge("fleet", "push", toml, reference, "--key", key)
        running.tell("sync")
        assert (served(running), running.apps()) == ([], {})


def test_a_node_without_its_registry_runs_what_its_fleet_said(
    guest: Guest, key: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with docker_registry(tmp_path_factory.mktemp("gone")) as host:
        folder = tmp_path / "app"
        folder.mkdir()
        (folder / "spin.toml").write_text(
            'spin_manifest_version = 2\n[application]\nname = "thermo"\n'
            '[[trigger.http]]\nroute = "/one"\ncomponent = "guest"\n'
            f'[component.guest]\nsource = "{guest("hello")}"\n'
        )
        edge("push", folder, f"{host}/thermo:1")
        reference = f"{host}/fleet/site-a:stable"
        toml = document(tmp_path / "fleet.toml", entry(f"{host}/thermo:1"))
        edge("fleet", "push", toml, reference, "--key", key)
        with node(tmp_path, following(reference)) as running:
            running.until(lambda: served(running) == ["one"])
    with node(tmp_path, following(reference)) as running:
        assert served(running) == ["one"], "at once, without a network"


def test_others_wait_for_the_canaries(
    registry: str, versions: str, key: Path, tmp_path: Path
) -> None:
    reference = f"{registry}/fleet/waiting:stable"
    toml = document(tmp_path / "fleet.toml", entry(f"{versions}:1"))
    edge("fleet", "push", toml, reference, "--key", key)
    with node(tmp_path, following(reference)) as running:
        running.until(lambda: served(running) == ["one"])
        slow = 'rollout = { soak = "1h" }'
        document(toml, entry(f"{versions}:2", slow))
        edge("fleet", "push", toml, reference, "--key", key)
        running.tell("sync")
        assert served(running) == ["one"]
    with node(tmp_path, following(reference)) as running:
        assert served(running) == ["one"], "also after a restart"
        document(toml, entry(f"{versions}:2", 'rollout = { nodes = ["lab"], soak = "1h" }'))
        edge("fleet", "push", toml, reference, "--key", key)
        running.tell("sync")
        assert served(running) == ["two"]


def test_the_file_of_a_node_comes_before_its_fleet(
    registry: str, versions: str, key: Path, tmp_path: Path
) -> None:
    reference = f"{registry}/fleet/before:stable"
    toml = document(tmp_path / "fleet.toml", entry(f"{versions}:1"))
    edge("fleet", "push", toml, reference, "--key", key)
    with node(tmp_path, following(reference, entry(f"{versions}:2"))) as running:
        running.until(lambda: served(running) == ["two"])
        assert running.apps()["thermo"]["source"] == "file"
        running.tell("sync")
        assert served(running) == ["two"]


def test_a_node_is_made_again_from_its_backup(registry: str, versions: str, tmp_path: Path) -> None:
    tar = tmp_path / "node.tar"
    config = tmp_path / "edge.toml"
    with node(tmp_path) as running:
        running.tell("deploy", f"{versions}:1", "--name", "thermo")
        assert served(running) == ["one"]
        edge("backup", tar, "--config", config, "--bundles")
        assert "a node runs on it" in edge("restore", tar, "--config", config, code=1)
        running.tell("undeploy", "thermo")
        running.tell("deploy", f"{versions}:2", "--name", "other")
        assert served(running) == ["two"]
    edge("restore", tar, "--config", config)
    with node(tmp_path) as running:
        assert served(running) == ["one"]
        assert set(running.apps()) == {"thermo"}


def test_a_node_ends_the_restore_that_was_interrupted(
    guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "spin.toml").write_text(
        'spin_manifest_version = 2\n[application]\nname = "thermo"\n'
        '[[trigger.http]]\nroute = "/one"\ncomponent = "guest"\n'
        f'[component.guest]\nsource = "{guest("hello")}"\n'
    )
    config = configured(tmp_path, application("thermo", folder))
    (tmp_path / "state").mkdir()
    edge("backup", tmp_path / "node.tar", "--config", config)

    class Cut(BaseException):
        """The power, when everything was verified and nothing was in its place."""

    def cut(_: Path) -> bool:
        raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(restore, "finish", lambda p: (p / "restore").exists() and cut(p))
        with pytest.raises(Cut):
            edge("restore", tmp_path / "node.tar", "--config", config)
    assert "a restore was interrupted" in edge("backup", tmp_path / "b", "--config", config, code=1)
    with node(tmp_path) as running:  # its edge.toml names no application
        assert served(running) == ["one"]
        assert "the restore that was interrupted is complete" in running.text
    assert not (tmp_path / "state" / "restore").exists()


def test_what_a_lost_document_wanted_goes_on(
    versions: str, registry: str, key: Path, tmp_path: Path
) -> None:
    reference = f"{registry}/fleet/lost:stable"
    toml = document(tmp_path / "fleet.toml", entry(f"{versions}:1"))
    edge("fleet", "push", toml, reference, "--key", key)
    with node(tmp_path, following(reference)) as running:
        running.until(lambda: served(running) == ["one"])
    (tmp_path / "state" / "fleet.json").write_text("damaged")
    document(toml, entry(f"{versions}:2"))
    edge("fleet", "push", toml, reference)  # not signed: nothing takes the place of what was lost
    with node(tmp_path, following(reference)) as running:
        assert served(running) == ["one"]
        running.until(lambda: "going on with what is here" in running.text)
        assert served(running) == ["one"]
        assert "fleet.json.damaged-1" in running.text


def test_two_nodes_do_not_share_a_state_directory(tmp_path: Path) -> None:
    with node(tmp_path):
        other = start(tmp_path, "", "--socket", tmp_path / "other.sock")
        assert "another node runs on it" in other.process.communicate(timeout=60)[1]
    assert other.process.returncode == 1
