"""Fleet documents: what they say, who they are for, who goes first, and what follows what."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.config import ApplicationEntry, Mount, Node
from edge.errors import BundleError, ConfigError, EdgeError
from edge.registry.digest import Digest
from edge.registry.fleetdoc import author, document, progress, state
from edge.registry.fleetdoc.document import Document, Rollout, Selector, Target
from edge.registry.fleetdoc.select import fits, is_canary, selected, share
from edge.registry.fleetdoc.state import State, Waiting
from edge.registry.reference import Reference

THERMO = {"name": "thermo", "reference": "registry.example/thermo:1"}
MANIFEST = Digest.of(b"manifest")
DAY = 86400.0


def written(**changes: Any) -> bytes:
    whole = {"schema": 1, "fleet": "site-a", "generation": 1, "applications": [THERMO]}
    return json.dumps({k: v for k, v in {**whole, **changes}.items() if v is not None}).encode()


def target(name: str = "thermo", version: int = 1, **more: Any) -> Target:
    return Target(ApplicationEntry(name, f"registry.example/{name}:{version}"), **more)


def test_a_document_says_everything_about_an_application() -> None:
    found = document.read(
        written(
            generation=7,
            expires="2030-01-31T01:00:00+01:00",
            applications=[
                THERMO
                | {
                    "mount": {"path": "/t", "host": "Thermo.Local"},
                    "variables": {"unit": "C"},
                    "variables_credentials": {"key": "thermo-key"},
                    "component": {"web": {"memory": "32MiB", "timeout": "2s"}},
                    "select": {"names": ["shop-*"], "labels": {"site": ["a", "b"], "floor": "1"}},
                    "rollout": {"canary": 10, "nodes": ["pi-lab"], "soak": "10m"},
                }
            ],
        ),
        "it",
    )
    assert found == Document(
        "site-a",
        7,
        (
            Target(
                ApplicationEntry(
                    "thermo",
                    "registry.example/thermo:1",
                    mount=Mount("/t", "thermo.local"),
                    variables={"unit": "C"},
                    variables_credentials={"key": "thermo-key"},
                    options={"web": {"memory": 32 << 20, "timeout": 2.0}},
                ),
                Selector(("shop-*",), {"site": ("a", "b"), "floor": ("1",)}),
                Rollout(10, ("pi-lab",), 600.0),
                {"web": {"memory": "32MiB", "timeout": "2s"}},
            ),
        ),
        datetime(2030, 1, 31, tzinfo=UTC),
    )
    assert document.read(found.to_bytes(), "it") == found


HOSTILE: Mapping[str, tuple[bytes, str]] = {
    "not JSON": (b"\xff", "it: is not JSON"),
    "nested": (b"[" * 200_000, "it: is not JSON: it is nested too deeply"),
    "a list": (b"[]", "it: must be a table, not a list"),
    "a number of 5000 digits": (
        b'{"schema":1,"fleet":"a","generation":' + b"9" * 5000 + b"}",
        "it: is not JSON",
    ),
    "twice": (
        b'{"schema":1,"fleet":"a","generation":1,"generation":9}',
        "a key appears twice in one object",
    ),
    "newer": (written(schema=2), "it: schema: is 2, this version knows 1"),
    "no generation": (written(generation=None), 'missing key "generation"'),
    "generation 0": (written(generation=0), "must be between 1 and"),
    "huge generation": (written(generation=1 << 53), "must be between 1 and"),
    "true": (written(generation=True), "must be an integer, not true"),
    "text": (written(generation="7"), 'must be an integer, not "7"'),
    "unknown key": (written(applicatons=[]), "it: applicatons: unknown key"),
    "no zone": (written(expires="2030-01-31T00:00:00"), "must be a time like"),
    "no time": (written(expires="soon"), "must be a time like"),
    "at the end of time": (written(expires="9999-12-31T23:59:59-23:59"), "must be a time like"),
    "fleet": (written(fleet="../a"), "is not a name"),
}


@pytest.mark.parametrize(("data", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_document_is_refused_as_a_whole(data: bytes, message: str) -> None:
    with pytest.raises(BundleError, match=re.escape(message)):
        document.read(data, "it")


WRONG: Mapping[str, tuple[dict[str, Any], str]] = {
    "a path": ({"path": "/etc"}, "path: unknown key"),
    "no reference": ({"reference": "thermo:1"}, "names no registry"),
    "a digest with ../": ({"reference": "r.example/a@sha256:../x"}, "is not a digest"),
    "a name with ../": ({"name": "../x"}, "is not a name"),
    "a mount with ..": ({"mount": "/a/../b"}, "is not a part of a mount"),
    "a mount of bytes": ({"mount": "/a\r\nX: y"}, "is not a part of a mount"),
    "a credential with /": (
        {"variables_credentials": {"key": "../../etc/shadow"}},
        "is not the name of a credential",
    ),
    "both": (
        {"variables": {"key": "x"}, "variables_credentials": {"key": "k"}},
        "has a value in variables already",
    ),
    "a variable": ({"variables": {"Not-One": "x"}}, "is not a variable name"),
    "lone surrogate": ({"variables": {"a": "\ud800"}}, "characters that are not Unicode"),
    "an option": ({"component": {"web": {"memry": "1MiB"}}}, "component.web.memry: unknown key"),
    "much memory": ({"component": {"web": {"memory": "1TiB"}}}, "must be between"),
    "canary": ({"rollout": {"canary": 101, "soak": "1m"}}, "must be between 0 and 100, not 101"),
    "no soak": ({"rollout": {"canary": 1}}, 'missing key "soak"'),
    "for ever": ({"rollout": {"soak": "9999d"}}, "must be between"),
    "no value": ({"select": {"labels": {"site": []}}}, "names no value"),
    "an escape": ({"select": {"names": ["\x1b[2J"]}}, "must be the name of a node"),
    "an escape in a label": (
        {"select": {"labels": {"a": "\x1b[2J"}}},
        "characters that can be printed",
    ),
    "no name": ({"select": {"names": [""]}}, "must be the name of a node"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_a_hostile_application_is_refused_with_its_place(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BundleError, match=re.escape(message)):
        document.read(written(applications=[THERMO | changes]), "it")


FULL = json.dumps(
    {
        "schema": 1,
        "fleet": "site-a",
        "generation": 7,
        "expires": "2030-01-31T00:00:00Z",
        "applications": [
            THERMO
            | {
                "mount": {"path": "/t", "host": "thermo.local"},
                "variables": {"unit": "C"},
                "variables_credentials": {"key": "thermo-key"},
                "component": {"web": {"memory": "32MiB", "trigger": {"x": {"retries": 3}}}},
                "select": {"names": ["shop-*"], "labels": {"site": ["a"]}},
                "rollout": {"canary": 10, "nodes": ["pi-lab"], "soak": "10m"},
            }
        ],
    }
)
odd = st.sampled_from(
    ["null", "true", "-1", "1e999", "[]", "{}", '"\\ud800"', '""', '"9999-99-99T00:00:00Z"', "0.5"]
)


@given(st.data())
@settings(max_examples=500)
def test_whatever_stands_in_a_document_it_is_read_or_refused(data: st.DataObject) -> None:
    """Each value may be another, and each byte."""
    values = list(re.finditer(r'(?<=: )("[^"]*"|\d+)|(?<=\[)"[^"]*"', FULL))
    found = data.draw(st.sampled_from(values))
    text = f"{FULL[: found.start()]}{data.draw(odd)}{FULL[found.end() :]}".encode()
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(text) - 1))
        text = text[:at] + data.draw(st.binary(max_size=3)) + text[at + 1 :]
    try:
        read = document.read(text, "it")
    except BundleError:
        return
    assert document.read(read.to_bytes(), "it") == read


def test_a_document_has_a_limit() -> None:
    with pytest.raises(BundleError, match="has more than"):
        document.read(b" " * (document.MAX_DOCUMENT + 1), "it")
    many = [{"name": "a"}] * (document.MAX_TARGETS + 1)
    with pytest.raises(BundleError, match="more than 20000 entries"):
        document.read(written(applications=many), "it")


# Selection

names = st.text("ab-", min_size=1, max_size=8)
globs = st.text("ab-*", min_size=1, max_size=6)
labels = st.dictionaries(st.sampled_from("kl"), st.sampled_from("xyz"))
wanted_labels = st.dictionaries(
    st.sampled_from("kl"), st.lists(st.sampled_from("xyz"), min_size=1).map(tuple)
)
selectors = st.builds(Selector, names=st.lists(globs, max_size=2).map(tuple), labels=wanted_labels)
nodes = st.builds(lambda name, labels: Node(name=name, labels=labels), names, labels)


@given(selectors, nodes)
def test_a_selector_means_what_a_slow_reading_of_it_says(select: Selector, node: Node) -> None:
    named = not select.names or any(
        re.fullmatch(".*".join(map(re.escape, glob.split("*"))), node.name) for glob in select.names
    )
    labelled = all(node.labels.get(k) in select.labels[k] for k in select.labels)
    assert fits(select, node) == (named and labelled)


def test_a_pattern_costs_no_more_than_it_is_long() -> None:
    assert not fits(Selector(("*a" * 120,)), Node(name="a" * 119 + "b" * 100_000))


@given(st.lists(st.builds(target, st.sampled_from("ab"), select=selectors)), nodes)
def test_the_first_that_selects_a_node_counts(targets: list[Target], node: Node) -> None:
    found = selected(Document("f", 1, tuple(targets)), node)
    for name in "ab":
        fitting = [t for t in targets if t.name == name and fits(t.select, node)]
        assert found.get(name) is (fitting[0] if fitting else None)


# Canaries


@given(st.integers(0, 100), st.integers(0, 100), names)
def test_more_canaries_are_those_there_were_and_others(few: int, many: int, node: str) -> None:
    few, many = sorted((few, many))
    assert is_canary(Rollout(many), "x", node) or not is_canary(Rollout(few), "x", node)
    assert is_canary(Rollout(100), "x", node)
    assert not is_canary(Rollout(0), "x", node)
    assert is_canary(Rollout(0, (node,)), "x", node)


def test_canaries_are_the_share_that_was_asked_for() -> None:
    nodes = [f"shop-{number}" for number in range(10_000)]
    for percent in (1, 10, 50, 90):
        found = sum(is_canary(Rollout(percent), "thermo", node) for node in nodes)
        assert abs(found - percent * 100) < 300, percent  # six standard deviations


def test_other_applications_have_other_canaries() -> None:
    nodes = [f"shop-{number}" for number in range(1000)]
    first, second = (
        {n for n in nodes if is_canary(Rollout(10), name, n)} for name in ("thermo", "report")
    )
    assert len(first & second) < len(first) / 2


def test_canaries_stay_what_they_are_between_versions_of_edge() -> None:
    assert [f"{share('thermo', node):.6f}" for node in ("pi", "shop-1", "shop-2")] == [
        "0.741565",
        "0.105482",
        "0.584424",
    ]


# From one generation to the next

NODE = Node(name="pi")  # a canary from 75 % on
SLOW = Rollout(soak=100.0)


def after(known: State | None, *targets: Target, now: float, generation: int) -> State:
    return progress.advance(
        known,
        Document("site-a", generation, targets),
        reference="r.example/fleet:1",
        manifest=MANIFEST,
        node=NODE,
        now=now,
    )


def running(known: State, now: float, node: Node = NODE) -> dict[str, str | None]:
    """What a node has; None where it waits for its first version."""
    wanted = progress.now_wanted(known, node, now, soak=60.0).wanted
    return {w.entry.name: None if w.not_before else w.entry.reference for w in wanted}


def test_a_node_that_has_nothing_waits_for_nobody() -> None:
    first = after(None, target(rollout=SLOW), now=0, generation=5)
    assert running(first, 0) == {"thermo": "registry.example/thermo:1"}


def test_others_keep_what_they_have_until_the_soak_time_has_passed() -> None:
    first = after(None, target(), now=0, generation=1)
    second = after(first, target(version=2, rollout=SLOW), now=1000, generation=2)
    assert running(second, 1099) == {"thermo": "registry.example/thermo:1"}
    assert running(second, 1100) == {"thermo": "registry.example/thermo:2"}
    assert progress.now_wanted(second, NODE, 1000, 60).next_change == 1100
    assert progress.now_wanted(second, NODE, 1100, 60).next_change is None


def test_a_canary_takes_it_at_once_and_watches_it_for_as_long_as_the_others_wait() -> None:
    first = after(None, target(), now=0, generation=1)
    second = after(first, target(version=2, rollout=Rollout(75, (), 100)), now=0, generation=2)
    (wanted,) = progress.now_wanted(second, NODE, 0, soak=60).wanted
    assert (wanted.entry.reference, wanted.soak) == ("registry.example/thermo:2", 100)


def test_a_new_application_is_waited_for_too() -> None:
    first = after(None, target(), now=0, generation=1)
    second = after(first, target(), target("report", rollout=SLOW), now=50, generation=2)
    assert running(second, 149) == {"thermo": "registry.example/thermo:1", "report": None}
    assert running(second, 150)["report"] == "registry.example/report:1"
    (waiting,) = (w for w in progress.now_wanted(second, NODE, 50, 60).wanted if w.not_before)
    assert waiting.not_before == 150


def test_what_is_removed_is_removed_at_once() -> None:
    first = after(None, target(), target("report"), now=0, generation=1)
    assert set(running(after(first, target(), now=0, generation=2), 0)) == {"thermo"}


def test_the_wait_does_not_begin_anew_when_something_else_changes() -> None:
    first = after(None, target(), now=0, generation=1)
    second = after(first, target(version=2, rollout=SLOW), now=0, generation=2)
    third = after(second, target(version=2, rollout=SLOW), target("report"), now=90, generation=3)
    assert running(third, 99)["thermo"] == "registry.example/thermo:1"
    assert running(third, 100)["thermo"] == "registry.example/thermo:2"


def test_a_third_version_while_the_second_is_waited_for_begins_anew_from_the_first() -> None:
    first = after(None, target(), now=0, generation=1)
    second = after(first, target(version=2, rollout=SLOW), now=0, generation=2)
    third = after(second, target(version=3, rollout=SLOW), now=90, generation=3)
    assert running(third, 150) == {"thermo": "registry.example/thermo:1"}
    assert running(third, 190) == {"thermo": "registry.example/thermo:3"}


def test_going_back_while_others_wait_leaves_them_what_they_have() -> None:
    first = after(None, target(), now=0, generation=1)
    second = after(first, target(version=2, rollout=SLOW), now=0, generation=2)
    third = after(second, target(rollout=SLOW), now=50, generation=3)
    assert not third.waiting
    assert running(third, 50) == {"thermo": "registry.example/thermo:1"}


def test_a_rollout_that_is_ended_lets_everybody_have_it() -> None:
    first = after(None, target(), now=0, generation=1)
    second = after(first, target(version=2, rollout=SLOW), now=0, generation=2)
    third = after(second, target(version=2), now=10, generation=3)
    assert running(third, 10) == {"thermo": "registry.example/thermo:2"}


def test_what_was_waited_for_long_enough_is_what_a_node_has() -> None:
    first = after(None, target(), now=0, generation=1)
    second = after(first, target(version=2, rollout=SLOW), now=0, generation=2)
    third = after(second, target(version=3, rollout=SLOW), now=500, generation=3)
    assert running(third, 599) == {"thermo": "registry.example/thermo:2"}


def test_another_document_begins_anew() -> None:
    first = after(None, target(), now=0, generation=9)
    other = replace(first, reference="r.example/other:1")
    second = after(other, target(version=2, rollout=SLOW), now=0, generation=1)
    assert running(second, 0) == {"thermo": "registry.example/thermo:2"}


steps = st.lists(
    st.tuples(
        st.integers(0, 60),  # seconds since the one before
        st.lists(
            st.builds(
                target,
                st.sampled_from(("thermo", "report")),
                st.integers(1, 3),
                rollout=st.none()
                | st.builds(Rollout, st.sampled_from((0, 74, 75, 100)), st.just(()), st.just(50.0)),
            ),
            max_size=2,
            unique_by=lambda t: t.name,
        ),
    ),
    min_size=1,
    max_size=8,
)


@given(steps)
@settings(max_examples=300)
def test_no_node_but_a_canary_runs_what_it_has_known_for_less_than_the_soak_time(
    steps: list[tuple[int, list[Target]]],
) -> None:
    """A slow oracle: since when the newest document has always said the same of an application."""
    known: State | None = None
    now, since = 1000.0, {}
    had: dict[str, str | None] = {}
    for generation, (passed, targets) in enumerate(steps, 1):
        now += passed
        had = running(known, now) if known else {}
        known = after(known, *targets, now=now, generation=generation)
        since = {
            t.name: since[t.name]
            if since.get(t.name, ("",))[0] == t.entry.reference
            else (t.entry.reference, now)
            for t in targets
        }
        for later in (now, now + 49, now + 50, now + 1000):
            found = running(known, later)
            assert set(found) == {t.name for t in targets}
            for t in targets:
                first = generation == 1
                free = t.rollout is None or is_canary(t.rollout, t.name, NODE.name)
                if free or first or later - since[t.name][1] >= 50:
                    assert found[t.name] == t.entry.reference
                elif later == now:
                    assert found[t.name] in (had.get(t.name), t.entry.reference)
                    if had.get(t.name) != t.entry.reference:
                        assert found[t.name] == had.get(t.name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generation": 6}, "is generation 6, this node has seen 7 already"),
        ({"targets": ()}, "is generation 7, as which this node has seen another document"),
        ({"fleet": "b", "generation": 8}, 'is of the fleet "b", this node follows "site-a"'),
    ],
)
def test_what_must_not_follow_does_not(changes: dict[str, Any], message: str) -> None:
    known = after(None, target(), now=0, generation=7)
    with pytest.raises(BundleError, match=re.escape(message)):
        progress.check_newer(known, replace(known.document, **changes))


def test_the_same_and_a_newer_document_may_follow() -> None:
    known = after(None, target(), now=0, generation=7)
    progress.check_newer(known, known.document)
    progress.check_newer(known, replace(known.document, generation=8, targets=()))


# What is kept


def test_the_state_is_read_back_as_it_was(tmp_path: Path) -> None:
    full = document.read(
        written(
            applications=[
                THERMO
                | {
                    "variables": {"name": "Küche ☕" * 100},
                    "component": {"web": {"memory": "32MiB"}},
                    "rollout": {"canary": 1, "soak": "1h"},
                }
            ]
        ),
        "it",
    )
    waiting = {"thermo": Waiting(12, target()), "report": Waiting(13)}
    known = State("r.example/fleet:1", full, MANIFEST, 11, waiting)
    state.save(tmp_path / "fleet.json", known)
    assert state.load(tmp_path / "fleet.json") == known
    assert (tmp_path / "fleet.json").stat().st_mode & 0o777 == 0o600


def test_a_state_of_a_newer_version_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "fleet.json").write_text('{"schema": 2}')
    with pytest.raises(EdgeError, match="has schema 2, this version knows 1") as caught:
        state.load(tmp_path / "fleet.json")
    assert not isinstance(caught.value, BundleError)
    assert "restore a backup" in (caught.value.hint or "")


# fleet.toml


def draft(path: Path, text: str) -> author.Draft:
    path.write_text(text)
    return author.load(path, now=1_700_000_000.0)


TOML = """
fleet = "site-a"
[[application]]
name = "thermo"
reference = "registry.example/thermo:1"
rollout = { canary = 10, soak = "10m" }
[application.component.web]
memory = "32MiB"
[[application]]
name = "report"
reference = "registry.example/report:1"
"""


def test_a_toml_becomes_a_document(tmp_path: Path) -> None:
    found = draft(tmp_path / "fleet.toml", f'expires = "90d"\n{TOML}').document
    assert [t.name for t in found.targets] == ["thermo", "report"]
    assert found.expires == datetime.fromtimestamp(1_700_000_000, UTC) + timedelta(days=90)
    assert document.read(found.to_bytes(), "it") == found
    dated = draft(tmp_path / "fleet.toml", f"expires = 2030-01-31T00:00:00Z\n{TOML}").document
    assert dated.expires == datetime(2030, 1, 31, tzinfo=UTC)


def test_all_mistakes_are_told_at_once_each_once(tmp_path: Path) -> None:
    text = TOML.replace("fleet =", "flet =").replace('"32MiB"', "3").replace("canary = 10", "x = 1")
    with pytest.raises(ConfigError) as caught:
        draft(tmp_path / "fleet.toml", f"generation = 0\n{text}")
    prefix = f"{tmp_path}/fleet.toml: "
    lines = sorted(line.removeprefix(prefix) for line in caught.value.args[0].split("\n"))
    assert lines[0].endswith(' (write "3B")')
    assert [line.partition(" (")[0] for line in lines] == [
        'application[0].component.web.memory: must be a size like "64MiB", not 3',
        "application[0].rollout.x: unknown key",
        "flet: unknown key",
        f"generation: must be between 1 and {(1 << 53) - 1}, not 0",
        'missing key "fleet"',
    ]


def test_generations_count_themselves(tmp_path: Path) -> None:
    first = draft(tmp_path / "fleet.toml", TOML)
    known = author.numbered(first, None)
    assert known is not None
    assert known.generation == 1
    assert author.numbered(first, known) is None, "it says the same"
    other = draft(tmp_path / "fleet.toml", TOML.replace("thermo:1", "thermo:2"))
    following = author.numbered(other, known)
    assert following is not None
    assert following.generation == 2
    chosen = draft(tmp_path / "fleet.toml", f"generation = 1\n{TOML}")
    with pytest.raises(ConfigError, match="generation: is 1, there is 1 already"):
        author.numbered(chosen, known)
    foreign = draft(tmp_path / "fleet.toml", TOML.replace("site-a", "site-b"))
    with pytest.raises(ConfigError, match='is "site-b", there is a document of "site-a"'):
        author.numbered(foreign, known)


@pytest.mark.parametrize("follow_tags", [False, True])
async def test_all_nodes_get_the_same_digest(tmp_path: Path, follow_tags: bool) -> None:
    asked: list[str] = []

    async def resolve(reference: Reference) -> Digest:
        asked.append(str(reference))
        return MANIFEST

    document = draft(tmp_path / "fleet.toml", TOML).document
    found = await author.pinned(document, resolve, follow_tags=follow_tags)
    followed = "registry.example/report:1"
    assert [t.entry.reference for t in found.targets] == [
        f"registry.example/thermo:1@{MANIFEST}",
        followed if follow_tags else f"{followed}@{MANIFEST}",
    ]
    assert asked == ["registry.example/thermo:1", followed][: 1 if follow_tags else 2]
