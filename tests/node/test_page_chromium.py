"""The page of a node in a real browser."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from chromium import Browser, Tab, chromium
from node_lab import Node, application, node

from edge import config
from edge.cli.figures import quantile
from edge.errors import EdgeError
from edge.node.client import NodeClient
from edge.node.page import Page, Shown

Guest = Callable[[str], Path]

LONG = "a-name-that-is-" + "long-" * 8 + "indeed"
PASSWORD = "correct horse battery"
# What would be seen if it were read as anything but text.
HOSTILE = "<img src=x onerror=alert(1)><b>bold</b>"

MANIFEST = """
spin_manifest_version = 2
[application]
name = "{name}"
version = "{version}"
description = "{description}"
[[trigger.http]]
route = "/<b>/..."
component = "guest"
[[trigger.http]]
route = "/..."
component = "guest"
[component.guest]
source = "{wasm}"
description = "{description}"
"""


def write(folder: Path, name: str, wasm: Path, version: str = "1") -> Path:
    place = folder / name
    place.mkdir(exist_ok=True)
    text = MANIFEST.format(name=name, version=version, wasm=wasm, description=HOSTILE)
    (place / "spin.toml").write_text(text)
    return place


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def running(guest: Guest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """With three applications, and a page for this machine."""
    folder = tmp_path_factory.mktemp("node")
    guests = {"thermo": "hello", "printer": "prints", LONG: "hello"}
    apps = [application(n, write(folder, n, guest(w)), f"/{n}") for n, w in guests.items()]
    page = '[page]\nlisten = "127.0.0.1:0"\n'
    with node(folder, "".join(apps) + '[sync]\nsoak = "0s"\n' + page) as started:
        yield started


@pytest.fixture(scope="module")
def url(running: Node) -> str:
    return page_of(running)


def page_of(running: Node) -> str:
    (found,) = json.loads(running.tell("status", "--json"))["page"]
    assert isinstance(found, str)
    return found


# How many took up to one second, up to two, and longer; a share of them.
BUCKETS = (
    ([0, 0, 0], 0.5),
    ([10, 0, 0], 0.5),
    ([0, 10, 0], 0.25),
    ([1, 1, 0], 0.99),
    ([1, 0, 9], 0.99),
)
SUMMARY = "details[data-name=thermo] summary"
ROLLBACK = "details[data-name=thermo] .rollback"
FOCUSED = "document.activeElement"


def visit(tab: Tab, url: str) -> None:
    """Returns when all of it is there, and nothing moves any more."""
    tab.go(url)
    tab.until("document.querySelectorAll('.app').length == 3")
    tab.until("document.getElementById('rate').innerText != '–'")
    tab.until("document.getElementById('foot').innerText && document.querySelector('#log li')")


def test_it_loads_and_asks_nobody_but_its_node(browser: Browser, url: str) -> None:
    with browser.tab() as tab:
        visit(tab, url)
        assert "3 applications, all as wanted" in tab.text("#state")
        assert tab.text("#name") == "lab"
        hosts = {urlsplit(one).netloc for one in tab.asked if not one.startswith("about:")}
        assert hosts == {urlsplit(url).netloc}
        assert tab.mistakes == []
        # Whatever is written into the document is refused, be it by its own scripts.
        tab.run("document.body.setAttribute('style', 'margin-left: 7px')")
        assert tab.run("getComputedStyle(document.body).marginLeft") != "7px"
        refused = "(() => { try { document.body.innerHTML = '<p>'; } catch { return true; } })()"
        assert tab.run(refused) is True


@pytest.mark.parametrize("dark", [False, True])
def test_words_can_be_told_from_what_is_behind_them(
    browser: Browser, url: str, *, dark: bool
) -> None:
    """WCAG 2.2, 1.4.3: a contrast of 4.5."""
    with browser.tab(dark=dark) as tab:
        visit(tab, url)
        worst = tab.run(
            """(() => {
            const style = getComputedStyle(document.documentElement);
            const light = (name) => {
              const hex = style.getPropertyValue(name).trim().slice(1, 7);
              const [r, g, b] = [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255)
                .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
              return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const contrast = (a, b) => {
              const [x, y] = [light(a), light(b)].sort((m, n) => n - m);
              return (x + 0.05) / (y + 0.05);
            };
            const words = ["--ink", "--quiet", "--accent", "--good", "--care", "--bad"];
            const grounds = ["--paper", "--card"];
            return Math.min(...grounds.flatMap((one) => words.map((word) => contrast(word, one))));
            })()"""
        )
        assert worst >= 4.5


def test_what_others_wrote_is_text(browser: Browser, running: Node, url: str) -> None:
    with browser.tab() as tab:
        visit(tab, url)
        assert running.get("/printer/escapes/1")[0] == 200
        shown = "[...document.querySelectorAll('#log .text')].map((one) => one.textContent)"
        tab.until(f"{shown}.includes('<script>alert(1)</script>')")
        tab.click("details[data-name=printer] summary")
        body = tab.text("details[data-name=printer] .body")
        assert HOSTILE in body
        assert "/printer/<b>/..." in body
        assert "http       /<b>/... → guest" in running.tell("apps", "printer")
        assert tab.run("document.querySelectorAll('main b, main img, main script').length") == 0
        assert tab.events("Page.javascriptDialogOpening") == []
        assert tab.mistakes == []


def test_it_can_be_rolled_back_with_a_mouse_and_with_keys(
    browser: Browser, running: Node, url: str, guest: Guest
) -> None:
    first = running.apps()["thermo"]["digest"]
    write(running.folder, "thermo", guest("status"), version="2")
    running.tell("sync", "thermo")
    second = running.apps()["thermo"]["digest"]
    assert first != second
    with browser.tab() as tab:
        visit(tab, url)
        tab.click(SUMMARY)
        tab.click(ROLLBACK)
        text = tab.text("#ask-text")
        assert first[7:19] in text
        assert second[7:19] in text
        tab.press("Escape")
        tab.until("!document.getElementById('ask').open")
        assert running.apps()["thermo"]["digest"] == second, "nothing was confirmed"
        tab.click(ROLLBACK)
        tab.click("#ask .strong")
        tab.until("document.getElementById('said').textContent.includes('serves again')")
        assert running.apps()["thermo"]["digest"] == first
        assert running.get("/thermo/")[1] == b"hello /"
        tab.until("document.getElementById('state').textContent.includes('1 of 3')")
        running.until(lambda: running.count("rollback of 'thermo', asked by the page"))
    running.tell("sync", "--retry", "thermo")
    assert running.apps()["thermo"]["digest"] == second
    with browser.tab() as tab:
        visit(tab, url)
        tab.press("Tab")
        assert tab.run(f"{FOCUSED}.className") == "skip"
        tab.press("Enter")
        _tab_to(tab, f"{FOCUSED}.parentElement?.dataset.name == 'thermo'")
        tab.press("Enter")
        tab.until(f"document.querySelector('{ROLLBACK}')")
        _tab_to(tab, f"{FOCUSED}.className == 'rollback'")
        outline = f"getComputedStyle({FOCUSED}).outlineStyle"
        assert tab.run(outline) == "solid", "where the focus is can be seen"
        tab.press("Enter")
        tab.until("document.getElementById('ask').open")
        tab.until(f"{FOCUSED}.value == 'no'")
        tab.press("Tab")
        tab.press(" ")
        tab.until("document.getElementById('said').textContent.includes('serves again')")
    assert running.apps()["thermo"]["digest"] == first


def _tab_to(tab: Tab, true: str) -> None:
    for _ in range(30):
        tab.press("Tab")
        if tab.run(true):
            return
    raise AssertionError(f"the Tab key never comes to where {true}")


def test_it_fits_a_phone(browser: Browser, url: str) -> None:
    with browser.tab(width=360, height=740, mobile=True) as tab:
        visit(tab, url)
        tab.run("document.querySelectorAll('.app').forEach((one) => (one.open = true))")
        tab.until("document.querySelectorAll('.rollback').length == 3")
        assert tab.run("document.documentElement.scrollWidth") == 360
        tab.until("document.querySelector('.figure').innerText")
        over = """[...document.querySelectorAll('summary, .tiles')].flatMap((one) => {
            const parts = [...one.querySelectorAll('.dot, .title, .figure, .tile')];
            const boxes = parts.map((part) => part.getBoundingClientRect());
            return boxes.filter((a, i) => boxes.slice(i + 1).some((b) =>
                a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom));
        }).length"""
        assert tab.run(over) == 0, "nothing lies over something else"
        small = """[...document.querySelectorAll('button, select, summary')]
            .filter((one) => one.offsetParent && one.getBoundingClientRect().height < 24)
            .map((one) => one.outerHTML)"""
        assert tab.run(small) == [], "WCAG 2.2, 2.5.8: what is touched is 24 pixels high"


def test_everything_that_can_be_pressed_has_a_name(browser: Browser, url: str) -> None:
    with browser.tab() as tab:
        visit(tab, url)
        tab.click(SUMMARY)
        tab.until(f"document.querySelector('{ROLLBACK}')")
        tree = tab.call("Accessibility.getFullAXTree")["nodes"]
        roles = ("button", "combobox", "textbox", "searchbox", "link", "DisclosureTriangle", "log")
        nameless = [
            one for one in tree
            if not one["ignored"] and one["role"]["value"] in roles and not one["name"]["value"]
        ]  # fmt: skip
        assert nameless == []
        headings = [one["name"]["value"] for one in tree if one["role"]["value"] == "heading"]
        assert headings[:3] == ["lab", "Now", "Applications"]


def test_on_the_network_it_asks_for_the_password(browser: Browser, tmp_path: Path) -> None:
    settings = f'[page]\nlisten = "0.0.0.0:0"\npassword = "{PASSWORD}"\n'
    asked = "location.pathname == '/login' && document.getElementById('password')"
    state = "document.getElementById('state')?.textContent"

    def give(password: str) -> None:
        tab.click("#password")
        tab.type(password)
        tab.press("Enter")

    with browser.tab() as tab:
        with node(tmp_path, settings) as guarded:
            tab.go(page_of(guarded).replace("0.0.0.0", "127.0.0.1"))
            tab.until(asked)
            tab.until(f"{FOCUSED}.id == 'password'")
            give("wrong")
            tab.until("document.querySelector('.wrong')?.innerText.includes('not the password')")
            assert tab.run("fetch('/v1/apps').then((answer) => answer.status)") == 401
            give(PASSWORD)
            tab.until(f"{state}?.includes('0 applications')")
            assert tab.run("document.cookie") == "", "no script reads it"
            tab.click("#logout button")
            tab.until(asked)
            assert tab.run("fetch('/v1/apps').then((answer) => answer.status)") == 401
            give(PASSWORD)
            tab.until(f"{state}?.includes('0 applications')")
        # Nor is it silent about a node that has ended.
        tab.until(f"{state} == 'the node does not answer'")


def test_the_page_reckons_as_the_terminal_does(browser: Browser, url: str) -> None:
    calls = ", ".join(f"one.quantile([1, 2], {counts}, {share})" for counts, share in BUCKETS)
    with browser.tab() as tab:
        visit(tab, url)
        found = tab.run(f"import('/assets/figures.js').then((one) => [{calls}].map(String))")
    for (counts, share), text in zip(BUCKETS, found, strict=True):
        ours = quantile([1.0, 2.0], counts, share)
        assert text == "null" if ours is None else float(text.lower()) == pytest.approx(ours)


def test_the_numbers_are_those_of_the_requests_that_were_made(
    browser: Browser, running: Node, url: str
) -> None:
    of_it = f"details[data-name={LONG}]"
    with browser.tab() as tab:
        visit(tab, url)
        tab.click(f"{of_it} summary")
        total, failed = (
            f"Number(document.querySelector('{of_it} tr[data-component] td:nth-child({n})')"
            r".innerText.replace(/\D/g, ''))"
            for n in (6, 7)
        )
        tab.until(f"{total} === 0")
        command = ["wrk", "-t1", "-c4", "-d1s", f"{running.url}/{LONG}/"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        made = re.search(r"(\d+) requests in", done.stdout)
        assert made is not None
        running.until(lambda: not counted(running)["in_flight"])
        outcomes = counted(running)["outcomes"]
        tab.until(f"{total} === {sum(outcomes.values())}")
        # One for each connection was under way when wrk went away.
        assert 0 <= sum(outcomes.values()) - int(made[1]) <= 4
        assert tab.run(failed) == 0
        assert len(tab.run("document.querySelector('.spark .line').getAttribute('points')")) > 1


def counted(running: Node) -> dict[str, Any]:
    """Of the application with the long name."""
    found = asyncio.run(told(running.socket))
    (one,) = (one for one in found["components"] if one["application"] == LONG)
    assert isinstance(one, dict)
    return one


async def told(path: Path) -> dict[str, Any]:
    async with NodeClient(path) as client:
        found = await client.get("/v1/metrics")
        assert isinstance(found, dict)
        return found


# --- a node that says the worst ------------------------------------------------------------------


def described(name: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "mount": {"path": f"/{HOSTILE}", "host": None},
        "state": "failed",
        "reason": HOSTILE,
        "since": "2026-11-23T00:57:00Z",
        "source": HOSTILE,
        "reference": HOSTILE,
        "digest": f"sha256:{'1a' * 32}",
        "previous": f"sha256:{'2b' * 32}",
        **more,
    }


def node_that_lies(apps: list[dict[str, Any]]) -> Shown:
    """What comes from it is what no node would say: names are checked long before."""
    made = {
        "version": HOSTILE,
        "description": HOSTILE,
        "components": [{"name": HOSTILE, "description": HOSTILE}],
        "triggers": [{"type": HOSTILE, "id": HOSTILE, "component": HOSTILE, "on": HOSTILE}],
    }
    peer = {
        "name": HOSTILE, "id": "p", "state": HOSTILE, "reason": HOSTILE, "addresses": [HOSTILE],
        "applications": HOSTILE, "version": HOSTILE,
    }  # fmt: skip
    status = {
        "name": HOSTILE, "version": HOSTILE, "uptime": 1, "fleet": {"name": HOSTILE},
        "notes": [HOSTILE], "listening": [HOSTILE], "last_sync": None,
        "store": {"used": 1, "quota": 2},
    }  # fmt: skip
    counted = {
        "application": HOSTILE, "component": HOSTILE, "outcomes": {"ok": 1, HOSTILE: 2},
        "in_flight": 1, "queued": 0, "latency": {"bounds": [1.0], "counts": [1, 2], "sum": 1.0},
    }  # fmt: skip
    line = {
        "time": "2026-11-23T08:00:00Z", "level": HOSTILE.replace(" ", ""), "message": HOSTILE,
        "application": HOSTILE, "component": HOSTILE, "invocation": HOSTILE,
    }  # fmt: skip

    async def logs(_: web.Request) -> web.Response:
        return web.Response(text=json.dumps(line) + "\n")

    async def fails(_: str) -> Any:
        raise EdgeError(HOSTILE, hint=HOSTILE)

    return Shown(
        {
            "/v1/apps": lambda: apps,
            "/v1/status": lambda: status,
            "/v1/peers": lambda: {"fleet": {}, "peers": [peer]},
            "/v1/metrics": lambda: {
                "at": time.monotonic(), "components": [counted], "node": {"memory": {"rss": 1}},
            },
        },
        (web.get("/v1/logs", logs),),
        lambda name: {**described(name), **made},
        fails,
    )  # fmt: skip


async def shown(shown: Shown, look: Callable[[str], None]) -> None:
    async with Page(config.Page(config.Address("127.0.0.1", 0)), config.Http(), shown) as page:
        await asyncio.to_thread(look, page.urls[0])


async def test_not_even_a_node_gets_anything_but_text_into_it(browser: Browser) -> None:
    def look(url: str) -> None:
        with browser.tab() as tab:
            tab.go(url)
            tab.click(".app summary")
            tab.click(".rollback")
            tab.click("#ask .strong")
            places = (
                "#name", "#about", "#notes", ".app .title", ".why", ".facts", ".texts", ".numbers",
                "#peers", "#log", "#log-application", "#foot", "#said",
            )  # fmt: skip
            for place in places:
                tab.until(f"document.querySelector('{place}')?.textContent.includes('<b>bold')")
            assert tab.run("document.querySelectorAll('body b, main img, body script').length") == 0
            assert tab.events("Page.javascriptDialogOpening") == []
            thrown = tab.events("Runtime.exceptionThrown")
            assert thrown == []

    await shown(node_that_lies([described(HOSTILE)]), look)


async def test_a_thousand_applications_are_found_by_their_names(browser: Browser) -> None:
    apps = [described(f"app-{n}", reason=None, state="live") for n in range(999)]

    def look(url: str) -> None:
        with browser.tab() as tab:
            tab.go(url)
            tab.until("document.querySelectorAll('.app').length == 100")
            assert tab.text("#apps-rest") == "and 900 more"
            assert tab.run("document.querySelector('.app').dataset.name") == "broken"
            tab.click("#filter")
            tab.type("APP-77")
            tab.until("document.querySelectorAll('.app').length == 11")
            tab.type("x")
            tab.until("document.getElementById('apps-rest').innerText == 'none has such a name'")

    await shown(node_that_lies([*apps, described("broken")]), look)
