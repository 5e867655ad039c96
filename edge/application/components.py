"""Reading `[component.<id>]`: every key that Spin knows, and our own under `tool.edge`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import chain

from edge.application.fields import (
    Reader,
    Table,
    Where,
    boolean,
    check,
    items,
    mapping,
    parsed,
    raw_table,
    show,
    string,
)
from edge.application.hosts import parse_entry
from edge.application.model import (
    Build,
    Component,
    Dependency,
    FilePattern,
    FilePlacement,
    Source,
)
from edge.application.names import environment_name, label, variable_name
from edge.application.options import Options, options
from edge.application.sources import read_dependencies, read_source
from edge.application.templates import Template, Variable

__all__ = ["profiles", "read_component"]


def read_component(
    id: str,
    value: object,
    where: Where,
    variables: Mapping[str, Variable],
    profile: str | None,
) -> Component:
    """One component, with the overrides of `profile` if it has any by that name."""
    with Table(value, where) as table:
        inherits = table.optional("dependencies_inherit_configuration", boolean)
        table.optional("targets", items(_target))
        tools = table.optional("tool", mapping(raw_table)) or {}
        overlays = table.optional("profile", mapping(_profile(inherits=inherits))) or {}
        found = Component(
            id=id,
            source=table.need("source", read_source),
            description=table.get("description", string, ""),
            variables=table.optional("variables", _variables(variables)) or {},
            environment=table.optional("environment", _environment) or {},
            files=table.optional("files", items(_file)) or (),
            exclude_files=table.optional("exclude_files", items(check(_pattern))) or (),
            allowed_outbound_hosts=_outbound_hosts(table, variables),
            key_value_stores=table.optional("key_value_stores", items(parsed(label))) or (),
            sqlite_databases=table.optional("sqlite_databases", items(parsed(label))) or (),
            ai_models=table.optional("ai_models", items(string)) or (),
            dependencies=table.optional("dependencies", read_dependencies(inherits=inherits)) or {},
            build=table.optional("build", _build),
            options=_options(tools, where),
        )
    return _overlaid(found, overlays[profile]) if profile in overlays else found


def _options(tools: Mapping[str, object], where: Where) -> Options:
    if "edge" not in tools:
        return Options()
    return options(tools["edge"], where.key("tool").key("edge"))


# Files


def _file(value: object, where: Where) -> FilePattern | FilePlacement:
    if isinstance(value, str):
        return FilePattern(check(_pattern)(value, where))
    if not isinstance(value, dict):
        raise where.error(f"must be a pattern or a table, not {show(value)}")
    with Table(value, where) as table:
        return FilePlacement(
            table.need("source", check(_relative)), table.need("destination", check(_destination))
        )


def _relative(text: str) -> None:
    if not text or text.startswith("/") or "\0" in text:
        raise ValueError(f'must be relative to the application\'s directory, not "{text}"')


def _pattern(text: str) -> None:
    _relative(text)
    parts = text.split("/")
    if ".." in parts or parts[-1] == ".":
        raise ValueError(
            f'"{text}" is not a pattern of files below the application\'s directory;'
            ' a directory can be given as { source = "dir", destination = "/" }'
        )
    if any("**" in part and part != "**" for part in parts):
        raise ValueError(f'"**" in "{text}" must be a whole part of the path, as in "dir/**/*"')


def _destination(text: str) -> None:
    if not text.startswith("/") or ".." in text.split("/") or "\0" in text:
        raise ValueError(f'must be an absolute path without "..", not "{text}"')


# Variables, environment, hosts


def _environment(value: object, where: Where) -> dict[str, str]:
    return mapping(_environment_value, parsed(environment_name))(value, where)


def _environment_value(value: object, where: Where) -> str:
    if "\0" in (text := string(value, where)):
        raise where.error("must not contain a zero byte")
    return text


def _variables(declared: Mapping[str, Variable]) -> Reader[dict[str, Template]]:
    return mapping(_template(declared), parsed(variable_name))


def _template(declared: Mapping[str, Variable]) -> Reader[Template]:
    def read(value: object, where: Where) -> Template:
        template = parsed(Template.parse)(value, where)
        for name in template.names:
            if name not in declared:
                raise where.error(
                    f'the application has no variable "{name}"', f"declare it: variables.{name}"
                )
        return template

    return read


def _outbound_hosts(table: Table, declared: Mapping[str, Variable]) -> tuple[str, ...]:
    defaults = {n: v.default for n, v in declared.items() if v.default is not None}

    def entry(value: object, where: Where) -> str:
        template = _template(declared)(value, where)
        text = str(value)
        # What no default fills in can be checked only once the value is known.
        if all(name in defaults for name in template.names):
            filled = template.render(defaults)
            if filled not in ("", "http://", "https://") or not template.names:
                check(parse_entry)(filled, where)
        return text

    new = table.optional("allowed_outbound_hosts", items(entry)) or ()
    old = table.optional("allowed_http_hosts", items(_http_host)) or ()
    return (*new, *chain.from_iterable(old))


def _http_host(value: object, where: Where) -> tuple[str, ...]:
    """An entry of the deprecated `allowed_http_hosts`, as what replaced it."""
    text = string(value, where)
    if text == "insecure:allow-all":
        return "http://*:*", "https://*:*", "http://self"
    if text == "self":
        return ("http://self",)
    host = text.partition("://")[2] or text
    entries = f"http://{host}", f"https://{host}"
    for entry in entries:
        check(parse_entry)(entry, where)
    return entries


# Build, profiles


def _commands(value: object, where: Where) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else items(string)(value, where)


def _build(value: object, where: Where) -> Build:
    with Table(value, where) as table:
        return Build(
            table.need("command", _commands),
            table.optional("workdir", string),
            table.optional("watch", items(string)) or (),
        )


def _target(value: object, where: Where) -> None:
    """Deployment targets say nothing about how to run here; only their form is checked."""
    if not isinstance(value, str):
        with Table(value, where) as table:
            table.optional("url", string)
            table.optional("path", string)


@dataclass(frozen=True, slots=True)
class _Profile:
    """What a named profile changes of a component."""

    source: Source | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    dependencies: Mapping[str, Dependency] = field(default_factory=dict)
    commands: tuple[str, ...] | None = None


def profiles(value: object) -> tuple[str, ...]:
    """The names of the profiles that a component defines, before it is read."""
    defined = value.get("profile") if isinstance(value, dict) else None
    return tuple(defined) if isinstance(defined, dict) else ()


def _profile(*, inherits: bool | None) -> Reader[_Profile]:
    def read(value: object, where: Where) -> _Profile:
        with Table(value, where) as table:
            return _Profile(
                table.optional("source", read_source),
                table.optional("environment", _environment) or {},
                table.optional("dependencies", read_dependencies(inherits=inherits)) or {},
                table.optional("build", _profile_commands),
            )

    return read


def _profile_commands(value: object, where: Where) -> tuple[str, ...]:
    with Table(value, where) as table:
        return table.need("command", _commands)


def _overlaid(component: Component, profile: _Profile) -> Component:
    build = component.build
    if profile.commands is not None:
        build = replace(build or Build(()), commands=profile.commands)
    return replace(
        component,
        source=profile.source or component.source,
        environment={**component.environment, **profile.environment},
        dependencies={**component.dependencies, **profile.dependencies},
        build=build,
    )
