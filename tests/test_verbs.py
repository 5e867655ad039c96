"""The verbs that ask a running node: what they print, and with which code they end. The node is a
real one, with its own registry; most verbs run in this process, which starts faster than theirs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from node_lab import EDGE, Node, node

from edge.cli import main

EXAMPLES = Path(__file__).parent.parent / "examples"

CONFIG = """
[mirror]
listen = "127.0.0.1:0"
accept_pushes = true

[sync]
soak = "0s"
"""


class Lab:
    """A node, and verbs that ask it."""

    def __init__(self, running: Node, capsys: pytest.CaptureFixture[str]) -> None:
        self.node, self._capsys = running, capsys
        self.get, self.until, self.folder = running.get, running.until, running.folder

    def edge(self, *arguments: str | Path) -> Done:
        self._capsys.readouterr()
        try:
            code = main([*map(str, arguments)])
        except SystemExit as end:  # of argparse
            code = int(end.code or 0)
        return Done(code, *self._capsys.readouterr())

    def tell(self, *arguments: str | Path) -> str:
        """… which must succeed; what it prints."""
        done = self.edge(*arguments)
        assert done.returncode == 0, done.stderr + self.node.text
        return done.stdout

    def apps(self) -> dict[str, dict[str, Any]]:
        return {app["name"]: app for app in json.loads(self.tell("apps", "--json"))}


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("node"), CONFIG) as running:
        yield running


@pytest.fixture
def clean(
    running: Node, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Lab]:
    """A node that runs nothing, before and after."""
    monkeypatch.setenv("EDGE_SOCKET", str(running.socket))
    lab = Lab(running, capsys)
    assert not lab.apps()
    yield lab
    for name in lab.apps():
        lab.tell("undeploy", name, "--purge")


def registry(lab: Lab) -> str:
    mirror: str = json.loads(lab.tell("status", "--json"))["mirror"][0]
    return mirror.removeprefix("http://")


Push = Callable[..., str]


@pytest.fixture
def push(clean: Lab, tmp_path: Path) -> Push:
    """`push("hello")` puts an example into the node's registry; the words are what it says."""

    def pushed(example: str, says: str | None = None, tag: str = "1") -> str:
        application = EXAMPLES / example
        if says is not None:
            application = tmp_path / says / example
            application.mkdir(parents=True)
            (application / "spin.toml").write_text(STATIC.format(name=example, says=says))
        reference = f"{registry(clean)}/team/{example}:{tag}"
        clean.tell("push", application, reference)
        return reference

    return pushed


STATIC = """
spin_manifest_version = 2

[application]
name = "{name}"

[variables]
greeting = {{ default = "none" }}

[[trigger.http]]
route = "/..."
static_response = {{ body = "{says}" }}
"""


def digest(lab: Lab, name: str) -> str:
    return str(lab.apps()[name]["digest"])


# --- deploying -----------------------------------------------------------------------------------


def test_a_deploy_returns_when_it_is_live(clean: Lab, push: Push) -> None:
    reference = push("hello")
    said = clean.tell("deploy", reference, "--mount", "/greet")
    assert re.fullmatch(r"hello: live at /greet, [0-9a-f]{12}\n", said)
    assert clean.get("/greet/you") == (200, b"hello /you")
    assert clean.get("/you")[0] == 404

    listed = clean.tell("apps").splitlines()
    assert listed[0].split() == [
        *["NAME", "MOUNT", "STATE", "DIGEST", "SINCE", "SOURCE", "REFERENCE"]
    ]
    short = digest(clean, "hello").removeprefix("sha256:")[:12]
    name, mount, state, version, since, source, where = listed[1].split()
    assert (name, mount, state, version) == ("hello", "/greet", "live", short)
    assert re.fullmatch(r"\d+s", since)
    assert (source, where) == ("deploy", reference)

    told = clean.tell("apps", "hello").splitlines()
    assert re.fullmatch(r"hello: live for \d+s", told[0])
    assert f"  digest     {digest(clean, 'hello')}" in told

    status = clean.tell("status")
    assert re.match(r"lab: edge \S+, up \d+s\n", status)
    assert f"  serves   {clean.node.url}\n" in status
    assert "  runs     1 application: 1 live\n" in status
    assert re.search(r"^  handled  \d+ events?, 0 failed; 0 under way$", status, re.M)
    assert re.search(r"^  memory   \d+ MiB; guests have \d+ of \d+ places, ", status, re.M)
    assert re.search(r"^  stores   \S+ \S+ of 4 GiB; .* written to disk since", status, re.M)


