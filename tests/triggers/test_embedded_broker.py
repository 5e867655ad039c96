"""The embedded broker, with mosquitto's own clients."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from edge.errors import EdgeError
from edge.triggers.broker import embedded_broker

DEADLINE = 30


def port_of(url: str) -> str:
    return str(urlsplit(url).port)


async def run(*command: str, environ: dict[str, str] | None = None) -> tuple[int, str]:
    """Its exit code, and all it printed."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **(environ or {})},
    )
    try:
        async with asyncio.timeout(DEADLINE):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return process.returncode, output.decode()


async def publish(url: str, topic: str, text: str, *more: str) -> tuple[int, str]:
    command = ("mosquitto_pub", "-p", port_of(url), "-V", "311", "-q", "1", "-t", topic, "-m", text)
    return await run(*command, *more)


async def read_one(url: str, topic: str) -> str:
    command = ("mosquitto_sub", "-p", port_of(url), "-V", "311", "-q", "1", "-t", topic, "-C", "1")
    status, text = await run(*command, "-v")
    assert status == 0, text
    return text


async def test_what_is_published_reaches_who_subscribed(capfd: pytest.CaptureFixture[str]) -> None:
    async with embedded_broker() as url:
        assert url.startswith("mqtt://127.0.0.1:")
        assert (await publish(url, "sensors/1/temperature", "21.5", "-r"))[0] == 0
        assert await read_one(url, "sensors/+/temperature") == "sensors/1/temperature 21.5\n"
    assert capfd.readouterr() == ("", ""), "it is quiet"


async def test_it_speaks_3_1_1_and_refuses_5() -> None:
    connect = b"\x10\x10\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x03abc"
    async with embedded_broker() as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port_of(url)))
        writer.write(connect)
        async with asyncio.timeout(DEADLINE):
            answer = await reader.read()
        writer.close()
        assert answer in (b"", b"\x20\x02\x00\x01"), "unacceptable protocol version, or none"
        assert (await publish(url, "a", "b"))[0] == 0, "and serves on"


async def test_a_taken_port_is_said() -> None:
    async with embedded_broker() as url:
        with pytest.raises(EdgeError, match="address already in use") as caught:
            async with embedded_broker(int(port_of(url))):
                pytest.fail("two brokers on one port")
    assert caught.value.message.startswith(f"embedded broker: 127.0.0.1:{port_of(url)}: ")
    assert caught.value.hint


async def test_a_missing_extra_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # a name that is found first and can not be imported, as if nothing were there
    (tmp_path / "amqtt.py").write_text("raise ImportError('no', name='amqtt')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(EdgeError, match="amqtt is not installed") as caught:
        async with embedded_broker():
            pytest.fail("a broker out of nothing")
    assert "[broker]" in str(caught.value.hint)


def children() -> list[int]:
    text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [int(pid) for pid in text.split()]


async def test_ctrl_c_in_the_terminal_is_for_the_parent() -> None:
    async with embedded_broker() as url:
        own = os.getpgid(0)
        (child,) = children()
        assert os.getpgid(child) != own
        assert (await publish(url, "a", "b"))[0] == 0


async def test_it_ends_with_its_parent_however_that_ends() -> None:
    script = (
        "import asyncio, os, signal\n"
        "from edge.triggers.broker import embedded_broker\n"
        "async def main():\n"
        "    async with embedded_broker() as url:\n"
        "        print(url, flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    status, url = await run(sys.executable, "-P", "-c", script)
    assert status == -signal.SIGKILL
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", int(port_of(url.strip())))
            except ConnectionRefusedError:
                break
            writer.close()
            await asyncio.sleep(0.01)


def test_the_parent_does_not_import_it() -> None:
    script = "import sys, edge.triggers.broker; sys.exit('amqtt' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", script], check=False)
    assert done.returncode == 0
