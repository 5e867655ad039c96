"""`edge check`: validates an application, or the configuration of a node, without starting it."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge.application import templates
from edge.cli import check_config, remote
from edge.cli.common import Verbs, application_arguments, runtime_config, state_dir, variables
from edge.engine.guest import named_plan
from edge.engine.host import Interfaces
from edge.engine.plan import Missing, Plan
from edge.errors import ConfigError
from edge.invocation.application import entry
from edge.invocation.handlers import event_entry
from edge.node.node import EXPORTS, allowed_hosts, interfaces
from edge.node.services import read_triggers, show_triggers, trigger_notes, type_notes
from edge.registry.local import LocalApplication
from edge.registry.reference import Reference
from edge.spin.platform import Stores


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser(
        "check",
        parents=[common],
        help="validate an application, or a node's configuration, without starting it",
        description="Reads the manifest, the files and every component; starts nothing.",
    )
    application_arguments(parser)
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="check an edge.toml instead: its keys, the files that it names, the applications of"
        " this machine",
    )
    remote.registry_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    if options.config is None:
        found = asyncio.run(_check(options))
        text = _text(found)
    else:
        found = asyncio.run(_check_node(options))
        text = check_config.text(found)
    sys.stdout.write(json.dumps(found, indent=2) + "\n" if options.json else text)
    return 0


async def _check_node(options: argparse.Namespace) -> dict[str, Any]:
    if options.app != Path():
        raise ConfigError(f"--config: {options.app}: one of the two is checked at a time")
    for name in ("variable", "runtime_config_file", "state_dir"):
        if getattr(options, name):
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{option}: the configuration says that, with --config")
    return await check_config.check(options.config, examine)


async def _check(options: argparse.Namespace) -> dict[str, Any]:
    runtime = runtime_config(options)
    state = state_dir(options, runtime)
    try:
        loaded = await remote.load(options.app, options, state)
    except ConfigError as error:
        if _is_configuration(options.app):
            hint = f"for the configuration of a node: edge check --config {options.app}"
            raise ConfigError(error.message, hint=hint) from error
        raise
    values = variables(options, runtime, loaded.application)
    found = examine(loaded, values, Stores(state, runtime.stores))
    return {**found, "notes": [*runtime.notes, *found["notes"]]}


def _is_configuration(app: Path | Reference) -> bool:
    if not isinstance(app, Path) or app.suffix != ".toml":
        return False
    try:
        document = tomllib.loads(app.read_text())
    except (OSError, ValueError):
        return False
    return not document.keys() & {"spin_manifest_version", "spin_version"}


def examine(loaded: LocalApplication, given: Mapping[str, str], stores: Stores) -> dict[str, Any]:
    """What would be live. Raises the EdgeError for which it would not."""
    application = loaded.application
    values = templates.resolve(application.variables, given)
    triggers = read_triggers(application, values)
    known = interfaces()
    plans = {id: _plan(id, path, known) for id, path in loaded.sources.items()}
    for declared in application.components.values():
        allowed_hosts(application, declared, values)
        stores.grant(application.name, declared, values)
    for trigger in application.http:
        if id := trigger.component:
            entry(id, plans[id].exports, command=trigger.wagi is not None)
    for kind, found in triggers.items():
        for one in found.triggers:
            event_entry(kind, one.component, plans[one.component])
    return {
        "name": application.name,
        "triggers": list(application.trigger_types),
        "routes": [t.route.text for t in application.http if t.route],
        "events": show_triggers(triggers),
        "notes": [*application.notes, *type_notes(application), *trigger_notes(triggers)],
        "components": {id: _component(plan) for id, plan in plans.items()},
    }


def _plan(id: str, path: Path, known: Interfaces) -> Plan:
    return named_plan(path.read_bytes(), f"component {id}", known, EXPORTS)


def _component(plan: Plan) -> dict[str, Any]:
    return {"exports": sorted(plan.exports), "missing": _missing(plan)}


def _missing(plan: Plan) -> list[str]:
    """Interfaces this host lacks: their functions fail when they are called."""
    return sorted({item.module for item in plan.trampolines if isinstance(item, Missing)})


def _text(found: dict[str, Any]) -> str:
    lines = [f"{found['name']}: ok", f"  routes: {', '.join(found['routes']) or 'none'}"]
    lines += [f"  {event}" for event in found["events"]]
    lines += [f"  note: {note}" for note in found["notes"]]
    for id, component in found["components"].items():
        lines.append(f"  component {id}: exports {', '.join(component['exports'])}")
        if component["missing"]:
            lines.append(f"    fails when called: {', '.join(component['missing'])}")
    return "\n".join(lines) + "\n"
