from __future__ import annotations

import base64
import json
import os
import re
import tomllib
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.application import manifest
from edge.application.model import (
    Application,
    Build,
    Component,
    FilePlacement,
    HttpTrigger,
    PathSource,
    StaticResponse,
    TriggerDeclaration,
    Wagi,
)
from edge.application.options import Options
from edge.application.routes import Route
from edge.application.templates import Template, Variable
from edge.application.units import duration
from edge.errors import BundleError, ConfigError
from edge.registry import locked
from edge.registry.digest import Digest
from edge.registry.locked import Locked
from edge.registry.lockwriter import write

MANIFESTS = Path(__file__).parent.parent / "application" / "manifests" / "valid"
SOAK = os.environ.get("EDGE_SOAK") == "full"
WASM = str(Digest.of(b"wasm"))


def document(**changes: object) -> dict[str, Any]:
    """What `spin registry push` writes for one component on one route."""
    return {
        "spin_lock_version": 0,
        "metadata": {
            "authors": ["Gul Madred"],
            "name": "lights",
            "trigger": {"type": "http"},
            "triggers": {"http": {}},
            "version": "6.11.2",
        },
        "triggers": [
            {
                "id": "trigger-four",
                "trigger_type": "http",
                "trigger_config": {
                    "component": "four",
                    "executor": {"type": "http"},
                    "route": "/lights",
                },
            }
        ],
        "components": [
            {
                "id": "four",
                "metadata": {"allowed_outbound_hosts": ["redis://*:*"]},
                "source": {"content_type": "application/wasm", "digest": WASM},
                "env": {"env1": "first"},
            }
        ],
        **changes,
    }


def read(value: object) -> Locked:
    return locked.read(json.dumps(value).encode())


def changed(path: str, value: object) -> dict[str, Any]:
    """A document with one thing set: "components.0.id"."""
    found = document()
    *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    place: Any = found
    for step in steps:
        place = place[step]
    if isinstance(place, list) and last == len(place):
        place.append(value)
    else:
        place[last] = value
    return found


def component(**changes: object) -> Application:
    return read(document(components=[{**document()["components"][0], **changes}])).application


# What is read


def test_what_spin_writes_is_read() -> None:
    found = read(document())
    assert found.inline == {}
    assert found.application == Application(
        name="lights",
        version="6.11.2",
        authors=("Gul Madred",),
        components={
            "four": Component(
                "four",
                PathSource(WASM),
                environment={"env1": "first"},
                allowed_outbound_hosts=("redis://*:*",),
            )
        },
        http=(HttpTrigger("trigger-four", Route.parse("/lights"), "four"),),
        trigger_settings={"http": {}},
    )


def test_every_name_that_differs_from_the_manifest() -> None:
    metadata = {
        "description": "d",
        "databases": ["default"],
        "key_value_stores": ["cache"],
        "ai_models": ["llama2-chat"],
        "build": {"command": "make", "workdir": None, "watch": []},
        "edge": {"timeout": "3s", "trigger": {"trigger-four": {"share": "x"}}},
    }
    one = {**document()["components"][0], "metadata": metadata, "config": {"k": "{{ name }}!"}}
    variables = {"name": {"default": "x", "secret": True}, "needed": {"description": "why"}}
    found = read(document(components=[one], variables=variables)).application
    own = found.components["four"]
    assert own.sqlite_databases == ("default",)
    assert own.key_value_stores == ("cache",)
    assert own.ai_models == ("llama2-chat",)
    assert own.description == "d"
    assert own.build == Build(("make",))
    assert own.variables == {"k": Template.parse("{{ name }}!")}
    assert own.options == Options(timeout=3.0, triggers={"trigger-four": {"share": "x"}})
    assert found.variables == {
        "name": Variable("x", secret=True),
        "needed": Variable(None, description="why"),
    }


