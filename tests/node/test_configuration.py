"""edge.toml: what is read, and every mistake at its place."""

from __future__ import annotations

import ipaddress
import json
import re
import subprocess
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge import config
from edge.config import Address, ApplicationEntry, Daemon, Mount, Registry
from edge.errors import ConfigError
from edge.node import configuration

ROOT = Path(__file__).parent.parent.parent
HERE = "edge.toml: "
DOCUMENT = (ROOT / "docs/configuration.md").read_text()


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(text: str, *, check: bool = False) -> tuple[Daemon, tuple[str, ...]]:
    path = Path("edge.toml")
    path.write_text(text)
    path.chmod(0o600)
    return configuration.read(path, check=check)


def daemon(text: str) -> Daemon:
    return read(text)[0]


def mistakes(text: str, *, check: bool = False) -> list[str]:
    """One line each, without the name of the file; of a single one the hint is its end too."""
    with pytest.raises(ConfigError) as caught:
        read(text, check=check)
    error = caught.value
    lines = error.message.split("\n")
    assert all(line.startswith(HERE) for line in lines), lines
    hint = f" ({error.hint})" if error.hint else ""
    return [line.removeprefix(HERE) + hint for line in lines]


def mistake(text: str, *, check: bool = False) -> str:
    (line,) = mistakes(text, check=check)
    return line


# --- what is read -------------------------------------------------------------------------------


def test_an_empty_file_is_a_node_with_the_defaults(here: Path) -> None:
    assert read("") == (Daemon(), ())
    sections = ("node", "http", "http.limits", "mqtt", "sync", "fleet", "mirror", "page", "traces")
    empty = "\n".join(f"[{name}]" for name in (*sections, "limits", "stores", "home_assistant"))
    assert read(empty) == (Daemon(), ())


def test_what_is_written_is_what_the_daemon_gets(here: Path) -> None:
    found = daemon(
        """
        [node]
        name = "shop-7"
        labels = { site = "lab", "a/b" = "" }
        state_dir = "state"
        socket = "/run/x.sock"
        group = "wheel"
        [http]
        listen = ["[::1]:80", ":8080"]
        limits = { max_body = "1MiB", idle_timeout = "1m", max_connections = 7 }
        [mqtt]
        url = "mqtts://u:pa55@b.lan"
        keepalive = "30s"
        session_expiry = "1d"
        max_packet = "64KiB"
        protocol = "3.1.1"
        [sync]
        interval = "5m"
        jitter = 0
        soak = "0s"
        error_rate = 0.25
        [mirror]
        listen = ""
        [home_assistant]
        enabled = true
        prefix = "ha/discovery"
        interval = "1m"
        [page]
        listen = "0.0.0.0:81"
        password = "open sesame"
        [limits]
        memory = "512MiB"
        instances = 9
        queue = 0
        quota = "1GiB"
        component = { memory = "32MiB", health = "" }
        block_networks = ["10.0.0.0/8", "fc00::/7"]
        [stores]
        open = 4
        key_value.cache = { max_entries = 5 }
        key_value.far = { type = "redis", url = "redis://:pa55@db.lan/1" }
        sqlite.default = { max_bytes = "1GiB" }
        """
    )
    assert found.node == config.Node(
        name="shop-7",
        labels={"site": "lab", "a/b": ""},
        state_dir=here / "state",
        socket=Path("/run/x.sock"),
        group="wheel",
    )
    assert found.http == config.Http(
        listen=(Address("::1", 80), Address("0.0.0.0", 8080)),
        settings=config.HttpSettings(max_body=1 << 20, idle_timeout=60, max_connections=7),
    )
    assert found.mqtt == config.Mqtt(
        url="mqtts://u:pa55@b.lan",
        keepalive=30,
        session_expiry=86_400,
        max_packet=65_536,
        protocol="3.1.1",
    )
    assert found.sync == config.Sync(interval=300, jitter=0, soak=0, error_rate=0.25)
    assert found.mirror == config.Mirror(listen=None)
    assert found.home_assistant == config.HomeAssistant(True, "ha/discovery", 60)
    assert found.page == config.Page(Address("0.0.0.0", 81), "open sesame")
    assert found.limits == config.Limits(memory=512 << 20, instances=9, queue=0)
    assert found.quota == 1 << 30
    assert found.defaults == {"memory": 32 << 20, "health": None}
    assert found.blocked == ("10.0.0.0/8", "fc00::/7")
    assert found.stores == config.Stores(
        key_value={
            "default": config.KeyValue(),
            "cache": config.KeyValue(max_entries=5),
            "far": config.KeyValue(type="redis", url="redis://:pa55@db.lan/1"),
        },
        sqlite={"default": config.Sqlite(max_bytes=1 << 30)},
        open=4,
    )
    assert "pa55" not in repr(found), "secrets are not for logs"


