"""A real Chromium without a window, driven over a pipe by its DevTools protocol."""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Seconds for a command, and for what a page is to show.
PATIENCE = 60.0

FLAGS = (
    "--headless=new", "--remote-debugging-pipe", "--no-first-run", "--no-default-browser-check",
    # Tests run as root, and Chromium's own sandbox does not.
    "--no-sandbox",
    # Without anybody to look: no drawing by a graphics card, nothing asked of its maker.
    "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-extensions", "--metrics-recording-only", "--disable-dev-shm-usage",
)  # fmt: skip

KEYS = {"Enter": ("Enter", 13, "\r"), "Tab": ("Tab", 9, ""), "Escape": ("Escape", 27, ""),
        " ": ("Space", 32, " ")}  # fmt: skip


class Browser:
    """One Chromium. Events are kept by the session they are of."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write = read, write
        self._ids = itertools.count(1)
        self._rest = b""
        self.events: dict[str, list[dict[str, Any]]] = {}

    def call(self, method: str, session: str | None = None, /, **params: Any) -> dict[str, Any]:
        id = next(self._ids)
        message = {"id": id, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            told = self._next(time.monotonic() + PATIENCE)
            if told.get("id") == id:
                assert "error" not in told, f"{method}: {told['error']}"
                found: dict[str, Any] = told["result"]
                return found

    @contextmanager
    def tab(self, **screen: Any) -> Iterator[Tab]:
        """A tab with cookies of its own."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        try:
            yield Tab(self, attached["sessionId"], **screen)
        finally:
            self.call("Target.disposeBrowserContext", browserContextId=context)

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(0, deadline - time.monotonic()))
            assert ready, "Chromium does not answer"
            data = os.read(self._read, 1 << 16)
            assert data, "Chromium has ended"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\0")
        told: dict[str, Any] = json.loads(line)
        if "method" in told:
            self.events.setdefault(told.get("sessionId", ""), []).append(told)
        return told


class Tab:
    def __init__(
        self, browser: Browser, session: str, width: int = 1100, height: int = 800, *,
        mobile: bool = False, dark: bool = False,
    ) -> None:  # fmt: skip
        self._browser, self._session = browser, session
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        screen = {"width": width, "height": height, "mobile": mobile, "deviceScaleFactor": 1}
        self.call("Emulation.setDeviceMetricsOverride", **screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **params)

    def events(self, method: str) -> list[dict[str, Any]]:
        """The parameters of those so far."""
        self.call("Runtime.evaluate", expression="0")
        told = self._browser.events.get(self._session, ())
        return [one["params"] for one in told if one["method"] == method]

    @property
    def asked(self) -> list[str]:
        """Each address that the page asked for."""
        return [one["request"]["url"] for one in self.events("Network.requestWillBeSent")]

    @property
    def mistakes(self) -> list[str]:
        """What its console shows in red, and what was thrown."""
        logged = [one["entry"] for one in self.events("Log.entryAdded")]
        thrown = [one["exceptionDetails"] for one in self.events("Runtime.exceptionThrown")]
        return [*(str(one) for one in logged if one["level"] == "error"), *map(str, thrown)]

    def go(self, url: str) -> None:
        """Returns when the document is there, and its scripts have begun."""
        before = len(self.events("Page.loadEventFired"))
        failed = self.call("Page.navigate", url=url).get("errorText")
        assert not failed, f"{url}: {failed}"
        deadline = time.monotonic() + PATIENCE
        while len(self.events("Page.loadEventFired")) == before:
            assert time.monotonic() < deadline, f"{url}: is not loaded"

    def run(self, script: str) -> Any:
        """The value of an expression; a promise is awaited."""
        done = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def until(self, script: str, seconds: float = PATIENCE) -> Any:
        """The value of an expression once it is true; while another document comes it is not."""
        deadline = time.monotonic() + seconds
        while True:
            there = f"((found) => found instanceof Node || found)({script})"
            done = self.call("Runtime.evaluate", expression=there, returnByValue=True)
            value = done.get("result", {}).get("value")
            if value and "exceptionDetails" not in done:
                return value
            text = "document.body && document.body.innerText"
            shown = self.call("Runtime.evaluate", expression=text)["result"].get("value") or ""
            assert time.monotonic() < deadline, (
                f"never: {script}\n{shown[:2000]}\n{self.mistakes[:5]}"
            )
            time.sleep(0.02)

    def text(self, selector: str) -> str:
        found: str = self.until(f"document.querySelector({json.dumps(selector)})?.innerText")
        return found

    def click(self, selector: str) -> None:
        """With the mouse, in its middle, once that stays where it is and nothing is over it."""
        place = self.until(
            f"""(() => {{
                const one = document.querySelector({json.dumps(selector)});
                if (!one || one.disabled) return null;
                one.scrollIntoView({{ block: "center", behavior: "instant" }});
                const box = one.getBoundingClientRect();
                const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
                const same = one.lastSeen === `${{x}} ${{y}}`;
                one.lastSeen = `${{x}} ${{y}}`;
                return same && one.contains(document.elementFromPoint(x, y)) ? [x, y] : null;
            }})()"""
        )
        at = {"x": place[0], "y": place[1], "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, **at)

    def press(self, key: str, *, shift: bool = False) -> None:
        code, number, text = KEYS[key]
        pressed = {"key": key, "code": code, "windowsVirtualKeyCode": number}
        held = {**pressed, "modifiers": 8 if shift else 0}
        kind = "keyDown" if text else "rawKeyDown"
        self.call("Input.dispatchKeyEvent", type=kind, **held, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **held)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def picture(self, path: Path) -> None:
        """The whole page, for people."""
        done = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(done["data"]))


@contextmanager
def chromium() -> Iterator[Browser]:
    """Gone with all its processes when the block is left."""
    program = shutil.which("chromium") or shutil.which("chromium-headless-shell")
    assert program, "no chromium here: .ci/packages test"
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as folder:
        # It reads from descriptor 3 and writes to 4.
        command = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        process = subprocess.Popen(
            ["bash", "-c", command, "bash", program, *FLAGS, f"--user-data-dir={folder}"],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "HOME": folder},
        )
        for fd in (theirs_in, theirs_out):
            os.close(fd)
        try:
            yield Browser(ours_in, ours_out)
        finally:
            for fd in (ours_in, ours_out):
                os.close(fd)  # which it takes for its end
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
