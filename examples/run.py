#!/usr/bin/env python3
"""`make run`: the whole way on one machine. Builds applications, starts a node, pushes them to the
registry that it is, deploys them; Ctrl-C ends it all. Needs edge beside this Python, nothing else.

    run.py [--mqtt URL] [--config FILE --socket PATH] [APPLICATION…]
"""

from __future__ import annotations

import argparse
import json
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
SOCKET = ROOT / ".edge" / "edge.sock"

# What is quickly there first: it serves while the others are built.
APPLICATIONS = ("hello", "thermostat", "request-response", "timer", "python")

# Seconds. A checkout writes sources and what was built of them in any order.
CHECKOUT = 60

HINT = """
In a second terminal, here:

  export EDGE_SOCKET={socket}
  {bin}/edge apps
{tries}
"""
# What is worth a try of an application; of others, a request.
TRIES = {
    "hello": "curl {url}/hello/world",
    "request-response": "curl --data 100 {url}/request-response",
    "thermostat": """\
mosquitto_sub -v -t 'alerts/#' &
  mosquitto_pub -q 1 -t sensors/kitchen/temperature -m 31.5
  curl {url}/thermostat

Without the Debian package mosquitto-clients:

  {bin}/amqtt_sub --url mqtt://127.0.0.1 -t 'alerts/#' 2>/dev/null &
  {bin}/amqtt_pub --url mqtt://127.0.0.1 -t sensors/kitchen/temperature -m 31.5""",
}


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
def node(*options: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A node that listens; leaving the block ends it. What it says is shown."""
    command = [EDGE, "run", *options]
    # In a group of its own: Ctrl-C comes to this process, which tells the node once.
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, process_group=0
    )
    assert process.stdout is not None
    try:
        line = ""
        while not line.startswith("listening on "):
            line = process.stdout.readline()
            if not line:
                raise Failed("the node did not start")
            say(line.rstrip())
        threading.Thread(target=show, args=(process.stdout,), daemon=True).start()
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[str]) -> None:
    """It finishes what is under way; another Ctrl-C ends it at once."""
    while process.poll() is None:
        try:
            process.terminate()
            process.wait()
        except KeyboardInterrupt:
            continue


def deploy(application: Path, registry: str) -> None:
    """Into the node's own registry, and from there onto the node."""
    reference = f"{registry}/{application.name}:latest"
    run(EDGE, "push", application, reference)
    say(run(EDGE, "deploy", reference, "--mount", f"/{application.name}").rstrip())


def serve(applications: list[Path], registry: str) -> list[Path]:
    """Builds and deploys each; one that fails does not stop the others. Those that serve."""
    served = []
    for application in applications:
        try:
            build(application)
            deploy(application, registry)
            served.append(application)
        except Failed as failure:
            complain(f"{application.name}: {failure}")
    return served


def explain(applications: list[Path], url: str) -> None:
    bin = os.path.relpath(EDGE.parent)
    names = sorted((a.name for a in applications), key="thermostat".__eq__)  # its text is long
    tries = [TRIES.get(name, f"curl {url}/{name}").format(bin=bin, url=url) for name in names]
    socket = os.environ["EDGE_SOCKET"]
    say(HINT.format(bin=bin, socket=socket, tries="\n".join(f"  {line}" for line in tries)))


def complain(text: str) -> None:
    sys.stderr.write(f"run: {text}\n")
    sys.stderr.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description="Builds applications and serves them.")
    parser.add_argument("application", nargs="*", type=Path)
    parser.add_argument("--mqtt", default="embedded", metavar="URL")
    parser.add_argument("--config", default=CONFIG, type=Path, metavar="FILE")
    parser.add_argument("--socket", default=SOCKET, type=Path, metavar="PATH")
    options = parser.parse_args()
    given = [path.resolve() for path in options.application]
    applications = given or [EXAMPLES / name for name in APPLICATIONS]
    slow = [application for application in applications if not given and not is_built(application)]
    quick = [application for application in applications if application not in slow]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ["EDGE_SOCKET"] = str(options.socket)
    given_options = ("--config", options.config, "--socket", options.socket, "--mqtt", options.mqtt)
    try:
        with node(*given_options) as process:
            status = json.loads(run(EDGE, "status", "--json"))
            registry = status["mirror"][0].removeprefix("http://")
            served = serve(quick, registry)
            if not served:
                raise Failed("nothing serves")
            explain(served, status["listening"][0])
            serve(slow, registry)
            say(run(EDGE, "apps").rstrip())
            return process.wait()
    except KeyboardInterrupt:
        return 0
    except Failed as failure:
        complain(str(failure))
        return 1


if __name__ == "__main__":
    sys.exit(main())