def test_applications_are_from_a_registry_or_from_here(here: Path) -> None:
    found = daemon(
        """
        [[application]]
        name = "Thermo.v2"
        reference = "R.example:5000/team/thermo"
        mount = { path = "/a/b/", host = "Thermo.LOCAL" }
        variables = { limit = "30" }
        variables_files = { key = "key.txt" }
        variables_credentials = { token = "tok" }
        [application.component.web]
        memory = "128MiB"
        [application.component.web.trigger.readings]
        retries = 9
        [[application]]
        name = "here"
        path = "apps/here"
        mount = "/here"
        """
    )
    assert found.applications == (
        ApplicationEntry(
            "Thermo.v2",
            "r.example:5000/team/thermo",
            mount=Mount("/a/b", "thermo.local"),
            variables={"limit": "30"},
            variables_files={"key": here / "key.txt"},
            variables_credentials={"token": "tok"},
            options={"web": {"memory": 128 << 20, "triggers": {"readings": {"retries": 9}}}},
        ),
        ApplicationEntry("here", path=here / "apps/here", mount=Mount("/here")),
    )


def test_registries_are_named_by_host_or_repository(here: Path) -> None:
    found = daemon(
        """
        [registry."R.example:5000"]
        insecure = true
        username = "u"
        password = "pa55"
        [registry."r.example:5000/team/app"]
        signatures = "warn"
        keys = ["a.pub", "/b.pub"]
        """
    )
    assert found.registries == (
        Registry("r.example:5000", insecure=True, username="u", password="pa55"),
        Registry(
            "r.example:5000/team/app", signatures="warn", keys=(here / "a.pub", Path("/b.pub"))
        ),
    )


def test_private_networks_are_what_they_stand_for(here: Path) -> None:
    blocked = daemon('[limits]\nblock_networks = ["private"]').blocked
    networks = [ipaddress.ip_network(text) for text in blocked]
    for text, inside in (("192.168.1.1", True), ("::1", True), ("8.8.8.8", False)):
        assert any(ipaddress.ip_address(text) in network for network in networks) is inside


def test_what_editors_add_does_not_matter(here: Path) -> None:
    Path("edge.toml").write_bytes(b'\xef\xbb\xbf[node]\r\nname = "n"\r\n')
    assert configuration.read(Path("edge.toml"))[0].node.name == "n"