def test_settings_of_triggers_as_older_versions_wrote_them() -> None:
    metadata = {"name": "a", "trigger": {"type": "redis", "address": "redis://x"}}
    assert read(document(metadata=metadata)).application.trigger_settings == {
        "redis": {"address": "redis://x"}
    }


def test_content_by_digest_and_inline() -> None:
    small = base64.b64encode(b"tiny").decode()
    files = [
        {"path": "a/b.txt", "digest": WASM},
        {"path": "/tiny", "inline": small, "digest": str(Digest.of(b"tiny"))},
        {"path": "alone", "inline": small},
    ]
    source = {"content_type": "application/wasm", "inline": base64.b64encode(b"\0asm").decode()}
    one = {**document()["components"][0], "files": files, "source": source}
    found = read(document(components=[one]))
    assert found.inline == {Digest.of(b"tiny"): b"tiny", Digest.of(b"\0asm"): b"\0asm"}
    own = found.application.components["four"]
    assert own.source == PathSource(str(Digest.of(b"\0asm")))
    assert own.files == (
        FilePlacement(WASM, "/a/b.txt"),
        FilePlacement(str(Digest.of(b"tiny")), "/tiny"),
        FilePlacement(str(Digest.of(b"tiny")), "/alone"),
    )


@pytest.mark.parametrize("data", [b"", b"1", b"12", b"123", b"1234"])
def test_inline_content_with_padding_and_without(data: bytes) -> None:
    text = base64.b64encode(data).decode()
    for inline in {text, text.rstrip("=")}:
        files = [{"path": "a", "inline": inline, "digest": str(Digest.of(data))}]
        one = {**document()["components"][0], "files": files}
        assert read(document(components=[one])).inline == {Digest.of(data): data}


def test_what_is_null_is_not_there() -> None:
    config = {"component": "four", "route": "/", "executor": None, "static_response": None}
    found = read(changed("triggers.0.trigger_config", config))
    assert found.application.http == (HttpTrigger("trigger-four", Route.parse("/"), "four"),)


def test_unknown_metadata_is_a_note() -> None:
    metadata = {"name": "a", "origin": "file:///x", "profile": "p", "mood": "good"}
    one = {**document()["components"][0], "metadata": {"colour": "red"}}
    found = read(document(metadata=metadata, components=[one])).application
    assert found.notes == (
        "metadata.mood means nothing to edge",
        "components[0].metadata.colour means nothing to edge",
    )


def test_requirements_that_are_met_or_optional() -> None:
    requirements = {"local_service_chaining": "required", "teleportation": "optional"}
    understood = ["host_requirements", "component_host_requirements"]
    one = {**document()["components"][0], "host_requirements": requirements}
    assert read(
        document(
            spin_lock_version=1,
            must_understand=understood,
            host_requirements=requirements,
            components=[one],
        )
    )


# What is refused


MISTAKES = (Path(__file__).parent / "locked_mistakes.jsonl").read_text().replace("$WASM", WASM)


@pytest.mark.parametrize(
    ("path", "value", "error"), [json.loads(line) for line in MISTAKES.splitlines()]
)
def test_a_mistake_is_named_by_its_place(path: str, value: object, error: str) -> None:
    with pytest.raises(BundleError) as caught:
        read(changed(path, value))
    assert caught.value.message.startswith(f"locked.json: {error}"), caught.value.message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"spin_lock_version": 0}',
        b'{"spin_lock_version": NaN}',
        b'{"spin_lock_version": 0, "spin_lock_version": 0, "triggers": [], "components": []}',
        b'{"metadata": {"name": "\\ud800"}}',
        b"[" * 100_000,
        b'{"metadata": ' + b'{"a":' * 500 + b"1" + b"}" * 501,
    ],
)
def test_what_is_no_locked_application(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"^x\.json: "):
        locked.read(data, "x.json")


