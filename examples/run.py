#!/usr/bin/env python3
"""`make run`: the whole way on one machine. Builds applications, starts a node, pushes them to the
registry that it is, deploys them; Ctrl-C ends it all. Needs edge beside this Python, nothing else.

    run.py [--mqtt URL] [APPLICATION…]
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

EXAMPLES = Path(__file__).resolve().parent
ROOT = EXAMPLES.parent
EDGE = Path(sys.executable).parent / "edge"
CONFIG = EXAMPLES / "node.toml"
REGISTRY = "127.0.0.1:7465"
SOCKET = ROOT / ".edge" / "edge.sock"

# What is quickly there first: it serves while the others are built.
APPLICATIONS = ("hello", "thermostat", "request-response", "timer", "python")

# Seconds. A checkout writes sources and what was built of them in any order.
CHECKOUT = 60

TRY = """
In a second terminal:

  export EDGE_SOCKET={socket}
  {bin}/edge apps
  {curl}
"""
TRY_THERMOSTAT = """\
  mosquitto_sub -v -t 'alerts/#' &
  mosquitto_pub -q 1 -t sensors/kitchen/temperature -m 31.5
  mosquitto_pub -q 1 -t sensors/kitchen/temperature -m 19

Without the Debian package mosquitto-clients:

  {bin}/amqtt_sub --url mqtt://127.0.0.1 -t 'alerts/#' 2>/dev/null &
  {bin}/amqtt_pub --url mqtt://127.0.0.1 -t sensors/kitchen/temperature -m 31.5
"""


class Failed(Exception):
    pass


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """What it prints on standard output; the rest is seen as it comes."""
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise Failed(f"{' '.join(map(str, command))}: exit {done.returncode}")
    return done.stdout


# --- building -----------------------------------------------------------------------------------


def build(application: Path) -> None:
    """Each component that is not there, or older than what it is made of."""
    for id, component in outdated(application):
        say(f"building {application.name}: {id}")
        run("sh", "-c", component["build"]["command"], cwd=application)


def is_built(application: Path) -> bool:
    return not any(outdated(application))


def outdated(application: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with (application / "spin.toml").open("rb") as file:
            components = tomllib.load(file).get("component", {})
    except (OSError, tomllib.TOMLDecodeError):
        return  # edge says what is wrong
    for id, component in components.items():
        if "build" in component and is_old(application, component):
            yield id, component


def is_old(application: Path, component: dict[str, Any]) -> bool:
    built = application / component["source"]
    if not built.exists():
        return True
    watched = (p for w in component["build"].get("watch", ()) for p in application.glob(w))
    newest = max((path.stat().st_mtime for path in watched), default=0)
    return newest > built.stat().st_mtime + CHECKOUT


# --- the node -----------------------------------------------------------------------------------


def show(lines: IO[str]) -> None:
    for line in lines:
        say(line.rstrip())


@contextmanager
def node(mqtt: str) -> Iterator[subprocess.Popen[str]]:
    """A node that listens. Leaving the block waits for its end, which Ctrl-C brings."""
    command = [EDGE, "run", "--config", CONFIG, "--mqtt", mqtt]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        line = ""
        while not line.startswith("listening on "):
            line = process.stdout.readline()
            if not line:
                raise Failed("the node did not start")
            say(line.rstrip())
        reader = threading.Thread(target=show, args=(process.stdout,), daemon=True)
        reader.start()
        yield process
    except KeyboardInterrupt:  # it was sent to the node as well, which drains
        pass
    except BaseException:
        process.terminate()
        raise
    finally:
        while True:
            try:
                process.wait()
                break
            except KeyboardInterrupt:
                continue


def deploy(application: Path) -> None:
    """Into the node's own registry, and from there onto the node."""
    reference = f"{REGISTRY}/{application.name}:latest"
    run(EDGE, "push", application, reference)
    say(run(EDGE, "deploy", reference, "--mount", f"/{application.name}").rstrip())


def serve(applications: list[Path]) -> int:
    """Builds and deploys each; one that fails does not stop the others. How many serve."""
    served = 0
    for application in applications:
        try:
            build(application)
            deploy(application)
            served += 1
        except Failed as failure:
            complain(f"{application.name}: {failure}")
    return served


def explain(applications: list[Path]) -> None:
    names = [application.name for application in applications]
    curl = "\n  ".join(f"curl http://127.0.0.1:3000/{name}" for name in names)
    say(TRY.format(bin=EDGE.parent, socket=SOCKET, curl=curl))
    if "thermostat" in names:
        say(TRY_THERMOSTAT.format(bin=EDGE.parent))


def complain(text: str) -> None:
    sys.stderr.write(f"run: {text}\n")
    sys.stderr.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description="Builds applications and serves them.")
    parser.add_argument("application", nargs="*", type=Path)
    parser.add_argument("--mqtt", default="embedded", metavar="URL")
    options = parser.parse_args()
    given = [path.resolve() for path in options.application]
    applications = given or [EXAMPLES / name for name in APPLICATIONS]
    slow = [application for application in applications if not given and not is_built(application)]
    quick = [application for application in applications if application not in slow]
    os.environ["EDGE_SOCKET"] = str(SOCKET)
    try:
        with node(options.mqtt) as process:
            if not serve(quick):
                raise Failed("nothing serves")
            explain(quick)
            serve(slow)
            say(run(EDGE, "apps").rstrip())
    except Failed as failure:
        complain(str(failure))
        return 1
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
