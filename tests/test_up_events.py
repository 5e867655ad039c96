"""`edge up` with messages and ticks, from the outside: real brokers, real servers, real guests."""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from mqtt_lab import Mosquitto, free_port, mosquitto
from redis_lab import certificate, redis_server

EXAMPLES = Path(__file__).parent.parent / "examples"
EDGE = str(Path(sys.executable).parent / "edge")
CONFIG = 78  # exit code

# Seconds. What takes milliseconds may take long on a machine that is busy.
PATIENCE = 30.0

Guest = Callable[[str], Path]


class Process:
    """An `edge up` under way and what it says, on both streams."""

    def __init__(self, arguments: tuple[str | Path, ...], cwd: Path) -> None:
        command = [EDGE, "up", *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=cwd
        )
        self.said: list[str] = []
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def says(self, words: str, timeout: float = PATIENCE) -> str:
        """The next line with these words."""
        end = time.monotonic() + timeout
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                line = None
            assert line is not None, f"it did not say {words!r}:\n" + "\n".join(self.said)
            self.said.append(line)
            if words in line:
                return line

    @property
    def everything(self) -> str:
        return "\n".join(self.said)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Its exit code; all it said is in `said`."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        while not self._lines.empty():
            if (line := self._lines.get()) is not None:
                self.said.append(line)
        return self.process.returncode


Up = Callable[..., AbstractContextManager[Process]]


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def up(tmp_path: Path, code: Path, monkeypatch: pytest.MonkeyPatch) -> Up:
    """`with up(APP, "--mqtt", url) as process:`; leaving ends it, cleanly."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(code))  # what is compiled once stays compiled

    @contextlib.contextmanager
    def start(*arguments: str | Path) -> Iterator[Process]:
        process = Process((*arguments, "--listen", "127.0.0.1:0"), tmp_path)
        try:
            yield process
        except BaseException:
            process.end(signal.SIGKILL)
            raise
        assert process.end() == 0, process.everything

    return start


def write(folder: Path, *parts: str) -> Path:
    """An application of these parts of a manifest."""
    head = 'spin_manifest_version = 2\n[application]\nname = "plant"\n'
    (folder / "spin.toml").write_text("\n".join((head, *parts)))
    return folder


def component(name: str, wasm: Path, more: str = "") -> str:
    return f'[component.{name}]\nsource = "{wasm}"\n{more}\n'


def refused(*arguments: str | Path, verb: str = "up") -> str:
    """The complaint of a command that ends with a mistake of its configuration."""
    command = [EDGE, verb, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == CONFIG, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


# --- timers ---------------------------------------------------------------------------------------

TIMER = '[[trigger.cron]]\nid = "pulse"\ncomponent = "tick"\ncron_expression = "{}"\n'


def test_an_application_may_have_nothing_but_a_timer(guest: Guest, tmp_path: Path, up: Up) -> None:
    app = write(tmp_path, TIMER.format("* * * * * *"), component("tick", guest("on_tick")))
    with up(app) as process:
        assert "pulse" in process.says("timer")
        first = int(process.says("tick ").rpartition(" ")[2])
        second = int(process.says("tick ").rpartition(" ")[2])
        assert second > first
    assert "listening" not in process.everything


def test_a_swap_changes_the_timers(guest: Guest, tmp_path: Path, up: Up) -> None:
    parts = component("tick", guest("on_tick"))
    app = write(tmp_path, TIMER.format("0 0 3 1 1 *"), parts)
    with up(app, "--watch") as process:
        process.says("timer pulse")
        write(tmp_path, TIMER.format("every minute"), parts)
        assert "cron_expression" in process.says("not swapped")
        write(tmp_path, TIMER.format("* * * * * *"), parts)
        process.says("swapped: plant")
        process.says("tick ")


@pytest.mark.parametrize("verb", ["up", "check"])
@pytest.mark.parametrize(
    ("trigger", "guest_name", "words"),
    [
        (TIMER.format("61 * * * * *"), "on_tick", "trigger.cron[0].cron_expression"),
        (TIMER.format("* * * * * *"), "on_redis", "component tick: exports"),
        ('[[trigger.sqs]]\ncomponent = "tick"\n', "on_tick", "no trigger that this version runs"),
    ],
)
def test_what_cannot_be_served_is_refused_at_once(
    verb: str, trigger: str, guest_name: str, words: str, guest: Guest, tmp_path: Path
) -> None:
    app = write(tmp_path, trigger, component("tick", guest(guest_name)))
    command = [EDGE, verb, str(app), "--state-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_check_tells_what_would_be_served(guest: Guest, tmp_path: Path) -> None:
    unknown = '[[trigger.sqs]]\nid = "q"\ncomponent = "tick"\n'
    app = write(tmp_path, TIMER.format("0 * * * * *"), unknown, component("tick", guest("on_tick")))
    command = [EDGE, "check", str(app), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    found = json.loads(done.stdout)
    assert found["events"] == ["timer pulse for tick"]
    assert found["notes"] == ["[[trigger.sqs]]: not a trigger that this version runs"]


# --- MQTT -----------------------------------------------------------------------------------------

MESSAGES = """
[[trigger.mqtt]]
id = "readings"
topic = "t/#"
qos = "1"
component = "guest"
"""
REPLIES = """
[component.guest.tool.edge.trigger.readings]
reply_topic = "out/{topic.1}"
dead_letter = "dead/{topic.1}"
retries = 1
"""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with mosquitto(tmp_path_factory.mktemp("mosquitto")) as broker:
        yield broker


def publish(broker: str, topic: str, payload: str, *more: str) -> None:
    """By mosquitto's own client, with QoS 1."""
    command = ["mosquitto_pub", *_at(broker), "-q", "1", "-t", topic, "-m", payload, *more]
    subprocess.run(command, check=True, timeout=PATIENCE)


