"""`edge sign`, `edge verify`: who vouches for what a registry has."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from edge.application.units import duration
from edge.cli.common import Verbs, argument
from edge.cli.remote import registry_arguments, registry_client
from edge.errors import ConfigError
from edge.platform.clock import TrustedClock
from edge.registry.reference import Reference
from edge.registry.signatures.trust import verify
from edge.registry.store import ContentStore

# A password file holds a line; a wrong file may hold anything.
_MAX_PASSWORD = 4096
# Calendars end somewhere.
_LONGEST = 100 * 365 * 86400.0


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    _add_sign(verbs, common)
    _add_verify(verbs, common)


def _add_sign(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser(
        "sign",
        parents=[common],
        help="sign what a registry has, or make a key for it",
        description="Puts a signature beside a bundle or a fleet document, as cosign does.",
        epilog="A key's password: --key-password-file, $COSIGN_PASSWORD, or it is asked for.",
    )
    parser.add_argument(
        "reference",
        nargs="?",
        type=argument(Reference.parse),
        metavar="REF",
        help="what to sign, like registry.example/team/app:1.0",
    )
    parser.add_argument(
        "--key", type=Path, metavar="FILE", help="the private key: PKCS #8 in PEM, or cosign's"
    )
    parser.add_argument(
        "--expires",
        type=argument(_lifetime),
        metavar="TIME",
        help='how long nodes are to trust it, like "90d" (default: for ever)',
    )
    parser.add_argument(
        "--format",
        choices=("both", "tag", "bundle"),
        default="both",
        help="tag: cosign 2, skopeo, podman; bundle: cosign 3 (default: both)",
    )
    parser.add_argument(
        "--generate-key",
        type=Path,
        metavar="FILE",
        help="make a key: FILE is the private one, what nodes need is beside it in .pub",
    )
    parser.add_argument(
        "--key-password-file", type=Path, metavar="FILE", help="holds the private key's password"
    )
    registry_arguments(parser)
    parser.set_defaults(run=_run_sign)


def _add_verify(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser(
        "verify",
        parents=[common],
        help="check the signatures of what a registry has",
        description="Checks that one of the keys has signed what nodes would run of a reference.",
        epilog="Prints the reference with the digest that is signed.",
    )
    parser.add_argument(
        "reference", type=argument(Reference.parse), metavar="REF", help="what to check"
    )
    parser.add_argument(
        "--key",
        type=Path,
        action="append",
        required=True,
        metavar="FILE",
        help="a public key in PEM; may be given several times",
    )
    registry_arguments(parser)
    parser.set_defaults(run=_run_verify)


def _lifetime(text: str) -> float:
    if not 0 < (seconds := duration(text)) <= _LONGEST:
        raise ValueError(f'must be more than nothing and at most 100 years, not "{text}"')
    return seconds


def _run_sign(options: argparse.Namespace) -> int:
    if options.generate_key is not None:
        if options.reference is not None or options.key is not None:
            raise ConfigError("--generate-key signs nothing: leave REF and --key out")
        return _generate(options)
    if options.reference is None or options.key is None:
        raise ConfigError(
            "sign needs REF and --key", hint="a first key: edge sign --generate-key edge.key"
        )
    for signed in asyncio.run(_sign(options)):
        sys.stdout.write(f"{signed}\n")
    return 0


async def _sign(options: argparse.Namespace) -> list[Reference]:
    from edge.registry.signatures.keys import SigningKey
    from edge.registry.signatures.sign import Signer, subjects

    reference: Reference = options.reference
    key = await asyncio.to_thread(SigningKey.load, options.key, lambda: key_password(options))
    now = datetime.now(UTC).timestamp()  # of who signs: they are to know what time it is
    expires = None if options.expires is None else now + options.expires
    async with registry_client(options, reference) as client:
        signer = Signer(client, key, now, expires)
        found = await subjects(client, reference)
        for subject in found:
            await signer.sign(reference, subject, options.format)
    return [reference.at(subject.digest) for subject in found]


def _run_verify(options: argparse.Namespace) -> int:
    sys.stdout.write(f"{asyncio.run(_verify(options))}\n")
    return 0


async def _verify(options: argparse.Namespace) -> Reference:
    from edge.registry.signatures.keys import load_all
    from edge.registry.signatures.sign import subjects

    load_all(options.key)  # a mistake in them is told before a registry is asked
    reference: Reference = options.reference
    with tempfile.TemporaryDirectory(prefix="edge-verify-") as directory:
        store = ContentStore(Path(directory))
        async with registry_client(options, reference) as client:
            *_, subject = await subjects(client, reference)
            now = TrustedClock()()
            await verify(client, reference, subject.digest, options.key, now, store)
    return reference.at(subject.digest)


def _generate(options: argparse.Namespace) -> int:
    from edge.registry.signatures.keys import SigningKey

    private: Path = options.generate_key
    public = private.with_suffix(".pub")
    if public == private:
        raise ConfigError(f"{private}: .pub is for the public key", hint="call it edge.key")
    if public.exists():
        raise ConfigError(f"{public}: file exists", hint="it stays; name another")
    key = SigningKey.generate()
    _create(private, key.to_pem(key_password(options, new=True)), 0o600)
    _create(public, key.public.to_pem(), 0o644)
    sys.stdout.write(f"{public}\n")
    return 0


def _create(path: Path, data: bytes, mode: int) -> None:
    """Never over a file that is there: it may be the only copy of a key."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except OSError as error:
        raise ConfigError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def key_password(options: argparse.Namespace, *, new: bool = False) -> bytes:
    """Of the option, the environment, or a person."""
    path: Path | None = options.key_password_file
    if path is not None:
        return _first_line(path)
    given = os.environ.get("COSIGN_PASSWORD")
    if given is not None:
        return given.encode()
    if not sys.stdin.isatty():
        return b""
    password = getpass.getpass("password of the new key: " if new else "password of the key: ")
    if new and getpass.getpass("again: ") != password:
        raise ConfigError("the passwords differ")
    return password.encode()


def _first_line(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_PASSWORD + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"--key-password-file {path}: {reason}") from None
    if len(data) > _MAX_PASSWORD:
        raise ConfigError(f"--key-password-file {path}: is too large for a password")
    return data.rstrip(b"\r\n")
