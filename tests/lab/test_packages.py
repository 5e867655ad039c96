"""The Debian packages in clean Debians: installed, upgraded, downgraded, removed, purged."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from debs import ARCHITECTURES, CleanRoot, clean_root, emulate, package, with_version
from machines import SUITES, Lab, Machine, lab, needs_machines

pytestmark = needs_machines

GUESTS = Path(__file__).parents[1] / "guests/out"
STATE = Path("var/lib/edge")
# What was before the user was made, and stays with it; systemd-sysusers writes some of them.
BACKUPS = {f"etc/{name}-" for name in ("passwd", "group", "shadow", "gshadow", "subuid", "subgid")}

# One guest that remembers, asked through the front; then the node is ended.
SMOKE = """
set -eu
edge --version
edge check --config /etc/edge/edge.toml
cd /srv
edge up app --listen 127.0.0.1:3000 --state-dir /var/lib/edge/smoke >/tmp/said 2>&1 &
pid=$!
for _ in $(seq 3000); do
    grep -q listening /tmp/said && break
    kill -0 $pid || { cat /tmp/said; exit 1; }
    sleep 0.2
done
/usr/lib/edge/bin/python - "$1" <<'END'
import sys, urllib.request
print(urllib.request.urlopen("http://127.0.0.1:3000" + sys.argv[1], timeout=600).read().decode())
END
kill $pid
wait $pid
"""
MANIFEST = """
spin_manifest_version = 2
application = { name = "store", version = "1.0.0" }
[[trigger.http]]
route = "/..."
component = "store"
[component.store]
source = "store.wasm"
key_value_stores = ["default"]
"""


@pytest.fixture(scope="module")
def machines() -> Iterator[Lab]:
    with lab() as made:
        yield made


def put(root: Path, *packages: Path) -> list[str]:
    """Copies packages to where `dpkg` in that root finds them."""
    folder = root / "srv/debs"
    folder.mkdir(parents=True, exist_ok=True)
    for path in packages:
        shutil.copy(path, folder / path.name)
    return [f"/srv/debs/{path.name}" for path in packages]


def versions(suite: str, architecture: str, folder: Path) -> tuple[Path, Path]:
    """Of this checkout, and one that is newer to dpkg."""
    first = package(suite, architecture)
    return first, with_version(first, f"0.1.0-2+{suite}", folder)


@pytest.fixture(scope="module", params=[f"{s}-{a}" for a in ARCHITECTURES for s in SUITES])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[CleanRoot, tuple[Path, Path]]]:
    suite, architecture = request.param.split("-")
    emulate(architecture)
    packages = versions(suite, architecture, tmp_path_factory.mktemp("debs"))
    with clean_root(suite, architecture) as root:
        yield root, packages


@pytest.mark.patience(5400)  # emulated, and beside other work
def test_it_comes_serves_is_replaced_and_leaves_nothing(
    place: tuple[CleanRoot, tuple[Path, Path]],
) -> None:
    root, packages = place
    app = root.path / "srv/app"
    app.mkdir()
    (app / "spin.toml").write_text(MANIFEST)
    shutil.copy(GUESTS / "store.wasm", app)
    old, new = put(root.path, *packages)
    before = root.files()

    # There is no network: apt finds all that it depends on, by these names, or fails.
    root.run("apt-get", "-qq", "install", "--yes", old)
    root.run("sh", "-c", SMOKE, "smoke", "/set/room/warm")
    assert root.run("dpkg", "--verify", "edge") == ""
    assert root.run("systemctl", "is-enabled", "edge.service").strip() == "enabled"
    assert root.run("systemctl", "is-enabled", "edge.socket", expected=None).strip() == "disabled"

    root.run("dpkg", "--install", new)
    assert "warm" in root.run("sh", "-c", SMOKE, "smoke", "/get/room")
    root.run("dpkg", "--install", "--force-downgrade", old)
    assert "warm" in root.run("sh", "-c", SMOKE, "smoke", "/get/room")

    root.run("dpkg", "--remove", "edge")
    assert not (root.path / "usr/lib/edge").exists()
    assert (root.path / "etc/edge/edge.toml").exists()
    assert (root.path / STATE / "smoke").exists()
    root.run("dpkg", "--purge", "edge")
    assert root.files() - before <= BACKUPS


@pytest.mark.parametrize("suite", SUITES)
def test_its_manual_and_completions_are_there(suite: str) -> None:
    with clean_root(suite, "amd64") as root:
        root.run("dpkg", "--install", *put(root.path, package(suite, "amd64")))
        for page in ("man1/edge.1", "man5/edge.toml.5"):
            assert (root.path / f"usr/share/man/{page}.gz").stat().st_size > 1000
        script = (
            ". /usr/share/bash-completion/completions/edge; COMP_WORDS=(edge fleet re);"
            ' COMP_CWORD=2; _edge; echo "${COMPREPLY[@]}"'
        )
        assert root.run("bash", "-c", script).split() == ["revoke"]


CONFIGURATION = """
[http]
listen = ["0.0.0.0:8080"]
[[application]]
name = "store"
path = "/srv/app"
"""


def with_time_zones(machine: Machine) -> None:
    """Of what the package depends on these roots lack one. It comes from Debian, as apt would."""
    for command in (["update"], ["install", "--yes", "--no-install-recommends", "tzdata"]):
        subprocess.run(
            ["chroot", str(machine.root), "apt-get", "-qq", *command],
            check=True,
            capture_output=True,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"},
        )


@pytest.fixture(params=SUITES)
def machine(machines: Lab, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A bare Debian with systemd, which nothing of edge was put into."""
    machine = machines.machine(request.param, installed=False, prepare=with_time_zones)
    machine.write("srv/app/spin.toml", MANIFEST)
    shutil.copy(GUESTS / "store.wasm", machine.root / "srv/app")
    yield machine
    machine.stop()


