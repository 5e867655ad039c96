#!/usr/bin/python
"""Module: one application of a node. It asks the node by `edge`, and does nothing by itself."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: application
short_description: An application of an edge node
version_added: 0.1.0
description:
  - Sees to it that a node runs an application as C(edge deploy) would.
  - The node pulls a new version, verifies, compiles and tries it before it serves, swaps it in
    without dropping a request, and watches it for its soak time. This module waits for the end of
    that. Where any of it fails, the node gets back what it was told before, and the task fails.
  - What it was told before a change is kept on the node, readable by root only, for C(before).
options:
  name:
    description: The application's name on the node.
    type: str
    required: true
  state:
    description:
      - C(present) deploys the I(reference), where the node was told something else.
      - C(absent) takes the application off.
      - C(before) is what the last change by this module replaced; if there was none, C(edge
        rollback).
    type: str
    choices: [present, absent, before]
    default: present
  reference:
    description:
      - Of the bundle, with its registry. Name a version, like C(registry.example/team/app:1.4); a
        tag that moves is followed by each node by itself, whatever a play does.
    type: str
  mount:
    description: Where its routes begin.
    type: str
    default: /
  host:
    description: Only requests to this host.
    type: str
  variables:
    description:
      - Variables of the application. They are shown; for secrets there are I(credentials).
      - A variable that is named no more keeps its value; C(absent) and C(present) begin anew.
    type: dict
    default: {}
  variable_files:
    description: Variable to file of the node that holds its value; the user C(edge) reads it.
    type: dict
    default: {}
  credentials:
    description: Variable to the name of a file in C(/etc/edge/credentials) that holds its value.
    type: dict
    default: {}
  purge:
    description: With I(state=absent), what the application keeps goes as well.
    type: bool
    default: false
  soak:
    description: Whether to wait until the node has watched a new version for its soak time.
    type: bool
    default: true
  retry:
    description: Whether to try a version again that was rolled back on this node.
    type: bool
    default: false
  timeout:
    description: Seconds for all of it; a small board compiles for minutes.
    type: int
    default: 900
attributes:
  check_mode:
    description: It says whether something would change.
    support: full
  diff_mode:
    description: It shows what the node is told, before and after.
    support: full
author:
  - The edge authors (@edge)
"""

EXAMPLES = """
- name: Run the thermostat
  edge.appliance.application:
    name: thermo
    reference: registry.example/team/thermo:1.4
    mount: /thermo
    variables:
      limit: "30"

- name: Go back
  edge.appliance.application:
    name: thermo
    state: before
"""

RETURN = """
application:
  description: How it is, as C(edge apps NAME --json) says; null where it is gone.
  returned: always
  type: dict
changed:
  description: Whether the node was told something else.
  returned: always
  type: bool
"""

# What an application was told before the last change; variables may be secrets.
KEPT = Path("/var/lib/edge-ansible")
CREDENTIALS = "/run/credentials/edge.service/edge_"
# Seconds between two looks at a version that is watched.
PAUSE = 1.0

ARGUMENTS: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent", "before"], "default": "present"},
    "reference": {"type": "str"},
    "mount": {"type": "str", "default": "/"},
    "host": {"type": "str"},
    "variables": {"type": "dict", "default": {}},
    "variable_files": {"type": "dict", "default": {}},
    "credentials": {"type": "dict", "default": {}, "no_log": False},
    "purge": {"type": "bool", "default": False},
    "soak": {"type": "bool", "default": True},
    "retry": {"type": "bool", "default": False},
    "timeout": {"type": "int", "default": 900},
}

# An application as the node was told it: reference, mount, variables, variables_files.
Entry = dict[str, Any]


class Refused(Exception):
    """The node did not do it; why, in one line."""


