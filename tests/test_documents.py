"""The documentation says what the program does: what can be compared, is."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from edge.application.fields import Where
from edge.application.options import _TRIGGER_READERS as option_readers
from edge.application.options import Options, options

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def anchors(document: Path) -> set[str]:
    """Of its headings, as they are made of them where it is read."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.M)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        other = (document.parent / path).resolve() if path else document
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), target


def test_every_document_is_reached_from_the_readme() -> None:
    found: set[Path] = set()
    left = [ROOT / "README.md"]
    while left:
        document = left.pop()
        found.add(document)
        for target in re.findall(r"\]\(([^)\s#]+\.md)", document.read_text()):
            other = (document.parent / target).resolve()
            if other not in found and other.exists():
                left.append(other)
    assert {*DOCUMENTS} <= found


def test_what_was_measured_is_what_the_documents_show() -> None:
    command = [sys.executable, ROOT / "tests/bench/report.py", "--check"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, f"python tests/bench/report.py writes anew: {done.stdout}"


def test_the_reference_of_the_commands_is_what_the_program_understands() -> None:
    command = [sys.executable, ROOT / "docs/reference.py", "--check"]
    done = subprocess.run(command, check=False)
    assert done.returncode == 0, "python docs/reference.py writes it anew"


def documented_options() -> dict[str, str]:
    """Key -> default, of the table in limits.md."""
    text = (ROOT / "docs/limits.md").read_text()
    table = text.partition("## Of a component")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", table, flags=re.M))


def test_every_option_of_a_component_is_documented_with_its_default() -> None:
    found = documented_options()
    assert {*found} == {f.name for f in fields(Options)} - {"triggers"}
    lines = [f"{key} = {text.strip('`')}" for key, text in found.items() if text != "–"]
    assert options(tomllib.loads("\n".join(lines)), Where("limits.md")) == Options()


def test_every_option_of_a_trigger_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    shown = readme.partition(".trigger.readings]")[2].partition("```")[0]
    keys = set(re.findall(r"^(\w+) = ", shown, flags=re.M))
    table = {"trigger": {"t": tomllib.loads("\n".join(re.findall(r"^\w+ = .*$", shown, re.M)))}}
    read = options(table, Where("README.md")).triggers["t"]
    assert {*read} == keys == {*option_readers}
