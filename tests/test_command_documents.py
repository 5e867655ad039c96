"""What packages carry beside the program: its manual and the completions of shells."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge.cli import VERBS

REPOSITORY = Path(__file__).parent.parent
TOOLS = REPOSITORY / "image/debs"


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documents")
    write("manual.py", "1.2.3", REPOSITORY / "docs/configuration.md", folder)
    write("completions.py", folder)
    return folder


def write(tool: str, *arguments: str | Path) -> None:
    command = [sys.executable, TOOLS / tool, *arguments]
    subprocess.run(command, check=True, cwd=TOOLS, capture_output=True, text=True)


def complete(documents: Path, *words: str) -> list[str]:
    """What bash offers for the last of these words."""
    script = '. "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _edge; echo "${COMPREPLY[@]}"'
    command = ["bash", "--norc", "-c", script, str(documents / "bash/edge"), *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=documents)
    # Outside of a completion bash cannot be told that names are those of files.
    assert set(done.stderr.splitlines()) <= {e for e in done.stderr.splitlines() if "compopt" in e}
    return done.stdout.split()


def test_the_manual_has_each_verb_and_each_key(documents: Path) -> None:
    program = (documents / "edge.1").read_text()
    for verb in VERBS:
        assert f'.SS "edge {verb}"' in program
    assert "\\fB\\-\\-state\\-dir\\fR" in program
    file_format = (documents / "edge.toml.5").read_text()
    for key in ("state_dir", "join_token_file", "max_connections", "block_networks"):
        assert f"\\fB{key}\\fR" in file_format


def test_no_line_of_the_manual_is_taken_for_a_request(documents: Path) -> None:
    known = {"TH", "SH", "SS", "PP", "TP", "IP", "B", "I", "BR", "RS", "RE", "nf", "fi"}
    for page in ("edge.1", "edge.toml.5"):
        for line in (documents / page).read_text().splitlines():
            if line.startswith((".", "'")):
                assert line[1:].split()[0] in known, line


def test_bash_completes_verbs_options_choices_and_files(documents: Path) -> None:
    assert complete(documents, "edge", "und") == ["undeploy"]
    assert complete(documents, "edge", "fleet", "rev") == ["revoke"]
    assert complete(documents, "edge", "deploy", "--mo") == ["--mount"]
    assert complete(documents, "edge", "sign", "--format", "b") == ["both", "bundle"]
    assert complete(documents, "edge", "check", "--config", "edge.t") == ["edge.toml.5"]
    assert complete(documents, "edge", "deploy", "--mount", "") == []


def test_zsh_and_fish_know_each_verb(documents: Path) -> None:
    zsh = (documents / "zsh/_edge").read_text()
    fish = (documents / "fish/edge.fish").read_text()
    for verb in VERBS:
        assert f"\n                '{verb}:" in zsh
        assert f" -a {verb} -d " in fish