def test_paths_begin_at_the_file(here: Path) -> None:
    (here / "sub").mkdir()
    (here / "sub/edge.toml").write_text('[mqtt]\nca_file = "ca.pem"\n[node]\nstate_dir = "/s"')
    found, _ = configuration.read(Path("sub/edge.toml"))
    assert found.mqtt.ca_file == str(here / "sub/ca.pem")
    assert found.node.state_dir == Path("/s")


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place", "why"),
    [
        ("a = ", "", "is not TOML: invalid value"),
        ("a = " + "1" * 5000, "", "is not TOML: exceeds the limit"),
        ("a = " + "[" * 5000, "", "is not TOML: maximum recursion depth"),
        ("nod = 1", "nod", 'did you mean "node"?'),
        ('mqtt = "mqtt://u:s3cret@b"', "mqtt", "must be a table, not a string"),
        ("spin_manifest_version = 2", "", "edge check edge.toml"),
        ("node = 1", "node", "must be a table"),
        ('node.name = "a b"', "node.name", "is not a name"),
        ("node.name = 1", "node.name", "must be a string"),
        ("node.labels.a = 1", "node.labels.a", "must be a string"),
        ('node.labels." a" = "x"', 'node.labels." a"', "is not a label"),
        ('node.state_dir = ""', "node.state_dir", "must be a path"),
        ("node.socket = '/" + "x" * 107 + "'", "node.socket", "longer than 107 bytes"),
        ('http.listen = "nowhere"', "http.listen", "is not an address and a port"),
        ("http.listen = []", "http.listen", "must name an address"),
        ('http.listen = [":1", "[::1]:1", ":1"]', "http.listen[2]", "is there twice"),
        ('http.tls_key = "k"', "http", "tls_certificate and tls_key need each other"),
        ("http.limits.max_head = 1", "http.limits.max_head", 'write "1B"'),
        ('http.limits.max_head = "1B"', "http.limits.max_head", "between 1KiB and 1MiB"),
        ("http.limits.idle_timeout = 5", "http.limits.idle_timeout", 'write "5s"'),
        ('mqtt.url = "http://u:s3cret@b"', "mqtt.url", "not the address of an MQTT broker"),
        ('mqtt.url = "mqtt://u:s3cret@b:x"', "mqtt.url", "not a URL with a host and a port"),
        ("mqtt.password = 53", "mqtt.password", "must be a string"),
        ('mqtt.keepalive = "1s"', "mqtt.keepalive", "between 5s"),
        ('mqtt.protocol = "4"', "mqtt.protocol", '"5" or "3.1.1"'),
        ('mqtt.key_file = "k"', "mqtt", "certificate_file and key_file need each other"),
        ('mqtt.password = "a"\nmqtt.password_file = "b"', "mqtt", "exclude each other"),
        ("home_assistant.enabled = true", "home_assistant.enabled", "no broker is named"),
        ('home_assistant.prefix = "a/#"', "home_assistant.prefix", "has a wildcard"),
        ('home_assistant.interval = "0s"', "home_assistant.interval", "between 1s"),
        ("[application]", "application", "write [[application]]"),
        ("application = [1]", "application[0]", "must be a table"),
        ('fleet.document = "r.example/f:1"', "fleet.keys", "would command this node"),
        ('fleet.peers = ["10.0.0.7:0"]', "fleet.peers[0]", "its port is not a number"),
        ('fleet.peers = [":7466"]', "fleet.peers[0]", "must be a host, or a host and a port"),
        ('fleet.interfaces = ["eth 0"]', "fleet.interfaces[0]", "not the name of a network"),
        ("registry.x.insecure = true", "registry.x", "is not a registry"),
        ('registry."r.example/a:1".insecure = true', 'registry."r.example/a:1"', "not a registry"),
        ('registry."r.x".signatures = "on"', 'registry."r.x".signatures', '"required"'),
        ('registry."r.x".signatures = "warn"', 'registry."r.x".keys', "missing"),
        ('registry."r.x".username = "u"', 'registry."r.x"', "need each other"),
        (
            '[registry."r.x"]\nusername = "u"\npassword = "p"\npassword_file = "f"',
            'registry."r.x"',
            "exclude each other",
        ),
        (
            '[registry."r.x"]\ninsecure = true\nca_file = "f"',
            'registry."r.x"',
            "insecure and ca_file exclude each other",
        ),
        (
            '[registry."r.x"]\n[registry."R.x"]',
            'registry."R.x"',
            "is there twice",
        ),
        ('sync.interval = "0s"', "sync.interval", "between 1s and 30d"),
        ("sync.jitter = 1.5", "sync.jitter", "from 0 to 1"),
        ("sync.jitter = nan", "sync.jitter", "from 0 to 1"),
        ("sync.error_rate = true", "sync.error_rate", "from 0 to 1"),
        ('mirror.listen = "0.0.0.0:7465"', "mirror.listen", "only loopback"),
        ('mirror.listen = "10.1.2.3:1"', "mirror.listen", "only loopback"),
        ('page.listen = "0.0.0.0:7468"', "page.listen", "beyond this machine the page needs"),
        ('page.listen = "pi.lan:7468"', "page.listen", 'password_file = "page-password"'),
        ('page.password = "short"', "page.password", "fewer than 8 characters"),
        ('page = { password = "12345678", password_file = "x" }', "page", "exclude each other"),
        ('traces.endpoint = "collector:4318"', "traces.endpoint", 'write "http://HOST:4318"'),
        ('traces.endpoint = "http://u:p@c"', "traces.endpoint", "is not the URL of a collector"),
        ('traces.endpoint = "http://c/v1"', "traces.endpoint", "is not the URL of a collector"),
        ("traces.ratio = 2", "traces.ratio", "from 0 to 1"),
        ('limits.memory = "1kB"', "limits.memory", "between 1MiB"),
        ("limits.instances = 0", "limits.instances", "between 1"),
        ("limits.component.memry = 1", "limits.component.memry", 'did you mean "memory"'),
        ("limits.component.trigger.x.retries = 1", "limits.component.trigger", "not defaults"),
        ('limits.block_networks = ["1.2.3.4/8"]', "limits.block_networks[0]", '"1.0.0.0/8"'),
        ('limits.block_networks = ["lan"]', "limits.block_networks[0]", "is not a network"),
        ('stores.key_value.a.path = "x"', "stores.key_value.a.path", "shared by all"),
        ('stores.key_value.a.type = "redis"', "stores.key_value.a", 'missing key "url"'),
        ('stores.key_value.a.url = "redis://x"', "stores.key_value.a.url", "unknown key"),
        ('stores.key_value.A_.type = "redis"', "stores.key_value.A_", "is not a label"),
        ('stores.sqlite.a.type = "redis"', "stores.sqlite.a.type", 'must be "sqlite"'),
        ("stores.open = 0", "stores.open", "between 1"),
    ],
)  # fmt: skip
def test_a_mistake_has_its_place(here: Path, text: str, place: str, why: str) -> None:
    said = [line for line in mistakes(text) if line.startswith(f"{place}: " if place else "")]
    assert said, mistakes(text)
    assert why in said[0]
    assert "s3cret" not in "".join(mistakes(text))


