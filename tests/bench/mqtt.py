"""Messages a second and their latency through mosquitto: ours, a handler on aiomqtt, which also
runs as it does by itself (acknowledging early), and bare paho.

All do the same work: read a number, publish the alarming ones, acknowledge (QoS 1) afterwards. Each
is one process on core 0; mosquitto and the load share core 1. The load is bytes made beforehand and
written to a socket, so that it costs next to nothing; the alarms at its end tell that all is done.
Everybody takes at most 64 unacknowledged messages, our default.
"""

from __future__ import annotations

import itertools
import os
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from build import guests, toolchain
from servers import CORE, _toml, free_port

LOAD_CORE = "1"
HERE = Path(__file__).parent
TOPICS = 8  # messages of one topic are handled one after the other
WINDOW = 64
START_SECONDS = 60
QUIET = b"21.5"

MANIFEST = """
spin_manifest_version = 2

[application]
name = "{name}"

[[trigger.mqtt]]
id = "readings"
topic = "{name}/sensors/+/temperature"
qos = "{qos}"
component = "guest"

[component.guest]
source = "{source}"

[component.guest.tool.edge]
{options}

[component.guest.tool.edge.trigger.readings]
{trigger}
"""


@dataclass(slots=True)
class Worker:
    """A subscriber under way; its messages go to NAME/sensors/N/temperature, its alarms come from
    NAME/alerts/N.
    """

    name: str
    process: subprocess.Popen[bytes]


Start = Callable[[int, int], AbstractContextManager[Worker]]  # port of the broker, QoS


# --- the parts ------------------------------------------------------------------------------------


@contextmanager
def mosquitto() -> Iterator[int]:
    """The port of a broker that queues without limits and leaves the window to its clients."""
    port = free_port()
    with TemporaryDirectory() as folder:
        config = Path(folder) / "mosquitto.conf"
        user = "user root\n" if os.geteuid() == 0 else ""
        config.write_text(
            f"{user}listener {port} 127.0.0.1\nallow_anonymous true\nlog_type none\n"
            "max_queued_messages 0\nmax_inflight_messages 0\nset_tcp_nodelay true\n"
        )
        program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        command = ["taskset", "-c", LOAD_CORE, program, "-c", str(config)]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            end = time.monotonic() + START_SECONDS
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except ConnectionRefusedError:
                    if time.monotonic() > end:
                        raise
                    time.sleep(0.01)
            yield port
        finally:
            process.terminate()
            process.wait(15)


@contextmanager
def started(name: str, command: list[str]) -> Iterator[Worker]:
    """A worker on its core, once it says the line that begins with `ready` or `listening`."""
    log = None if os.environ.get("BENCH_LOG") else subprocess.DEVNULL
    process = subprocess.Popen(
        ["taskset", "-c", CORE, *command], stdout=subprocess.PIPE, stderr=log
    )
    assert process.stdout is not None
    try:
        if not process.stdout.readline():
            raise RuntimeError(f"{command}: exit {process.wait()}")
        yield Worker(name, process)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


@contextmanager
def edge(port: int, qos: int, *, native: bool = False) -> Iterator[Worker]:
    """Ours; by CloudEvents and a reply, or by Spin's own handler and a dead letter."""
    name = f"edge{'-native' if native else ''}-{qos}"
    wasm = guests()["on_alarm" if native else "alarm"]
    wasm.make()
    answers: dict[str, object] = {"reply_topic": f"{name}/alerts/{{topic.2}}"}
    if native:
        answers = {"retries": 0, "dead_letter": f"{name}/alerts/{{topic.2}}"}
    with TemporaryDirectory() as folder:
        (Path(folder) / "spin.toml").write_text(
            MANIFEST.format(
                name=name, qos=qos, source=wasm.output, options="", trigger=_toml(answers)
            )
        )
        command = [str(Path(sys.executable).parent / "edge"), "up", folder]
        command += ["--listen", "127.0.0.1:0", "--mqtt", f"mqtt://127.0.0.1:{port}"]
        command += ["--state-dir", str(Path(folder) / "state")]
        with started(name, command) as worker:
            yield worker


