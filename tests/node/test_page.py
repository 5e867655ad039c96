"""The page of a node as a server: who is let in, who is not, and what others may do to it."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import pytest
from node_lab import Node, node
from redis_lab import certificate, trusting

from edge import config
from edge.config import Address
from edge.node.page import Page, Shown
from edge.node.page.access import Access
from edge.platform.ends import both_ours

PASSWORD = "correct horse battery"


class Told(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: str


Ask = Callable[..., Told]


def asking(url: str, tls: ssl.SSLContext | None = None) -> Ask:
    """Asks one page, from this process."""
    port = urlsplit(url).port

    def ask(path: str, method: str = "GET", body: str | None = None, **headers: str) -> Told:
        made = {name.replace("_", "-"): value for name, value in headers.items()}
        connection: http.client.HTTPConnection
        if tls is None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        else:
            connection = http.client.HTTPSConnection("localhost", port, timeout=30, context=tls)
        try:
            connection.request(method, path, body, made)
            answer = connection.getresponse()
            return Told(answer.status, dict(answer.getheaders()), answer.read().decode())
        finally:
            connection.close()

    return ask


def page_of(running: Node) -> str:
    (url,) = json.loads(running.tell("status", "--json"))["page"]
    assert isinstance(url, str)
    return url


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Without a password."""
    with node(tmp_path_factory.mktemp("node"), '[page]\nlisten = "127.0.0.1:0"\n') as running:
        yield asking(page_of(running))


class Guarded(NamedTuple):
    ask: Ask
    node: Node


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """On the network, with a password and a certificate."""
    folder = tmp_path_factory.mktemp("guarded")
    cert, key = certificate(folder)
    (folder / "secret").write_text(f"{PASSWORD}\n")
    (folder / "secret").chmod(0o600)
    settings = (
        f'[http]\nlisten = ["127.0.0.1:0"]\ntls_certificate = "{cert}"\ntls_key = "{key}"\n'
        '[page]\nlisten = "0.0.0.0:0"\npassword_file = "secret"\n'
    )
    with node(folder, settings) as running:
        yield Guarded(asking(page_of(running), trusting(cert)), running)


def test_the_page_is_there_for_this_machine(local: Ask) -> None:
    found = local("/")
    assert found.status == 200
    assert "<title>edge</title>" in found.body
    policy = found.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "require-trusted-types-for 'script'" in policy
    assert "unsafe" not in policy
    assert local("/v1/apps").body == "[]"
    assert json.loads(local("/v1/status").body)["name"] == "lab"
    assert json.loads(local("/v1/peers").body)["peers"] == []
    assert "edge_" in local("/metrics").body
    assert local("/assets/main.js").headers["Content-Type"].endswith("/javascript")


def test_only_its_own_files_are_served(local: Ask) -> None:
    for path in ("/assets/../server.py", "/assets/%2e%2e/server.py", "/assets/index.html", "/x"):
        assert local(path).status == 404


def test_a_stranger_s_name_for_this_machine_is_refused(local: Ask) -> None:
    """DNS rebinding."""
    assert local("/", Host="localhost:1").status == 200
    assert local("/", Host="[::1]:1").status == 200
    for name in (
        "evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.7",
        "localhost.evil.example",
        "[::1",
        "",
    ):
        assert local("/", Host=name).status == 421
        assert local("/v1/apps", Host=name).status == 421


def test_a_stranger_s_page_may_not_ask(local: Ask) -> None:
    body, kind = '{"name": "x"}', {"content_type": "application/json"}
    known = local("/v1/rollback", "POST", body, **kind)
    assert (known.status, "is not on this node" in known.body) == (400, True)
    for strange in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://[::1"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ):
        assert local("/v1/rollback", "POST", body, **kind, **strange).status == 403
        assert local("/v1/logs", **strange).status == 403
    # What a form can send without being asked for permission.
    for sent in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert local("/v1/rollback", "POST", body, content_type=sent).status == 415


def test_who_is_on_the_network_must_log_in(guarded: Guarded) -> None:
    ask, running = guarded
    assert page_of(running).startswith("https://0.0.0.0:")
    sent_away = ask("/")
    assert (sent_away.status, sent_away.headers["Location"]) == (303, "/login")
    for path in ("/v1/apps", "/v1/apps/x", "/v1/status", "/v1/peers", "/v1/logs", "/v1/page"):
        assert ask(path).status == 401
        assert ask(path, Cookie="edge-page=guessed").status == 401
    for path in ("/assets/../v1/apps", "/assets/%2e%2e/v1/apps", "/login/../v1/apps", "//v1/apps"):
        assert ask(path).status in (401, 404)
    sent = {"content_type": "application/json"}
    assert ask("/v1/rollback", "POST", '{"name": "x"}', **sent).status == 401
    form = {"content_type": "application/x-www-form-urlencoded"}
    assert ask("/login").status == 200
    wrong = ask("/login", "POST", "password=wrong", **form)
    assert (wrong.status, "That is not the password" in wrong.body) == (403, True)
    given = ask("/login", "POST", f"password={PASSWORD.replace(' ', '+')}", **form)
    cookie = given.headers["Set-Cookie"]
    for attribute in ("HttpOnly", "SameSite=Strict", "Secure", "Path=/"):
        assert attribute in cookie
    token = {"Cookie": cookie.partition(";")[0]}
    assert ask("/v1/apps", **token).body == "[]"
    assert json.loads(ask("/v1/page", **token).body) == {"login": True}
    # Scrapers know no cookies.
    assert ask("/metrics").headers["WWW-Authenticate"].startswith("Basic")
    basic = {"Authorization": "Basic " + b64encode(f"any:{PASSWORD}".encode()).decode()}
    assert "edge_" in ask("/metrics", **basic).body
    assert ask("/v1/apps", **basic).status == 401
    assert ask("/metrics", Authorization="Basic " + b64encode(b"any:wrong").decode()).status == 401
    assert ask("/metrics", Authorization="Basic !").status == 401
    assert ask("/logout", "POST", Origin="https://evil.example", **token).status == 403
    assert ask("/logout", "POST", **token).status == 303
    assert ask("/v1/apps", **token).status == 401
    running.until(lambda: running.count("the page: a wrong password from 127.0.0.1"))
    assert running.count("the page: login from 127.0.0.1")
    assert PASSWORD not in running.text


