"""spin.toml, by example: each file under manifests/ has its outcome beside it."""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.application import manifest
from edge.application.model import Application
from edge.application.routes import Route
from edge.application.templates import Template
from edge.errors import ConfigError

MANIFESTS = Path(__file__).parent / "manifests"
MINIMAL = 'spin_manifest_version = 2\napplication.name = "a"\ntrigger = {}\n'


def read(path: Path) -> Application:
    text = path.read_text()
    profile = re.match("# profile: (.+)", text)
    return manifest.read(text, profile=profile[1] if profile else None)


def outcome(value: object) -> object:
    """A value as JSON, without what is at its default; a class by its name where it matters."""
    if isinstance(value, Template):
        return str(value)
    if isinstance(value, Route):
        return value.text
    if is_dataclass(value):
        shown = {f.name: getattr(value, f.name) for f in fields(value)}
        for f in fields(value):
            default = f.default_factory() if f.default_factory is not MISSING else f.default
            if shown[f.name] == default:
                del shown[f.name]
        return {"": type(value).__name__} | {k: outcome(v) for k, v in shown.items()}
    if isinstance(value, dict):
        return {key: outcome(v) for key, v in value.items()}
    if isinstance(value, tuple):
        return [outcome(v) for v in value]
    return value.decode() if isinstance(value, bytes) else value


@pytest.mark.parametrize("path", sorted(MANIFESTS.glob("valid/*.toml")), ids=lambda p: p.stem)
def test_a_valid_manifest_becomes_this_application(path: Path) -> None:
    assert outcome(read(path)) == json.loads(path.with_suffix(".json").read_text())


@pytest.mark.parametrize("path", sorted(MANIFESTS.glob("invalid/*.toml")), ids=lambda p: p.stem)
def test_an_invalid_manifest_gets_exactly_this_message(path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(path)
    hint = f"hint: {caught.value.hint}\n" if caught.value.hint else ""
    assert f"{caught.value}\n{hint}" == path.with_suffix(".err").read_text()


def test_every_example_has_an_outcome() -> None:
    outcomes = {".err", ".json"}
    for kind in ("valid", "invalid"):
        files = list((MANIFESTS / kind).iterdir())
        stems = {p.stem for p in files if p.suffix == ".toml"}
        assert stems == {p.stem for p in files if p.suffix in outcomes}


def test_an_unknown_profile_is_an_error() -> None:
    text = MINIMAL + 'component.x = { source = "x.wasm", profile.debug = {} }\n'
    with pytest.raises(ConfigError, match='no component defines the profile "deubg"') as caught:
        manifest.read(text, profile="deubg")
    assert caught.value.hint == 'did you mean "debug"?'


def test_an_application_says_which_triggers_it_has() -> None:
    application = read(MANIFESTS / "valid" / "options.toml")
    assert application.trigger_types == ("mqtt", "cron")
    assert read(MANIFESTS / "valid" / "http.toml").trigger_types == ("http",)


def test_the_file_is_named_as_the_caller_names_it() -> None:
    with pytest.raises(ConfigError, match=r"^apps/a/spin\.toml: missing key"):
        manifest.read("", file="apps/a/spin.toml")


toml_values = st.recursive(
    st.booleans() | st.integers(-5, 5) | st.text(max_size=8) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)
WORDS = st.sampled_from(
    """application name version trigger http mqtt route component source files variables default
    tool edge timeout memory executor type static_response headers dependencies profile build url
    digest id a-b allowed_outbound_hosts environment required""".split()  # noqa: SIM905
)
manifests = st.recursive(
    toml_values | WORDS,
    lambda inner: st.dictionaries(WORDS, inner, max_size=5) | st.lists(inner, max_size=2),
    max_leaves=20,
)


@given(manifests, manifests, manifests)
def test_whatever_a_manifest_holds_the_answer_is_an_application_or_a_config_error(
    application: object, trigger: object, component: object
) -> None:
    document = {
        "spin_manifest_version": 2,
        "application": application,
        "trigger": trigger,
        "component": component,
    }
    lines = [f"{key} = {toml(value)}" for key, value in document.items()]
    try:
        manifest.read("\n".join(lines))
    except ConfigError as error:
        message = str(error)
    else:
        return
    assert message.startswith("spin.toml: ")


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value).replace("Infinity", "inf").replace("\x7f", "")
