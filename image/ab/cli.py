"""edge-image: what it is told."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ab import boards, grow, setup, trial, update
from ab.disk import BOOT, Problem, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="edge-image", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    status = verbs.add_parser("status", help="what runs, and what starts next")
    status.set_defaults(run=_status)
    up = verbs.add_parser("update", help="write a signed update, try it, keep it if it is healthy")
    up.add_argument("source", metavar="FILE|URL|-")
    up.add_argument("--older", action="store_true", help="a version before this one as well")
    up.add_argument("--no-reboot", action="store_true", help="the next restart tries it")
    up.set_defaults(run=_update)
    for name, function, words in (
        ("setup", setup.run_setup, "take settings from the boot partition"),
        ("grow", grow.grow, "let the state partition take the rest of the card"),
        ("trial", trial.run, "keep the system on trial once it is healthy"),
    ):
        verb = verbs.add_parser(name, help=f"{words} (systemd starts it)")
        verb.set_defaults(run=lambda _, function=function: function(say))
    options = parser.parse_args()
    try:
        options.run(options)
    except (Problem, OSError) as exc:
        say(str(exc))
        return 1
    return 0


def _status(_: argparse.Namespace) -> None:
    slot, on_trial = boards.running(Path("/proc/cmdline").read_text())
    image = update.this_image()
    default = boards.of(image.board, BOOT).default()
    known = {"version": image.version, "board": image.board, "slot": slot, "trial": on_trial}
    sys.stdout.write(json.dumps(known | {"default": default}) + "\n")


def _update(options: argparse.Namespace) -> None:
    slot = update.apply(options.source, say, older=options.older)
    say(f"slot {slot} is tried at the next start")
    if not options.no_reboot:
        run("systemctl", "reboot")


def say(line: str) -> None:
    sys.stderr.write(f"edge-image: {line}\n")
    sys.stderr.flush()