@given(st.data())
def test_a_damaged_document_is_read_or_refused(data: st.DataObject) -> None:
    """Whatever is done to a document, the only error is a BundleError."""
    found = document(variables={"x": {"default": "1"}})
    found["components"][0]["files"] = [{"path": "a", "digest": WASM}]
    place: Any = found
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if not (isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans())):
            break
        place = place[key]
    place[key] = data.draw(json_values)
    with suppress(BundleError):
        read(found)


# There and back

json_values: st.SearchStrategy[Any] = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
text = st.text(max_size=5)
kebab = st.sampled_from(["a", "b2", "a-b", "long-name-with-words", "A-b"])
variable_name = st.sampled_from(["a", "b2", "a_b", "long_name_4_words"])
printable = st.text(st.characters(categories=("L", "N", "P")), min_size=1)
without_zero = st.text(st.characters(exclude_characters="\0", codec="utf-8"))
labels = st.lists(kebab, max_size=2).map(tuple)
seconds = st.builds(
    lambda number, unit: duration(f"{number}{unit}"),
    st.one_of(
        st.integers(1, 1000),
        st.decimals("0.5", "900", places=3),
        st.decimals("0.5", "900", places=9),
    ),
    st.sampled_from(["s", "ms"]),
).filter(lambda number: 0.001 <= number <= 86400)
sizes = st.integers(1 << 16, 4 << 30) | st.integers(1, 4096).map(lambda n: n << 20)
inline_files = st.dictionaries(st.binary(max_size=16).map(Digest.of), st.none(), max_size=0)
contents = st.binary(max_size=4)
hosts = st.lists(
    st.sampled_from(
        [
            "https://a.example",
            "http://self",
            "redis://*:6379",
            "http://other.spin.internal",
            "http://*.spin.internal",
            "mqtt://10.0.0.0/8:1883",
            "*://*:*",
        ]
    ),
    max_size=3,
).map(tuple)


@st.composite
def templates(draw: st.DrawFn, names: list[str]) -> Template:
    literal = without_zero.filter(lambda text: "{" not in text)
    pieces = [draw(literal)]
    for name in draw(st.lists(st.sampled_from(names), max_size=2)) if names else []:
        pieces += f"{{{{{name}}}}}", draw(literal)
    return Template.parse("".join(pieces))


@st.composite
def options(draw: st.DrawFn, own: dict[str, str]) -> Options:
    """`own`: the component's triggers and their types."""
    triggers: dict[str, dict[str, object]] = {}
    for id in draw(st.lists(st.sampled_from(sorted(own)), unique=True)) if own else []:
        triggers[id] = draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "ordered": st.sampled_from(["topic", "all", "none"]),
                    "share": text,
                    "retries": st.integers(0, 1000),
                    "retry_time": seconds,
                    "responses": st.lists(text, max_size=2).map(tuple),
                    "time_zone": text,
                    "jitter": seconds,
                },
            )
        )
    return Options(
        timeout=draw(seconds),
        queue_timeout=draw(seconds | st.just(0.0)),
        memory=draw(sizes.filter(lambda n: 1 << 16 <= n <= 4 << 30)),
        concurrency=draw(st.integers(1, 65536)),
        queue=draw(st.integers(0, 1 << 20)),
        reuse=draw(st.integers(1, 1 << 30)),
        scratch=draw(st.just(0) | sizes),
        health=draw(st.none() | text.map(lambda text: f"/{text}")),
        request_size=draw(st.just(0) | sizes),
        response_size=draw(st.just(0) | sizes),
        outbound_connections=draw(st.integers(0, 65536)),
        triggers=triggers,
    )


