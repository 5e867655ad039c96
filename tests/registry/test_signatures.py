"""Signatures as documents: what counts, what does not and why; hostile ones only get a reason."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import BundleError, ConfigError
from edge.registry.digest import Digest
from edge.registry.manifest import IMAGE_CONFIG, Descriptor, Manifest
from edge.registry.reference import Reference
from edge.registry.signatures import attestation, sealed, simple
from edge.registry.signatures.claims import EXPIRES
from edge.registry.signatures.keys import PublicKey, SigningKey
from edge.registry.signatures.verify import Attached, Question, objections

RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parent / "signatures" / "skopeo.json").read_text()
)
KEY = SigningKey.generate()
OTHER = SigningKey.generate()
APP = Reference.parse("registry.example/team/app:1")
DIGEST = Digest.of(b"manifest")
NOW = 1_800_000_000.0
Sign = Callable[..., Attached]


def attached(layer: Descriptor, data: bytes) -> Attached:
    manifest = Manifest(Descriptor(IMAGE_CONFIG, Digest.of(b"{}"), 2), (layer,))
    encoded = manifest.to_bytes()
    descriptor = Descriptor(manifest.media_type, Digest.of(encoded), len(encoded))
    return Attached(descriptor, encoded, manifest, {layer.digest: data})


def as_layer(payload: bytes, key: SigningKey = KEY, signature: str | None = None) -> Attached:
    if signature is None:
        signature = base64.b64encode(key.sign(payload)).decode()
    digest = Digest.of(payload)
    annotations = {simple.SIGNATURE: signature}
    return attached(Descriptor(simple.MEDIA_TYPE, digest, len(payload), annotations), payload)


def as_bundle(payload: bytes, key: SigningKey = KEY) -> Attached:
    signature = key.sign(attestation.encode(payload))
    return of_bundle(attestation.bundle(payload, signature, key.public.hint))


def of_bundle(data: bytes) -> Attached:
    return attached(Descriptor(attestation.MEDIA_TYPE, Digest.of(data), len(data)), data)


def simple_signing(key: SigningKey = KEY, digest: Digest = DIGEST, **more: object) -> Attached:
    said = {name.replace("_", "."): value for name, value in more.items()}
    return as_layer(simple.payload(APP, digest, said), key)


def in_toto(key: SigningKey = KEY, digest: Digest = DIGEST, **more: object) -> Attached:
    said = {name.replace("_", "."): value for name, value in more.items()}
    return as_bundle(attestation.statement(APP, digest, said), key)


def ask(found: Attached, **changed: Any) -> str | None:
    """The reason why it does not count."""
    question = Question(APP, DIGEST, (KEY.public,), NOW)
    said = objections(found, replace(question, **changed))
    return None if said is None else "; ".join(said) or "no signature"


both = pytest.mark.parametrize("sign", [simple_signing, in_toto])


# What counts


@both
def test_a_signature_counts_for_what_it_was_made_for(sign: Sign) -> None:
    assert ask(sign()) is None
    assert ask(sign(), keys=(OTHER.public, KEY.public)) is None
    assert ask(sign(), reference=Reference.parse("registry.example/team/app:2")) is None


def test_a_recorded_signature_of_skopeo_counts(tmp_path: Path) -> None:
    public = tmp_path / "skopeo.pub"
    public.write_text(RECORDED["public"])
    layer = RECORDED["layer"]
    payload = RECORDED["payload"].encode()
    found = as_layer(payload, signature=layer["annotations"][simple.SIGNATURE])
    assert found.manifest.layers[0].digest == Digest.parse(layer["digest"])
    keys = (PublicKey.load(public),)
    digest = Digest.parse(RECORDED["digest"])
    assert ask(found, digest=digest, keys=keys) is None
    assert ask(found, digest=digest) == "is signed with another key"
    assert "signs another digest" in str(ask(found, keys=keys))


# What does not


@both
def test_another_key(sign: Sign) -> None:
    assert ask(sign(OTHER)) == "is signed with another key"
    assert ask(sign(), keys=()) == "is signed with another key"


@both
def test_another_digest(sign: Sign) -> None:
    other = Digest.of(b"other")
    assert ask(sign(digest=other)) == f"signs another digest: {other}"


@both
def test_another_repository(sign: Sign) -> None:
    """A signature does not make a bundle another one, wherever it is copied."""
    for name in ("registry.example/team/other:1", "evil.example/team/app:1"):
        assert "another repository" in str(ask(sign(), reference=Reference.parse(name)))


@both
def test_an_expired_one(sign: Sign) -> None:
    expiring = sign(edge_expires="2027-01-15T08:00:00Z")  # that is NOW
    assert ask(expiring, now=NOW - 1) is None
    assert ask(expiring, now=NOW) == "expired on 2027-01-15 08:00 UTC"
    assert ask(sign(edge_expires="2027-01-15T09:30:00+02:00"), now=NOW - 1801) is None


@both
@pytest.mark.parametrize(
    "date", ["tomorrow", "2027-01-15T08:00:00", 5, None, True, [], "0001-01-01T00:00:00+14:00", ""]
)
def test_an_expiry_that_cannot_be_read_is_no_permission(sign: Sign, date: object) -> None:
    said = ask(sign(edge_expires=date))
    assert said is None if date is None else said is not None


@both
def test_a_changed_byte_anywhere(sign: Sign) -> None:
    found = sign()
    (layer,) = found.manifest.layers
    data = found.blobs[layer.digest]
    for place in range(0, len(data), 7):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        if ask(replace(found, blobs={layer.digest: changed})) is None:
            # Whose key it is meant to be is not signed, and nobody has to believe it.
            assert json.loads(changed)["dsseEnvelope"] == json.loads(data)["dsseEnvelope"]


# Names


@pytest.mark.parametrize(
    ("signed", "reference"),
    [
        ("index.docker.io/library/app", "docker.io/library/app:1"),  # as cosign writes it
        ("app:1", "docker.io/library/app:1"),
        ("team/app", "docker.io/team/app:1"),
        ("registry.example/team/app@sha256:" + "a" * 64, "registry.example/team/app:1"),
        ("registry.example/team/app:9@sha256:" + "a" * 64, "registry.example/team/app:1"),
        ("Registry.Example:5000/app", "registry.example:5000/app:1"),
        ("", "registry.example/team/app:1"),  # cosign was told to say nothing
    ],
)
def test_names_are_read_as_other_tools_write_them(signed: str, reference: str) -> None:
    payload = json.loads(simple.payload(APP, DIGEST, {}))
    payload["critical"]["identity"]["docker-reference"] = signed
    found = as_layer(json.dumps(payload).encode())
    assert ask(found, reference=Reference.parse(reference)) is None


# Documents that somebody trusted has signed, and that say something else


def changed(path: str, value: object, document: bytes) -> bytes:
    """A document with another value, or without a key where the value is `...`."""
    root = json.loads(document)
    place = root
    *parents, last = path.split(".")
    for key in parents:
        place = place[int(key) if key.isdigit() else key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(root).encode()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("critical", ...),
        ("critical", []),
        ("critical.type", "atomic container signature"),
        ("critical.type", ...),
        ("critical.more", 1),  # critical: what is not understood is refused
        ("critical.image", {}),
        ("critical.image.more", 1),
        ("critical.image.docker-manifest-digest", "sha512:" + "a" * 128),
        ("critical.image.docker-manifest-digest", f"sha256:{DIGEST.hex.upper()}"),
        ("critical.image.docker-manifest-digest", None),
        ("critical.identity", ...),
        ("critical.identity.docker-reference", 7),
        ("more", 1),
        ("optional", "x"),
    ],
)
def test_payloads_that_say_something_else(path: str, value: object) -> None:
    found = as_layer(changed(path, value, simple.payload(APP, DIGEST, {})))
    assert ask(found) not in (None, "is signed with another key")


@pytest.mark.parametrize("optional", [..., None, {}, {"creator": "x", "anything": [1]}])
def test_payloads_with_more_or_less_that_is_optional(optional: object) -> None:
    assert ask(as_layer(changed("optional", optional, simple.payload(APP, DIGEST, {})))) is None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("_type", "https://in-toto.io/Statement/v2"),
        ("predicateType", "https://slsa.dev/provenance/v1"),
        ("predicateType", ...),
        ("subject", []),
        ("subject", ...),
        ("subject", {}),
        ("subject.0.digest", {"sha256": "A" * 64}),
        ("subject.0.digest", {"sha512": "a" * 128}),
        ("subject.0.digest", {}),
        ("subject.0.digest", ...),
        ("subject.0.name", 3),
        ("subject.0.annotations", []),
        ("subject", [{"digest": {"sha256": DIGEST.hex}}] * 1025),
        ("subject", [{"digest": {"sha256": DIGEST.hex}}, {"name": "x", "digest": {"sha256": "1"}}]),
        (
            "subject",
            [
                {"digest": {"sha256": DIGEST.hex}},
                {"digest": {"sha256": "1" * 64}, "annotations": {EXPIRES: "2020-01-01T00:00:00Z"}},
            ],
        ),
    ],
)
def test_statements_that_say_something_else(path: str, value: object) -> None:
    found = as_bundle(changed(path, value, attestation.statement(APP, DIGEST, {})))
    assert ask(found) not in (None, "is signed with another key")


def test_statements_of_several_manifests() -> None:
    """As cosign's for an index and what is in it; without names, as cosign leaves them."""
    subjects = [{"digest": {"sha256": d}} for d in (DIGEST.hex, "1" * 64)]
    found = as_bundle(changed("subject", subjects, attestation.statement(APP, DIGEST, {})))
    assert ask(found) is None
    assert ask(found, digest=Digest("1" * 64)) is None
    assert ask(found, digest=Digest("2" * 64)) is not None