ENTRY = '[[application]]\nname = "a"\nreference = "r.example/a:1"\n'


@pytest.mark.parametrize(
    ("text", "place", "why"),
    [
        ("[[application]]", "application[0]", 'missing key "name"'),
        ("[[application]]", "application[0]", 'missing key "reference"'),
        (ENTRY + 'path = "x"', "application[0]", "reference and path exclude each other"),
        (ENTRY.replace('"a"', '"../a"'), "application[0].name", "is not a name"),
        (ENTRY.replace('"a"', '"' + "a" * 64 + '"'), "application[0].name", "at most 63"),
        (ENTRY.replace("example", "example/Up"), "application[0].reference", "lower case"),
        (ENTRY.replace("r.example", "https://r"), "application[0].reference", "is a URL"),
        (ENTRY + 'mount = "a"', "application[0].mount", 'like "/a"'),
        (ENTRY + 'mount = "/a//b"', "application[0].mount", "two slashes"),
        (ENTRY + 'mount = "/../b"', "application[0].mount", "is not a part of a mount"),
        (ENTRY + 'mount = "/:id"', "application[0].mount", "is not a part of a mount"),
        (ENTRY + 'mount = "/a/..."', "application[0].mount", "is not a part of a mount"),
        (ENTRY + 'mount.host = "a:80"', "application[0].mount.host", "no port"),
        (ENTRY + 'mount.host = "*.x"', "application[0].mount.host", "no wildcard"),
        (ENTRY + 'mount.paht = "/"', "application[0].mount.paht", '"path"'),
        (ENTRY + "mount = 1", "application[0].mount", "must be a table"),
        (ENTRY + 'variables.Up = "x"', "application[0].variables.Up", "not a variable name"),
        (ENTRY + "variables.up = 53", "application[0].variables.up", "must be a string"),
        (
            ENTRY + 'variables.x = "s3cret"\nvariables_files.x = "y"',
            "application[0].variables_files.x",
            "has a value in variables already",
        ),
        (ENTRY + 'variables_credentials.x = "../y"', "application[0].variables_credentials.x",
         "name of a credential"),
        (ENTRY + "component.web.timeout = 3", "application[0].component.web.timeout", '"3s"'),
        (ENTRY + "component.we_b = {}", "application[0].component.we_b", "not a component id"),
        (ENTRY + ENTRY, "application[1].name", '"a" is the name of application[0] too'),
    ],
)  # fmt: skip
def test_a_mistake_of_an_application_has_its_place(
    here: Path, text: str, place: str, why: str
) -> None:
    said = [line for line in mistakes(text) if line.startswith(f"{place}: ")]
    assert any(why in line for line in said), mistakes(text)
    assert "s3cret" not in "".join(mistakes(text))