def test_what_is_not_as_wanted_is_told_with_its_reason(clean: Lab, push: Push) -> None:
    clean.tell("deploy", push("site", "one"), "--mount", "/s")
    clean.tell("deploy", push("site", "two", "2"))
    clean.tell("rollback", "site")
    runs = clean.tell("status").partition("  runs     ")[2].splitlines()
    assert runs[0] == "1 application: 1 rolled back"
    assert re.fullmatch(r" {11}site: rolled back for \d+s: .+", runs[1])


def test_a_deploy_that_cannot_be_changes_nothing(clean: Lab, push: Push) -> None:
    clean.tell("deploy", push("hello"))
    before = clean.apps()
    done = clean.edge("deploy", push("timer"))
    assert done.returncode == 78
    assert not done.stdout
    assert "edge: application timer: its route /... is that of application hello" in done.stderr
    done = clean.edge("deploy", f"{registry(clean)}/team/nothing:1")
    assert done.returncode == 1
    assert "team/nothing:1" in done.stderr
    assert clean.apps() == before
    assert clean.get("/x") == (200, b"hello /x")


def test_what_was_deployed_before_stays_where_it_was(clean: Lab, push: Push) -> None:
    clean.tell("deploy", push("site", "one"), "--mount", "/s", "--host", "Pi.local")
    assert clean.get("/s", "pi.local") == (200, b"one")
    assert clean.get("/s")[0] == 404
    said = clean.tell("deploy", push("site", "two", "2"))
    assert said.startswith("site: live at pi.local/s, ")
    assert clean.get("/s", "pi.local") == (200, b"two")


def test_variables_come_from_the_command_line_and_from_files(
    clean: Lab, push: Push, tmp_path: Path
) -> None:
    reference = push("site", "one")
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    given = ("--variable", f"greeting=@{secret}")
    shown = clean.tell("deploy", reference, *given, "--json")
    assert json.loads(shown)["state"] == "live"
    assert "s3cret" not in clean.tell("apps", "--json") + clean.tell("status", "--json")
    clean.tell("deploy", reference, "--variable-file", f"greeting={secret}")
    done = clean.edge("deploy", reference, "--variable", "greting=x")
    assert done.returncode == 78
    assert "greting" in done.stderr
    assert "s3cret" not in clean.node.text


# --- versions ------------------------------------------------------------------------------------


def test_a_tag_that_moves_is_followed_and_can_be_gone_back_from(clean: Lab, push: Push) -> None:
    clean.tell("deploy", push("site", "one"))
    one = digest(clean, "site")
    push("site", "two")  # the node's own registry: it need not be asked
    clean.until(lambda: clean.get()[1] == b"two")
    clean.until(lambda: clean.apps()["site"]["previous"] == one)
    two = digest(clean, "site")

    said = clean.tell("rollback", "site")
    assert said.startswith(f"site: rolled back at /, {one.removeprefix('sha256:')[:12]}")
    assert clean.get() == (200, b"one")
    clean.tell("sync", "site")
    assert clean.get() == (200, b"one"), "it is not tried again"
    said = clean.tell("sync", "site", "--retry")
    assert said.startswith("site: live at /, ")
    assert (clean.get()[1], digest(clean, "site")) == (b"two", two)

    found = json.loads(clean.tell("sync", "--json"))
    assert [app["state"] for app in found] == ["live"]


def test_what_is_undeployed_keeps_its_data_unless_it_is_purged(clean: Lab, push: Push) -> None:
    reference = push("timer")
    clean.tell("deploy", reference)
    clean.tell("invoke", "timer", "--trigger", "ticks")
    assert clean.tell("undeploy", "timer") == "timer: gone, its data is kept\n"
    assert clean.get()[0] == 404
    clean.tell("deploy", reference)
    ticks = int(clean.tell("invoke", "timer").split()[0])
    assert ticks >= 1
    kept = clean.folder / "state"
    assert clean.tell("undeploy", "timer", "--purge") == "timer: gone, with its data\n"
    assert not [path for path in kept.rglob("*") if "timer" in path.name]


# --- invoking ------------------------------------------------------------------------------------


