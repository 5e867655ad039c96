"""Templates, variables, names, durations and sizes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.application.names import kebab, label, variable_name
from edge.application.templates import Template, Variable, resolve
from edge.application.units import duration, show_about, show_duration, show_size, size
from edge.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "names", "rendered"),
    [
        ("", (), ""),
        ("a", (), "a"),
        ("}} { }", (), "}} { }"),
        ("a-{{ x }}-b", ("x",), "a-1-b"),
        ("{{x}}{{   y }}", ("x", "y"), "12"),
        ("{{ x }} {{ x }}", ("x", "x"), "1 1"),
        ("{{ x }}}}", ("x",), "1}}"),
    ],
)
def test_expressions_are_replaced(text: str, names: tuple[str, ...], rendered: str) -> None:
    template = Template.parse(text)
    assert template.names == names
    assert template.render({"x": "1", "y": "2"}) == rendered


def test_an_expression_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match="unmatched"):
        Template.parse("{{ matched }} {{ unmatched")


def test_a_value_is_not_a_template_itself() -> None:
    assert Template.parse("{{ a }}").render({"a": "{{ a }}"}) == "{{ a }}"


words = st.from_regex(r"[a-z][a-z0-9]{0,4}", fullmatch=True)
literals = st.text(max_size=8).filter(lambda t: "{" not in t and "}" not in t)


@given(st.lists(st.tuples(literals, words)), literals)
def test_a_template_is_read_back_from_what_it_shows(parts: list[tuple[str, str]], end: str) -> None:
    text = "".join(f"{literal}{{{{{name}}}}}" for literal, name in parts) + end
    template = Template.parse(text)
    assert Template.parse(str(template)) == template
    values = {name: name.upper() for _, name in parts}
    assert template.render(values) == "".join(t + n.upper() for t, n in parts) + end


DECLARED = {"host": Variable("localhost"), "token": Variable(secret=True), "empty": Variable("")}


def test_given_values_come_before_defaults() -> None:
    assert resolve(DECLARED, {"token": "t"}) == {"host": "localhost", "token": "t", "empty": ""}
    assert resolve(DECLARED, {"token": "", "host": "h"})["host"] == "h"


def test_a_required_variable_needs_a_value() -> None:
    with pytest.raises(ConfigError, match="variable token: required") as caught:
        resolve(DECLARED, {})
    assert caught.value.hint == "give one with --variable token=…"


def test_a_value_for_no_variable_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"variable tokn: .* no such variable") as caught:
        resolve(DECLARED, {"tokn": "t"})
    assert caught.value.hint == 'did you mean "token"?'


@pytest.mark.parametrize("text", ["a", "a-b", "abc-d1-e", "ABC-d", "a1b2"])
def test_kebab_case(text: str) -> None:
    assert kebab(text) == text


@pytest.mark.parametrize(
    "text", ["", "-", "a-", "-a", "a--b", "1a", "a_b", "aB", "a.b", "ä", "a\n"]
)
def test_not_kebab_case(text: str) -> None:
    with pytest.raises(ValueError, match="not a component id"):
        kebab(text)


def test_labels_may_be_kebab_or_snake_but_not_both() -> None:
    assert [label(text) for text in ("a-b", "a_b")] == ["a-b", "a_b"]
    with pytest.raises(ValueError, match="not a label"):
        label("a-b_c")


@pytest.mark.parametrize("text", ["a", "api_token", "a1_2b", "x9"])
def test_variable_names(text: str) -> None:
    assert variable_name(text) == text


@pytest.mark.parametrize("text", ["", "_a", "a_", "a__b", "A", "1a", "a-b", "ä", "a\n"])
def test_not_variable_names(text: str) -> None:
    with pytest.raises(ValueError, match="not a variable name"):
        variable_name(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("3s", 3), ("500ms", 0.5), ("2m", 120), ("1h", 3600), ("1.5s", 1.5), ("1d", 86400)],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    ["", "30", "s", "-1s", "1 s", "1S", "1min", "1e3s", "٣s", "1s\n", "9999999999s", "1..5s"],
)
def test_not_durations(text: str) -> None:
    with pytest.raises(ValueError, match='must be a duration like "30s"'):
        duration(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("1B", 1),
        ("64MiB", 64 << 20),
        ("1GB", 10**9),
        ("1kB", 1000),
        ("1KB", 1000),
        ("1KiB", 1024),
        ("1.5KiB", 1536),
        ("2TiB", 2 << 40),
    ],
)
def test_sizes(text: str, count: int) -> None:
    assert size(text) == count


@pytest.mark.parametrize(
    "text", ["", "64", "MiB", "-1B", "1 B", "1mb", "1kiB", "1M", "1Mib", "1B\n"]
)
def test_not_sizes(text: str) -> None:
    with pytest.raises(ValueError, match='must be a size like "64MiB"'):
        size(text)


@given(st.integers(0, 1 << 45))
def test_a_size_is_read_back_from_what_it_shows(number: int) -> None:
    assert size(show_size(number)) == number


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0B"), (2500, "2500B"), (4 << 20, "4MiB"), (18539578, "17.7MiB"), (3 << 40, "3TiB")],
)
def test_sizes_are_shown_as_people_want_to_know_them(number: int, shown: str) -> None:
    assert show_about(number) == shown


@given(st.integers(0, 10**7))
def test_a_duration_is_read_back_from_what_it_shows(seconds: int) -> None:
    assert duration(show_duration(float(seconds))) == seconds


@given(st.text(max_size=12))
def test_any_text_is_a_quantity_or_refused(text: str) -> None:
    for parse in (duration, size):
        try:
            assert parse(text) >= 0
        except ValueError:
            pass
