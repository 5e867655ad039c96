"""Writing Spin's locked application: the opposite of `locked.read`. Pure."""

from __future__ import annotations

import json
import math
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import fields
from itertools import product

from edge.application.fields import Where, show
from edge.application.hosts import CHAINING_SUFFIX
from edge.application.model import (
    Application,
    Build,
    Component,
    FilePlacement,
    HttpTrigger,
    PathSource,
    StaticResponse,
    TriggerDeclaration,
)
from edge.application.options import Options
from edge.application.templates import Variable
from edge.application.units import duration, show_duration, show_size
from edge.registry.digest import Digest
from edge.registry.locked import Locked

__all__ = ["write"]

_SIZES = ("memory", "scratch", "request_size", "response_size")
_CHAINED = re.compile(re.escape(CHAINING_SUFFIX) + r"(?::|$)")

_Raw = dict[str, object]


def write(locked: Locked) -> bytes:
    """The same values always give the same bytes. What JSON cannot say is a ConfigError."""
    application = locked.application
    components = [_component(c, locked.inline) for c in application.components.values()]
    chained = any("host_requirements" in component for component in components)
    document = {
        "spin_lock_version": 1 if chained else 0,
        "must_understand": ["component_host_requirements"] if chained else [],
        "metadata": _about(application),
        "variables": {name: _variable(v) for name, v in application.variables.items()},
        "triggers": [
            *(_http(trigger) for trigger in application.http),
            *(_declared(trigger, application) for trigger in application.triggers),
        ],
        "components": components,
    }
    if not chained:
        del document["must_understand"]
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _present(found: _Raw) -> _Raw:
    """Without what is at its default: the format leaves that out."""
    return {key: value for key, value in found.items() if value not in ("", None, [], {})}


def _about(application: Application) -> _Raw:
    where = Where(application.name).key("application").key("trigger")
    settings = {
        type: _json(dict(table), where.key(type))
        for type, table in application.trigger_settings.items()
    }
    found = _present(
        {
            "name": application.name,
            "version": application.version,
            "description": application.description,
            "authors": list(application.authors),
        }
    )
    return {**found, "triggers": settings}


def _variable(variable: Variable) -> _Raw:
    found = _present({"description": variable.description, "secret": variable.secret or None})
    return found if variable.default is None else {**found, "default": variable.default}


# Triggers


def _http(trigger: HttpTrigger) -> _Raw:
    executor = {"type": "wagi", "argv": trigger.wagi.argv} if trigger.wagi else None
    response = _response(trigger.response) if trigger.response else None
    route = trigger.route.text if trigger.route else {"private": True}
    found = {"component": trigger.component, "static_response": response, "executor": executor}
    config = {"route": route, **{k: v for k, v in found.items() if v is not None}}
    return {"id": trigger.id, "trigger_type": "http", "trigger_config": config}


def _response(response: StaticResponse) -> _Raw:
    headers: dict[str, str] = {}
    for name, value in response.headers:
        free = next(n for n in _spellings(name.decode()) if n not in headers)
        headers[free] = value.decode()
    return {"status_code": response.status, "headers": headers, "body": response.body.decode()}


def _spellings(name: str) -> Iterator[str]:
    """A header that is there twice was written twice, in different letters."""
    return map("".join, product(*(dict.fromkeys((c, c.upper())) for c in name)))


def _declared(trigger: TriggerDeclaration, application: Application) -> _Raw:
    where = Where(application.name).key("trigger").key(trigger.type).key(trigger.id)
    config: _Raw = {key: _json(v, where.key(key)) for key, v in trigger.fields.items()}
    if trigger.component is not None:
        config["component"] = trigger.component
    if trigger.components:
        config["components"] = {role: list(ids) for role, ids in trigger.components.items()}
    return {"id": trigger.id, "trigger_type": trigger.type, "trigger_config": config}