# Bundles that nobody has signed: read before any signature is checked


def a_bundle() -> bytes:
    (data,) = in_toto().blobs.values()
    return data


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("mediaType", "application/vnd.dev.sigstore.bundle+json;version=0.1"),
        ("mediaType", ...),
        ("dsseEnvelope", ...),
        ("dsseEnvelope", None),
        ("dsseEnvelope.payload", "%%%"),
        ("dsseEnvelope.payload", "e30"),  # without its padding
        ("dsseEnvelope.payload", 5),
        ("dsseEnvelope.payloadType", "text/plain"),
        ("dsseEnvelope.more", 1),
        ("dsseEnvelope.signatures", []),
        ("dsseEnvelope.signatures", [{"sig": ""}, {"sig": ""}]),
        ("dsseEnvelope.signatures", [{"sig": "not base64!"}]),
        ("dsseEnvelope.signatures", [{"sig": "AAAA", "x": 1}]),
        ("dsseEnvelope.signatures.0", "AAAA"),
        ("messageSignature", {}),
    ],
)
def test_bundles_that_are_not_understood(path: str, value: object) -> None:
    data = a_bundle()
    if path.endswith(".0"):
        path, value = path.removesuffix(".0"), [value]
    said = ask(of_bundle(changed(path, value, data)))
    assert said not in (None, "is signed with another key")


