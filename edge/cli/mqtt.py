"""The options of `edge up` and `edge run` that name an MQTT broker."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from edge.config import Mqtt, parse_mqtt_url
from edge.errors import ConfigError
from edge.triggers.broker import embedded_broker

# Its port is where MQTT's own tools look for a broker that is not named.
EMBEDDED = re.compile(r"embedded(?::(?P<port>[0-9]{1,5}))?")
PORT = 1883

# Key of the settings -> the option that gives it on the command line.
_OPTIONS = {
    "mqtt.url": "--mqtt",
    "mqtt.password_file": "--mqtt-password-file",
    "mqtt.ca_file": "--mqtt-ca",
    "mqtt.certificate_file": "--mqtt-cert",
    "mqtt.key_file": "--mqtt-key",
    "mqtt.client_id": "--mqtt-client-id",
}

# What only a broker elsewhere has.
_FILES = ("password-file", "ca", "cert", "key")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("MQTT")
    group.add_argument(
        "--mqtt",
        metavar="URL",
        help="mqtt://[USER@]HOST[:PORT], mqtts://, ws:// or wss://; wins over the address in"
        f" spin.toml. embedded[:PORT]: one of its own for a first try, on port {PORT}",
    )
    group.add_argument(
        "--mqtt-password-file", type=Path, metavar="FILE", help="holds the user's password"
    )
    group.add_argument("--mqtt-ca", type=Path, metavar="FILE", help="trusted instead of the system")
    group.add_argument("--mqtt-cert", type=Path, metavar="FILE", help="the client's certificate")
    group.add_argument("--mqtt-key", type=Path, metavar="FILE", help="the certificate's key; PEM")
    group.add_argument(
        "--mqtt-client-id", metavar="ID", help="default: made once, kept in the state directory"
    )


@asynccontextmanager
async def broker(options: argparse.Namespace) -> AsyncIterator[Mqtt]:
    """The settings that the options mean, without a URL when they name no broker; an embedded
    broker runs while the context lasts. Raises EdgeError; one that names a key of the settings
    names the option when it leaves the context.
    """
    embedded = EMBEDDED.fullmatch(options.mqtt or "")
    if embedded is None:
        try:
            yield _settings(options)
        except ConfigError as exc:
            raise _by_option(exc, options) from exc
        return
    for name in (name for name in _FILES if _file(options, name)):
        raise ConfigError(f"--mqtt-{name}: the embedded broker has neither users nor TLS")
    port = int(embedded["port"] or PORT)
    if port > 65535:
        raise ConfigError(f"--mqtt {options.mqtt}: there is no such port")
    async with embedded_broker(port) as url:
        sys.stdout.write(f"MQTT broker on {url}\n")
        yield Mqtt(url=url, protocol="3.1.1", client_id=options.mqtt_client_id or "")


def need_url(options: argparse.Namespace) -> None:
    """For who takes a broker from the command line whole or not at all. Raises ConfigError."""
    for option in (option for option in _OPTIONS.values() if _given(options, option)):
        if options.mqtt is None:
            raise ConfigError(f"{option}: needs --mqtt", hint="or say it in [mqtt] of edge.toml")


def _given(options: argparse.Namespace, option: str) -> bool:
    return getattr(options, option.removeprefix("--").replace("-", "_")) is not None


def _settings(options: argparse.Namespace) -> Mqtt:
    if options.mqtt:
        parse_mqtt_url(options.mqtt, "--mqtt")
    if (options.mqtt_cert is None) != (options.mqtt_key is None):
        raise ConfigError("--mqtt-cert and --mqtt-key need each other")
    return Mqtt(
        url=options.mqtt or "",
        password_file=_file(options, "password-file"),
        ca_file=_file(options, "ca"),
        certificate_file=_file(options, "cert"),
        key_file=_file(options, "key"),
        client_id=options.mqtt_client_id or "",
    )


def _by_option(error: ConfigError, options: argparse.Namespace) -> ConfigError:
    """Names the options that were given instead of the keys that they stand for."""
    message, hint = error.message, error.hint
    for key, option in _OPTIONS.items():
        if not _given(options, option):
            continue
        if message.startswith(f"{key}:"):
            message = option + message.removeprefix(key)
        hint = hint and re.sub(rf"{re.escape(key)}\b", option, hint)
    return ConfigError(message, hint=hint)


def _file(options: argparse.Namespace, name: str) -> str | None:
    path = getattr(options, f"mqtt_{name.replace('-', '_')}")
    return None if path is None else str(path)