def _json(value: object, where: Where) -> object:
    if isinstance(value, dict):
        return {key: _json(item, where.key(key)) for key, item in value.items()}
    if isinstance(value, list):
        return [_json(item, where.item(index)) for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise where.error(f"{value} cannot be part of a bundle")
    if not isinstance(value, str | int | float):
        raise where.error(f"{show(value)} cannot be part of a bundle", "write it as a string")
    return value


# Components


def _component(component: Component, inline: Mapping[Digest, bytes]) -> _Raw:
    assert isinstance(component.source, PathSource), "a source that is no digest"
    assert not component.dependencies, "not composed"
    assert not component.exclude_files, "not resolved"
    requirements = {"local_service_chaining": "required"} if _chains(component) else {}
    rest = _present(
        {
            "metadata": _metadata(component),
            "env": dict(component.environment),
            "files": [_file(entry, inline) for entry in component.files],
            "config": {name: str(text) for name, text in component.variables.items()},
            "host_requirements": requirements,
        }
    )
    content = _content(component.source.path, inline)
    source = {"content_type": "application/wasm", **content}
    return {"id": component.id, "source": source, **rest}


def _chains(component: Component) -> bool:
    return any(_CHAINED.search(entry) for entry in component.allowed_outbound_hosts)


def _metadata(component: Component) -> _Raw:
    return _present(
        {
            "description": component.description,
            "allowed_outbound_hosts": list(component.allowed_outbound_hosts),
            "key_value_stores": list(component.key_value_stores),
            "databases": list(component.sqlite_databases),
            "ai_models": list(component.ai_models),
            "build": _build(component.build) if component.build else None,
            "edge": _options(component.options),
        }
    )


def _build(build: Build) -> _Raw:
    command = build.commands[0] if len(build.commands) == 1 else list(build.commands)
    found = {"workdir": build.workdir, "watch": list(build.watch) or None}
    return {"command": command, **{key: v for key, v in found.items() if v is not None}}


def _file(entry: object, inline: Mapping[Digest, bytes]) -> _Raw:
    assert isinstance(entry, FilePlacement), "a file that is no digest"
    # Spin joins it to a directory, so it must not begin with a slash.
    return {"path": entry.destination.removeprefix("/"), **_content(entry.source, inline)}


def _content(digest: str, inline: Mapping[Digest, bytes]) -> _Raw:
    data = inline.get(Digest.parse(digest))
    return {"digest": digest} if data is None else {"inline": _base64(data), "digest": digest}


def _base64(data: bytes) -> str:
    """Without padding: Spin reads no other."""
    return b64encode(data).decode().rstrip("=")


# Our options


def _options(options: Options) -> _Raw:
    """`tool.edge` as it would be written, without what is at its default."""
    default = Options()
    names = (f.name for f in fields(Options) if f.name != "triggers")
    found = {n: v for n in names if (v := getattr(options, n)) != getattr(default, n)}
    table: _Raw = {name: _option(name, value) for name, value in found.items()}
    if options.triggers:
        table["trigger"] = {
            id: {name: _option(name, value) for name, value in sorted(own.items())}
            for id, own in options.triggers.items()
        }
    return table


def _option(name: str, value: object) -> object:
    if isinstance(value, float):
        return _exact(value)
    if name in _SIZES and isinstance(value, int):
        return show_size(value)
    if name == "health":
        return value or ""
    return list(value) if isinstance(value, tuple) else value


def _exact(seconds: float) -> str:
    """A duration that is read back as just this number."""
    for unit, length in (("s", 1.0), ("ms", 0.001), ("m", 60.0), ("h", 3600.0), ("d", 86400.0)):
        near = seconds / length
        for number in (near, math.nextafter(near, 0), math.nextafter(near, math.inf)):
            text = f"{number:.9f}".rstrip("0").rstrip(".") + unit
            if duration(text) == seconds:
                return text
    return show_duration(seconds)  # within a nanosecond