@pytest.mark.parametrize(
    "more",
    [
        {"tlogEntries": [{"logIndex": "1"}]},
        {"publicKey": {"hint": "another"}},
        {"certificate": {"rawBytes": "AAAA"}},
        {"timestampVerificationData": {}},
    ],
)
def test_what_a_known_key_makes_needless_is_not_looked_at(more: object) -> None:
    assert ask(of_bundle(changed("verificationMaterial", more, a_bundle()))) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"\xff" * 100,
        b"[" * 200_000,
        b'{"a":' * 50_000,
        b'{"mediaType":1e999}',
        b'{"mediaType":' + b"9" * 100_000 + b"}",
        b'{"mediaType":"\\ud800"}',
        b'{"mediaType":NaN}',
        b'{"' + b"x" * 250_000 + b'":1}',
    ],
)
def test_hostile_json(data: bytes) -> None:
    for found in (of_bundle(data), as_layer(data), as_bundle(data)):
        said = ask(found)
        assert said is not None
        assert len(said) <= 300
        assert said.isprintable()


def test_keys_that_appear_twice() -> None:
    """Two readers could see two documents."""
    twice = simple.payload(APP, DIGEST, {}).replace(
        b'"image":{', b'"image":{"docker-manifest-digest":"sha256:%b",' % (b"0" * 64)
    )
    assert "twice" in str(ask(as_layer(twice)))
    data = a_bundle().replace(b'{"payload":', b'{"payload":"e30=","payload":')
    assert "twice" in str(ask(of_bundle(data)))
    statement = attestation.statement(APP, DIGEST, {})
    assert "twice" in str(ask(as_bundle(statement.replace(b'{"_type"', b'{"_type":1,"_type"'))))


@pytest.mark.parametrize("text", ["", "%", "AAAA", "AAA", "A" * 100_000, "AAAA\n", "=", "ÄÖ=="])
def test_signatures_that_are_none(text: str) -> None:
    payload = simple.payload(APP, DIGEST, {})
    assert ask(as_layer(payload, signature=text)) is not None


