"""The examples: committed Wasm files are what their sources give, byte for byte; and they do what
their comments say.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Serve

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.guests
@pytest.mark.parametrize("name", ["hello", "echo", "request-response", "thermostat", "timer"])
def test_a_committed_example_is_what_its_source_gives(
    name: str, guest: Callable[[str], Path]
) -> None:
    assert digest(guest(name)) == digest(EXAMPLES / name / f"{name}.wasm"), (
        f"rebuild it: tests/guests/build.py --example {name}"
    )


def test_only_the_small_examples_are_committed() -> None:
    command = ["git", "ls-files", "-z", "*.wasm"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, done.stdout.split("\0")):
        assert (ROOT / name).stat().st_size < 64 * 1024, f"{name} is too big to commit"


# --- what they do ---------------------------------------------------------------------------------

PATIENCE = 30


def get(url: str, data: bytes | None = None) -> str:
    with urllib.request.urlopen(url, data, timeout=PATIENCE) as answer:
        return str(answer.read().decode())


def client(port: int, program: str, *arguments: str) -> str:
    """What one of mosquitto's clients prints; it ends by itself."""
    command = [program, "-p", str(port), "-q", "1", "-W", str(PATIENCE), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=2 * PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[int]:
    """The port of a mosquitto."""
    program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    assert Path(program).exists(), "needs the Debian package mosquitto"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    user = "user root\n" if os.geteuid() == 0 else ""
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"{user}listener {port} 127.0.0.1\nallow_anonymous true\nlog_type none\n")
    process = subprocess.Popen([program, "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                assert time.monotonic() < end
                time.sleep(0.01)
        yield port
    finally:
        process.terminate()
        process.wait(PATIENCE)


def wait_until_subscribed(port: int) -> None:
    assert client(port, "mosquitto_sub", "-t", "edge/+/status", "-C", "1") == "online\n"


def test_the_thermostat_tells_what_is_too_warm(broker: int, serve: Serve, tmp_path: Path) -> None:
    def reading(room: str, value: str, answer: str) -> str:
        topics = ("-t", f"sensors/{room}/temperature", "-e", answer)
        return client(broker, "mosquitto_rr", "-V", "311", *topics, "-m", value)

    state = ("--state-dir", str(tmp_path / "state"))
    options = ("--mqtt", f"mqtt://127.0.0.1:{broker}", "--variable", "limit=30", *state)
    with serve(EXAMPLES / "thermostat", *options) as served:
        wait_until_subscribed(broker)
        assert get(served.url) == "no readings yet\n"
        alert = reading("kitchen", "31.5", "alerts/kitchen")
        assert alert == "kitchen: 31.5 is above 30\n"
        alert = reading("kitchen", "-2.25", "alerts/kitchen")
        assert alert == "kitchen: -2.25 is no longer above 30\n"
        assert reading("attic", "hot", "edge/dead/thermostat") == "hot\n"
        assert get(served.url) == "kitchen -2.25\n"


def test_a_function_is_called_by_message_and_by_request(broker: int, serve: Serve) -> None:
    with serve(EXAMPLES / "request-response", "--mqtt", f"mqtt://127.0.0.1:{broker}") as served:
        wait_until_subscribed(broker)
        for fahrenheit, celsius in (("100", "37.8"), ("32", "0.0"), ("-40", "-40.0")):
            assert get(served.url, fahrenheit.encode()) == celsius
        topics = ("-t", "functions/celsius", "-e", "clients/me/replies")
        assert client(broker, "mosquitto_rr", "-V", "5", *topics, "-m", "212") == "100.0\n"


def test_a_timer_runs_by_itself(serve: Serve, tmp_path: Path) -> None:
    with serve(EXAMPLES / "timer", "--state-dir", str(tmp_path)) as served:
        end = time.monotonic() + PATIENCE
        while not re.match(r"[1-9]\d* ticks, the last of 20", text := get(served.url)):
            assert text == "0 ticks\n"
            assert time.monotonic() < end
            time.sleep(0.05)


def test_make_run_goes_the_whole_way_and_ends_by_one_signal(tmp_path: Path) -> None:
    socket_path, url = tmp_path / "edge.sock", ""
    (tmp_path / "node.toml").write_text(
        '[node]\nstate_dir = "state"\n[http]\nlisten = ["127.0.0.1:0"]\n'
        '[mirror]\nlisten = "127.0.0.1:0"\naccept_pushes = true\n'
    )
    program = [sys.executable, str(EXAMPLES / "run.py"), "--mqtt", "mqtt://127.0.0.1:1"]
    own = ["--config", str(tmp_path / "node.toml"), "--socket", str(socket_path)]
    with subprocess.Popen(
        [*program, *own, str(EXAMPLES / "hello"), str(tmp_path / "nothing")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            listed = ""
            for line in process.stdout:
                listed += line
                url = line.split()[-1] if line.startswith("listening on ") else url
                if line.split()[:3] == ["hello", "/hello", "live"]:
                    break
            assert get(f"{url}/hello/you") == "hello /you", listed
        finally:
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert "run: nothing: " in errors
    assert f"curl {url}/hello/world" in listed
    assert not socket_path.exists()
