"""An application of Spin's Python SDK 3.4.1 on everything it asks of the platform, by `edge up`."""

from __future__ import annotations

import http.server
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Serve

MANIFEST = """
spin_manifest_version = 2

[application]
name = "shop"

[variables]
name = {{ required = true }}
prices = {{ required = true }}

[[trigger.http]]
route = "/..."
component = "shop"

[component.shop]
source = "{wasm}"
key_value_stores = ["default"]
sqlite_databases = ["default"]
allowed_outbound_hosts = ["{{{{ prices }}}}"]
variables = {{ shop = "the {{{{ name }}}} shop", prices = "{{{{ prices }}}}" }}

[component.shop.tool.edge]
memory = "128MiB"
"""


class Prices(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        price = {"/tea": 2.5, "/cup": 4.0}.get(self.path)
        body = json.dumps({"price": price}).encode()
        self.send_response(404 if price is None else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def prices() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Prices) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def ask(url: str, value: object = None) -> Any:
    data = None if value is None else json.dumps(value).encode()
    with urllib.request.urlopen(url, data, timeout=60) as answer:
        return json.loads(answer.read())


@pytest.mark.guests
def test_a_shop_on_spins_python_sdk(
    guest: Callable[[str], Path], serve: Serve, prices: str, tmp_path: Path
) -> None:
    (tmp_path / "spin.toml").write_text(MANIFEST.format(wasm=guest("spin-platform")))
    state = ("--state-dir", str(tmp_path / "state"))
    given = ("--variable", "name=corner", "--variable", f"prices={prices}", *state)

    with serve(tmp_path, *given) as served:
        assert ask(f"{served.url}/") == {"shop": "the corner shop"}
        assert ask(f"{served.url}/orders") == []
        first = ask(f"{served.url}/orders", {"item": "tea", "number": 3})
        assert first == {"item": "tea", "number": 3, "total": 7.5}
        ask(f"{served.url}/orders", {"item": "cup", "number": 2})
        ask(f"{served.url}/orders", {"item": "tea", "number": 1})
        with pytest.raises(urllib.error.HTTPError) as caught:
            ask(f"{served.url}/orders", {"item": "gold", "number": 1})
        caught.value.close()
        assert caught.value.code == 500
        assert ask(f"{served.url}/types") == [True] * 5
        assert ask(f"{served.url}/limits") == {
            "store": "Error_AccessDenied",
            "database": "Error_AccessDenied",
            "variable": "Error_Undefined",
            "sql": "Error_Io",
            "attach": "Error_Io",
            "host": "ErrorCode_HttpRequestDenied",
        }

    with serve(tmp_path, *given) as served:  # what was stored outlives the node
        assert ask(f"{served.url}/counts") == {
            "counts": {"cup": 2, "tea": 4}, "nothing": None, "there": True
        }  # fmt: skip
        assert ask(f"{served.url}/orders") == [
            {"id": 1, "item": "tea", "number": 3, "price": 2.5},
            {"id": 2, "item": "cup", "number": 2, "price": 4.0},
            {"id": 3, "item": "tea", "number": 1, "price": 2.5},
        ]
