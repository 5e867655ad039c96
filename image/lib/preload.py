"""Runs in the root of an image: a node takes /tmp/bundles and runs until all it is to run is live.

With the release's own Python, whose words are the log of the build.
"""

import http.client
import json
import os
import pwd
import socket
import subprocess
import sys
import time
from pathlib import Path

BUNDLES = Path("/tmp/bundles")  # noqa: S108 - of a root that nobody else is in
STATE, SOCKET = Path("/var/lib/edge"), Path("/run/edge/edge.sock")
MAIN = "import sys; from edge.cli import main; sys.exit(main())"
DEADLINE = 3600.0  # seconds; a large guest takes many minutes where the processor is emulated


def main() -> None:
    edge = pwd.getpwnam("edge")
    for folder in (STATE, SOCKET.parent):
        folder.mkdir(parents=True, exist_ok=True)
        os.chown(folder, edge.pw_uid, edge.pw_gid)
    for bundle in sorted(BUNDLES.iterdir()):
        _edge("import", "--state-dir", STATE, bundle).wait()
    node = _edge("run", "--state-dir", STATE, "--socket", SOCKET)
    try:
        _wait(node)
    finally:
        node.terminate()
        sys.stderr.write(f"the node ended: {node.wait()}\n")


def _edge(*words: str | Path) -> subprocess.Popen[bytes]:
    # /usr/bin/edge takes no settings for Python. Without this one sets have another order each
    # time, and what is written of them as well.
    seed = {"PYTHONHASHSEED": "0", "HOME": str(STATE)}
    return subprocess.Popen(  # noqa: S603
        ["/usr/lib/edge/bin/python3", "-P", "-c", MAIN, *map(str, words)],
        user="edge",
        group="edge",
        extra_groups=[],
        env=os.environ | seed,
    )


def _wait(node: subprocess.Popen[bytes]) -> None:
    deadline, shown = time.monotonic() + DEADLINE, ""
    while True:
        if node.poll() is not None:
            raise SystemExit("the node ended by itself")
        if time.monotonic() > deadline:
            raise SystemExit(f"not live within {DEADLINE:.0f} s: {shown}")
        found = _applications()
        if found is None:
            time.sleep(1)
            continue
        states = ", ".join(f"{app['name']}: {app['state']}" for app in found)
        if states != shown:
            sys.stderr.write(f"{states}\n")
            shown = states
        if not found:
            raise SystemExit("edge.toml names no application")
        if all(app["state"] == "live" for app in found):
            return
        if any(app["state"] == "failed" for app in found):
            raise SystemExit(f"not live: {json.dumps(found)}")
        time.sleep(1)


def _applications() -> list[dict[str, str]] | None:
    connection = http.client.HTTPConnection("node", timeout=60)
    try:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(SOCKET))
        connection.request("GET", "/v1/apps")
        found: list[dict[str, str]] = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return found


main()
