"""`edge …`: one file for each group of verbs. Translates errors for people: a line, a hint, an exit
code.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

from edge.errors import EdgeError

# Verb -> the module of its group, in the order of the help. Only the module of the verb that was
# given is loaded: some bring the engine along, and a small board takes seconds for all of them.
VERBS: Mapping[str, str] = {
    "new": "new",
    "build": "build",
    "up": "up",
    "run": "run",
    "check": "check",
    "push": "push",
    "pull": "pull",
    "import": "import_",
    "deploy": "deploy",
    "undeploy": "deploy",
    "rollback": "deploy",
    "sync": "deploy",
    "apps": "apps",
    "status": "status",
    "top": "top",
    "invoke": "invoke",
    "logs": "logs",
    "doctor": "doctor",
    "fleet": "fleet",
    "peers": "peers",
    "backup": "backup",
    "restore": "backup",
    "sign": "sign",
    "verify": "sign",
}

_EPILOG = """\
examples:
  edge new hello -t http-python        start an application; `edge new --list` shows templates
  edge build                           build the application of this directory
  edge up                              serve it
  edge up examples/hello               serve that one
  edge up app.wasm --listen :8080      serve a component, or a WASI command by Wagi
  edge up tool.wasm --once -- -v x     run a WASI command here, with these arguments
  edge check examples/hello            validate without starting
  edge check --config edge.toml        validate the configuration of a node
  edge push examples/hello REF         put it into a registry; REF like registry.example/hello:1.0
  edge up REF                          run what a registry has
  edge sign REF --key edge.key         vouch for it: nodes can be told to run nothing else
  edge deploy REF --mount /hello       run it on the node of this machine, and follow its tag
  edge apps                            what that node runs
  edge logs -f --application hello     what it prints, and what the node says of it
  edge top                             what happens there now
  edge doctor                          what is wrong with this machine or its node, and what to do
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb. Returns the exit code: 0, or that of the error; 130 when interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    end = given.index("--") if "--" in given else len(given)
    verb = _verb(given)
    parser = _parser([VERBS[verb]] if verb in VERBS else dict.fromkeys(VERBS.values()))
    if (verb not in VERBS) and (hint := _did_you_mean(verb, VERBS)):
        parser.error(f'there is no verb "{verb}"; {hint}')
    options = parser.parse_args(given[:end])
    options.arguments = given[end + 1 :]
    if options.arguments and not getattr(options, "once", False):
        parser.error("arguments after -- are a command's: they need --once")
    _configure_logging(debug=options.debug)
    try:
        code: int = options.run(options)
    except KeyboardInterrupt:
        return 130
    except EdgeError as error:
        if options.debug:
            raise
        sys.stderr.writelines(f"edge: {line}\n" for line in error.message.split("\n"))
        if error.hint:
            sys.stderr.write(f"hint: {error.hint}\n")
        return error.exit_code
    return code


class _Parser(argparse.ArgumentParser):
    """What it does not know it reports itself: the usage shown is that of the verb."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            options = (option for action in self._actions for option in action.option_strings)
            hint = _did_you_mean(unknown[0].partition("=")[0], options)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{f'; {hint}' if hint else ''}")
        return found, unknown


class _Version(argparse.Action):
    """Looked up when somebody asks: that reads files."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        sys.stdout.write(f"edge {version('edge')}\n")
        parser.exit()


def _verb(given: Sequence[str]) -> str:
    return next((text for text in given if not text.startswith("-")), "")


def _did_you_mean(word: str, known: Iterable[str]) -> str | None:
    import difflib

    # Of short words two letters are changed soon: "nwe" has two thirds of "new".
    cutoff = 0.66 if len(word) < 5 else 0.75
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f'did you mean "{close[0]}"?' if close else None


def _parser(modules: Iterable[str]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="edge",
        description="Serverless on bare metal: a fresh WebAssembly sandbox for each event.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="tracebacks, and more in the log")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for name in modules:
        import_module(f"edge.cli.{name}").add(verbs, common)
    return parser


def _configure_logging(*, debug: bool) -> None:
    """To stderr, stdout is for what was asked for; with fields where stderr is the journal."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if "JOURNAL_STREAM" in os.environ:
        from edge.platform import journal

        if journal.stderr_is_journal():
            handlers = [journal.JournalHandler()]
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.INFO, format="%(message)s", handlers=handlers
    )
