"""Who we are: challenges as registries write them, Docker's configuration and its helpers."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import ConfigError
from edge.registry.auth import Challenge, challenges
from edge.registry.credentials import Credential, DockerConfig, docker_config


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (['Basic realm="x"'], [Challenge("basic", {"realm": "x"})]),
        (["Basic"], [Challenge("basic")]),
        (
            ['Bearer realm="https://a/t",service="s",scope="repository:x:pull,push"'],
            [
                Challenge(
                    "bearer",
                    {"realm": "https://a/t", "service": "s", "scope": "repository:x:pull,push"},
                )
            ],
        ),
        (
            ['Bearer realm="a" , error=invalid_token, Basic realm="b"'],
            [
                Challenge("bearer", {"realm": "a", "error": "invalid_token"}),
                Challenge("basic", {"realm": "b"}),
            ],
        ),
        (
            ["Negotiate", 'BEARER Realm = \'a\', x="q\\"\\\\"'],
            [Challenge("negotiate"), Challenge("bearer", {"realm": "'a'", "x": 'q"\\'})],
        ),
        (["", "===", '"'], []),
    ],
)
def test_challenges_are_read(headers: list[str], expected: list[Challenge]) -> None:
    assert list(challenges(headers)) == expected


@given(st.lists(st.text(alphabet='Basic Bearer realm="\\,x ') | st.text()))
def test_any_header_has_challenges_or_none(headers: list[str]) -> None:
    for challenge in challenges(headers):
        assert challenge.scheme


def config(directory: Path, **values: object) -> DockerConfig:
    path = directory / "config.json"
    path.write_text(json.dumps(values))
    return DockerConfig.load(path)


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def test_passwords_are_found_by_host(tmp_path: Path) -> None:
    found = config(
        tmp_path,
        auths={
            "a.example:5000": {"auth": encoded("ada:se:cret")},
            "https://B.example/v2/": {"username": "bob", "password": "pw"},
            "https://index.docker.io/v1/": {"auth": encoded("hub:pw")},
            "c.example": {"identitytoken": "token", "auth": encoded("ada:")},
            "d.example/team": {"auth": encoded("other:pw")},
            "e.example": {},
        },
        psFormat="ignored",
    )
    assert await found.find("a.example:5000") == Credential("ada", "se:cret")
    assert await found.find("b.example") == Credential("bob", "pw")
    assert await found.find("docker.io") == Credential("hub", "pw")
    assert await found.find("c.example") == Credential("ada", "", "token")
    for unknown in ("a.example", "d.example", "e.example", "x"):
        assert await found.find(unknown) is None
    assert "cret" not in repr(found)


def test_a_credential_is_a_header() -> None:
    assert Credential("ada", "s€").basic == f"Basic {encoded('ada:s€')}"


def helper(directory: Path, name: str, script: str) -> None:
    path = directory / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\nread server || true\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path


async def test_helpers_are_asked_first(on_path: Path) -> None:
    helper(on_path, "one", 'echo "{\\"Username\\":\\"$1\\",\\"Secret\\":\\"of $server\\"}"')
    helper(on_path, "token", 'echo \'{"Username":"<token>","Secret":"t"}\'')
    helper(on_path, "empty", "echo credentials not found in native keychain; exit 1")
    found = config(
        on_path,
        credHelpers={"a.example": "one", "docker.io": "one", "b.example": "token"},
        credsStore="empty",
        auths={"a.example": {"auth": encoded("x:y")}, "c.example": {"auth": encoded("c:pw")}},
    )
    assert await found.find("a.example") == Credential("get", "of a.example")
    assert await found.find("docker.io") == Credential("get", "of https://index.docker.io/v1/")
    assert await found.find("b.example") == Credential(identity_token="t")
    assert await found.find("c.example") == Credential("c", "pw")
    assert await found.find("d.example") is None


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo the key ring is locked; exit 1", "docker-credential-bad: the key ring is locked"),
        ("exit 3", "docker-credential-bad: ends with 3"),
        ("echo hello", "docker-credential-bad: is not JSON"),
        ("echo '{}'", 'missing key "Username"'),
    ],
)
async def test_a_helper_that_fails_is_a_config_error(
    script: str, message: str, on_path: Path
) -> None:
    helper(on_path, "bad", script)
    with pytest.raises(ConfigError) as caught:
        await config(on_path, credsStore="bad").find("a.example")
    assert message in caught.value.message


async def test_a_helper_that_is_not_installed_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="docker-credential-nowhere: no such file") as caught:
        await config(tmp_path, credsStore="nowhere").find("a.example")
    assert "credential helper" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"auths": []}, "auths: must be a table"),
        ({"auths": {"a.example": {"auth": "!"}}}, 'auths."a.example".auth: is not base64'),
        ({"auths": {"a.example": {"auth": encoded("secret")}}}, "is not base64 of USER:PASSWORD"),
        ({"credsStore": "../sh"}, "is not the name of a credential helper"),
        ({"credHelpers": {"a": "x/y"}}, "is not the name of a credential helper"),
    ],
)
def test_mistakes_name_the_file_and_no_secret(
    values: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        config(tmp_path, **values)
    assert caught.value.message.startswith(str(tmp_path / "config.json"))
    assert message in caught.value.message
    assert "secret" not in caught.value.message


def test_no_configuration_is_an_empty_one(tmp_path: Path) -> None:
    assert DockerConfig.load(tmp_path / "none" / "config.json") == DockerConfig()
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json: is not JSON"):
        DockerConfig.load(tmp_path / "config.json")
    with pytest.raises(ConfigError, match="directory"):
        DockerConfig.load(tmp_path)


def test_the_configuration_is_where_docker_has_it() -> None:
    assert docker_config({"DOCKER_CONFIG": "/x"}) == Path("/x/config.json")
    assert docker_config({"HOME": "/h"}) == Path("/h/.docker/config.json")
    assert docker_config({}) is None
