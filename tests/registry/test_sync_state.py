"""What sync remembers, whom it believes, when it looks: values, without a network."""

from __future__ import annotations

import asyncio
import random
import string
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge import config
from edge.config import ApplicationEntry, Mount, Registry
from edge.errors import BundleError, ConfigError, EdgeError
from edge.registry.digest import Digest
from edge.registry.reference import Reference
from edge.registry.sync import Registries, StateFile
from edge.registry.sync.entries import fingerprint, identity
from edge.registry.sync.pace import Pace
from edge.registry.sync.registries import configured
from edge.registry.sync.state import App, Refusal, State, Version, dump, parse

# --- state ----------------------------------------------------------------------------------------

NAMES = st.text(string.ascii_lowercase + string.digits + "-._", min_size=1, max_size=20)
TEXTS = st.dictionaries(NAMES, st.text(max_size=20), max_size=3)
OPTIONS = st.dictionaries(
    NAMES,
    st.dictionaries(
        NAMES, st.none() | st.integers() | st.booleans() | st.text() | st.lists(st.text())
    ),
    max_size=2,
)
DIGESTS = st.binary(max_size=4).map(Digest.of)
TIMES = st.integers(0, 1 << 40)


@st.composite
def entries(draw: st.DrawFn, name: str) -> ApplicationEntry:
    path = draw(st.booleans())
    return ApplicationEntry(
        name,
        None if path else draw(NAMES),
        Path("/srv") / draw(NAMES) if path else None,
        Mount(draw(st.sampled_from(("/", "/a", "/a/b"))), draw(st.none() | NAMES)),
        draw(TEXTS),
        {key: Path("/etc") / key for key in draw(st.sets(NAMES, max_size=2))},
        draw(TEXTS),
        draw(OPTIONS),
    )


@st.composite
def apps(draw: st.DrawFn, name: str) -> App:
    versions = st.builds(Version, DIGESTS, entries(name), TIMES)
    return App(
        draw(st.none() | versions),
        draw(st.none() | versions),
        tuple(draw(st.lists(versions, max_size=1))),
        tuple(
            Refusal(identity(digest, draw(entries(name))), draw(st.text(max_size=9)), draw(TIMES))
            for digest in draw(st.lists(DIGESTS, max_size=2))
        ),
        draw(st.integers(0, 3)),
        draw(st.booleans()),
    )


@st.composite
def states(draw: st.DrawFn) -> State:
    names = draw(st.sets(NAMES, max_size=4))
    return State(
        {name: draw(entries(name)) for name in names if draw(st.booleans())},
        {name: draw(apps(name)) for name in names},
        frozenset(draw(st.sets(NAMES, max_size=3))),
        frozenset(draw(st.sets(NAMES, max_size=1))),
    )


@settings(max_examples=30)
@given(states())
def test_what_is_written_is_read(state: State) -> None:
    assert parse(dump(state), "apps.json") == state


@settings(max_examples=30)
@given(st.binary(max_size=60) | states().map(dump).flatmap(lambda d: st.just(d[: len(d) // 2])))
def test_what_is_damaged_is_said_to_be(data: bytes) -> None:
    with pytest.raises(BundleError):
        parse(data, "apps.json")


@settings(max_examples=30)
@given(entries("a"), entries("a"))
def test_where_it_comes_from_is_no_part_of_a_configuration(
    one: ApplicationEntry, two: ApplicationEntry
) -> None:
    same = replace(one, reference=two.reference, path=two.path)
    assert fingerprint(one) == fingerprint(same)
    assert (fingerprint(one) == fingerprint(two)) == (replace(same, name="a") == two)


async def test_changes_are_written_together_and_all_of_them_or_none(tmp_path: Path) -> None:
    file = StateFile(tmp_path)
    names = [f"n{number}" for number in range(50)]
    written = []
    write = file._write

    def counted(state: State) -> None:
        written.append(state)
        write(state)

    file._write = counted  # type: ignore[method-assign]
    async with asyncio.TaskGroup() as group:
        for name in names:
            entry = ApplicationEntry(name, "r.example/a:1")
            group.create_task(file.change(lambda state, entry=entry: state.deploy(entry)))
    assert len(written) <= 3
    again = StateFile(tmp_path)
    assert again.load() is None
    assert sorted(again.now.deployed) == sorted(names)

    def fails(state: State) -> None:
        raise EdgeError("no room")

    file._write = fails  # type: ignore[method-assign]
    before = file.now
    with pytest.raises(EdgeError, match="no room"):
        await file.change(lambda state: state.undeploy("n1"))
    assert file.now is before
    await file.change(lambda state: state)  # nothing to write


# --- registries -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("r.example/team/app:1", "r.example/team"),
        ("r.example/team/app/deep:1", "r.example/team/app"),
        ("r.example/teams/app:1", "r.example"),
        ("R.example/team:1", "r.example/team"),
        ("r.example:5000/team/app:1", None),
        ("other.example/team/app:1", None),
    ],
)
def test_the_longest_name_that_fits_counts(reference: str, name: str | None) -> None:
    known = [Registry(n) for n in ("r.example", "r.example/team", "r.example/team/app")]
    if reference == "r.example/team/app:1":
        known.pop()
    found = configured(known, Reference.parse(reference))
    assert (found.name if found else None) == name


async def test_a_password_that_cannot_be_read_is_a_mistake_with_a_place(tmp_path: Path) -> None:
    entry = Registry("r.example", username="ada", password_file=Path("secret"))
    reference = Reference.parse("r.example/app:1")
    async with Registries([entry], credentials=tmp_path) as registries:
        with pytest.raises(ConfigError, match=r'registry\."r\.example"\.password_file') as caught:
            await registries.client(reference)
        assert str(tmp_path / "secret") in caught.value.message
        (tmp_path / "secret").write_text("s3cret\n")
        client = await registries.client(reference)
        assert await registries.client(reference) is client
        assert client._settings["r.example"].password == "s3cret"
        assert "s3cret" not in repr(client._settings)
        registries.update([])
        assert await registries.client(reference) is not client


# --- when -----------------------------------------------------------------------------------------


@given(st.integers(1, 10_000), st.randoms(use_true_random=False))
def test_a_pause_grows_and_ends(failures: int, rng: random.Random) -> None:
    pace = Pace(config.Sync(interval=60, jitter=0.2), rng)
    assert 48 <= pace.look() <= 72
    assert 0 <= pace.undelivered(failures) <= min(60, 2.0 * 2 ** min(failures - 1, 16))
    assert 30 <= pace.bad(failures) <= 3600
