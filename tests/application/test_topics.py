"""Topics, filters, and topics made of other topics."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.application.topics import Filter, TopicTemplate, check_topic


@pytest.mark.parametrize(
    "text", ["a", "a/b", "/", "+", "#", "+/+", "a/#", "a/+/b", "$SYS/#", "ä/✓"]
)
def test_filters(text: str) -> None:
    assert Filter.parse(text).subscription == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a topic filter is not empty"),
        ("a/#/b", '"a/#/b": "#" is only possible at the end'),
        ("a#", '"a#": "#" stands alone, after the last "/"'),
        ("a+/b", '"a+/b": "+" stands for a whole level'),
        ("a\0b", "a topic filter has no control characters"),
        ("a\nb", "a topic filter has no control characters"),
        ("\ud800", "a topic filter consists of valid characters"),
        ("x" * 65_536, "a topic filter has at most 65535 bytes, not 65536"),
        ("$share/g", "a shared subscription is written $share/GROUP/FILTER"),
        ("$share/g/", "a shared subscription is written $share/GROUP/FILTER"),
        ("$share//a", '"" is no name of a group: it has no "/", "+" or "#"'),
        ("$share/a+/b", '"a+" is no name of a group: it has no "/", "+" or "#"'),
        ("$share/g/a#", '"a#": "#" stands alone, after the last "/"'),
    ],
)
def test_malformed_filters_say_why(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        Filter.parse(text)
    assert str(caught.value) == message


def test_a_shared_filter_has_a_group() -> None:
    shared = Filter.parse("$share/g/a/+")
    assert (shared.share, shared.text, shared.subscription) == ("g", "a/+", "$share/g/a/+")
    assert shared.matches("a/b")


@pytest.mark.parametrize(
    ("filter", "topic", "matches"),
    [
        # examples of the specification, MQTT 5.0 §4.7.1
        ("sport/tennis/player1/#", "sport/tennis/player1", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
        ("sport/#", "sport", True),
        ("sport/tennis/+", "sport/tennis/player1", True),
        ("sport/tennis/+", "sport/tennis/player1/ranking", False),
        ("sport/+", "sport", False),
        ("sport/+", "sport/", True),
        ("+/+", "/finance", True),
        ("/+", "/finance", True),
        ("+", "/finance", False),
        ("#", "$SYS/monitor", False),
        ("+/monitor", "$SYS/monitor", False),
        ("$SYS/#", "$SYS/monitor", True),
        ("$SYS/monitor/+", "$SYS/monitor/Clients", True),
        ("a", "A", False),
    ],
)
def test_which_topics_a_filter_selects(filter: str, topic: str, matches: bool) -> None:
    assert Filter.parse(filter).matches(topic) is matches


levels = st.lists(st.sampled_from(["a", "b", "", "+", "#"]), min_size=1, max_size=4)


@given(levels, st.lists(st.sampled_from(["a", "b", ""]), min_size=1, max_size=4))
def test_matching_agrees_with_its_definition(filter: list[str], topic: list[str]) -> None:
    try:
        parsed = Filter.parse("/".join(filter))
    except ValueError:
        return
    if not "/".join(topic):
        return

    def selects(f: list[str], t: list[str]) -> bool:
        if f[:1] == ["#"]:
            return True
        if not f or not t:
            return not f and not t
        return f[0] in ("+", t[0]) and selects(f[1:], t[1:])

    assert parsed.matches("/".join(topic)) == selects(filter, topic)


@pytest.mark.parametrize("topic", ["", "a/+", "#", "$SYS/x", "a\0", "x" * 65_536])
def test_what_may_not_be_published_to(topic: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        check_topic(topic)


NAMES = {"application": "app", "component": "c++/x"}


@pytest.mark.parametrize(
    ("template", "source", "topic", "rendered"),
    [
        ("out/{topic.1}", "in/+/t", "in/kitchen/t", "out/kitchen"),
        ("{topic}/reply", "in/+", "in/a", "in/a/reply"),
        ("x/{topic.2}-{topic.0}", "in/#", "in/a/b/c", "x/b-in"),
        ("plain", "in/#", "in/a", "plain"),
        ("dead/{application}/{component}", "in/+", "in/a", "dead/app/c---x"),
    ],
)
def test_templates(template: str, source: str, topic: str, rendered: str) -> None:
    assert TopicTemplate.parse(template, NAMES, Filter.parse(source)).render(topic) == rendered


@pytest.mark.parametrize(
    ("template", "source", "message"),
    [
        ("out/{topic.3}", "in/+/t", '{topic.3}: topics of "in/+/t" have 3 levels'),
        (
            "out/{name}",
            "in/+",
            "{name} is not known here: {topic}, {topic.0}, {application}, {component} are",
        ),
        ("out/{topic.-1}", "in/+", "{topic.-1} is not known here"),
        ("out/{", "in/+", "a brace without its partner"),
        ("out/}", "in/+", "a brace without its partner"),
        ("out/+", "in/+", '"out/+" has a wildcard: a topic has none'),
        ("$out/{topic.1}", "in/+", '"$out/x" begins with $'),
        ("", "in/+", "a topic is not empty"),
        ("in/{topic.1}", "in/+", 'what is published there is selected by "in/+" again'),
        ("{topic}/x", "in/#", 'what is published there is selected by "in/#" again'),
        ("anything", "#", 'what is published there is selected by "#" again'),
    ],
)
def test_mistakes_in_templates(template: str, source: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        TopicTemplate.parse(template, NAMES, Filter.parse(source))
    assert str(caught.value).startswith(message)


def test_a_topic_may_be_shorter_than_its_filter_allows() -> None:
    template = TopicTemplate.parse("out/{topic.2}", NAMES, Filter.parse("in/#"))
    with pytest.raises(ValueError, match='"in/a" has no level 2'):
        template.render("in/a")


def test_a_topic_of_the_broker_is_never_made() -> None:
    template = TopicTemplate.parse("{topic.1}/x", NAMES, Filter.parse("in/#"))
    with pytest.raises(ValueError, match="begins with"):
        template.render("in/$SYS")
