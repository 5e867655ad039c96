"""`edge fleet push`, `show` and `check`: the document that says what the nodes of a fleet run.

Who these nodes are is in `membership`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from edge.application.units import show_duration
from edge.cli import membership
from edge.cli.common import Verbs, argument
from edge.cli.remote import registry_arguments, registry_client
from edge.cli.sign import key_password
from edge.config import Mount, Node
from edge.errors import BundleError, ConfigError
from edge.registry.answers import NotFound
from edge.registry.client import RegistryClient
from edge.registry.digest import Digest
from edge.registry.fleetdoc import artifact, author, document
from edge.registry.fleetdoc.document import Document, Rollout, Selector, Target, show_time
from edge.registry.fleetdoc.select import is_canary, selected
from edge.registry.manifest import Descriptor
from edge.registry.reference import Reference, looks_like_reference

_log = logging.getLogger("edge")


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser(
        "fleet",
        help="found a fleet, let nodes join, say what they run",
        description="A fleet is nodes that know each other by certificates. Its document says what"
        " they run; each follows the tag it is at.",
    )
    parts = parser.add_subparsers(required=True, metavar="VERB")
    _add_push(parts, common)
    _add_show(parts, common)
    _add_check(parts, common)
    membership.add(parts, common)


def _add_push(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser(
        "push",
        parents=[common],
        help="make a fleet.toml the next generation",
        description="Pushes a fleet.toml as the next generation of a fleet's document.",
        epilog="Prints the reference with the digest.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a fleet.toml")
    parser.add_argument(
        "reference",
        type=argument(_target),
        metavar="REF",
        help="where the nodes look, like registry.example/fleet/site-a:stable",
    )
    parser.add_argument(
        "--key", type=Path, metavar="FILE", help="sign it: PKCS #8 in PEM, or cosign's"
    )
    parser.add_argument(
        "--key-password-file", type=Path, metavar="FILE", help="holds the private key's password"
    )
    parser.add_argument(
        "--follow-tags",
        action="store_true",
        help="leave tags as they are, which each node follows; pinned are those with a rollout",
    )
    registry_arguments(parser)
    parser.set_defaults(run=_run_push)


def _add_show(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser(
        "show",
        parents=[common],
        help="show what a document says",
        description="Shows a document: what runs where, and who takes it first.",
    )
    _document_argument(parser)
    registry_arguments(parser)
    parser.set_defaults(run=_run_show)


def _add_check(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser(
        "check",
        parents=[common],
        help="show what one node would run",
        description="Validates a document, and shows what a node would run by it.",
    )
    _document_argument(parser)
    parser.add_argument("--name", default="", metavar="NODE", help="the node's name")
    parser.add_argument(
        "--label",
        action="append",
        default=[],
        type=argument(_label),
        metavar="KEY=VALUE",
        help="a label that it has",
    )
    registry_arguments(parser)
    parser.set_defaults(run=_run_check)


def _document_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "document",
        type=argument(_source),
        metavar="REF|FILE",
        help="of a registry, a fleet.toml, or a document as JSON",
    )
    parser.add_argument("--json", action="store_true", help="for programs")


def _target(text: str) -> Reference:
    reference = Reference.parse(text)
    if reference.digest is not None:
        raise ConfigError(f"{text}: a document goes to a tag", hint="nodes follow the tag")
    return reference


def _source(text: str) -> Path | Reference:
    path = Path(text)
    if path.exists() or text.endswith(".json") or not looks_like_reference(text):
        return path
    return Reference.parse(text)


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ValueError(f'"{text}" is not KEY=VALUE')
    return key, value


# push


def _run_push(options: argparse.Namespace) -> int:
    draft = author.load(options.file, _now())
    digest = asyncio.run(_push(options, draft))
    sys.stdout.write(f"{options.reference.at(digest)}\n")
    return 0


async def _push(options: argparse.Namespace, draft: author.Draft) -> Digest:
    reference: Reference = options.reference
    async with registry_client(options, reference) as client:
        sign = await _signer(options, client)

        async def resolve(wanted: Reference) -> Digest:
            return (await client.resolve(wanted)).descriptor.digest

        exact = await author.pinned(draft.document, resolve, follow_tags=options.follow_tags)
        draft = author.Draft(exact, draft.generation)
        known = await _known(client, reference)
        next_one = author.numbered(draft, known.document if known else None)
        if next_one is None:
            assert known is not None
            _log.info("generation %d says the same already", known.document.generation)
            if sign is not None:
                await sign(known)
            return known.digest
        built = artifact.build(next_one)
        await artifact.push(client, reference, built, sign)
        _log.info('fleet "%s": generation %d', next_one.fleet, next_one.generation)
        return built.digest


async def _signer(
    options: argparse.Namespace, client: RegistryClient
) -> Callable[[artifact.Found], Awaitable[None]] | None:
    """Read before anything is sent: a key may have a password."""
    if options.key is None:
        return None
    # Who only looks at documents needs no cryptography.
    from edge.registry.signatures.keys import SigningKey
    from edge.registry.signatures.sign import Signer

    key = await asyncio.to_thread(SigningKey.load, options.key, lambda: key_password(options))
    signer = Signer(client, key, _now())

    async def sign(found: artifact.Found) -> None:
        data = found.named.data
        subject = Descriptor(found.named.manifest.media_type, found.digest, len(data))
        await signer.sign(options.reference, subject)

    return sign


async def _known(client: RegistryClient, reference: Reference) -> artifact.Found | None:
    try:
        named = await artifact.resolve(client, reference)
    except NotFound:
        return None
    assert named is not None
    return await artifact.fetch(client, reference, named)


# show, check


def _run_show(options: argparse.Namespace) -> int:
    found = _read(options)
    if options.json:
        sys.stdout.write(f"{found.to_bytes().decode()}\n")
        return 0
    sys.stdout.write(f"{_title(found)}\n")
    _write_table(
        (t.name, t.entry.reference or "", _mount(t.entry.mount), _nodes(t.select), _steps(t))
        for t in found.targets
    )
    return 0


def _run_check(options: argparse.Namespace) -> int:
    node = Node(name=options.name, labels=dict(options.label))
    chosen = selected(_read(options), node).values()
    if options.json:
        runs = [_run_json(target, node) for target in chosen]
        sys.stdout.write(f"{json.dumps({'node': node.name, 'applications': runs}, indent=1)}\n")
        return 0
    if not chosen:
        labels = " ".join(f"{key}={value}" for key, value in node.labels.items()) or "no labels"
        name = f"named {node.name}" if node.name else "without a name"
        _log.info("nothing of it is for a node %s, %s", name, labels)
    _write_table(
        (t.name, t.entry.reference or "", _mount(t.entry.mount), _turn(t.rollout, t.name, node))
        for t in chosen
    )
    return 0


def _read(options: argparse.Namespace) -> Document:
    source: Path | Reference = options.document
    if isinstance(source, Reference):
        return asyncio.run(_pull(options, source))
    if source.suffix == ".toml":
        return author.load(source, _now()).document
    try:
        return document.read(source.read_bytes(), str(source))
    except BundleError as error:
        if error.hint is None and source.suffix != ".json":
            error.hint = "a fleet.toml is known by its ending, .toml"
        raise
    except OSError as error:
        raise ConfigError(f"{source}: {(error.strerror or '').lower()}") from error


async def _pull(options: argparse.Namespace, reference: Reference) -> Document:
    async with registry_client(options, reference) as client:
        named = await artifact.resolve(client, reference)
        if named is None:
            raise BundleError(f"{reference}: is not a fleet document")
        return (await artifact.fetch(client, reference, named)).document


def _title(found: Document) -> str:
    expires = f", expires {show_time(found.expires)}" if found.expires else ""
    return f"fleet {found.fleet}, generation {found.generation}{expires}"


def _mount(mount: Mount) -> str:
    return f"{mount.host or ''}{mount.path}"


def _nodes(select: Selector) -> str:
    labels = (f"{key}={'|'.join(values)}" for key, values in select.labels.items())
    return " ".join((*select.names, *labels)) or "every node"


def _steps(target: Target) -> str:
    if (rollout := target.rollout) is None:
        return "at once"
    first = (f"{rollout.canary} %", *rollout.nodes) if rollout.canary else rollout.nodes
    return f"{' '.join(first) or 'nobody'} at once, others after {show_duration(rollout.soak)}"


def _turn(rollout: Rollout | None, name: str, node: Node) -> str:
    if rollout is None:
        return "at once"
    if is_canary(rollout, name, node.name):
        return "at once: a canary"
    return f"after {show_duration(rollout.soak)}"


def _run_json(target: Target, node: Node) -> dict[str, object]:
    rollout = target.rollout
    canary = rollout is not None and is_canary(rollout, target.name, node.name)
    after = rollout.soak if rollout and not canary else 0.0
    return {**target.to_json(), "canary": canary, "after_seconds": after}


def _write_table(rows: Iterable[tuple[str, ...]]) -> None:
    sys.stdout.writelines(f"{line}\n" for line in _aligned(list(rows)))


def _aligned(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(t.ljust(w) for t, w in zip(row, widths, strict=True)).rstrip()


def _now() -> float:
    """The clock of who writes the document: they are to know what time it is."""
    return datetime.now(UTC).timestamp()
