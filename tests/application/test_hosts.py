"""allowed_outbound_hosts: the grammar by example, and what must never be allowed."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.application.hosts import AllowedHosts, chained_component, parse_entry


def allows(entry: str, url: str) -> bool:
    scheme, _, rest = url.partition("://")
    host, colon, port = rest.rpartition(":")
    if not colon or port.endswith("]"):
        return AllowedHosts.parse([entry]).allows(scheme, rest)
    return AllowedHosts.parse([entry]).allows(scheme, host, int(port))


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("http://spin.fermyon.dev", "http://spin.fermyon.dev"),
        ("http://spin.fermyon.dev", "http://spin.fermyon.dev:80"),
        ("http://spin.fermyon.dev/", "http://SPIN.fermyon.dev"),
        ("https://spin.fermyon.dev", "https://spin.fermyon.dev:443"),
        ("https://spin.fermyon.dev:5555/", "https://spin.fermyon.dev:5555"),
        ("http://a.example:", "http://a.example"),
        ("*://a.example:443", "https://a.example"),
        ("http://a.example:4444..5555", "http://a.example:4444"),
        ("http://a.example:4444..5555", "http://a.example:5554"),
        ("*://*:*", "anything://at.all:1"),
        ("*://*:*", "anything://at.all"),
        ("*://*:*", "http://10.0.0.1"),
        ("http://*.example.com", "http://a.example.com"),
        ("http://*.example.com", "http://a.b.example.com"),
        ("http://*:8080", "http://x:8080"),
        ("postgres://db", "postgres://db:5432"),
        ("mysql://db", "mysql://db"),
        ("redis://db", "redis://db:6379"),
        ("mqtt://broker", "mqtt://broker:1883"),
        ("http://192.168.1.1", "http://192.168.1.1:80"),
        ("http://192.168.1.1:3002", "http://192.168.1.1:3002"),
        ("http://[::1]", "http://[::1]"),
        ("http://[::1]:8001", "http://[::1]:8001"),
        ("http://[::1]:8080/", "http://[::1]:8080"),
        ("http://[2001:db8::1]:*", "http://[2001:DB8:0::1]:7"),
        ("*://127.0.0.1/24:63551", "tcp://127.0.0.99:63551"),
        ("http://ff00::/8", "http://[ff02::1]"),
        ("http://ff00::/8:81", "http://[ff02::1]:81"),
        ("http://::1/128", "http://[::1]"),
        ("http://10.0.0.0/8", "http://10.255.0.1"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("https://xn--bcher-kva.example", "https://BÜCHER.example"),
        (" https://a.example ", "https://a.example"),
    ],
)
def test_an_entry_allows(entry: str, url: str) -> None:
    assert allows(entry, url)


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("http://a.example", "https://a.example"),
        ("http://a.example", "http://a.example:81"),
        ("http://a.example", "http://b.a.example"),
        ("http://a.example", "http://a.example.evil"),
        ("http://a.example", "http://a.example."),
        ("http://a.example:4444..5555", "http://a.example:5555"),
        ("http://*.example.com", "http://example.com"),
        ("http://*.example.com", "http://myexample.com"),
        ("http://*.example.com", "http://a.example.com.evil"),
        ("http://*.example.com", "http://evil/.example.com"),
        ("http://*.example.com", "http://evil\\.example.com"),
        ("http://*.example.com", "http://user@a.example.com"),
        ("http://*.a1", "http://127.0.0.1"),
        ("http://127.0.0.0/8", "http://2130706433"),
        ("http://127.0.0.0/8", "http://127.1"),
        ("http://127.0.0.0/8", "http://0x7f.0.0.1"),
        ("http://127.0.0.0/8", "http://localhost"),
        ("http://10.0.0.0/8", "http://11.0.0.1"),
        ("http://10.0.0.0/8", "http://[::ffff:10.0.0.1]"),
        ("http://self", "http://self"),
        ("http://self", "http://a.example"),
        ("*://a.example:80", "ftp://a.example"),
        ("http://*:*", "http://"),
        ("http://*:*", "http://a b"),
    ],
)
def test_an_entry_does_not_allow(entry: str, url: str) -> None:
    assert not allows(entry, url)


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("", "no scheme"),
        ("*", "no scheme"),
        ("example.com", "no scheme"),
        ("example.com:80", "no scheme"),
        ("insecure:allow-all", r"\*://\*:\* *"),
        ("http://", "not a host name"),
        ("http2://a.example:1", "must consist of letters"),
        ("{http,https}://a.example", "lists of schemes"),
        ("http://{a,b}", "lists of hosts"),
        ("http://a.example:{80,81}", "lists of ports"),
        ("ftp://a.example", "needs a port"),
        ("*://a.example", "needs a port"),
        ("*://127.0.0.0/24", "needs a port"),
        ("http://a.example/path", "must not have a path"),
        ("http://a.example:80/path", "must not have a path"),
        ("http://*.a.example/path", "must not have a path"),
        ("http://a.*.example", "may stand for"),
        ("http://*a.example", "may stand for"),
        ("http://*.*.example", "not a host name"),
        ("http://*.127.0.0.1", "not an address"),
        ("http://a_b!", "not a host name"),
        ("http://127.1", "not an address"),
        ("http://2130706433", "not an address"),
        ("http://a.example:99999", "not a port"),
        ("http://a.example:http", "not a port"),
        ("http://a.example:٣", "not a port"),
        ("http://a.example:9..9", "is empty"),
        ("http://a.example:..9", "not a port"),
        ("http://[::1", "not a host name"),
        ("http://user:password@a.example", "not a"),
    ],
)
def test_what_is_not_an_entry_is_refused_by_name(entry: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        AllowedHosts.parse(["https://good.example", entry])
    assert entry in str(caught.value)


def test_nothing_is_allowed_by_default() -> None:
    assert not AllowedHosts()
    assert not AllowedHosts().allows("http", "a.example")
    assert not AllowedHosts().allows_self("http")
    assert not AllowedHosts().allows_name("a.example")


@pytest.mark.parametrize("own", ["self", "self.alt", "self/"])
def test_self_is_about_requests_to_the_own_origin(own: str) -> None:
    hosts = AllowedHosts.parse([f"http://{own}"])
    assert hosts.allows_self("http")
    assert not hosts.allows_self("https")
    assert not hosts.allows("http", own)
    assert AllowedHosts.parse(["*://*:*"]).allows_self("https")
    assert not AllowedHosts.parse(["http://a.example"]).allows_self("http")


def test_templates_are_filled_in_and_empty_ones_skipped() -> None:
    hosts = AllowedHosts.parse(
        ["https://{{ one }}", "{{ two }}", "https://{{ host }}:{{ port }}"],
        variables={"one": "", "two": "", "host": "a.example", "port": "81"},
    )
    assert len(hosts.entries) == 1
    assert hosts.allows("https", "a.example", 81)


def test_a_template_filled_in_wrongly_is_refused() -> None:
    with pytest.raises(ValueError, match=r"http://\{\{ host \}\}.*filled in") as caught:
        AllowedHosts.parse(["http://{{ host }}"], variables={"host": "zoinks, Scooby!"})
    assert "zoinks" not in str(caught.value)  # it may be a secret


def test_the_chaining_wildcard_stands_for_the_components_there_are() -> None:
    hosts = AllowedHosts.parse(["http://*.spin.internal"], components=["a", "b-c"])
    assert hosts.allows("http", "a.spin.internal")
    assert hosts.allows("http", "b-c.spin.internal")
    assert not hosts.allows("http", "other.spin.internal")


@pytest.mark.parametrize(
    ("authority", "component"),
    [
        ("hello.spin.internal", "hello"),
        ("HELLO.Spin.Internal:80", "hello"),
        ("spin.internal", None),
        (".spin.internal", None),
        ("a.b.spin.internal", None),
        ("hello.spin.internal.evil", None),
        ("[::1]:80", None),
    ],
)
def test_a_component_is_recognised_by_its_authority(authority: str, component: str | None) -> None:
    assert chained_component(authority) == component


def test_names_may_be_looked_up_when_a_grant_could_use_them() -> None:
    assert AllowedHosts.parse(["http://a.example"]).allows_name("A.example")
    assert not AllowedHosts.parse(["http://a.example"]).allows_name("b.example")
    assert AllowedHosts.parse(["http://10.0.0.0/8"]).allows_name("b.example")


labels = st.from_regex(r"[a-z][a-z0-9-]{0,5}", fullmatch=True)
names = st.lists(labels, min_size=1, max_size=3).map(".".join)
addresses = st.ip_addresses()
ports = st.integers(0, 65535)
schemes = st.sampled_from(["http", "https", "mqtt", "tcp"])


@given(schemes, names, ports, schemes, names, ports)
def test_an_entry_allows_its_own_endpoint_and_no_other(
    scheme: str, name: str, port: int, scheme2: str, name2: str, port2: int
) -> None:
    hosts = AllowedHosts.parse([f"{scheme}://{name}:{port}"])
    assert hosts.allows(scheme, name, port)
    same = (scheme, name, port) == (scheme2, name2, port2)
    assert hosts.allows(scheme2, name2, port2) is same


@given(addresses, st.integers(0, 128), addresses)
def test_a_network_allows_what_is_in_it(address: object, bits: int, other: object) -> None:
    network = ipaddress.ip_network(
        f"{address}/{min(bits, 32 if isinstance(address, ipaddress.IPv4Address) else 128)}",
        strict=False,
    )
    hosts = AllowedHosts.parse([f"http://{network}"])
    assert hosts.allows("http", str(address))
    inside = isinstance(other, type(address)) and other in network  # type: ignore[operator]
    assert hosts.allows("http", str(other)) is inside


@given(names, names)
def test_a_subdomain_wildcard_is_about_whole_labels(domain: str, name: str) -> None:
    hosts = AllowedHosts.parse([f"http://*.{domain}"])
    assert hosts.allows("http", name) is name.endswith(f".{domain}")
    assert not hosts.allows("http", domain)
    assert not hosts.allows("http", name.replace(".", "") + domain) or "." in domain


@given(st.text(max_size=30) | st.text(alphabet="*{}[]:/.a1x-@% ", max_size=20))
def test_any_text_is_an_entry_or_refused(text: str) -> None:
    for entry in (text, f"http://{text}", f"http://a:{text}"):
        try:
            known = parse_entry(entry)
        except ValueError:
            continue
        assert known.ports
    assert AllowedHosts.parse(["http://a.example"]).allows("http", text) is (
        text.lower() == "a.example"
    )
