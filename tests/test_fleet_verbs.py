"""`edge fleet push`, `show` and `check`, with Debian's docker-registry."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from registry_lab import docker_registry, skopeo

from edge.cli import main
from edge.registry.digest import Digest

TOML = """
fleet = "site-a"
[[application]]
name = "thermo"
reference = "{host}/thermo:1"
mount = {{ path = "/thermo", host = "thermo.local" }}
select = {{ names = ["shop-*"], labels = {{ kind = ["pos", "kiosk"] }} }}
rollout = {{ canary = 10, nodes = ["shop-lab"], soak = "10m" }}
[[application]]
name = "thermo"
reference = "{host}/thermo:stable"
"""


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


Edge = Callable[..., Done]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture
def edge(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Edge:
    """`edge …` within this process, in the test's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))

    def run(*arguments: str | Path) -> Done:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as error:  # argparse
            code = int(error.code or 0)
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture
def thermo(registry: str, tmp_path: Path) -> Digest:
    """Version 1 of an application, as another tool pushes it; its digest."""
    layout = tmp_path / "layout"
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def blob(data: bytes, media_type: str) -> dict[str, object]:
        digest = Digest.of(data)
        (blobs / digest.hex).write_bytes(data)
        return {"mediaType": media_type, "digest": str(digest), "size": len(data)}

    image = {"architecture": "wasm", "os": "wasip1", "rootfs": {"type": "layers", "diff_ids": []}}
    config = blob(json.dumps(image).encode(), "application/vnd.oci.image.config.v1+json")
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": [],
        }
    ).encode()
    entry = blob(manifest, "application/vnd.oci.image.manifest.v1+json")
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    for tag in ("1", "stable"):
        place = f"docker://{registry}/thermo:{tag}"
        skopeo("copy", f"oci:{layout}", place, "--dest-tls-verify=false")
    return Digest.of(manifest)


@pytest.fixture
def fleet_toml(registry: str, tmp_path: Path) -> Path:
    path = tmp_path / "fleet.toml"
    path.write_text(TOML.format(host=registry))
    return path


def test_a_push_is_the_next_generation_and_pins_what_it_names(
    edge: Edge, registry: str, thermo: Digest, fleet_toml: Path
) -> None:
    reference = f"{registry}/fleet/site-a:stable"
    done = edge("fleet", "push", fleet_toml, reference)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{registry}/fleet/site-a@sha256:")
    shown = json.loads(edge("fleet", "show", reference, "--json").stdout)
    assert (shown["schema"], shown["fleet"], shown["generation"]) == (1, "site-a", 1)
    assert [app["reference"] for app in shown["applications"]] == [
        f"{registry}/thermo:1@{thermo}",
        f"{registry}/thermo:stable@{thermo}",
    ]
    again = edge("fleet", "push", fleet_toml, reference)
    assert again.stdout == done.stdout, "it says the same already"
    fleet_toml.write_text(f'{fleet_toml.read_text()}mount = "/other"\n')
    assert edge("fleet", "push", fleet_toml, reference).returncode == 0
    shown = edge("fleet", "show", reference).stdout.splitlines()
    assert shown[0] == "fleet site-a, generation 2"
    assert edge("fleet", "push", fleet_toml, reference, "--follow-tags").returncode == 0
    shown = json.loads(edge("fleet", "show", reference, "--json").stdout)
    assert [app["reference"] for app in shown["applications"]] == [
        f"{registry}/thermo:1@{thermo}",
        f"{registry}/thermo:stable",
    ], "what canaries go first for is pinned all the same"