def test_all_mistakes_are_told_together_with_their_hints(here: Path) -> None:
    said = mistakes(
        """
        [node]
        name = 1
        nme = 2
        [http]
        listen = ["x", ":80", "y"]
        [http.limits]
        max_head = 1
        [[application]]
        nam = "b"
        mount = "x"
        [application.component.web]
        timeout = 1
        memory = 2
        [application.component.web.trigger.x]
        retries = -1
        [registry.x]
        insecure = 1
        [stores.key_value.A_]
        max_key = "x"
        max_value = "y"
        [stores.key_value.b]
        type = "redis"
        max_key = "x"
        """
    )
    places = [line.partition(": ")[0] for line in said]
    assert places == [
        "node.name",
        "node.nme",
        "http.listen[0]",
        "http.listen[2]",
        "http.limits.max_head",
        "application[0].mount",
        "application[0].component.web.timeout",
        "application[0].component.web.memory",
        "application[0].component.web.trigger.x.retries",
        "application[0]",  # no name
        "application[0].nam",
        "application[0]",  # neither reference nor path
        "registry.x",
        "registry.x.insecure",
        "stores.key_value.A_",
        "stores.key_value.A_.max_key",
        "stores.key_value.A_.max_value",
        "stores.key_value.b",
        "stores.key_value.b.max_key",
    ]
    assert 'application[0].component.web.timeout: must be a duration like "30s", not 1 ' in said[6]
    assert said[6].endswith('(write "1s")')


def test_a_file_that_cannot_be_read_is_said_so(here: Path) -> None:
    with pytest.raises(ConfigError, match=r"^gone\.toml: no such file or directory$"):
        configuration.read(Path("gone.toml"))
    Path("edge.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"^edge\.toml: is not UTF-8$"):
        configuration.read(Path("edge.toml"))


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return str(value) if isinstance(value, float) else json.dumps(value)


KEYS = sorted(set(re.findall(r"^\| `(\w+)`", DOCUMENT, flags=re.M)))
SCALARS = st.booleans() | st.integers(-5, 5) | st.floats() | st.sampled_from(
    ["", "/", "a", "1s", "64MiB", "a:1", "r.example/a:1", "redis", "mqtt://b", "required", "off"]
)  # fmt: skip


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        SCALARS,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from([*KEYS, "x", "r.example"]), inner, max_size=4)
        ),
        max_leaves=8,
    ),
    st.sampled_from([*(f.name for f in fields(Daemon)), "application", "registry"]),
)
def test_whatever_stands_there_it_is_read_or_refused(
    here: Path, value: object, section: str
) -> None:
    said = ""
    try:
        read(f"{section} = {toml(value)}")
    except ConfigError as error:
        said = error.message
    assert all(line.startswith(HERE) for line in said.split("\n") if said)


# --- the files that are named -------------------------------------------------------------------


def test_files_are_opened_when_it_is_asked_for(here: Path) -> None:
    text = """
        http = { tls_certificate = "c.pem", tls_key = "./k.pem" }
        mqtt = { ca_file = "ca.pem", password_file = "sub/pw" }
        application = [
            { name = "a", path = "apps", variables_files = { x = "v" } },
            { name = "b", path = "b.wasm" },
        ]
        [registry."r.x"]
        keys = ["a.pub"]
        signatures = "required"
        """
    read(text)
    assert mistakes(text, check=True) == [
        f"{place}: {here}/{name}: no such file or directory"
        for place, name in (
            ("http.tls_certificate", "c.pem"),
            ("http.tls_key", "k.pem"),
            ("mqtt.password_file", "sub/pw"),
            ("mqtt.ca_file", "ca.pem"),
            ("application[0].path", "apps"),
            ("application[0].variables_files.x", "v"),
            ("application[1].path", "b.wasm"),
            ('registry."r.x".keys[0]', "a.pub"),
        )
    ]


