"""`spin.toml` version 2: text in, an `Application` out, or an error that names file and key."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping

from edge.application.components import profiles, read_component
from edge.application.fields import (
    Table,
    Where,
    boolean,
    did_you_mean,
    items,
    mapping,
    not_toml,
    parsed,
    raw_table,
    string,
)
from edge.application.model import (
    Application,
    Component,
    HttpTrigger,
    Trigger,
    TriggerDeclaration,
)
from edge.application.names import kebab, variable_name
from edge.application.routes import RESERVED, Router
from edge.application.templates import Variable
from edge.application.triggers import Inline, identified, read_declaration, read_http

__all__ = ["read", "read_application"]


def read(text: str, *, file: str = "spin.toml", profile: str | None = None) -> Application:
    """Reads a whole manifest. `file` is the name used in errors, every one a ConfigError."""
    where = Where(file)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise not_toml(where, error) from None
    _check_version(document, where)
    with Table(document, where) as table:
        table.need("spin_manifest_version", lambda value, where: value)
        return read_application(table, profile)


def _check_version(document: Mapping[str, object], where: Where) -> None:
    key = "spin_version" if "spin_version" in document else "spin_manifest_version"
    version = document.get(key, 2)
    if key == "spin_version" or version in (1, "1"):
        raise where.key(key).error(
            "manifests of version 1 are not supported", "`spin doctor` converts it to version 2"
        )
    if version != 2 or isinstance(version, float):
        raise where.key(key).error(f"must be 2, not {version!r}")


def read_application(table: Table, profile: str | None = None) -> Application:
    """All of a manifest but its version. What names the same things otherwise is read by it too."""
    where = table.where
    details = table.need("application", raw_table)
    variables = table.optional("variables", mapping(_variable, parsed(variable_name))) or {}
    raw = table.optional("component", mapping(_unread, parsed(kebab))) or {}
    triggers = table.need("trigger", identified)
    inline = Inline(raw)
    http = tuple(read_http(t, inline) for t in triggers if t.type == "http")
    others = tuple(read_declaration(t, inline) for t in triggers if t.type != "http")
    tables = raw | inline.found
    _check_profile(profile, (table for table, _ in tables.values()), where)
    components = {
        id: read_component(id, value, place, variables, profile)
        for id, (value, place) in tables.items()
    }
    _check_references((*http, *others), {t.id: t.where for t in triggers}, components)
    _check_trigger_options((*http, *others), tables, components)
    with Table(details, where.key("application")) as about:
        return Application(
            name=about.need("name", _name),
            version=about.get("version", string, ""),
            description=about.get("description", string, ""),
            authors=about.get("authors", items(string), ()),
            variables=variables,
            components=components,
            http=http,
            triggers=others,
            trigger_settings=_trigger_settings(about),
            notes=(*_deprecated(details, tables), *_unreachable(http)),
        )


def _unread(value: object, where: Where) -> tuple[object, Where]:
    return value, where


def _name(value: object, where: Where) -> str:
    name = string(value, where)
    if not name or not name.isprintable():
        raise where.error("must be a name of printable characters")
    return name


def _variable(value: object, where: Where) -> Variable:
    with Table(value, where) as table:
        required = table.get("required", boolean, False)
        default = table.optional("default", string)
        if required == (default is not None):
            raise where.error("needs either a default or required = true")
        return Variable(
            default, table.get("secret", boolean, False), table.get("description", string, "")
        )


def _trigger_settings(about: Table) -> Mapping[str, Mapping[str, object]]:
    about.optional("targets", lambda value, where: None)
    about.optional("tool", mapping(raw_table))
    settings = about.optional("trigger", mapping(raw_table)) or {}
    if "http" in settings:
        with Table(settings["http"], about.where.key("trigger").key("http")) as http:
            if http.get("base", string, "/") != "/":
                raise http.where.key("base").error(
                    "a base path is not supported", "write it into each route"
                )
    return settings


def _check_profile(profile: str | None, components: Iterable[object], where: Where) -> None:
    known = {name for component in components for name in profiles(component)}
    if profile is not None and profile not in known:
        hint = did_you_mean(profile, known)
        raise where.error(f'no component defines the profile "{profile}"', hint)


def _check_references(
    triggers: tuple[Trigger, ...], places: Mapping[str, Where], components: Mapping[str, Component]
) -> None:
    for trigger in triggers:
        for key, id in _references(trigger):
            if id not in components:
                where = places[trigger.id].key(key)
                raise where.error(f'no component has the id "{id}"', did_you_mean(id, components))


def _references(trigger: Trigger) -> Iterable[tuple[str, str]]:
    if trigger.component is not None:
        yield "component", trigger.component
    if isinstance(trigger, TriggerDeclaration):
        for ids in trigger.components.values():
            yield from (("components", id) for id in ids)


def _check_trigger_options(
    triggers: tuple[Trigger, ...],
    tables: Mapping[str, tuple[object, Where]],
    components: Mapping[str, Component],
) -> None:
    """Options for a trigger that does not exist would be silently without effect."""
    for id, component in components.items():
        own = [t.id for t in triggers if id in (i for _, i in _references(t))]
        for name in component.options.triggers:
            if name not in own:
                place = tables[id][1].key("tool").key("edge").key("trigger").key(name)
                known = ", ".join(own)
                hint = did_you_mean(name, own) or (f"its triggers: {known}" if own else None)
                raise place.error(f'the component has no trigger with the id "{name}"', hint)


def _deprecated(
    details: Mapping[str, object], tables: Mapping[str, tuple[object, Where]]
) -> Iterable[str]:
    settings = details.get("trigger")
    if isinstance(settings, dict) and "base" in settings.get("http", {}):
        yield "application.trigger.http.base is deprecated and can be left out"
    for value, where in tables.values():
        if isinstance(value, dict) and value.get("allowed_http_hosts"):
            yield f"{where.keys}.allowed_http_hosts is deprecated, use allowed_outbound_hosts"


def _unreachable(http: tuple[HttpTrigger, ...]) -> Iterable[str]:
    for lost in Router((t.route, t) for t in http if t.route is not None).unreachable:
        who = f"trigger {lost.instead.id}" if lost.instead else f"{RESERVED} is the runtime's own"
        yield f'route "{lost.route.text}" of trigger {lost.target.id} is never reached: {who}'
