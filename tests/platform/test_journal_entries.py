"""Entries of the journal as journalctl prints them, and which unit's they are."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.platform.entries import Entry, Wanted, of_journal, of_json, of_record
from edge.platform.journalctl import arguments, own_unit


def test_a_line_of_a_guest() -> None:
    entry = of_journal(
        {
            "__REALTIME_TIMESTAMP": "1795421280000001",
            "PRIORITY": "6",
            "MESSAGE": "read [1-2] 31.5",
            "EDGE_LOGGER": "edge.guest",
            "EDGE_APP": "thermo",
            "EDGE_COMPONENT": "read",
            "EDGE_INVOCATION": "1-2",
            "EDGE_STREAM": "stdout",
            "_PID": "7",
        }
    )
    assert entry == Entry(
        1795421280.000001, "info", "31.5", "edge.guest", "thermo", "read", "1-2", "stdout"
    )
    assert of_json(entry.to_json()) == entry


def test_a_line_about_many_invocations() -> None:
    failed = {"MESSAGE": "read failed 9 more times", "EDGE_COMPONENT": "read", "EDGE_COUNT": "9"}
    entry = of_journal({"__REALTIME_TIMESTAMP": "1", **failed})
    assert (entry.message, entry.invocation) == ("failed 9 more times", None)


def test_what_the_service_manager_says() -> None:
    entry = of_journal(
        {"__REALTIME_TIMESTAMP": "1", "SYSLOG_IDENTIFIER": "systemd", "MESSAGE": "Stopped edge."}
    )
    assert (entry.logger, entry.level, entry.component) == ("systemd", "info", None)


@pytest.mark.parametrize(
    ("priority", "level"),
    [
        ("0", "error"),
        ("3", "error"),
        ("4", "warning"),
        ("5", "info"),
        ("7", "debug"),
        ("x", "info"),
    ],
)
def test_priorities_have_names(priority: str, level: str) -> None:
    assert of_journal({"__REALTIME_TIMESTAMP": "1", "PRIORITY": priority}).level == level


def test_fields_that_are_no_text_or_several() -> None:
    """https://systemd.io/JOURNAL_EXPORT_FORMATS: bytes are numbers, and a field may occur twice."""
    fields = {"__REALTIME_TIMESTAMP": "1", "MESSAGE": [104, 105, 255, 10], "EDGE_APP": ["a", "b"]}
    entry = of_journal(fields | {"EDGE_COMPONENT": None, "EDGE_INVOCATION": []})
    assert (entry.message, entry.application) == ("hi\ufffd\n", "a")
    assert (entry.component, entry.invocation) == (None, None)


@given(st.floats(0, 4e9), st.text(), st.none() | st.text())
def test_an_entry_survives_being_told(moment: float, text: str, application: str | None) -> None:
    entry = Entry(moment, "info", text, "x", application)
    told = of_json(entry.to_json())
    assert abs(told.time - moment) < 1e-5
    assert (told.message, told.application) == (text, application)


def test_what_a_later_node_adds_is_left_out() -> None:
    entry = of_json({**Entry(1.0, "info", "x").to_json(), "colour": "red"})
    assert entry == Entry(1.0, "info", "x")


def test_a_record_has_its_level() -> None:
    levels = {10: "debug", 20: "info", 30: "warning", 35: "warning", 40: "error", 50: "error"}
    for number, level in levels.items():
        record = logging.LogRecord("x", number, "f.py", 1, "%d %%", (5,), None)
        assert of_record(record).level == level
        assert of_record(record).message == "5 %"


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("0::/system.slice/edge.service\n", "edge.service"),
        ("3:memory:/x\n1:name=systemd:/system.slice/edge@2.service\n0::/\n", "edge@2.service"),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/edge.service\n", None),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", None),
        ("0::/\n", None),
        ("", None),
    ],
)
def test_a_process_knows_its_unit(text: str, unit: str | None, tmp_path: Path) -> None:
    cgroup = tmp_path / "cgroup"
    cgroup.write_text(text)
    assert own_unit(cgroup) == unit
    assert own_unit(tmp_path / "none") is None


def test_journalctl_is_asked_for_what_is_wanted_only() -> None:
    wanted = Wanted("app", "--component", "1-2", 1795421280.5)
    asked = list(arguments("--edge.service", wanted, lines=None, follow=True))
    assert asked[-3:] == ["EDGE_APP=app", "EDGE_COMPONENT=--component", "EDGE_INVOCATION=1-2"]
    assert {"--unit=--edge.service", "--lines=all", "--follow", "--since=@1795421280.500000"} <= {
        *asked
    }
    plain = list(arguments("edge.service", Wanted(), lines=5, follow=False))
    assert plain == ["--no-pager", "--output=json", "--all", "--unit=edge.service", "--lines=5"]
