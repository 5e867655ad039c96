from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from edge import config
from edge.errors import ConfigError
from edge.spin import dotenv
from edge.spin.runtime_config import RuntimeConfig, load, read

HERE = Path("/etc/app")


def parse(text: str) -> RuntimeConfig:
    return read(text, file="runtime-config.toml", directory=HERE)


def test_without_a_file_there_is_what_spin_has() -> None:
    plain = RuntimeConfig()
    assert plain == parse("")
    assert list(plain.stores.key_value) == list(plain.stores.sqlite) == ["default"]
    assert plain.state_dir is None


def test_labels_stand_for_files_and_servers() -> None:
    stores = parse(
        """
        state_dir = "state"
        [key_value_store.default]
        type = "spin"
        path = "kv.db"
        [key_value_store.cache]
        type = "spin"
        max_bytes = "1MiB"
        max_entries = 5
        timeout = "2s"
        [key_value_store.shared]
        type = "redis"
        url = "redis://user:pa55@db.lan:6380/1"
        [sqlite_database.default]
        type = "spin"
        path = "/var/db/app.db"
        max_bytes = "1GiB"
        [sqlite_database.more]
        type = "spin"
        allow_attach_file = false
        """
    )
    assert stores.state_dir == Path("state")
    assert stores.stores.key_value == {
        "default": config.KeyValue(path="/etc/app/kv.db"),
        "cache": config.KeyValue(max_bytes=1 << 20, max_entries=5, timeout=2.0),
        "shared": config.KeyValue(type="redis", url="redis://user:pa55@db.lan:6380/1"),
    }
    assert stores.stores.sqlite == {
        "default": config.Sqlite(path="/var/db/app.db", max_bytes=1 << 30),
        "more": config.Sqlite(),
    }
    assert "pa55" not in repr(stores), "secrets are not for logs"


def test_variables_come_from_the_first_that_knows_them(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text('MY_FILE="from the file"\nMY_BOTH=file\n')
    text = """
        [[variables_provider]]
        type = "static"
        values = { first = "static", secret = "s3cret" }
        [[variables_provider]]
        type = "env"
        prefix = "MY"
        dotenv_path = ".env"
        """
    path = tmp_path / "runtime-config.toml"
    path.write_text(text)
    found = load(path)
    environ = {"MY_FIRST": "env", "MY_BOTH": "env", "SPIN_VARIABLE_LAST": "spin", "MY_X": "?"}
    names = ["first", "both", "file", "last", "given", "nobody"]
    assert found.variables(names, {"given": "g"}, environ) == {
        "given": "g", "first": "static", "both": "env", "file": "from the file", "last": "spin",
    }  # fmt: skip
    assert found.variables(["first"], {"first": "given"}, {}) == {"first": "given"}
    assert "s3cret" not in repr(found)
    assert "from the file" not in repr(found)
    assert load(path) == read(
        text.replace("variables_provider", "config_provider"), file="x", directory=tmp_path
    )


def test_networks_that_no_guest_may_reach() -> None:
    blocked = parse('[outbound_networking]\nblock_networks = ["1.2.3.0/24", "private"]').blocked
    for address, inside in (("1.2.3.4", True), ("192.168.1.1", True), ("::1", True),
                            ("169.254.169.254", True), ("8.8.8.8", False)):  # fmt: skip
        assert any(ipaddress.ip_address(address) in network for network in blocked) is inside


def test_what_only_tunes_spin_is_noted() -> None:
    notes = parse('log_dir = "x"\nmax_instance_memory = 1\n[outbound_http]\na = 1').notes
    assert [note.split(": ")[1] for note in notes] == [
        "log_dir", "max_instance_memory", "outbound_http",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "key", "why"),
    [
        ("nope = 1", "nope", "unknown key"),
        ("state_dir = 1", "state_dir", "string"),
        ("[key_value_store.a]", "key_value_store.a", "type"),
        ('[key_value_store.A_]\ntype = "spin"', "key_value_store.A_", "label"),
        ('[key_value_store.a]\ntype = "spin"\nx = 1', "key_value_store.a.x", "unknown key"),
        ('[key_value_store.a]\ntype = "azure_cosmos"', "key_value_store.a.type", "of Spin"),
        ('[key_value_store.a]\ntype = "aws_dynamo"', "key_value_store.a.type", "of Spin"),
        ('[key_value_store.a]\ntype = "odd"', "key_value_store.a.type", "not available"),
        ('[key_value_store.a]\ntype = "redis"', "key_value_store.a", "url"),
        ('[key_value_store.a]\ntype = "redis"\nurl = "http://u:s3cret@x"', "a.url", "redis://"),
        ('[key_value_store.a]\ntype = "redis"\nurl = 7', "a.url", "string"),
        ('[key_value_store.a]\ntype = "spin"\nmax_bytes = "x"', "a.max_bytes", "size"),
        ('[key_value_store.a]\ntype = "spin"\nmax_entries = 0', "a.max_entries", "between"),
        ('[sqlite_database.a]\ntype = "libsql"\nurl = "x"', "sqlite_database.a.type", "of Spin"),
        ('[sqlite_database.a]\ntype = "spin"\nallow_attach_file = true', "allow_attach_file", "no"),
        ('[[variables_provider]]\ntype = "vault"', "variables_provider[0].type", "of Spin"),
        ('[[variables_provider]]\ntype = "azure_key_vault"', "provider[0].type", "of Spin"),
        ('[[variables_provider]]\ntype = "static"', "variables_provider[0]", "values"),
        ('[[config_provider]]\ntype = "static"\nvalues = { A = "1" }', "values.A", "variable name"),
        ('[[config_provider]]\ntype = "static"\nvalues = { a = 531 }', "values.a", "string"),
        ('[[variables_provider]]\ntype = "env"\ndotenv_path = "no"', "dotenv_path", "no such file"),
        ('[llm_compute]\ntype = "spin"', "llm_compute", "not available"),
        ('[[client_tls]]\nhosts = ["x"]', "client_tls", "not available"),
        ('[outbound_networking]\nblock_networks = ["x"]', "block_networks[0]", "x"),
        ("[outbound_networking]\nmax_total_connections = 1", "max_total_connections", "available"),
    ],
)
def test_mistakes_are_named_with_file_and_key(text: str, key: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    message = caught.value.message
    assert message.startswith("runtime-config.toml: ")
    assert key in message.removesuffix(why)
    assert why in message
    assert "s3cret" not in message
    assert "531" not in message


def test_a_file_that_cannot_be_read_is_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "runtime-config.toml"
    with pytest.raises(ConfigError, match="no such file"):
        load(path)
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="UTF-8"):
        load(path)
    path.write_text("=")
    with pytest.raises(ConfigError, match="is not TOML"):
        load(path)


def test_dotenv_files() -> None:
    text = """
# a comment
PLAIN=value
export EXPORTED = two words # a comment
SINGLE='as # it is \\n' # a comment
DOUBLE="with \\"quotes\\" and\\na line"
EMPTY=
HASH=a#b
COMMENT= # nothing
PLAIN=later
"""
    assert dotenv.parse(text) == {
        "PLAIN": "later", "EXPORTED": "two words", "SINGLE": "as # it is \\n",
        "DOUBLE": 'with "quotes" and\na line', "EMPTY": "", "HASH": "a#b", "COMMENT": "",
    }  # fmt: skip
    for wrong in ("s3cret", "=s3cret", "A='s3cret", 'A="s3cret" more', "A B=s3cret"):
        with pytest.raises(ValueError, match="line 2") as caught:
            dotenv.parse("OK=1\n" + wrong)
        assert "s3cret" not in str(caught.value)