def test_a_layer_without_a_signature() -> None:
    payload = simple.payload(APP, DIGEST, {})
    bare = attached(Descriptor(simple.MEDIA_TYPE, Digest.of(payload), len(payload)), payload)
    assert "has no annotation" in str(ask(bare))


def test_a_signature_of_one_format_is_none_of_the_other() -> None:
    """What is signed says which format it is of."""
    payload = simple.payload(APP, DIGEST, {})
    statement = attestation.statement(APP, DIGEST, {})
    assert ask(as_bundle(payload)) not in (None, "is signed with another key")
    assert ask(as_layer(statement)) not in (None, "is signed with another key")
    assert ask(as_layer(attestation.encode(statement))) not in (None, "is signed with another key")


def test_layers_of_another_type_are_left_alone() -> None:
    data = b"x"
    found = attached(Descriptor("text/plain", Digest.of(data), 1), data)
    assert ask(found) == "no signature"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(
    [
        *("mediaType", "dsseEnvelope", "payload", "payloadType", "signatures", "sig", "keyid"),
        *("_type", "subject", "digest", "name", "sha256", "predicateType", "annotations"),
        *("critical", "optional", "image", "identity", "type", "docker-reference"),
    ]
)
shapes = st.recursive(
    json_values | st.sampled_from([attestation.MEDIA_TYPE, attestation.PREDICATE, DIGEST.hex]),
    lambda inner: st.dictionaries(keys, inner, max_size=5) | st.lists(inner, max_size=2),
    max_leaves=20,
)


@given(shapes)
def test_no_document_is_more_than_a_reason(document: object) -> None:
    data = json.dumps(document).encode()
    for found in (of_bundle(data), as_layer(data), as_bundle(data)):
        assert ask(found) is not None


@given(st.binary(max_size=200), st.integers(0, 10_000), st.integers(0, 10_000))
def test_no_damage_makes_a_signature(data: bytes, start: int, end: int) -> None:
    good = a_bundle()
    damaged = good[: start % len(good)] + data + good[end % len(good) :]
    said = ask(of_bundle(damaged))
    if said is None:  # the damage is in the hint, or spells the same document
        assert json.loads(damaged)["dsseEnvelope"] == json.loads(good)["dsseEnvelope"]


# Keys


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def pem(key: Any) -> bytes:
    found: bytes = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return found


def no_password() -> bytes:
    raise AssertionError("nobody needs one")


def test_keys_make_the_way_to_a_file_and_back(tmp_path: Path) -> None:
    private = written(tmp_path / "k", KEY.to_pem(b"secret"))
    public = PublicKey.load(written(tmp_path / "k.pub", KEY.public.to_pem()))
    loaded = SigningKey.load(private, lambda: b"secret")
    assert public.verifies(loaded.sign(b"x"), b"x")
    assert not public.verifies(loaded.sign(b"x"), b"y")
    assert "PRIVATE" not in repr(loaded)
    with pytest.raises(ConfigError, match="the password does not open it"):
        SigningKey.load(private, lambda: b"Secret")


def test_a_recorded_key_of_skopeo_opens(tmp_path: Path) -> None:
    private = written(tmp_path / "k", RECORDED["private"].encode())
    loaded = SigningKey.load(private, RECORDED["password"].encode)
    assert loaded.public.to_pem().decode() == RECORDED["public"]


def test_ed25519_counts_as_well(tmp_path: Path) -> None:
    key = SigningKey.load(
        written(tmp_path / "k", pem(ed25519.Ed25519PrivateKey.generate())), no_password
    )
    assert ask(simple_signing(key), keys=(key.public,)) is None
    assert ask(in_toto(key), keys=(key.public,)) is None
    assert ask(in_toto(key)) == "is signed with another key"


def test_pkcs8_keys_with_and_without_a_password(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    SigningKey.load(written(tmp_path / "plain", pem(key)), no_password)
    sealed_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    path = written(tmp_path / "sealed", sealed_pem)
    SigningKey.load(path, lambda: b"secret")
    for wrong in (b"", b"other"):
        with pytest.raises(ConfigError, match="its password is another one, or it is damaged"):
            SigningKey.load(path, lambda wrong=wrong: wrong)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is not a public key in PEM"),
        (b"garbage", "is not a public key in PEM"),
        (KEY.public.to_pem() * 2, "holds more than one key"),
        (KEY.public.to_pem()[:80], "is not a public key in PEM"),
        (KEY.to_pem(b""), "is a private key"),
        (b"-" * 70_000, "too large for a key"),
    ],
    ids=["empty", "text", "two", "half", "private", "large"],
)
def test_files_that_are_no_public_key(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        PublicKey.load(written(tmp_path / "k.pub", data))


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP256K1()),
        rsa.generate_private_key(65537, 2048),
    ],
)
def test_keys_of_other_kinds_are_refused_by_name(tmp_path: Path, key: Any) -> None:
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    with pytest.raises(ConfigError, match="is not supported: ECDSA on P-256, or Ed25519"):
        PublicKey.load(written(tmp_path / "k.pub", public))
    with pytest.raises(ConfigError, match="is not supported"):
        SigningKey.load(written(tmp_path / "k", pem(key)), no_password)


