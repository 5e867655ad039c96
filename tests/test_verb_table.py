"""The table of verbs: what is loaded for which."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest

from edge import cli


def offered(modules: list[str]) -> set[str]:
    """The verbs that these modules add."""
    parser = cli._parser(modules)
    (verbs,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return set(verbs.choices)


def test_the_table_says_which_module_brings_which_verb() -> None:
    for module in dict.fromkeys(cli.VERBS.values()):
        assert offered([module]) == {verb for verb, of in cli.VERBS.items() if of == module}


@pytest.mark.parametrize("verb", ["apps", "deploy", "status", "sync", "invoke"])
def test_verbs_that_talk_to_a_node_do_not_load_the_engine(verb: str) -> None:
    """A small board takes seconds for it."""
    code = (
        f"import sys; from edge import cli; cli._parser([cli.VERBS[{verb!r}]]); print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "edge.node.client" in loaded
    assert not {m for m in loaded if m.startswith(("edge.engine", "edge.wasi", "edge.invocation"))}


# Of other people's: what serves and fetches over HTTP.
NEEDED = {
    "aiohappyeyeballs", "aiohttp", "aiosignal", "attr", "attrs", "frozenlist", "httptools", "idna",
    "multidict", "propcache", "typing_extensions", "yarl",
}  # fmt: skip
# Of ours, and the standard library's, what is loaded when somebody uses it.
LATER = (
    "edge.triggers.mqtt", "edge.triggers.redis", "edge.triggers.cron", "edge.spin.key_value",
    "edge.spin.sqlite", "edge.spin.mqtt", "edge.spin.redis", "edge.wasi.preview1",
    "edge.wasi.filesystem", "edge.wasi.sockets", "edge.fleet.identity", "edge.registry.lan",
    "edge.node.page", "edge.node.otlp", "edge.node.doctor", "edge.node.backup", "edge.develop",
    "edge.engine.compile", "sqlite3", "xml", "multiprocessing", "unittest",
)  # fmt: skip


def test_a_node_that_starts_loads_nothing_that_nobody_uses() -> None:
    """Each module is time and memory of a small board."""
    code = (
        "import sys, edge.cli.run, edge.node.daemon\n"
        "for name, module in sorted(sys.modules.items()):\n"
        "    print(name, 'site-packages' in (getattr(module, '__file__', None) or ''))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True
    )
    loaded = dict(line.split() for line in done.stdout.splitlines())
    others = {name.split(".")[0] for name, installed in loaded.items() if installed == "True"}
    assert {name for name in others if name[0] != "_"} - {"edge"} <= NEEDED
    assert "edge.node.daemon" in loaded
    assert not [name for name in loaded if name.startswith(LATER)]


@pytest.mark.parametrize(
    "option", ["--mqtt-password-file", "--mqtt-ca", "--mqtt-cert", "--mqtt-client-id"]
)
def test_a_node_does_not_pass_over_options_of_a_broker_that_is_not_named(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", option, "x"]) == 78
    assert capsys.readouterr().err.startswith(f"edge: {option}: needs --mqtt\nhint: ")


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    said = capsys.readouterr().out
    assert [verb for verb in cli.VERBS if f"\n    {verb} " not in said] == []


def test_an_unknown_verb_is_told_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["frobnicate"])
    assert "'apps'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["deply", "x"], 'edge: error: there is no verb "deply"; did you mean "deploy"?'),
        (["apps", "--jsn"], 'unrecognized arguments: --jsn; did you mean "--json"?'),
        (["run", "--confg=x"], 'unrecognized arguments: --confg=x; did you mean "--config"?'),
        (["apps", "--frobnicate"], "unrecognized arguments: --frobnicate"),
    ],
)
def test_typing_mistakes_are_told_what_was_meant(
    given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(given)
    assert capsys.readouterr().err.endswith(f"{said}\n")