class Node:
    """The node of this machine, asked by its own verbs."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self._deadline = time.monotonic() + module.params["timeout"]

    def verb(self, *arguments: str) -> Any:
        """What it prints as JSON; Refused: its error."""
        code, out, err = self._module.run_command(["edge", *arguments])
        if code:
            raise Refused(said(err) or said(out) or f"edge {arguments[0]}: exit code {code}")
        return json.loads(out) if "--json" in arguments else None

    def application(self, name: str) -> dict[str, Any] | None:
        found = self.verb("apps", "--json")
        return next((one for one in found if one["name"] == name), None)

    def told(self, name: str) -> Entry | None:
        """What was deployed under this name; the verbs do not show variables."""
        path = Path(self.verb("status", "--json")["state_dir"], "apps.json")
        try:
            entry = json.loads(path.read_text())["deployed"].get(name)
        except FileNotFoundError:
            return None
        return entry and normal(entry)

    def deploy(self, name: str, entry: Entry) -> None:
        arguments = ["--name", name, "--mount", entry["mount"]["path"]]
        if host := entry["mount"].get("host"):
            arguments += ["--host", host]
        for variable, value in entry["variables"].items():
            # By a file: the command line is for everybody to read.
            arguments += ["--variable", f"{variable}=@{self._temporary(value)}"]
        for variable, path in entry["variables_files"].items():
            arguments += ["--variable-file", f"{variable}={path}"]
        self.verb("deploy", entry["reference"], *arguments, "--json")

    def _temporary(self, text: str) -> str:
        path = Path(self._module.tmpdir, f"edge-{os.urandom(8).hex()}")
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        self._module.add_cleanup_file(str(path))
        return str(path)

    def watched(self, name: str) -> dict[str, Any]:
        """The application once its new version was watched long enough. Refused: it went back."""
        while True:
            found = self.application(name)
            if found is None:
                raise Refused(f"{name} is not on this node any more")
            if found["state"] != "soaking":
                break
            if time.monotonic() > self._deadline:
                raise Refused(f"{name} is still watched: [sync] soak may be longer than timeout")
            time.sleep(PAUSE)
        if found["state"] != "live":
            raise Refused(f"{name} is {found['state']}: {found['reason']}")
        return found


def said(output: str) -> str:
    """The error of a verb, with its hint; what comes before it is progress."""
    lines = output.strip().splitlines()
    first = next((n for n, line in enumerate(lines) if line.startswith("edge: ")), -1)
    return "; ".join(line.removeprefix("edge: ") for line in lines[first:])


def normal(entry: Entry) -> Entry:
    """As it stands in apps.json, with what is left out there."""
    told = {"mount": {"path": "/"}, "variables": {}, "variables_files": {}, **entry}
    keys = ("reference", "mount", "variables", "variables_files")
    return {key: told[key] for key in keys}


def wanted(parameters: dict[str, Any], before: Entry | None) -> Entry:
    """What the node is to be told: variables are added to those that it has."""
    credentials = {k: f"{CREDENTIALS}{name}" for k, name in parameters["credentials"].items()}
    files = {**parameters["variable_files"], **credentials}
    values = {name: text(value) for name, value in parameters["variables"].items()}
    kept = before or {"variables": {}, "variables_files": {}}
    host = {"host": parameters["host"]} if parameters["host"] else {}
    return {
        "reference": parameters["reference"],
        "mount": {"path": parameters["mount"], **host},
        "variables": {**without(kept["variables"], files), **values},
        "variables_files": {**without(kept["variables_files"], values), **files},
    }


def text(value: object) -> str:
    """As YAML has it, of what is no text there."""
    return value if isinstance(value, str) else json.dumps(value)


def without(table: dict[str, str], names: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in table.items() if name not in names}


def present(module: AnsibleModule, node: Node) -> dict[str, Any]:
    name, before = module.params["name"], node.told(module.params["name"])
    entry = wanted(module.params, before)
    found = node.application(name)
    if entry == before and found is not None:
        return as_it_is(module, node, found)
    shown = {"before": view(before), "after": view(entry)}
    if module.check_mode:
        return {"changed": True, "diff": shown, "application": found}
    keep(name, before)
    return {"changed": True, "diff": shown, "application": change(module, node, before, entry)}


def as_it_is(module: AnsibleModule, node: Node, found: dict[str, Any]) -> dict[str, Any]:
    """The node was told so already; it may not have got there."""
    if found["state"] in ("live", "soaking"):
        return {"changed": False, "application": found}
    if not module.params["retry"]:
        # One that was not delivered yet, or is not due, may still come.
        if found["state"] in ("failed", "rolled back"):
            raise Refused(f"{found['name']} is {found['state']}: {found['reason']}")
        return {"changed": False, "application": found}
    if not module.check_mode:
        node.verb("sync", found["name"], "--retry", "--json")
        found = node.watched(found["name"]) if module.params["soak"] else found
    return {"changed": True, "application": found}


def change(
    module: AnsibleModule, node: Node, before: Entry | None, entry: Entry
) -> dict[str, Any] | None:
    """Tells it, waits, and takes it back where that fails."""
    name = module.params["name"]
    node.deploy(name, entry)  # one that cannot be made live has changed nothing
    if not module.params["soak"]:
        return node.application(name)
    try:
        return node.watched(name)
    except Refused as error:
        raise Refused(f"{error}; {reverted(node, name, before, entry)}") from None


def reverted(node: Node, name: str, before: Entry | None, now: Entry) -> str:
    try:
        restore(node, name, before, now)
    except Refused as error:
        return f"what was before could not be restored: {error}"
    if before is None:
        return "it was taken off, as it was not there before"
    return f"the node runs again what it ran before: {before['reference']}"


def absent(module: AnsibleModule, node: Node) -> dict[str, Any]:
    name, before = module.params["name"], node.told(module.params["name"])
    if before is None:
        if (found := node.application(name)) is not None:
            raise Refused(f"{name} comes from {found['source']}: take it off there")
        return {"changed": False, "application": None}
    if not module.check_mode:
        keep(name, before)
        node.verb("undeploy", name, *(["--purge"] if module.params["purge"] else []))
    return {"changed": True, "application": None, "diff": {"before": view(before), "after": ""}}


def earlier(module: AnsibleModule, node: Node) -> dict[str, Any]:
    name, now = module.params["name"], node.told(module.params["name"])
    try:
        before = json.loads((KEPT / f"{name}.json").read_text())
    except FileNotFoundError:
        return rolled_back(module, node)
    shown = {"before": view(now), "after": view(before)}
    if before == now:
        return {"changed": False, "application": node.application(name)}
    if module.check_mode:
        return {"changed": True, "diff": shown, "application": node.application(name)}
    restore(node, name, before, now)
    return {"changed": True, "diff": shown, "application": node.application(name)}


def restore(node: Node, name: str, before: Entry | None, now: Entry | None) -> None:
    """Tells the node what it was told before. Variables that were added since go only with the
    application itself.
    """
    if now is not None and (before is None or variables(now) - variables(before)):
        node.verb("undeploy", name)
    if before is not None:
        node.deploy(name, before)


def variables(entry: Entry) -> set[str]:
    return {*entry["variables"], *entry["variables_files"]}


def rolled_back(module: AnsibleModule, node: Node) -> dict[str, Any]:
    """Of an application that this module never changed."""
    name = module.params["name"]
    found = node.application(name)
    if found is None:
        raise Refused(f"{name} is not on this node")
    if found["state"] == "rolled back":
        return {"changed": False, "application": found}
    if not module.check_mode:
        found = node.verb("rollback", name, "--json")
    return {"changed": True, "application": found}


def keep(name: str, entry: Entry | None) -> None:
    """For `before`: replaced as a whole, and durable before anything is changed."""
    KEPT.mkdir(mode=0o700, exist_ok=True)
    target = KEPT / f"{name}.json"
    temporary = target.with_suffix(".new")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(entry, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(target)


def view(entry: Entry | None) -> str:
    """For people; values of variables are not for everybody."""
    if entry is None:
        return ""
    mount = f"{entry['mount'].get('host') or ''}{entry['mount']['path']}"
    names = ", ".join(sorted(variables(entry)))
    return f"reference: {entry['reference']}\nmount: {mount}\nvariables: {names}\n"


def main() -> None:
    required = [("state", "present", ["reference"])]
    module = AnsibleModule(ARGUMENTS, required_if=required, supports_check_mode=True)
    actions = {"present": present, "absent": absent, "before": earlier}
    try:
        module.exit_json(**actions[module.params["state"]](module, Node(module)))
    except Refused as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
