"""`edge check`: validates an application without starting it."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from edge.application import templates
from edge.cli import remote
from edge.cli.common import Verbs, application_arguments, runtime_config, state_dir, variables
from edge.engine.guest import named_plan
from edge.engine.host import Interfaces
from edge.engine.plan import Missing, Plan
from edge.invocation.application import entry
from edge.invocation.handlers import event_entry
from edge.node import EXPORTS, allowed_hosts, interfaces
from edge.node.services import read_triggers, show_triggers, trigger_notes, type_notes
from edge.spin.platform import Stores


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser(
        "check",
        parents=[common],
        help="validate an application without starting it",
        description="Reads the manifest, the files and every component; starts nothing.",
    )
    application_arguments(parser)
    remote.registry_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    found = asyncio.run(_check(options))
    if options.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        sys.stdout.write(_text(found))
    return 0


async def _check(options: argparse.Namespace) -> dict[str, Any]:
    runtime = runtime_config(options)
    state = state_dir(options, runtime)
    loaded = await remote.load(options.app, options, state)
    application = loaded.application
    values = templates.resolve(application.variables, variables(options, runtime, application))
    triggers = read_triggers(application, values)
    stores = Stores(state, runtime.stores)
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
        "notes": [
            *runtime.notes,
            *application.notes,
            *type_notes(application),
            *trigger_notes(triggers),
        ],
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
