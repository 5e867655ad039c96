"""Applications from directories, manifests and single Wasm files."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from edge.application.model import Wagi
from edge.errors import BundleError, ComponentError, ConfigError, EdgeError, PullError
from edge.registry.local import LocalApplication, load

MODULE = b"\0asm\x01\0\0\0"
COMPONENT = b"\0asm\x0d\0\x01\0"
DIGEST = f"sha256:{hashlib.sha256(COMPONENT).hexdigest()}"


def section(number: int, content: bytes) -> bytes:
    return bytes([number, len(content)]) + content


def module_with(*names: bytes) -> bytes:
    exports = b"".join(bytes([len(n)]) + n + b"\0\0" for n in names)
    return MODULE + section(7, bytes([len(names)]) + exports)


def component_with(*names: bytes) -> bytes:
    exports = b"".join(b"\0" + bytes([len(n)]) + n + b"\x05\0\0" for n in names)
    return COMPONENT + section(11, bytes([len(names)]) + exports)


class Server:
    """Stands for the web: what it has, and what was asked of it."""

    def __init__(self, **bodies: bytes) -> None:
        self.bodies = {f"https://a.example/{name}": body for name, body in bodies.items()}
        self.asked: list[str] = []

    async def fetch(self, url: str, limit: int) -> bytes:
        self.asked.append(url)
        if url not in self.bodies:
            raise PullError(f"{url}: the server answers 404")
        return self.bodies[url]


@pytest.fixture
def app(tmp_path: Path) -> Path:
    directory = tmp_path / "app"
    directory.mkdir()
    (directory / "hello.wasm").write_bytes(COMPONENT)
    return directory


Open = Callable[..., Awaitable[LocalApplication]]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    async def open_it(path: Path, **options: object) -> LocalApplication:
        server = options.pop("server", None) or Server()
        assert isinstance(server, Server)
        return await load(
            path,
            state_dir=tmp_path / "state",
            fetch=server.fetch,
            **options,  # type: ignore[arg-type]
        )

    return open_it


def write(app: Path, source: str, more: str = "") -> Path:
    manifest = app / "spin.toml"
    manifest.write_text(
        'spin_manifest_version = 2\napplication.name = "app"\n'
        '[[trigger.http]]\nroute = "/..."\ncomponent = "hello"\n'
        f"[component.hello]\nsource = {source}\n{more}"
    )
    return manifest


async def test_a_directory_is_its_spin_toml(app: Path, opened: Open) -> None:
    manifest = write(app, '"hello.wasm"')
    by_directory = await opened(app)
    assert by_directory == await opened(manifest)
    assert by_directory.sources == {"hello": app / "hello.wasm"}
    assert by_directory.files == {"hello": ()}
    assert by_directory.watched == (manifest, app / "hello.wasm")


async def test_a_relative_path_works_from_the_current_directory(
    app: Path, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(app, '"hello.wasm"')
    monkeypatch.chdir(app)
    assert (await opened(Path())).sources["hello"].is_absolute()


async def test_a_profile_changes_the_source(app: Path, opened: Open) -> None:
    (app / "debug.wasm").write_bytes(MODULE)
    write(app, '"hello.wasm"', 'profile.debug.source = "debug.wasm"')
    assert (await opened(app, profile="debug")).sources["hello"].name == "debug.wasm"


@pytest.mark.parametrize(
    ("name", "binary", "wagi"),
    [
        ("a.wasm", component_with(b"wasi:http/incoming-handler@0.2.3"), None),
        ("b.wasm", component_with(b"x", b"wasi:cli/run@0.2.0"), Wagi()),
        ("c.wasm", module_with(b"memory", b"_start"), Wagi()),
        ("d.wasm", module_with(b"wasi:http/incoming-handler@0.2.0#handle", b"_start"), None),
        ("odd Name_1.wasm", module_with(b"_start"), Wagi()),
    ],
)
async def test_a_wasm_file_is_an_application_on_every_path(
    tmp_path: Path, opened: Open, name: str, binary: bytes, wagi: Wagi | None
) -> None:
    path = tmp_path / name
    path.write_bytes(binary)
    found = await opened(path)
    (trigger,) = found.application.http
    assert trigger.wagi == wagi
    assert trigger.route is not None
    assert trigger.route.text == "/..."
    assert trigger.component in found.application.components
    assert found.sources == {trigger.component: path}
    assert found.watched == (path,)


@pytest.mark.parametrize(
    ("binary", "kind", "message"),
    [
        (b"", ComponentError, "is empty"),
        (b"  (module)", ComponentError, "is WebAssembly text"),
        (b";; text\n(component)", ComponentError, "is WebAssembly text"),
        (b"\x7fELF", ComponentError, "is not a WebAssembly binary"),
        (b"\0asm", ComponentError, "version 0 of the WebAssembly binary format"),
        (b"\0asm\x0a\0\x01\0", ComponentError, "version 10 of the WebAssembly binary format"),
        (module_with(b"main"), ComponentError, "exports neither"),
        (module_with(b"_start")[:-3], ComponentError, "exports are malformed"),
        (COMPONENT + b"\x0b\xff\xff\xff\xff\xff\xff", ComponentError, "exports are malformed"),
    ],
)
async def test_a_file_that_is_nothing_to_run_is_refused(
    tmp_path: Path, opened: Open, binary: bytes, kind: type[EdgeError], message: str
) -> None:
    path = tmp_path / "x.wasm"
    path.write_bytes(binary)
    with pytest.raises(kind, match=f"x.wasm: .*{message}"):
        await opened(path)


async def test_what_does_not_exist_is_said_so(tmp_path: Path, opened: Open) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        await opened(tmp_path / "none.wasm")
    with pytest.raises(ConfigError, match=r"has no spin\.toml"):
        await opened(tmp_path)
    with pytest.raises(ConfigError, match="is not a file"):
        await opened(Path("/dev/zero"))
    (tmp_path / "spin.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        await opened(tmp_path)


async def test_a_missing_binary_is_named_with_how_to_build_it(app: Path, opened: Open) -> None:
    write(app, '"none.wasm"', 'build.command = "make it"')
    with pytest.raises(ConfigError, match=r"component\.hello\.source: .*none\.wasm does not") as e:
        await opened(app)
    assert e.value.hint == "build it: edge build"


async def test_a_binary_of_another_kind_is_refused_by_its_place(app: Path, opened: Open) -> None:
    (app / "hello.wat").write_text("(component)")
    write(app, '"hello.wat"')
    with pytest.raises(ComponentError, match=r"component\.hello\.source: .*is WebAssembly text"):
        await opened(app)


async def test_a_url_is_fetched_once_and_kept_by_its_digest(app: Path, opened: Open) -> None:
    write(app, f'{{ url = "https://a.example/x.wasm", digest = "{DIGEST}" }}')
    server = Server(**{"x.wasm": COMPONENT})
    found = await opened(app, server=server)
    kept = found.sources["hello"]
    assert kept.read_bytes() == COMPONENT
    assert kept.name == DIGEST.removeprefix("sha256:")
    assert [p.name for p in kept.parent.iterdir()] == [kept.name]
    await opened(app, server=server)
    assert server.asked == ["https://a.example/x.wasm"]
    kept.write_bytes(b"a bad disk")
    assert (await opened(app, server=server)).sources["hello"].read_bytes() == COMPONENT


async def test_a_wrong_digest_is_an_error_and_nothing_is_kept(
    app: Path, opened: Open, tmp_path: Path
) -> None:
    write(app, f'{{ url = "https://a.example/x.wasm", digest = "{DIGEST}" }}')
    with pytest.raises(BundleError, match=f"its digest is sha256:.*, not {DIGEST}"):
        await opened(app, server=Server(**{"x.wasm": b"other"}))
    assert not list((tmp_path / "state").rglob("*"))


async def test_a_failed_download_is_passed_on(app: Path, opened: Open) -> None:
    write(app, f'{{ url = "https://a.example/x.wasm", digest = "{DIGEST}" }}')
    with pytest.raises(PullError, match="404"):
        await opened(app)


async def test_what_is_not_supported_says_so_and_what_to_do(app: Path, opened: Open) -> None:
    write(app, '{ package = "a:b", version = "1.0.0" }')
    with pytest.raises(ConfigError, match="packages from a registry are not supported: a:b") as e:
        await opened(app)
    assert e.value.hint
    write(app, '"hello.wasm"', 'dependencies = { "a:b" = { path = "dep.wasm" } }')
    with pytest.raises(ConfigError, match=r"hello\.dependencies: composing .* not supported") as e:
        await opened(app)
    assert e.value.hint