@contextlib.contextmanager
def subscribed(broker: str, topic: str, count: int) -> Iterator[list[str]]:
    """Collects that many messages, as `topic payload`; leaving waits for them."""
    command = [
        "stdbuf",
        "-oL",
        "mosquitto_sub",
        *_at(broker),
        "-q",
        "1",
        "-v",
        "-d",
        "-C",
        str(count),
        "-t",
        topic,
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while "SUBACK" not in (line := process.stdout.readline()):
        assert line, "mosquitto_sub did not subscribe"
    found: list[str] = []
    try:
        yield found
        said, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    found += [line for line in said.splitlines() if not line.startswith(("Client ", "Subscribed"))]


def _at(broker: str) -> list[str]:
    return ["-h", "127.0.0.1", "-p", broker.rpartition(":")[2]]


def test_a_message_runs_a_guest_and_is_answered(
    guest: Guest, tmp_path: Path, up: Up, broker: Mosquitto
) -> None:
    app = write(tmp_path, MESSAGES, component("guest", guest("cloudevent")), REPLIES)
    with up(app, "--mqtt", broker.url) as process:
        process.says("subscribed to t/#")
        with subscribed(broker.url, "out/#", 1) as replies:
            publish(broker.url, "t/x", "warm")
        head, *_, body = "\n".join(replies).splitlines()
        assert (head, body) == ("out/x POST /", "warm")
        with subscribed(broker.url, "dead/#", 2) as dead:
            publish(broker.url, "t/trap", "one")
            publish(broker.url, "t/400", "two")
        assert sorted(dead) == ["dead/400 two", "dead/trap one"]
        process.says("unreachable")


def test_messages_reach_a_component_by_its_own_handler(
    guest: Guest, tmp_path: Path, up: Up, broker: Mosquitto
) -> None:
    settings = f'[application.trigger.mqtt]\naddress = "{broker.url}"\n'
    app = write(tmp_path, settings, MESSAGES, component("guest", guest("on_message")))
    with up(app) as process:
        process.says("subscribed to t/#")
        publish(broker.url, "t/a", "hello")
        assert process.says("t/a: hello").startswith("guest [")


def test_a_swap_changes_the_subscriptions(
    guest: Guest, tmp_path: Path, up: Up, broker: Mosquitto
) -> None:
    parts = MESSAGES, component("guest", guest("on_message"))
    app = write(tmp_path, *parts)
    with up(app, "--mqtt", broker.url, "--watch") as process:
        process.says("subscribed to t/#")
        write(tmp_path, *parts, "[component.guest.tool.edge.trigger.readings]\nretries = -1\n")
        assert "retries" in process.says("not swapped")
        write(tmp_path, parts[0].replace("t/#", "u/#"), parts[1])
        process.says("swapped: plant")
        process.says("subscribed to u/#")
        publish(broker.url, "t/a", "old")
        publish(broker.url, "u/a", "new")
        process.says("u/a: new")
    assert "t/a: old" not in process.everything


def test_a_swap_may_name_another_broker(
    guest: Guest, tmp_path: Path, up: Up, broker: Mosquitto
) -> None:
    settings = '[application.trigger.mqtt]\naddress = "{}"\n'
    parts = MESSAGES, component("guest", guest("on_message"))
    with mosquitto(tmp_path / "other") as other:
        app = write(tmp_path, settings.format(broker.url), *parts)
        with up(app, "--watch") as process:
            process.says("subscribed to t/#")
            write(tmp_path, settings.format("https://localhost"), *parts)
            assert "application.trigger.mqtt.address" in process.says("not swapped")
            publish(broker.url, "t/a", "still here")
            process.says("t/a: still here")
            write(tmp_path, settings.format(other.url), *parts)
            process.says("swapped: plant")
            process.says("connected to " + other.url)
            process.says("subscribed to t/#")
            publish(broker.url, "t/a", "nobody")
            publish(other.url, "t/a", "moved")
            process.says("t/a: moved")
        assert "nobody" not in process.everything


def test_what_is_in_flight_is_finished_and_acknowledged_at_the_end(
    guest: Guest, tmp_path: Path, up: Up, broker: Mosquitto
) -> None:
    app = write(tmp_path, MESSAGES, component("guest", guest("on_message")))
    with up(app, "--mqtt", broker.url) as process:
        process.says("subscribed to t/#")
        lines = "".join(f"before {number}.\n" for number in range(50))
        command = ["mosquitto_pub", *_at(broker.url), "-q", "1", "-t", "t/sleep", "-l"]
        subprocess.run(command, input=lines, text=True, check=True, timeout=PATIENCE)
    # Each is handled by this process or by the next one, in order, and none is lost.
    with up(app, "--mqtt", broker.url) as after:
        after.says("subscribed to t/#")
        publish(broker.url, "t/sleep", "the last")
        after.says("t/sleep: the last")
    said = process.everything + after.everything
    assert [n for n in range(50) if said.count(f"before {n}.") != 1] == [], said


def test_the_embedded_broker_serves_a_first_try(up: Up) -> None:
    with up(EXAMPLES / "thermostat", "--mqtt", "embedded:0", "--state-dir", "state") as process:
        url = process.says("MQTT broker on").rpartition(" ")[2]
        http = process.says("listening on").rpartition(" ")[2]
        process.says("subscribed to sensors/+/temperature")
        with subscribed(url, "alerts/#", 2) as alerts:
            publish(url, "sensors/kitchen/temperature", "31.5")
            publish(url, "sensors/kitchen/temperature", "32")
            publish(url, "sensors/kitchen/temperature", "19")
        assert alerts == [
            "alerts/kitchen kitchen: 31.5 is above 25",
            "alerts/kitchen kitchen: 19 is no longer above 25",
        ]
        with urllib.request.urlopen(http, timeout=PATIENCE) as page:
            assert page.read() == b"kitchen 19\n"


def test_a_broker_that_is_not_there_does_not_stop_http(
    guest: Guest, tmp_path: Path, up: Up
) -> None:
    route = '[[trigger.http]]\nroute = "/..."\ncomponent = "guest"\n'
    app = write(tmp_path, MESSAGES, route, component("guest", guest("cloudevent")))
    with up(app, "--mqtt", f"mqtt://127.0.0.1:{free_port()}") as process:
        http = process.says("listening on").rpartition(" ")[2]
        process.says("refused")
        with urllib.request.urlopen(http, timeout=PATIENCE) as page:
            assert page.status == 200
    assert "subscribed" not in process.everything


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("--mqtt", "[application.trigger.mqtt] address")),
        (("--mqtt", "http://localhost"), ("--mqtt: not the address of an MQTT broker",)),
        (("--mqtt", "mqtt://localhost:0"), ("--mqtt: not the address",)),
        (("--mqtt", "embedded:70000"), ("--mqtt embedded:70000",)),
        (("--mqtt", "embedded", "--mqtt-ca", "ca.pem"), ("--mqtt-ca: the embedded broker",)),
        (("--mqtt", "mqtts://localhost", "--mqtt-cert", "c.pem"), ("--mqtt-cert and --mqtt-key",)),
        (("--mqtt", "mqtts://localhost", "--mqtt-ca", "nowhere.pem"), ("--mqtt-ca: nowhere.pem",)),
        (("--mqtt", "mqtt://u@localhost", "--mqtt-password-file", "nowhere"), ("-file: nowhere",)),
    ],
)
def test_a_broker_is_named_well_or_refused_at_once(
    arguments: tuple[str, ...], words: tuple[str, ...], guest: Guest, tmp_path: Path
) -> None:
    app = write(tmp_path, MESSAGES, component("guest", guest("on_message")))
    said = refused(app, *arguments, "--state-dir", tmp_path, "--listen", "127.0.0.1:0")
    assert all(word in said for word in words), said