SHOWN = Shown({"/v1/apps": list}, (), dict, lambda _: None)  # type: ignore[arg-type, return-value]


def test_prometheus_gets_in_with_the_password(guarded: Guarded) -> None:
    def by(password: str) -> str:
        return "Basic " + base64.b64encode(f"edge:{password}".encode()).decode()

    refused = guarded.ask("/metrics")
    assert (refused.status, refused.headers["WWW-Authenticate"][:5]) == (401, "Basic")
    assert guarded.ask("/metrics", Authorization=by("guessed")).status == 401
    answer = guarded.ask("/metrics", Authorization=by(PASSWORD))
    assert answer.status == 200
    assert "\nedge_applications 0.0\n" in answer.body
    assert guarded.ask("/v1/metrics", Authorization=by(PASSWORD)).status == 401, "nothing else"


async def test_passwords_cannot_be_tried_without_end() -> None:
    known = config.Page(Address("127.0.0.1", 0), PASSWORD)
    async with Page(known, config.Http(), SHOWN) as page, aiohttp.ClientSession() as client:

        async def tried(password: str) -> tuple[int, str]:
            form = {"password": password}
            async with client.post(f"{page.urls[0]}/login", data=form) as answer:
                return answer.status, answer.headers.get("Retry-After", "")

        for _ in range(5):
            assert await tried("wrong") == (403, "")
        for word in ("wrong", PASSWORD):
            status, pause = await tried(word)
            assert status == 429
            assert 0 < int(pause) <= 30


async def test_a_port_that_is_taken_is_a_note() -> None:
    """It keeps no node from serving."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = config.Page(Address("127.0.0.1", port))
        async with Page(settings, config.Http(), SHOWN) as page:
            assert page.urls == ()
            assert page.notes[0].startswith(f"no page: page.listen: 127.0.0.1:{port}: address al")


async def test_a_guest_gets_no_answer_from_its_own_node() -> None:
    """Guests connect from the process of the node."""
    async with Page(config.Page(Address("127.0.0.1", 0)), config.Http(), SHOWN) as page:
        (url,) = page.urls
        async with aiohttp.ClientSession() as client:
            for path in ("/", "/v1/apps", "/assets/main.js"):
                async with client.get(url + path) as answer:
                    assert answer.status == 403
    known = config.Page(Address("127.0.0.1", 0), PASSWORD)
    async with (
        Page(known, config.Http(), SHOWN) as page,
        aiohttp.ClientSession() as client,
        client.get(page.urls[0] + "/v1/apps") as answer,
    ):
        assert answer.status == 401


@pytest.mark.parametrize("text", ["", "short\n", None])
async def test_a_password_that_is_none_opens_nothing(text: str | None, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    if text is not None:
        file.write_text(text)
    settings = config.Page(Address("127.0.0.1", 0), password_file=file)
    async with Page(settings, config.Http(), SHOWN) as page:
        assert page.urls == ()
        assert str(file) in page.notes[0]


async def test_a_page_without_a_certificate_says_so() -> None:
    settings = config.Page(Address("0.0.0.0", 0), PASSWORD)
    async with Page(settings, config.Http(), SHOWN) as page:
        assert "can be read on the network" in page.notes[0]


def test_both_ends_of_a_connection_are_told_apart() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as ours,
        server.accept()[0] as theirs,
    ):
        here, there = theirs.getsockname(), theirs.getpeername()
        assert both_ours(here, there)
        assert not both_ours(here, ("127.0.0.1", 1))
        ours.close()
        assert not both_ours(here, there)


def test_logins_end_and_are_bounded() -> None:
    now = [0.0]
    access = Access(PASSWORD, lambda: now[0])
    first = access.begin()
    assert access.is_in(first)
    assert not access.is_in(None)
    assert not access.is_in("")
    tokens = [access.begin() for _ in range(64)]
    assert not access.is_in(first), "one too many ends the oldest"
    assert all(map(access.is_in, tokens))
    access.end(tokens[0])
    assert not access.is_in(tokens[0])
    now[0] = 12 * 3600 + 1
    assert not any(map(access.is_in, tokens))


def test_attempts_are_counted_for_each_address_and_forgotten() -> None:
    now = [0.0]
    access = Access(PASSWORD, lambda: now[0])
    for _ in range(5):
        assert access.wait("a") == 0
        assert not access.knows("wrong", "a")
    assert access.wait("a") == 30
    assert access.wait("b") == 0
    now[0] = 30
    assert access.wait("a") == 0
    assert access.knows(PASSWORD, "a")
    assert access.wait("a") == 0
    for number in range(1024):
        access.knows("wrong", f"10.0.{number >> 8}.{number & 255}")
    assert access.wait("c") > 0, "the table is full"
    now[0] = 100
    assert access.wait("c") == 0


def test_what_a_page_may_know_is_no_secret(local: Ask) -> None:
    told: Any = json.loads(local("/v1/page").body)
    assert told == {"login": False}