@st.composite
def components(
    draw: st.DrawFn, id: str, names: list[str], own: dict[str, str], inline: dict[Digest, bytes]
) -> Component:
    def content() -> str:
        data = draw(contents)
        if draw(st.booleans()):
            inline[Digest.of(data)] = data
        return str(Digest.of(data))

    paths = draw(st.lists(kebab, max_size=3))
    environment_name = without_zero.filter(lambda text: text and "=" not in text)
    return Component(
        id=id,
        source=PathSource(content()),
        description=draw(text),
        variables=draw(st.dictionaries(variable_name, templates(names), max_size=2)),
        environment=draw(st.dictionaries(environment_name, without_zero, max_size=2)),
        files=tuple(FilePlacement(content(), f"/dir/{path}") for path in paths),
        allowed_outbound_hosts=draw(hosts),
        key_value_stores=draw(labels),
        sqlite_databases=draw(labels),
        ai_models=draw(st.lists(text, max_size=2).map(tuple)),
        build=draw(
            st.none()
            | st.builds(
                Build,
                st.lists(text, max_size=3).map(tuple),
                st.none() | text,
                st.lists(text, max_size=2).map(tuple),
            )
        ),
        options=draw(options(own)),
    )


header_names = st.sampled_from([b"x-a", b"x-b", b"content-type"])
header_values = st.text(st.characters(codec="utf-8", min_codepoint=32, exclude_characters="\x7f"))
responses = st.builds(
    StaticResponse,
    st.integers(200, 599),
    st.lists(st.tuples(header_names, header_values.map(str.encode)), max_size=4).map(tuple),
    text.map(str.encode),
)
RESERVED = ("id", "component", "components", "dependencies")
routes = st.sampled_from(["/...", "/", "/a/:id", "/b/*", "c"]).map(Route.parse)


@st.composite
def lockeds(draw: st.DrawFn) -> Locked:
    ids = draw(st.lists(kebab, min_size=1, max_size=3, unique=True))
    trigger_ids = iter(draw(st.lists(printable, min_size=5, max_size=5, unique=True)))
    variables = draw(
        st.dictionaries(
            variable_name,
            st.builds(Variable, st.none() | text, st.booleans(), text),
            max_size=3,
        )
    )
    own: dict[str, dict[str, str]] = {id: {} for id in ids}
    http = []
    for _ in range(draw(st.integers(0, 2))):
        id, route = next(trigger_ids), draw(st.none() | routes)
        if draw(st.booleans()):
            http.append(HttpTrigger(id, route, response=draw(responses)))
        else:
            target = draw(st.sampled_from(ids))
            own[target][id] = "http"
            wagi = draw(st.none() | st.builds(Wagi, text))
            http.append(HttpTrigger(id, route, target, wagi=wagi))
    triggers = []
    for type in sorted(draw(st.lists(st.sampled_from(["cron", "mqtt", "other"]), max_size=3))):
        id = next(trigger_ids)
        target = draw(st.none() | st.sampled_from(ids))
        roles = draw(st.dictionaries(text, st.lists(st.sampled_from(ids)).map(tuple), max_size=2))
        for one in {target, *(one for role in roles.values() for one in role)} - {None}:
            own[one][id] = type
        names = text.filter(lambda name: name not in RESERVED)
        written = draw(st.dictionaries(names, json_values, max_size=2))
        triggers.append(TriggerDeclaration(id, type, target, roles, written))
    inline: dict[Digest, bytes] = {}
    found = {id: draw(components(id, sorted(variables), own[id], inline)) for id in ids}
    settings = st.dictionaries(text, json_values, max_size=2)
    types = st.sampled_from(["mqtt", "redis", "other"])
    application = Application(
        name=draw(printable),
        version=draw(text),
        description=draw(text),
        authors=draw(st.lists(text, max_size=2).map(tuple)),
        variables=variables,
        components=found,
        http=tuple(http),
        triggers=tuple(triggers),
        trigger_settings=draw(st.dictionaries(types, settings, max_size=2)),
    )
    return Locked(application, inline)


# Its many parts take longer to draw than to read and write.
@settings(max_examples=500 if SOAK else 25, suppress_health_check=[HealthCheck.too_slow])
@given(lockeds())
def test_an_application_comes_back_as_it_was(found: Locked) -> None:
    data = write(found)
    back = locked.read(data)
    assert replace(back.application, notes=()) == found.application
    assert back.inline == found.inline
    assert write(back) == data


