"""Fleets on one machine: network namespaces at one switch, a registry behind an uplink, nodes.

    switch    a namespace with bridges; a cable is a port of it, so nothing touches this machine
    machine   a namespace with eth0, its own IPv4 and IPv6 addresses, and whatever runs in it
    uplink    the machine with the registry; what it sends is counted by the kernel, per node
    board     a machine with `edge run`, its state and configuration

Needs root and the Debian packages iproute2 and iptables.
"""

from __future__ import annotations

import ctypes
import http.client
import ipaddress
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest
from node_lab import EDGE, Done, run_edge

T = TypeVar("T")

# `make soak` runs them at the promised size and in the promised time.
FULL = os.environ.get("EDGE_SOAK") == "full"

PREFIX = "edgelab"
NETWORK, NETWORK6 = ipaddress.ip_network("10.77.0.0/24"), ipaddress.ip_network("fd77::/64")
REGISTRY = "10.77.0.1:5000"
PEERS_PORT, HTTP_PORT = 7466, 8080
MiB = 1 << 20
_CLONE_NEWNET = 0x40000000

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")


class Traffic(NamedTuple):
    """What crossed an interface, as its machine sees it; with everything below TCP."""

    sent_packets: int
    sent_bytes: int
    received_packets: int
    received_bytes: int

    def since(self, before: Traffic) -> Traffic:
        return Traffic(*(now - then for now, then in zip(self, before, strict=True)))


def say(line: str) -> None:
    """A figure, for whoever runs it with -s."""
    sys.stderr.write(f"\n{line}\n")


def promised(seconds: float) -> float:
    """The time within which something must have happened.

    What is promised holds on an idle machine: `make soak`. Beside other tests it takes longer.
    """
    return seconds if FULL else 3 * seconds


def until(true: Callable[[], T], seconds: float, what: Callable[[], object] = lambda: "") -> float:
    """Waits until it is true; the seconds that took. Fails after `seconds`, saying `what`."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, f"not within {seconds} s: {what()}"
        time.sleep(0.05)
    return time.monotonic() - began


def ip(*arguments: str, namespace: str | None = None) -> str:
    inside = ["-n", namespace] if namespace else []
    return _run("ip", *inside, *arguments)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


# --- machines -------------------------------------------------------------------------------------


@dataclass(eq=False)
class Machine:
    """A network namespace at the switch."""

    lab: Lab
    name: str
    number: int

    @property
    def namespace(self) -> str:
        return f"{self.lab.prefix}-{self.name}"

    @property
    def port(self) -> str:
        return f"p-{self.name}"

    @property
    def address(self) -> str:
        return str(NETWORK[self.number])

    @property
    def address6(self) -> str:
        return str(NETWORK6[self.number])

    def plug(self) -> None:
        ip("netns", "add", self.namespace)
        # Addresses are usable at once: a board that waits for its address is not what is measured.
        self.run("sysctl", "-q", "-w", "net.ipv6.conf.default.accept_dad=0")
        switch = self.lab.switch
        wire = ["link", "add", self.port, "type", "veth", "peer", "name", "eth0"]
        ip(*wire, "netns", self.namespace, namespace=switch)
        ip("link", "set", self.port, "master", "br0", "up", namespace=switch)
        ip("link", "set", "lo", "up", namespace=self.namespace)
        ip("link", "set", "eth0", "up", namespace=self.namespace)
        self.take_address(self.number)

    def take_address(self, number: int) -> None:
        """Its addresses are of this number from now on, as after a new lease."""
        ip("-4", "addr", "flush", "dev", "eth0", namespace=self.namespace)
        ip("-6", "addr", "flush", "dev", "eth0", "scope", "global", namespace=self.namespace)
        self.number = number
        ip("addr", "add", f"{self.address}/24", "dev", "eth0", namespace=self.namespace)
        ip("addr", "add", f"{self.address6}/64", "dev", "eth0", "nodad", namespace=self.namespace)
        if number != 1:
            ip("route", "add", "default", "via", str(NETWORK[1]), namespace=self.namespace)

    def cable(self, state: str) -> None:
        """ "down": pulled out, the machine sees that it has no carrier; "up": back in."""
        ip("link", "set", self.port, state, namespace=self.lab.switch)

    def command(self, *arguments: str | Path) -> list[str]:
        """What runs a program here, under the process id that it is started with."""
        return ["ip", "netns", "exec", self.namespace, *map(str, arguments)]

    def run(self, *arguments: str | Path) -> str:
        return _run(*self.command(*arguments))

    def call(self, do: Callable[[], T]) -> T:
        """Does it in a thread that is in this network: sockets made in it stay in it."""
        found: list[T] = []
        failed: list[BaseException] = []

        def inside() -> None:
            try:
                enter(self.namespace)
                found.append(do())
            except BaseException as exc:  # what a thread raises belongs to who waits for it
                failed.append(exc)

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        return found[0]

    def traffic(self) -> Traffic:
        return self.lab.traffic()[self.name]

    def unplug(self) -> None:
        """Ends what still runs here, and the namespace."""
        listed = subprocess.run(
            ["ip", "netns", "pids", self.namespace], capture_output=True, text=True, check=False
        )
        _kill(map(int, listed.stdout.split()))
        subprocess.run(["ip", "netns", "del", self.namespace], capture_output=True, check=False)


def enter(namespace: str) -> None:
    """Brings the calling thread into the namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(f"/run/netns/{namespace}").open() as file:
        if libc.setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {namespace}")


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