@pytest.mark.parametrize(
    ("trigger", "more", "words"),
    [
        (MESSAGES.replace("t/#", "t/#/x"), "", "spin.toml: trigger.mqtt[0].topic"),
        ('[application.trigger.mqtt]\naddress = "x"\n' + MESSAGES, "", "trigger.mqtt.address"),
        (MESSAGES.replace("t/#", "{{ nobody }}"), "", 'no variable is named "nobody"'),
        (MESSAGES, 'key_value_stores = ["nowhere"]', "component.guest.key_value_stores"),
        (MESSAGES, 'sqlite_databases = ["nowhere"]', "component.guest.sqlite_databases"),
        (MESSAGES, 'variables = { x = "{{ nobody }}" }', "component.guest.variables.x"),
        (MESSAGES, REPLIES.replace("topic.1", "topic.x"), "trigger.readings.reply_topic"),
        (MESSAGES, REPLIES.replace("retries", "retires"), 'did you mean "retries"'),
        (MESSAGES, "x = 1\n[component.guest.tool.edge.trigger.other]\nretries = 1", "guest.x"),
    ],
)
def test_check_finds_what_up_would_refuse(
    trigger: str, more: str, words: str, guest: Guest, tmp_path: Path
) -> None:
    app = write(tmp_path, trigger, component("guest", guest("on_message"), more))
    assert words in refused(app, verb="check")


