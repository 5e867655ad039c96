"""What systemd's protocols are spoken with: sockets handed over, the watchdog, journal entries."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.platform import messages
from edge.platform.effort import computed
from edge.platform.journal import JournalHandler, stderr_is_journal
from edge.platform.notify import Notifier
from edge.platform.sockets import inherited_sockets
from edge.platform.watchdog import Watchdog

ROOT = Path(__file__).parents[2]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The other end of NOTIFY_SOCKET, or of the journal's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(tmp_path / "socket"))
        bound.settimeout(10)
        yield bound


def _environ(manager: socket.socket, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": str(manager.getsockname()), **more}


# Sockets

SHOWS_SOCKETS = """
import os, sys
from edge.platform.sockets import inherited_sockets
os.environ["LISTEN_PID"] = str(os.getpid())
found = inherited_sockets()
for name, sockets in sorted(found.items()):
    print(name, *(s.getsockname()[1] for s in sockets), *(s.getblocking() for s in sockets))
    assert not any(os.get_inheritable(s.fileno()) for s in sockets)
assert inherited_sockets() == {} and "LISTEN_FDS" not in os.environ
"""


def _handed_over(*sockets: socket.socket, names: str) -> str:
    """What a process finds that gets these as its descriptors from 3 on."""
    code = f"import os, sys\nfor i, fd in enumerate({[s.fileno() for s in sockets]}):\n"
    code += "    os.dup2(fd, 3 + i, inheritable=True)\n"
    code += f"os.execv({sys.executable!r}, [{sys.executable!r}, '-c', {SHOWS_SOCKETS!r}])\n"
    high = [os.dup(s.fileno()) for s in sockets]
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        pass_fds=[s.fileno() for s in sockets],
        env={**os.environ, "LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": names},
    )
    for fd in high:
        os.close(fd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_sockets_are_found_by_their_names_once_and_children_do_not_get_them() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as plain,
        socket.create_server(("127.0.0.1", 0)) as secure,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        ports = [s.getsockname()[1] for s in (plain, secure)]
        found = _handed_over(plain, secure, other, names="http:https:mdns")
    assert found.splitlines() == [f"http {ports[0]} False", f"https {ports[1]} False"]


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_PID": "1", "LISTEN_FDS": "1"},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "none"},
        {"LISTEN_PID": str(os.getpid())},
    ],
)
def test_what_is_meant_for_others_is_not_taken(environ: dict[str, str]) -> None:
    assert inherited_sockets(environ) == {}


# The watchdog


async def _fine() -> None:
    return


async def _told(watchdog: Watchdog, test: object, manager: socket.socket, seconds: float) -> int:
    """How often it said that it lives."""
    task = asyncio.get_running_loop().create_task(watchdog.run(test))  # type: ignore[arg-type]
    manager.setblocking(False)
    await asyncio.sleep(seconds)
    task.cancel()
    await asyncio.wait((task,))
    told = 0
    while True:
        try:
            told += manager.recv(100) == b"WATCHDOG=1"
        except BlockingIOError:
            return told


async def test_it_says_that_it_lives_twice_in_each_period(manager: socket.socket) -> None:
    environ = _environ(manager, WATCHDOG_USEC="200000", WATCHDOG_PID=str(os.getpid()))
    watchdog = Watchdog(Notifier(environ), environ)
    assert watchdog.interval == 0.2
    assert await _told(watchdog, _fine, manager, 1.0) >= 4


async def test_whose_test_fails_says_nothing_and_logs_it(
    manager: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken() -> None:
        raise RuntimeError("no guest runs")

    async def slow() -> None:
        await asyncio.sleep(60)

    environ = _environ(manager, WATCHDOG_USEC="200000")
    for test, reason in ((broken, "no guest runs"), (slow, "took longer")):
        caplog.clear()
        assert await _told(Watchdog(Notifier(environ), environ), test, manager, 0.5) == 0
        assert reason in caplog.text
        assert vars(caplog.records[0])["MESSAGE_ID"] == messages.NOT_WELL


async def test_whose_loop_lags_says_nothing(manager: socket.socket) -> None:
    environ = _environ(manager, WATCHDOG_USEC="400000")
    watchdog = Watchdog(Notifier(environ), environ)
    task = asyncio.get_running_loop().create_task(watchdog.run(_fine))
    manager.setblocking(True)
    await asyncio.sleep(0.01)
    assert manager.recv(100) == b"WATCHDOG=1"
    threading.Event().wait(0.7)  # nothing turns meanwhile
    await asyncio.sleep(0.02)
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(100)
    task.cancel()
    await asyncio.wait((task,))


@pytest.mark.parametrize(
    "environ", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "9", "WATCHDOG_PID": "1"}]
)
async def test_nobody_is_told_who_did_not_ask(environ: dict[str, str]) -> None:
    watchdog = Watchdog(Notifier({}), environ)
    assert watchdog.interval is None
    await watchdog.run(_fine)  # returns at once


def test_a_start_is_extended_by_so_many_seconds(manager: socket.socket) -> None:
    Notifier(_environ(manager)).extend_start(60)
    assert manager.recv(100) == b"EXTEND_TIMEOUT_USEC=60000000"


def test_computing_counts_as_progress_and_waiting_does_not() -> None:
    before = computed()
    with subprocess.Popen(
        [sys.executable, "-c", "while True: pass"], stderr=subprocess.DEVNULL
    ) as child:
        # The child's processor time counts while it runs.
        while computed() < before + 0.3 and child.poll() is None:
            threading.Event().wait(0.02)
        child.kill()
    before = computed()
    threading.Event().wait(0.3)
    assert computed() < before + 0.25


# The journal


def _entry(data: bytes) -> dict[str, str]:
    """As journald reads one."""
    found: dict[str, str] = {}
    while data:
        line, _, rest = data.partition(b"\n")
        name, sign, value = line.partition(b"=")
        if sign:
            data = rest
        else:
            size = int.from_bytes(rest[:8], "little")
            value, data = rest[8 : 8 + size], rest[8 + size + 1 :]
        found[name.decode()] = value.decode()
    return found


@pytest.fixture
def log(manager: socket.socket) -> Iterator[logging.Logger]:
    handler = JournalHandler(str(manager.getsockname()))
    logger = logging.Logger("edge.test")
    logger.addHandler(handler)
    yield logger
    handler.close()


def test_a_line_has_its_fields(log: logging.Logger, manager: socket.socket) -> None:
    extra = {"EDGE_APP": "thermo", "MESSAGE_ID": messages.GUEST_FAILED, "other": "not this"}
    log.warning("%s failed\nbadly", "read", extra=extra)
    entry = _entry(manager.recv(10_000))
    assert entry["MESSAGE"] == "read failed\nbadly"
    assert (entry["PRIORITY"], entry["SYSLOG_IDENTIFIER"]) == ("4", "edge")
    assert (entry["EDGE_APP"], entry["EDGE_LOGGER"]) == ("thermo", "edge.test")
    assert entry["MESSAGE_ID"] == messages.GUEST_FAILED
    assert entry["CODE_FILE"] == __file__
    assert "other" not in entry


def test_a_traceback_is_part_of_the_message(log: logging.Logger, manager: socket.socket) -> None:
    try:
        raise ValueError("why")
    except ValueError:
        log.exception("it failed")
    message = _entry(manager.recv(10_000))["MESSAGE"]
    assert message.startswith("it failed\nTraceback")
    assert message.endswith("ValueError: why")


def test_what_is_too_long_for_a_datagram_goes_as_a_file(
    log: logging.Logger, manager: socket.socket
) -> None:
    text = "x" * 3_000_000
    log.info("%s", text)
    _, (file,), _, _ = socket.recv_fds(manager, 10, 1)
    with os.fdopen(file, "rb") as stream:
        stream.seek(0)
        assert len(_entry(stream.read())["MESSAGE"]) == len(text)


def test_without_a_journal_the_line_goes_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    handler = JournalHandler("/nowhere/socket")
    handler.handle(logging.LogRecord("x", logging.INFO, "f", 1, "said", (), None))
    handler.close()
    assert capfd.readouterr().err == "said\n"


def test_stderr_is_the_journal_where_it_is_what_journal_stream_names() -> None:
    stat = os.fstat(2)
    assert stderr_is_journal({"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}"})
    assert not stderr_is_journal({"JOURNAL_STREAM": "1:2"})
    assert not stderr_is_journal({})


def test_each_message_has_an_explanation_and_each_explanation_a_message() -> None:
    catalog = (ROOT / "systemd/edge.catalog").read_text()
    explained = [line[3:] for line in catalog.splitlines() if line.startswith("-- ")]
    known = [value for name, value in vars(messages).items() if name.isupper()]
    assert sorted(explained) == sorted(known)
    assert len(set(known)) == len(known)