def test_a_name_that_no_file_can_have_is_a_mistake_too(here: Path) -> None:
    text = f'application = [{{ name = "a", path = "{"x" * 300}" }}]\nmqtt.ca_file = "{"y" * 300}"'
    assert [line.rpartition(": ")[2] for line in mistakes(text, check=True)] == [
        "file name too long", "file name too long",
    ]  # fmt: skip


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.fixture
def pem(here: Path) -> Path:
    curve = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
    for name in ("one", "two"):
        openssl("genpkey", *curve, "-out", f"{name}.key")
    openssl("req", "-x509", "-key", "one.key", "-subj", "/CN=x", "-days", "2", "-out", "one.pem")
    openssl("pkey", "-in", "one.key", "-pubout", "-out", "one.pub")
    openssl("pkcs8", "-topk8", "-in", "one.key", "-passout", "pass:x", "-out", "locked.key")
    (here / "text").write_text("no PEM")
    return here


TLS = 'http = {{ tls_certificate = "{}", tls_key = "{}" }}'


def test_certificates_and_keys_are_what_they_should_be(pem: Path) -> None:
    read(TLS.format("one.pem", "one.key"), check=True)
    read('mqtt.ca_file = "one.pem"', check=True)
    for certificate, key, why in (
        ("one.pem", "two.key", "the key is not that of the certificate"),
        ("one.pem", "locked.key", "the key has a passphrase"),
        ("text", "one.key", "is not a certificate with its key, in PEM"),
    ):
        said = mistake(TLS.format(certificate, key), check=True)
        assert said == f"http: {pem}/{certificate} with {pem}/{key}: {why}"
    said = mistake('mqtt.ca_file = "text"', check=True)
    assert said == f"mqtt.ca_file: {pem}/text: holds no certificate in PEM"
    assert mistake('mqtt.ca_file = "."', check=True) == f"mqtt.ca_file: {pem}: is not a file"


def test_a_key_may_be_a_credential_of_the_service(
    pem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = TLS.format("one.pem", "edge_tls")
    text += '\nmqtt = { certificate_file = "one.pem", key_file = "edge_tls" }'
    assert [note.rpartition("edge_tls: ")[2] for note in read(text, check=True)[1]] == [
        "not beside this file; is it a credential of the service?"
    ] * 2
    (pem / "creds").mkdir()
    (pem / "one.key").rename(pem / "creds/edge_tls")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(pem / "creds"))
    found, notes = read(text, check=True)
    assert (found.http.tls_key, found.mqtt.key_file) == (str(pem / "creds/edge_tls"),) * 2
    assert notes == ()


def test_secrets_that_everybody_may_read_are_noted(pem: Path) -> None:
    text = TLS.format("one.pem", "one.key") + '\nmqtt = { password_file = "two.key" }'
    assert read(text, check=True)[1] == ()
    for name in ("one.key", "two.key"):
        (pem / name).chmod(0o644)
    assert read(text, check=True)[1] == (
        f"{HERE}http.tls_key: {pem}/one.key: everybody here may read it",
        f"{HERE}mqtt.password_file: {pem}/two.key: everybody here may read it",
    )
    assert read(text)[1] == (), "files are not looked at before a node needs them"


def test_keys_of_signatures_are_public_ones(pem: Path) -> None:
    text = '[registry."r.x"]\nsignatures = "required"\nkeys = ["{}"]'
    read(text.format("one.pub"), check=True)
    for name, why in (("one.key", "is a private key"), ("text", "is not a public key in PEM")):
        assert why in mistake(text.format(name), check=True)


def test_a_secret_may_be_a_credential_of_the_service(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = 'mqtt = { url = "mqtt://b", username = "u", password_file = "pw" }'
    found, notes = read(text, check=True)
    assert found.mqtt.password_file == str(here / "pw")
    assert notes == (
        f"{HERE}mqtt.password_file: pw: not beside this file; is it a credential of the service?",
    )
    (here / "creds").mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(here / "creds"))
    assert mistake(text, check=True) == f"mqtt.password_file: {here}/pw: no such file or directory"
    (here / "pw").write_text("x")
    assert daemon(text).mqtt.password_file == str(here / "pw")
    (here / "creds/pw").write_text("x")
    assert daemon(text).mqtt.password_file == str(here / "creds/pw")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/nowhere")
    found = daemon(f'node.credentials_dir = "creds"\n{text}')
    assert found.mqtt.password_file == str(here / "creds/pw")


def test_credentials_of_variables_are_looked_for(here: Path) -> None:
    (here / "creds").mkdir()
    (here / "creds/there").touch()
    text = f'node.credentials_dir = "creds"\n{ENTRY}variables_credentials.x = '
    read(f'{text}"there"', check=True)
    said = mistake(f'{text}"gone"', check=True)
    assert said.startswith("application[0].variables_credentials.x: ")
    assert said.endswith("creds/gone: no such file or directory")