def test_a_broker_may_ask_for_a_certificate_and_a_password(
    guest: Guest, tmp_path: Path, up: Up
) -> None:
    for name in ("server", "client"):
        (tmp_path / name).mkdir()
    server, server_key = certificate(tmp_path / "server")
    client, client_key = certificate(tmp_path / "client", "board")
    (tmp_path / "password").write_text("s3cret\n")
    users = tmp_path / "users"
    subprocess.run(["mosquitto_passwd", "-b", "-c", users, "me", "s3cret"], check=True, timeout=60)
    port = free_port()
    secured = (
        f"password_file {users}\nlistener {port} 127.0.0.1\nrequire_certificate true\n"
        f"certfile {server}\nkeyfile {server_key}\ncafile {client}\n"
    )
    app = write(tmp_path, MESSAGES, component("guest", guest("on_message")))
    given = ("--mqtt-password-file", tmp_path / "password", "--mqtt-ca", server)
    given += ("--mqtt-cert", client, "--mqtt-key", client_key, "--mqtt-client-id", "board-7")
    with mosquitto(tmp_path / "broker", secured, anonymous=False) as broker:
        with up(app, "--mqtt", f"mqtts://me@localhost:{port}", *given) as process:
            process.says("subscribed to t/#")
        assert "board-7" in broker.log()
        with up(app, "--mqtt", f"mqtts://me@127.0.0.1:{port}", *given) as process:
            assert "certificate" in process.says("127.0.0.1")
        assert "subscribed" not in process.everything


def test_a_password_is_in_no_line(guest: Guest, tmp_path: Path, up: Up) -> None:
    app = write(tmp_path, MESSAGES, component("guest", guest("on_message")))
    url = f"mqtt://user:s3cret@127.0.0.1:{free_port()}"
    with up(app, "--mqtt", url, "--debug") as process:
        process.says("refused")
    assert "s3cret" not in process.everything


# --- Redis ----------------------------------------------------------------------------------------


def test_a_message_of_redis_runs_a_guest(guest: Guest, tmp_path: Path, up: Up) -> None:
    trigger = '[[trigger.redis]]\nchannel = "{{ channel }}"\ncomponent = "guest"\n'
    variables = "[variables]\nchannel = { required = true }\n"
    folder = tmp_path / "redis"
    folder.mkdir()
    with redis_server(folder) as server:
        settings = f'[application.trigger.redis]\naddress = "{server.url}"\n'
        app = write(tmp_path, settings, variables, trigger, component("guest", guest("on_redis")))
        with up(app, "--variable", "channel=orders") as process:
            process.says("channel orders of redis://127.0.0.1")
            assert server.client.publish("orders", b"two coffees") == 1
            process.says("two coffees")
            server.client.publish("orders", b"fail")
            process.says("its handler failed: error")


# --- variables and stores -------------------------------------------------------------------------


def test_variables_come_from_the_command_line_the_file_and_the_environment(
    guest: Guest, tmp_path: Path, up: Up, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = '[variables]\na = { default = "-" }\nb = { default = "-" }\nc = { default = "-" }\n'
    topic = MESSAGES.replace("t/#", "v/{{ a }}/{{ b }}/{{ c }}")
    app = write(tmp_path, variables, topic, component("guest", guest("on_message")))
    config = tmp_path / "runtime-config.toml"
    config.write_text('[[variables_provider]]\ntype = "static"\nvalues = { a = "2", b = "2" }\n')
    for name in "ABC":
        monkeypatch.setenv(f"SPIN_VARIABLE_{name}", "3")
    given = "--variable", "a=1", "--runtime-config", config, "--mqtt", broker.url
    with up(app, *given) as process:
        process.says("subscribed to v/1/2/3")
