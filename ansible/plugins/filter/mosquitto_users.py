"""Filter: users and passwords as mosquitto's password file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

DOCUMENTATION = """
name: mosquitto_users
short_description: Lines of a password file of mosquitto
version_added: 0.1.0
description:
  - One line for each user, with a salted hash of the password, as C(mosquitto_passwd) writes them.
    The salt follows from user and password, so that the same input gives the same file.
options:
  _input:
    description: User to password.
    type: dict
    required: true
"""
EXAMPLES = """
lines: "{{ {'node': 'secret'} | edge.appliance.mosquitto_users }}"
"""
RETURN = """
_value:
  description: The file.
  type: str
"""

# As mosquitto_passwd of mosquitto 2 has it.
ITERATIONS = 101
# Of the salt, which follows from the password: it must not be the shorter way to that.
SALT_ITERATIONS = 100_000


class FilterModule:
    """What Ansible asks for the filters of this file."""

    def filters(self) -> dict[str, Any]:
        return {"mosquitto_users": mosquitto_users}


def mosquitto_users(users: object) -> str:
    if not isinstance(users, Mapping):
        raise AnsibleFilterError("mosquitto_users: a dictionary of users and passwords is needed")
    return "".join(_line(str(user), str(password)) for user, password in sorted(users.items()))


def _line(user: str, password: str) -> str:
    if not user or ":" in user or "\n" in user:
        raise AnsibleFilterError(f"mosquitto_users: {user!r} cannot be the name of a user")
    secret = password.encode()
    about = f"edge.appliance:{user}".encode()
    salt = hashlib.pbkdf2_hmac("sha512", secret, about, SALT_ITERATIONS)[:12]
    digest = hashlib.pbkdf2_hmac("sha512", secret, salt, ITERATIONS)
    return f"{user}:$7${ITERATIONS}${_base64(salt)}${_base64(digest)}\n"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