# --- the uplink -----------------------------------------------------------------------------------


class Uplink(Machine):
    """Debian's registry; to the boards, the internet."""

    process: subprocess.Popen[bytes] | None = None

    def serve(self, folder: Path) -> None:
        program = shutil.which("docker-registry")
        assert program is not None, "needs the Debian package docker-registry"
        folder.mkdir(exist_ok=True)
        config = {
            "version": "0.1",
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(folder / "storage")}},
            "http": {"addr": "0.0.0.0:5000", "secret": "test"},
        }
        (folder / "registry.json").write_text(json.dumps(config))
        self.run("iptables", "-N", "counted")
        self.run("iptables", "-A", "OUTPUT", "-p", "tcp", "--sport", "5000", "-j", "counted")
        with (folder / "registry.log").open("wb") as log:
            command = self.command(program, "serve", folder / "registry.json")
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        until(self._answers, 20, lambda: (folder / "registry.log").read_text())

    def _answers(self) -> bool:
        def ask() -> bool:
            connection = http.client.HTTPConnection("127.0.0.1", 5000, timeout=2)
            try:
                connection.request("GET", "/v2/")
                return connection.getresponse().status == 200
            except OSError:
                return False
            finally:
                connection.close()

        return self.call(ask)

    def count(self, address: str) -> None:
        self.run("iptables", "-A", "counted", "-d", address, "-j", "RETURN")

    def sent(self) -> dict[str, int]:
        """Bytes that the registry has sent to each address, with the headers of IP and TCP."""
        lines = self.run("iptables", "-nvxL", "counted").splitlines()[2:]
        fields = [line.split() for line in lines]
        return {row[-1]: int(row[1]) for row in fields}

    def rate(self, mbit: float | None) -> None:
        """How fast it sends; None: as fast as it can."""
        with suppress(AssertionError):
            ip_tc = ["tc", "-n", self.namespace, "qdisc", "del", "dev", "eth0", "root"]
            _run(*ip_tc)
        if mbit is not None:
            shape = ["tbf", "rate", f"{mbit}mbit", "burst", "64kb", "latency", "200ms"]
            _run("tc", "-n", self.namespace, "qdisc", "add", "dev", "eth0", "root", *shape)

    def cut(self) -> None:
        """Nothing gets through, and nobody is told."""
        self.run("iptables", "-I", "INPUT", "-i", "eth0", "-j", "DROP")

    def mend(self) -> None:
        self.run("iptables", "-D", "INPUT", "-i", "eth0", "-j", "DROP")

    def edge(self, *arguments: str | Path, **environ: str) -> str:
        """A verb of somebody who sits beside the registry; what it prints."""
        done = subprocess.run(
            self.command(EDGE, *arguments),
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "DOCKER_CONFIG": "/nonexistent", "COSIGN_PASSWORD": "", **environ},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def unplug(self) -> None:
        super().unplug()
        if self.process is not None:
            self.process.wait(20)