def test_a_node_runs_from_its_installation_to_its_purge(machine: Machine, tmp_path: Path) -> None:
    old, new = put(machine.root, *versions(machine.suite, "amd64", tmp_path))
    machine.run("dpkg", "--install", old)
    assert machine.property("edge.service", "ActiveState") == "active"  # nothing was asked or done
    machine.write("etc/edge/edge.toml", CONFIGURATION)
    machine.run("systemctl", "restart", "edge.service")
    assert machine.get("/set/room/warm", 8080)[0] == 200
    machine.run("systemctl", "stop", "edge.service")
    machine.run("systemctl", "enable", "--now", "edge.socket")
    machine.run("systemctl", "start", "edge.service")
    first = machine.property("edge.service", "MainPID")

    # From here on port 80 is systemd's: who asks during a restart waits.
    with Asking(machine) as asking:
        machine.run("dpkg", "--install", new)
        second = machine.property("edge.service", "MainPID")
        machine.run("dpkg", "--install", "--force-downgrade", old)
    assert len({first, second, machine.property("edge.service", "MainPID")}) == 3
    assert asking.refused == [], f"of {asking.answered} answers"
    assert asking.answered > 10
    assert "warm" in machine.get("/get/room")[1].decode()
    assert CONFIGURATION in machine.run("cat", "/etc/edge/edge.toml")

    machine.run("systemctl", "disable", "--now", "edge.service")
    machine.run("dpkg", "--install", new)
    # What an administrator turned off stays off.
    assert machine.property("edge.service", "ActiveState") == "inactive"

    machine.run("dpkg", "--remove", "edge")
    assert machine.property("edge.socket", "ActiveState") == "inactive"
    assert machine.run("sh", "-c", "ls /var/lib/edge/kv").split()
    machine.run("dpkg", "--install", old)
    machine.run("systemctl", "enable", "--now", "edge.service")
    assert "warm" in machine.get("/get/room")[1].decode()
    machine.run("dpkg", "--purge", "edge")
    for path in ("/var/lib/edge", "/etc/edge", "/usr/lib/edge", "/run/edge"):
        machine.run("test", "-e", path, expected=1)
    assert "edge" not in machine.run("systemctl", "list-units", "--all", "--plain", "edge*")


class Asking:
    """A client that opens a connection for each request, one after the other."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.answered = 0
        self.refused: list[str] = []

    def __enter__(self) -> Asking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(60)

    def _ask(self) -> None:
        while not self._end.is_set():
            try:
                status, _ = self._machine.get("/get/room", timeout=60)
            except OSError as error:
                self.refused.append(repr(error))
            else:
                self.answered += 1
                if status != 200:
                    self.refused.append(str(status))