def test_no_field_of_the_model_is_forgotten() -> None:
    """A new field of the model has to be written and read, and drawn above."""
    drawn = {
        Application: 10,
        Component: 14,
        HttpTrigger: 5,
        TriggerDeclaration: 5,
        StaticResponse: 3,
        Variable: 3,
        Options: 12,
        Build: 3,
    }
    assert {kind: len(fields(kind)) for kind in drawn} == drawn


@pytest.mark.parametrize("path", sorted(MANIFESTS.glob("*.toml")), ids=lambda p: p.stem)
def test_each_manifest_that_is_good_comes_back(path: Path) -> None:
    text = path.read_text()
    profile = re.match("# profile: (.+)", text)
    application = manifest.read(text, profile=profile[1] if profile else None)
    resolved = {
        id: replace(one, source=PathSource(WASM), files=(), exclude_files=(), dependencies={})
        for id, one in application.components.items()
    }
    application = replace(application, components=resolved)
    back = locked.read(write(Locked(application))).application
    assert replace(back, notes=()) == replace(application, notes=())


# What others read


def written(application: Application) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(write(Locked(application)))
    return found


def test_what_is_at_its_default_is_left_out() -> None:
    one = Component("a", PathSource(WASM))
    http = (HttpTrigger("t", Route.parse("/..."), "a"),)
    assert written(Application("n", components={"a": one}, http=http)) == {
        "spin_lock_version": 0,
        "metadata": {"name": "n", "triggers": {}},
        "variables": {},
        "triggers": [
            {
                "id": "t",
                "trigger_type": "http",
                "trigger_config": {"route": "/...", "component": "a"},
            }
        ],
        "components": [{"id": "a", "source": {"content_type": "application/wasm", "digest": WASM}}],
    }


def test_chaining_has_to_be_understood_by_the_host() -> None:
    one = Component("a", PathSource(WASM), allowed_outbound_hosts=("http://b.spin.internal",))
    found = written(Application("n", components={"a": one, "b": Component("b", PathSource(WASM))}))
    assert found["spin_lock_version"] == 1
    assert found["must_understand"] == ["component_host_requirements"]
    assert found["components"][0]["host_requirements"] == {"local_service_chaining": "required"}
    assert "host_requirements" not in found["components"][1]


def test_paths_of_files_can_be_joined_to_a_directory() -> None:
    one = Component("a", PathSource(WASM), files=(FilePlacement(WASM, "/x/y"),))
    found = written(Application("n", components={"a": one}))
    assert found["components"][0]["files"] == [{"path": "x/y", "digest": WASM}]


@pytest.mark.parametrize("text", ["2024-01-01", "12:00:00", "[2024-01-01]", "nan", "inf"])
def test_what_json_cannot_say_is_refused(text: str) -> None:
    value = tomllib.loads(f"x = {text}")["x"]
    trigger = TriggerDeclaration("t", "mqtt", None, fields={"since": value})
    with pytest.raises(ConfigError, match=r"^n: trigger\.mqtt\.t\.since"):
        write(Locked(Application("n", triggers=(trigger,))))
    with pytest.raises(ConfigError, match=r"^n: application\.trigger\.mqtt\.since"):
        write(Locked(Application("n", trigger_settings={"mqtt": {"since": value}})))


@pytest.mark.parametrize(
    "text", ["30s", "1ms", "1.1ms", "0.7m", "1.5h", "12345.678901s", "0.3d", "86399999.999ms"]
)
def test_a_duration_comes_back_exactly(text: str) -> None:
    one = Component("a", PathSource(WASM), options=Options(timeout=duration(text)))
    back = locked.read(write(Locked(Application("n", components={"a": one})))).application
    assert back.components["a"].options.timeout == duration(text)