# --- notes --------------------------------------------------------------------------------------


def test_what_can_be_meant_is_noted(here: Path) -> None:
    _, notes = read('[registry."r.x"]\nkeys = ["a.pub"]\n' + ENTRY + ENTRY.replace('"a"', '"b"'))
    assert notes == (
        f'{HERE}registry."r.x".keys: not used: signatures is "off"',
        f'{HERE}application[1].mount: also that of "a": none of their routes may be the same',
    )


@pytest.mark.parametrize(
    "text",
    [
        'mqtt = { url = "mqtt://b", username = "u", password = "p" }',
        'mqtt.url = "mqtt://u:p@b"',
        '[registry."r.x"]\nusername = "u"\npassword = "p"',
        '[stores.key_value.a]\ntype = "redis"\nurl = "redis://:p@x"',
    ],
)
def test_a_password_that_everybody_may_read_is_noted(here: Path, text: str) -> None:
    assert read(text.replace("password = ", "password_file = "))[1] == ()
    assert read(text)[1] == ()
    path = Path("edge.toml")
    path.chmod(0o644)
    note = f"{HERE.rstrip()} holds a password, and everybody here may read it"
    assert configuration.read(path)[1] == (note,)


def test_a_user_without_a_password_is_no_secret(here: Path) -> None:
    read('mqtt.url = "mqtt://u@b"\n[stores.key_value.a]\ntype = "redis"\nurl = "redis://u@x"')
    Path("edge.toml").chmod(0o644)
    assert configuration.read(Path("edge.toml"))[1] == ()


def test_a_document_of_a_fleet_counts_when_its_registry_wants_signatures(here: Path) -> None:
    text = 'fleet.document = "r.x/fleet/a:1"\n[registry."{}"]\nsignatures = "{}"\nkeys = ["k"]\n'
    read(text.format("r.x", "required"))
    assert "fleet.keys" in mistake(text.format("r.x", "warn"))
    assert "fleet.keys" in mistake(text.format("r.x/fleet/b", "required"))
    more = '[registry."r.x/fleet"]\nsignatures = "off"'
    assert "fleet.keys" in mistake(text.format("r.x", "required") + more)
    read('fleet = { document = "r.x/fleet/a:1", keys = ["k"] }')


# --- a reload -----------------------------------------------------------------------------------


def test_a_reload_tells_applications_from_sections(here: Path) -> None:
    old = daemon(ENTRY + '[[application]]\nname = "gone"\nreference = "r.x/y"')
    new = daemon(
        ENTRY.replace(":1", ":2")
        + '[[application]]\nname = "new"\npath = "x"\n[registry."r.x"]\ninsecure = true\n'
        + '[limits]\nquota = "1GiB"\ncomponent.queue = 1\n[sync]\ninterval = "1m"\n[http]\n'
        + 'listen = ":1"'
    )
    found = configuration.diff(old, new)
    assert sorted(found.applications) == ["a", "gone", "new"]
    assert found.restart == ("http", "limits")
    assert configuration.diff(new, new) == configuration.Changes()


def test_every_section_but_those_taken_up_wants_a_restart() -> None:
    others: dict[str, Any] = {
        "node": config.Node(name="x"),
        "http": config.Http(),
        "mqtt": config.Mqtt(url="mqtt://b"),
        "fleet": config.Fleet(document="x"),
        "sync": config.Sync(interval=1),
        "mirror": config.Mirror(listen=None),
        "home_assistant": config.HomeAssistant(enabled=True),
        "page": config.Page(listen=None),
        "traces": config.Traces("http://c:4318"),
        "limits": config.Limits(memory=1),
        "quota": 1,
        "defaults": {"queue": 1},
        "stores": config.Stores(open=1),
        "blocked": ("10.0.0.0/8",),
    }
    assert {*others, "applications", "registries"} == {f.name for f in fields(Daemon)}
    plain = Daemon()
    for name, value in others.items():
        (section,) = configuration.diff(plain, replace(plain, **{name: value})).restart
        assert section == ("limits" if name in ("quota", "defaults", "blocked") else name)


# --- the documentation --------------------------------------------------------------------------