def test_invoke_prints_what_is_answered(clean: Lab, push: Push, tmp_path: Path) -> None:
    clean.tell("deploy", push("hello"))
    clean.tell("deploy", push("echo"), "--mount", "/echo")
    assert clean.tell("invoke", "hello", "--path", "/you?x=1") == "hello /you?x=1"
    done = clean.edge("invoke", "hello", "-v")
    assert done.stdout == "hello /"
    assert done.stderr.startswith("status 200\ncontent-type: text/plain\n")
    assert done.stderr.endswith(" ms\n")
    assert clean.tell("invoke", "echo", "--data", "some") == "some"
    file = tmp_path / "data"
    file.write_bytes(b"from a file")
    assert clean.tell("invoke", "echo", "--data", f"@{file}") == "from a file"
    command = [EDGE, "invoke", "echo", "--data", "-", "--socket", str(clean.node.socket)]
    done = subprocess.run(command, input="piped", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "piped")


def test_invoke_ends_with_1_when_the_answer_is_no(clean: Lab, push: Push) -> None:
    clean.tell("deploy", push("thermostat", "gone"))
    done = clean.edge("invoke", "thermostat", "--path", "/.well-known/spin/nothing")
    assert done.returncode == 1
    done = clean.edge("invoke", "thermostat", "--component", "x")
    assert done.returncode == 78
    done = clean.edge("invoke", "thermostat", "--trigger", "x", "--path", "/")
    assert (done.returncode, done.stderr) == (
        78,
        "edge: --trigger: an event has no --path, --method or --component\n",
    )


# --- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "said", "hint"),
    [
        (("apps", "sit"), 78, "application sit: is not on this node", 'did you mean "site"?'),
        (("rollback", "x"), 78, "application x: is not on this node", "`edge apps` lists"),
        (("undeploy", "x"), 78, "application x: is not on this node", "`edge apps` lists"),
        (("invoke", "x"), 78, "application x: is not on this node", "`edge apps` lists"),
        (("sync", "x"), 78, "application x: is not on this node", "`edge apps` lists"),
        (("rollback", "site"), 1, "no version before", None),
        (("deploy", "hello"), 2, "names no registry", None),
        (("deploy", str(EXAMPLES / "hello")), 2, "push it first: edge push", None),
        (("deploy", "a.b/c", "--mount", "x"), 2, 'must begin with "/"', None),
        (("deploy", "a.b/c", "--variable", "x"), 78, "is not NAME=VALUE", None),
        (("invoke", "site", "--path", "x"), 2, "is not a path", None),
        (("invoke", "site", "--data", "@/nowhere"), 78, "no such file", None),
    ],
)
def test_a_mistake_is_a_line_a_hint_and_a_code(
    arguments: tuple[str, ...], code: int, said: str, hint: str | None, clean: Lab, push: Push
) -> None:
    clean.tell("deploy", push("site", "one"))
    done = clean.edge(*arguments)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert hint is None or f"hint: {hint}" in done.stderr


def test_without_a_node_it_is_said_how_to_get_one(tmp_path: Path) -> None:
    environ = {**os.environ, "EDGE_SOCKET": str(tmp_path / "edge.sock")}
    command = [EDGE, "apps"]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert first == f"edge: no node answers at {tmp_path}/edge.sock: no such file or directory"
    assert second.startswith("hint: start one with `edge run`")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_who_is_not_in_the_group_is_told(clean: Lab) -> None:
    me = os.geteuid()
    os.seteuid(65534)  # it reaches the node's directory no more, as it would not the socket
    try:
        done = clean.edge("apps")
    finally:
        os.seteuid(me)
    assert done.returncode == 1
    assert "permission denied" in done.stderr
    assert "group edge" in done.stderr


def test_a_reload_by_the_api_says_what_is_wrong(clean: Lab) -> None:
    def reload() -> dict[str, Any]:
        url = ["--unix-socket", str(clean.node.socket), "http://node/v1/reload", "-X", "POST"]
        done = subprocess.run(["curl", "-sS", *url], capture_output=True, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    file = clean.folder / "edge.toml"
    good = file.read_text()
    file.write_text(good + "[sink]\n")
    assert "unknown key" in reload()["error"]["message"]
    assert reload()["error"]["exit_code"] == 78
    file.write_text(good)
    assert reload() == {"result": []}