# --- boards ---------------------------------------------------------------------------------------

SETTINGS = """
[node]
name = "{name}"
state_dir = "state"
socket = "edge.sock"
{node}
[http]
listen = ["0.0.0.0:8080"]
[registry."{registry}"]
insecure = true
[sync]
interval = "{interval}"
soak = "0s"
[fleet]
{fleet}
{more}
"""


@dataclass(eq=False)
class Board(Machine):
    """A machine whose node can be started, stopped, killed and asked."""

    folder: Path = field(default_factory=Path)
    called: str = ""  # the node's own name; default: the machine's
    # TOML of [node], of [fleet], and after all tables
    node: str = ""
    fleet: str = ""
    more: str = ""
    interval: str = "1h"
    environ: dict[str, str] = field(default_factory=dict)
    program: Sequence[str] = (EDGE,)
    process: subprocess.Popen[str] | None = None

    # Its life

    def launch(self) -> None:
        """Without waiting for anything."""
        self.folder.mkdir(exist_ok=True)
        file = self.folder / "edge.toml"
        toml = SETTINGS.format(
            name=self.called or self.name,
            node=self.node,
            registry=REGISTRY,
            interval=self.interval,
            fleet=self.fleet,
            more=self.more,
        )
        file.write_text(toml)
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                self.command(*self.program, "run", "--config", file),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={
                    **os.environ,
                    "HOME": str(self.folder),
                    "DOCKER_CONFIG": str(self.folder / "docker"),
                    **self.environ,
                },
            )

    def ready(self) -> None:
        """Waits until it serves."""
        output = self.up.stdout
        assert output is not None
        line = output.readline()  # empty when it ends without serving
        assert line.startswith("listening on "), f"{self.name} did not start:\n{self.text}"

    def start(self) -> None:
        self.launch()
        self.ready()

    def stop(self) -> None:
        """SIGTERM, as a service manager ends it. Fails when that is no clean end."""
        process = self.up
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        finally:
            self._end()
        assert process.returncode == 0, self.text

    def power_off(self) -> None:
        """As if unplugged: nobody gets a word from it, not even that a port is closed."""
        self.cable("down")
        self.kill()

    def kill(self) -> None:
        """SIGKILL; its kernel is still there and closes its connections."""
        self._end()

    def freeze(self) -> None:
        """It hangs: connections stay, nothing answers."""
        self.up.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.up.send_signal(signal.SIGCONT)

    def _end(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def unplug(self) -> None:
        self._end()
        super().unplug()

    # What it says

    @property
    def up(self) -> subprocess.Popen[str]:
        assert self.process is not None, f"{self.name} does not run"
        return self.process

    @property
    def _log(self) -> Path:
        return self.folder / "log"

    @property
    def text(self) -> str:
        """Its log, of all its lives."""
        return self._log.read_text() if self._log.exists() else ""

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def edge(self, *arguments: str | Path) -> Done:
        return run_edge(*arguments, "--socket", self.folder / "edge.sock")

    def tell(self, *arguments: str | Path) -> str:
        done = self.edge(*arguments)
        assert done.returncode == 0, f"{self.name}: {done.stderr}\n{self.text}"
        return done.stdout

    def get(self, path: str, host: str = "127.0.0.1", seconds: float = 10) -> int:
        """The status that an application of it, or of another one's, answers with; 0: none."""

        def ask() -> int:
            connection = http.client.HTTPConnection(host, HTTP_PORT, timeout=seconds)
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                answer.read()
                return answer.status
            except OSError:
                return 0
            finally:
                connection.close()

        return self.call(ask)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.tell("status", "--json"))
        return found

    def apps(self) -> dict[str, dict[str, Any]]:
        return {app["name"]: app for app in json.loads(self.tell("apps", "--json"))}

    def peers_said(self) -> Any:
        """`edge peers --json`, as it is."""
        return json.loads(self.tell("peers", "--json"))

    def peers(self) -> list[dict[str, Any]]:
        """The same, of the node itself: to look often costs no processor that nodes need."""
        connection = http.client.HTTPConnection("node", timeout=20)
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.settimeout(20)
            connection.sock.connect(str(self.folder / "edge.sock"))
            connection.request("GET", "/v1/peers")
            answer = connection.getresponse()
            assert answer.status == 200, self.text
            rows: list[dict[str, Any]] = json.loads(answer.read())["peers"]
            return rows
        finally:
            connection.close()

    def knows(self) -> set[str]:
        """Names of the peers that it takes for alive."""
        return {peer["name"] for peer in self.peers() if peer["state"] == "alive"}

    def holds(self, digest: str) -> bool:
        """Whether the blob is in its content store."""
        return (self.state / "blobs" / "sha256" / digest.removeprefix("sha256:")).exists()