@contextmanager
def peer(kind: str, port: int, qos: int, *more: str) -> Iterator[Worker]:
    name = "-".join((kind, str(qos), *more))
    python = str(toolchain("mqtt-peer") / "bin/python")
    command = [python, str(HERE / f"peer_{kind}.py"), str(port), name, str(qos), str(WINDOW), *more]
    with started(name, command) as worker:
        yield worker


# --- the load: MQTT 3.1.1 by hand -----------------------------------------------------------------


def packet(kind: int, body: bytes) -> bytes:
    size, head = len(body), bytes([kind])
    while True:
        head += bytes([size % 128 | (0x80 if size >= 128 else 0)])
        size //= 128
        if not size:
            return head + body


def text(value: str) -> bytes:
    return len(value.encode()).to_bytes(2) + value.encode()


def published(topic: str, data: bytes, qos: int, number: int) -> bytes:
    id = (number % 65535 + 1).to_bytes(2) if qos else b""
    return packet(0x30 | qos << 1, text(topic) + id + data)


@dataclass(slots=True)
class Client:
    """A connection that sends what is made beforehand, and sorts what comes."""

    socket: socket.socket
    pending: bytearray = field(default_factory=bytearray)
    confirmed: int = 0
    messages: list[tuple[bytes, float]] = field(default_factory=list)  # data, when it came

    def poll(self, timeout: float) -> None:
        """Takes in what has come, or comes within that time."""
        if not select.select([self.socket], [], [], max(0.0, timeout))[0]:
            return
        if not (data := self.socket.recv(1 << 18)):
            raise ConnectionError("the broker has closed the connection")
        now = time.perf_counter()
        self.pending += data
        at = 0
        while (end := self._take(at, now)) is not None:
            at = end
        del self.pending[:at]

    def _take(self, at: int, now: float) -> int | None:
        """Handles the packet at that place and says where it ends; None: it is not all here."""
        buffer, size, shift, start = self.pending, 0, 0, at + 1
        while True:
            if start >= len(buffer):
                return None
            byte = buffer[start]
            size |= (byte & 127) << shift
            shift, start = shift + 7, start + 1
            if byte < 128:
                break
        if len(buffer) < start + size:
            return None
        kind = buffer[at] >> 4
        if kind == 4:  # PUBACK
            self.confirmed += 1
        elif kind == 3:  # PUBLISH at QoS 0: nothing to acknowledge
            topic = int.from_bytes(buffer[start : start + 2])
            self.messages.append((bytes(buffer[start + 2 + topic : start + size]), now))
        return start + size

    def count(self, data: bytes) -> int:
        return sum(came == data for came, _ in self.messages)

    def wait(self, done: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                raise TimeoutError(f"{self.confirmed} confirmed, {len(self.messages)} alarms")
            self.poll(1.0)


@contextmanager
def client(port: int, name: str) -> Iterator[Client]:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = text("MQTT") + b"\x04\x02\x00\x00"
        connection.sendall(packet(0x10, head + text(f"load-{name}")))
        connection.sendall(packet(0x82, b"\x00\x01" + text(f"{name}/alerts/+") + b"\x00"))
        found = bytearray()
        while len(found) < 9:  # CONNACK, SUBACK
            found += connection.recv(9 - len(found))
        connection.setblocking(False)
        yield Client(connection)


# Each number once: an alarm of an earlier flood is not taken for one of this.
_alarms = (b"%d.5" % number for number in itertools.count(1000))


def flood(port: int, worker: Worker, qos: int, count: int) -> float:
    """Messages a second from the first that is sent to the last alarm."""
    topics = [f"{worker.name}/sensors/{n}/temperature" for n in range(TOPICS)]
    alarm = next(_alarms)
    load = bytearray()
    for number in range(count):
        data = alarm if number >= count - TOPICS else QUIET
        load += published(topics[number % TOPICS], data, qos, number)
    with client(port, worker.name) as connection:
        start, view = time.perf_counter(), memoryview(load)
        while view:
            ready = select.select([connection.socket], [connection.socket], [], 30)
            if ready[1]:
                view = view[connection.socket.send(view[: 1 << 18]) :]
            if ready[0]:
                connection.poll(0)
        view.release()
        connection.wait(lambda: connection.count(alarm) >= TOPICS, 120)
        return count / (max(at for data, at in connection.messages if data == alarm) - start)


def latencies(port: int, worker: Worker, qos: int, rate: int, seconds: float) -> list[float]:
    """Sorted, in µs: from a message's send to its alarm, at a steady rate."""
    sent: dict[bytes, float] = {}
    with client(port, worker.name) as connection:
        start = time.perf_counter()
        for number in range(int(rate * seconds)):
            due = start + number / rate
            while (now := time.perf_counter()) < due:
                connection.poll(due - now)
            data = b"%.5f" % (30 + number / 100_000)
            topic = f"{worker.name}/sensors/{number % TOPICS}/temperature"
            sent[data] = time.perf_counter()
            connection.socket.sendall(published(topic, data, qos, number))
        connection.wait(lambda: len(connection.messages) >= len(sent), 60)
        return sorted(1e6 * (at - sent[data]) for data, at in connection.messages if data in sent)


# --- the rows -------------------------------------------------------------------------------------


def starts() -> dict[str, Start]:
    return {
        "edge": edge,
        "edge, Spin's handler": lambda port, qos: edge(port, qos, native=True),
        "aiomqtt": lambda port, qos: peer("aiomqtt", port, qos),
        "aiomqtt, early": lambda port, qos: peer("aiomqtt", port, qos, "early"),
        "paho": lambda port, qos: peer("paho", port, qos),
    }


def rows(
    rounds: int, seconds: int, only: tuple[str, ...] = ()
) -> Iterator[tuple[str, str, dict[str, list[float]]]]:
    """Row, unit, and for each worker its figure in each round."""
    chosen = {name: start for name, start in starts().items() if not only or name in only}
    for qos in QOS:
        with ExitStack() as stack:
            port = stack.enter_context(mosquitto())
            workers = {n: stack.enter_context(start(port, qos)) for n, start in chosen.items()}
            for worker in workers.values():
                _ready(port, worker, qos)
            figures: dict[str, list[float]] = {name: [] for name in workers}
            counts = {n: int(seconds * flood(port, w, qos, 4000)) for n, w in workers.items()}
            for number in range(rounds):
                order = list(workers.items())
                for name, worker in order[number % 2 :] + order[: number % 2]:
                    figures[name].append(flood(port, worker, qos, counts[name]))
            yield f"QoS {qos}, small guest", "messages/s", figures
            p50: dict[str, list[float]] = {name: [] for name in workers}
            p99: dict[str, list[float]] = {name: [] for name in workers}
            for _ in range(rounds):
                for name, worker in workers.items():
                    took = latencies(port, worker, qos, RATE, seconds)
                    p50[name].append(took[len(took) // 2])
                    p99[name].append(took[len(took) * 99 // 100])
            yield f"QoS {qos}, to its answer at {RATE}/s, p50", "µs", p50
            yield f"QoS {qos}, to its answer at {RATE}/s, p99", "µs", p99


RATE = 500
QOS = (1,)


def _ready(port: int, worker: Worker, qos: int) -> None:
    """Once it answers: it may say that it serves before it is subscribed."""
    end = time.monotonic() + START_SECONDS
    with client(port, worker.name) as connection:
        while not connection.messages:
            if time.monotonic() > end:
                raise TimeoutError(f"{worker.name} does not answer")
            topic = f"{worker.name}/sensors/0/temperature"
            connection.socket.sendall(published(topic, b"26.5", qos, 0))
            until = time.monotonic() + 0.5
            while not connection.messages and (left := until - time.monotonic()) > 0:
                connection.poll(left)


if __name__ == "__main__":
    chosen = tuple(sys.argv[3:])
    for row, unit, figures in rows(int(sys.argv[1]), int(sys.argv[2]), chosen):
        print(row, unit, {n: [round(f) for f in fs] for n, fs in figures.items()}, flush=True)