def documented() -> dict[str, dict[str, str]]:
    """Heading -> key -> default as TOML; "" where it is said in words."""
    found: dict[str, dict[str, str]] = {}
    for part in re.split(r"^##+ `", DOCUMENT, flags=re.M)[1:]:
        heading = part.partition("`")[0].strip("[]")
        rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", part, flags=re.M)
        literal = {key: re.fullmatch(r"`([^`]*)`", default) for key, default in rows}
        found[heading] = {key: m[1] if m else "" for key, m in literal.items()}
    return found


# Heading -> a table of it, and where its values are in what is read.
SECTIONS: dict[str, tuple[str, object]] = {
    "node": ("[node]", config.Node()),
    "http": ("[http]", Daemon().http),
    "http.limits": ("[http.limits]", config.HttpSettings()),
    "mqtt": ("[mqtt]", config.Mqtt()),
    'registry."HOST[:PORT]"': ('[registry."r.x"]', Registry("r.x")),
    "sync": ("[sync]", config.Sync()),
    "fleet": ("[fleet]", config.Fleet()),
    "mirror": ("[mirror]", config.Mirror()),
    "page": ("[page]", config.Page()),
    "traces": ("[traces]", config.Traces()),
    "home_assistant": ("[home_assistant]", config.HomeAssistant()),
    "stores": ("[stores]", config.Stores()),
    "stores.key_value.LABEL": ("[stores.key_value.default]", config.KeyValue()),
    "stores.sqlite.LABEL": ("[stores.sqlite.default]", config.Sqlite()),
    "limits": ("[limits]", config.Limits()),
    "application": ("[[application]]", ApplicationEntry("a", "r.example/a:1")),
}
# Fields that no key gives, or one of another name does.
ELSEWHERE = {
    "settings", "name", "path", "url", "key_value", "sqlite", "options", "password", "directory",
}  # fmt: skip


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_documented_defaults_are_those_without_a_file(here: Path, heading: str) -> None:
    table, default = SECTIONS[heading]
    keys = documented()[heading]
    missing = {f.name for f in fields(default)} - set(keys) - ELSEWHERE  # type: ignore[arg-type]
    assert not missing, f"{heading} does not document {missing}"
    lines = [f"{key} = {text}" for key, text in keys.items() if text and key not in ("type",)]
    if heading == "application":
        lines += ['name = "a"', 'reference = "r.example/a:1"']
    if heading == "node":
        lines = [line for line in lines if "$" not in line and "group" not in line]
    found = daemon("\n".join([table, *lines]))
    plain = Daemon()
    if heading == "application":
        plain = replace(plain, applications=(ApplicationEntry("a", "r.example/a:1"),))
    if heading.startswith("registry"):
        plain = replace(plain, registries=(Registry("r.x"),))
    assert found == plain


@pytest.mark.parametrize("heading", SECTIONS)
def test_every_key_is_documented_and_every_documented_key_is_known(
    here: Path, heading: str
) -> None:
    table, _ = SECTIONS[heading]
    redis = ['type = "redis"'] if "key_value" in heading else []
    (unknown,) = [
        line for line in mistakes("\n".join([table, "zzzz = 1", *redis])) if "zzzz" in line
    ]
    known = set(unknown.partition("known here: ")[2].rstrip(")").split(", "))
    sub = {"limits", "component", "key_value", "sqlite", "password", "allow_attach_file", "path"}
    assert known - sub == set(documented()[heading]) - sub


def test_the_example_is_good_also_with_what_it_only_shows(here: Path) -> None:
    path = ROOT / "examples/edge.toml"
    found, notes = configuration.read(path, check=True)
    assert not notes
    assert [entry.name for entry in found.applications] == ["hello", "echo"]
    shown = daemon(re.sub(r"^#(?! )", "", path.read_text(), flags=re.M))
    assert [entry.name for entry in shown.applications] == ["hello", "echo", "thermo"]
    sections = (shown.fleet.document, shown.mqtt.url, shown.registries, shown.http.tls_key)
    assert all(sections)


def test_the_examples_in_the_document_are_good(here: Path) -> None:
    blocks = re.findall(r"^```toml\n(.*?)^```", DOCUMENT, flags=re.M | re.S)
    assert len(blocks) == 2
    for block in blocks:
        read(block)