def resident(board: Board) -> int:
    """Bytes of memory that its process has to itself."""
    rollup = Path(f"/proc/{board.up.pid}/smaps_rollup").read_text()
    rows = (line.split() for line in rollup.splitlines())
    return sum(int(row[1]) * 1024 for row in rows if row[0] == "Private_Dirty:")


def processor(board: Board) -> float:
    """Seconds that its process has run."""
    fields = Path(f"/proc/{board.up.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- the lab --------------------------------------------------------------------------------------


class Lab:
    """Machines on one switch. Made by `lab`, which takes it away again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Its own process id: what a killed run leaves behind is found and removed.
        self.prefix = f"{PREFIX}-{os.getpid()}-{random.randrange(1 << 16):04x}"
        self.switch = f"{self.prefix}-switch"
        self.machines: dict[str, Machine] = {}
        self._next = 10
        self.uplink = Uplink(self, "uplink", 1)

    def open(self) -> None:
        ip("netns", "add", self.switch)
        for bridge in ("br0", "br1", "br2"):
            kind = ["type", "bridge", "mcast_snooping", "0"]
            ip("link", "add", bridge, *kind, namespace=self.switch)
            ip("link", "set", bridge, "up", namespace=self.switch)
        self._plug(self.uplink)
        self.uplink.serve(self.folder / "registry")

    def close(self) -> None:
        with ExitStack() as stack:  # each is taken away also when another one does not go
            stack.callback(
                subprocess.run,
                ["ip", "netns", "del", self.switch],
                capture_output=True,
                check=False,
            )
            for machine in self.machines.values():
                stack.callback(machine.unplug)

    def _plug(self, machine: Machine) -> None:
        self.machines[machine.name] = machine
        machine.plug()

    def machine(self, name: str) -> Machine:
        """One without a node: an attacker, a laptop."""
        machine = Machine(self, name, self._number())
        self._plug(machine)
        return machine

    def board(self, name: str, **options: Any) -> Board:
        """Not started yet."""
        board = Board(self, name, self._number(), folder=self.folder / name, **options)
        self._plug(board)
        self.uplink.count(board.address)
        return board

    def boards(self, count: int, **options: Any) -> list[Board]:
        """n1, n2, …: started, and serving."""
        boards = [self.board(f"n{number}", **options) for number in range(1, count + 1)]
        for board in boards:
            board.launch()
        for board in boards:
            board.ready()
        return boards

    def _number(self) -> int:
        self._next += 1
        return self._next

    def spare_number(self) -> int:
        """Of an address that nobody has."""
        number = self._number()
        self.uplink.count(str(NETWORK[number]))
        return number

    def partition(self, *groups: Sequence[Machine]) -> None:
        """Each group has a bridge of its own; who is named nowhere stays with the first."""
        for number, group in enumerate(groups):
            for machine in group:
                to = ["link", "set", machine.port, "master", f"br{number}"]
                ip(*to, namespace=self.switch)

    def heal(self) -> None:
        self.partition(list(self.machines.values()))

    def traffic(self) -> dict[str, Traffic]:
        """By machine, since it was plugged in."""
        found = {}
        for link in json.loads(_run("ip", "-n", self.switch, "-s", "-j", "link", "show")):
            if link["ifname"].startswith("p-"):
                # What the port receives is what the machine sent.
                own, other = link["stats64"]["rx"], link["stats64"]["tx"]
                found[link["ifname"][2:]] = Traffic(
                    own["packets"], own["bytes"], other["packets"], other["bytes"]
                )
        return found


@contextmanager
def lab(folder: Path) -> Iterator[Lab]:
    """Without a board, with a registry. Leaves no namespace and no process, whatever happens."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    _sweep()
    made = Lab(folder)
    try:
        made.open()
        yield made
    finally:
        made.close()


def _sweep() -> None:
    """Takes away what runs that were killed left behind."""
    for path in Path("/run/netns").glob(f"{PREFIX}-*-*-*"):
        owner = path.name.split("-")[1]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            pids = subprocess.run(
                ["ip", "netns", "pids", path.name], capture_output=True, text=True, check=False
            )
            _kill(map(int, pids.stdout.split()))
            subprocess.run(["ip", "netns", "del", path.name], capture_output=True, check=False)


# --- fleets ---------------------------------------------------------------------------------------


def token_of(issuer: Board, *arguments: str) -> str:
    """One that another board may join with."""
    said = issuer.tell("fleet", "token", *arguments).split()
    (token,) = (word for word in said if word.startswith("edge1."))
    return token


def form(boards: Sequence[Board], name: str = "site-a") -> None:
    """The first one starts the fleet, the others join it."""
    issuer, *others = boards
    issuer.tell("fleet", "init", "--name", name)
    if others:
        token = token_of(issuer, "--uses", str(len(others)))
        for board in others:
            board.tell("fleet", "join", token)


def stop(boards: Sequence[Board]) -> None:
    """All of them at the same time."""
    with ThreadPoolExecutor(len(boards)) as threads:
        list(threads.map(Board.stop, boards))


def all_know_all(boards: Sequence[Board]) -> bool:
    """Whether each takes exactly the others for alive."""
    names = {board.called or board.name for board in boards}
    return all(board.knows() == names - {board.called or board.name} for board in boards)


def views(boards: Sequence[Board]) -> str:
    """What each thinks of the others, for a failure's message."""
    lines = []
    for board in boards:
        rows = {peer["name"]: (peer["state"], *peer["addresses"]) for peer in board.peers()}
        lines.append(f"{board.name}: {rows}\n{board.text[-1500:]}")
    return "\n".join(lines)


# --- bundles --------------------------------------------------------------------------------------


def application(folder: Path, wasm: Path, size: int, seed: int = 1, route: str = "/one") -> Path:
    """A Spin application with one layer of `size` random bytes beside its component."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data").mkdir(exist_ok=True)
    (folder / "data" / "blob.bin").write_bytes(random.Random(seed).randbytes(size))
    (folder / "spin.toml").write_text(
        'spin_manifest_version = 2\n[application]\nname = "big"\nversion = "1.0.0"\n'
        f'[[trigger.http]]\nroute = "{route}"\ncomponent = "guest"\n'
        f'[component.guest]\nsource = "{wasm}"\n'
        'files = [{ source = "data", destination = "/data" }]\n'
    )
    return folder


def entry(name: str, reference: str, more: str = "") -> str:
    return f'[[application]]\nname = "{name}"\nreference = "{reference}"\n{more}\n'