def test_keys_that_are_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ConfigError, match=str(path)):
            PublicKey.load(path)


# What is in it is no key.
SEALED = sealed.seal(b"key", b"").decode()


def envelope(**changes: object) -> bytes:
    """A sealed key whose JSON was changed."""
    document = json.loads(base64.b64decode("".join(SEALED.split("\n")[1:-2])))
    for path, value in changes.items():
        place = document
        *parents, last = path.split("__")
        for name in parents:
            place = place[name]
        place[last] = value
    body = base64.b64encode(json.dumps(document).encode()).decode()
    label = "ENCRYPTED COSIGN PRIVATE KEY-----"
    return f"-----BEGIN {label}\n{body}\n-----END {label}\n".encode()


@pytest.mark.parametrize(
    "data",
    [
        envelope(kdf__params__N=1 << 40),  # a terabyte to derive one key
        envelope(kdf__params__N=99),
        envelope(kdf__params__r=1 << 20),
        envelope(kdf__params__p=1000),
        envelope(kdf__name="pbkdf2"),
        envelope(kdf__salt=5),
        envelope(kdf="scrypt"),
        envelope(cipher__name="none"),
        envelope(cipher__nonce="AAAA"),
        envelope(ciphertext=""),
        envelope(ciphertext="AAAA"),
        envelope(more=1),
        b"-----BEGIN ENCRYPTED COSIGN PRIVATE KEY-----\nAAAA\n"
        b"-----END ENCRYPTED COSIGN PRIVATE KEY-----\n",
        b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n%%%%\n",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        envelope(),  # opens, and holds no key
    ],
)
def test_private_keys_that_are_damaged(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ConfigError):
        SigningKey.load(written(tmp_path / "k", data), lambda: b"")


@pytest.mark.parametrize(
    "document",
    [
        b'{"kdf":{"name":"scrypt","params":{"N":32768,"r":8,"p":1},'
        b'"salt":"WO3mVvyTwJ9vwT5/Tk5OW5WPIBUofMjcpEfrLnfY4uA="},'
        b'"cipher":{"name":"nacl/secretbox","nonce":"tCy7HcTFr4uxv4Nrg/DWmncuZ148U1MX"},'
        b'"ciphertext":"08n43p5G5yviPEZpO7tPPF4aZQkWiWjkv4taFdhDBA0tamKH4nw="}',
        b'{"kdf":{"name":"scrypt","params":{"N":131072,"r":8,"p":1},'
        b'"salt":"m38E3kouJTtiheLQN22NQ8DTito5hrjpUIskqcd375k="},'
        b'"cipher":{"name":"nacl/secretbox","nonce":"Y6PM13yA+o44pE/W1ZBwczeGnTV/m9Zc"},'
        b'"ciphertext":"6H8sqj1K6B6yDjtH5AQ6lbFigg/C2yDDJc4rYJ79w9aVPImFIPI="}',
    ],
    ids=["cosign 1", "slow"],
)
def test_test_vectors_of_the_format(document: bytes) -> None:
    """Those of go-securesystemslib, which cosign and skopeo use; its oldest and its slowest."""
    label = b"ENCRYPTED COSIGN PRIVATE KEY-----"
    body = base64.b64encode(document)
    text = b"-----BEGIN %b\n%b\n-----END %b\n" % (label, body, label)
    opened = json.loads(sealed.open_sealed(text, b"supersecret", "k"))
    assert base64.b64decode(opened) == b"reallyimportant"


def test_a_candidate_that_is_no_bundle_is_an_error_with_its_name() -> None:
    layer = Descriptor(attestation.MEDIA_TYPE, DIGEST, 1)
    with pytest.raises(BundleError, match=r"^signature 1: "):
        attestation.candidate(layer, b"{}", "signature 1")
