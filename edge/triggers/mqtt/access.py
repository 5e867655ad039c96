"""From the node's settings to what a connection needs: TLS, the password, the will."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edge.application.topics import check_topic
from edge.config import Mqtt, parse_mqtt_url
from edge.errors import ConfigError
from edge.spin.broker import BrokerOptions, Will
from edge.triggers.mqtt.counts import Counts

__all__ = ["OFFLINE", "ONLINE", "Access", "Role"]

# What a connection is for: subscriptions; shared ones, whose session is soon given up so that
# others of the group get what it holds; replies and dead letters, without a session; what the node
# says of itself, likewise; a question.
Role = Literal["main", "share", "out", "status", "probe"]

ONLINE, OFFLINE = b"online", b"offline"


@dataclass(frozen=True, slots=True)
class Access:
    """`credentials`: the directory where systemd puts them; `counts`: of all its connections. What
    blocks says so.
    """

    settings: Mqtt
    client_id: str
    credentials: Path | None = None
    counts: Counts = field(default_factory=Counts, compare=False)

    @property
    def where(self) -> str:
        return str(self.settings.endpoint)

    @property
    def status_topic(self) -> str:
        return self.settings.status_topic.replace("{client_id}", self.client_id)

    def options(self, protocol: str, role: Role) -> BrokerOptions:
        """Reads certificates and the password: blocks. Raises ConfigError."""
        settings = self.settings
        endpoint, given = parse_mqtt_url(settings.url)
        topic = self._checked_status_topic() if role in ("main", "status") else ""
        delay = min(settings.will_delay, settings.session_expiry)
        expiry = {"main": settings.session_expiry, "share": settings.share_expiry}.get(role, 0)
        return BrokerOptions(
            host=endpoint.host,
            port=endpoint.port,
            transport="tcp" if endpoint.path is None else "websockets",
            path=endpoint.path or "",
            tls=self._tls() if endpoint.tls else None,
            username=settings.username or given.get("username"),
            password=self._password() or given.get("password"),
            client_id=self.client_id if role == "main" else f"{self.client_id}-{role}",
            clean=role in ("out", "status", "probe"),
            session_expiry=expiry,
            keepalive=settings.keepalive,
            protocol="5" if protocol == "5" else "3.1.1",
            will=Will(topic, OFFLINE, delay=delay) if topic else None,
            receive_maximum=settings.receive_maximum,
            max_packet=settings.max_packet,
            in_flight=settings.receive_maximum,
            confirm_timeout=settings.confirm_timeout,
        )

    def _checked_status_topic(self) -> str:
        topic = self.status_topic
        try:
            return topic and check_topic(topic)
        except ValueError as exc:
            raise ConfigError(f"mqtt.status_topic: {exc}") from None

    def _tls(self) -> ssl.SSLContext:
        settings = self.settings
        try:
            context = ssl.create_default_context(cafile=settings.ca_file)
        except OSError as exc:
            raise _unreadable("ca_file", settings.ca_file, exc) from exc
        if settings.certificate_file is not None:
            try:
                # A key with a passphrase would be asked for on the terminal.
                context.load_cert_chain(settings.certificate_file, settings.key_file, lambda: b"")
            except OSError as exc:
                raise _unreadable("certificate_file", settings.certificate_file, exc) from exc
        return context

    def _password(self) -> str | None:
        name = self.settings.password_file
        if name is None:
            return self.settings.password
        path = Path(name)
        if self.credentials is not None and not path.is_absolute():
            given = self.credentials / path
            path = given if given.exists() else path
        try:
            return path.read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as exc:
            raise _unreadable("password_file", name, exc) from exc


def _unreadable(key: str, name: str | None, exc: Exception) -> ConfigError:
    reason = getattr(exc, "strerror", None) or getattr(exc, "reason", None) or str(exc)
    text = str(reason).replace("_", " ")
    return ConfigError(f"mqtt.{key}: {name}: {text[:1].lower()}{text[1:].lower()}")