def test_other_tools_see_what_it_is(
    edge: Edge, registry: str, thermo: Digest, fleet_toml: Path
) -> None:
    edge("fleet", "push", fleet_toml, f"{registry}/fleet/seen:stable")
    raw = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{registry}/fleet/seen:stable")
    found = json.loads(raw)
    assert found["artifactType"] == "application/vnd.edge.fleet.v1+json"
    assert [layer["mediaType"] for layer in found["layers"]] == [found["artifactType"]]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--name", "shop-7", "--label", "kind=pos"), "thermo.local/thermo  after 10m"),
        (("--name", "shop-lab", "--label", "kind=kiosk"), "at once: a canary"),
        (("--name", "shop-7", "--label", "kind=till"), "thermo:stable  /  at once"),
        ((), "thermo:stable  /  at once"),
    ],
)
def test_check_says_what_a_node_would_run(
    edge: Edge, fleet_toml: Path, arguments: tuple[str, ...], expected: str
) -> None:
    done = edge("fleet", "check", fleet_toml, *arguments)
    assert done.returncode == 0
    (line,) = done.stdout.splitlines()
    assert line.endswith(expected)


def test_check_answers_programs(edge: Edge, fleet_toml: Path, registry: str) -> None:
    done = edge("fleet", "check", fleet_toml, "--name", "pi", "--json")
    assert json.loads(done.stdout) == {
        "node": "pi",
        "applications": [
            {
                "name": "thermo",
                "reference": f"{registry}/thermo:stable",
                "canary": False,
                "after_seconds": 0.0,
            }
        ],
    }


def test_check_says_for_whom_there_is_nothing(
    edge: Edge, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "few.toml").write_text(
        'fleet = "few"\n[[application]]\nname = "x"\nreference = "localhost:5000/x:1"\n'
        'select = { names = ["till"] }\n'
    )
    named = edge("fleet", "check", "few.toml", "--name", "pi", "--label", "kind=pos")
    assert (named.returncode, named.stdout) == (0, "")
    edge("fleet", "check", "few.toml")
    assert caplog.messages == [
        "nothing of it is for a node named pi, kind=pos",
        "nothing of it is for a node without a name, no labels",
    ]


def test_a_document_of_another_ending_is_told_which_it_needs(edge: Edge, tmp_path: Path) -> None:
    (tmp_path / "fleet.tml").write_text('fleet = "few"\n')
    done = edge("fleet", "show", "fleet.tml")
    assert done.returncode == 1
    assert done.stderr.endswith("hint: a fleet.toml is known by its ending, .toml\n")


def test_mistakes_are_one_line_each(edge: Edge, tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").write_text('fleet = "a/b"\n[[application]]\nname = "x"\n')
    done = edge("fleet", "check", "fleet.toml")
    assert done.returncode == 78
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "edge: fleet.toml: fleet: 'a/b' is not a name: letters, digits, . _ and -, at most 63,"
        " beginning with a letter or digit",
        'edge: fleet.toml: application[0]: missing key "reference"',
    ]


def test_what_cannot_be_pinned_is_not_pushed(
    edge: Edge, registry: str, tmp_path: Path, fleet_toml: Path
) -> None:
    fleet_toml.write_text(fleet_toml.read_text().replace("thermo:1", "nothing:1"))
    done = edge("fleet", "push", fleet_toml, f"{registry}/fleet/pin:stable")
    assert done.returncode == 1
    assert f"{registry}/nothing:1: not found" in done.stderr
    assert edge("fleet", "show", f"{registry}/fleet/pin:stable").returncode == 1


def test_a_bundle_is_no_fleet_document(edge: Edge, registry: str, thermo: Digest) -> None:
    done = edge("fleet", "show", f"{registry}/thermo:1")
    assert (done.returncode, done.stderr) == (
        1,
        f"edge: {registry}/thermo:1: is not a fleet document\nhint: see `edge fleet push`\n",
    )
    fleet = edge("fleet", "push", "fleet.toml", f"{registry}/thermo:1@{thermo}")
    assert fleet.returncode == 2


def test_files_that_are_not_there_are_named(edge: Edge) -> None:
    for name in ("nothing.toml", "nothing.json"):
        done = edge("fleet", "show", name)
        assert (done.returncode, done.stderr) == (78, f"edge: {name}: no such file or directory\n")
