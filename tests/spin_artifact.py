#!/usr/bin/env python3
"""Pushes an artifact in Spin's format: `spin_artifact.py HOST REPOSITORY TAG WASM [FILE…]`.

Written from the format's description with the standard library alone, so that it shares no
mistake with what it tests. Each FILE is `GUEST_PATH=HOST_PATH`. `--old` puts the application where
Spin had it before: into the configuration. Prints the manifest's digest.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import sys
from pathlib import Path
from typing import Any

APPLICATION = "application/vnd.fermyon.spin.application.v1+config"
WASM = "application/vnd.wasm.content.layer.v1+wasm"
DATA = "application/vnd.wasm.content.layer.v1+data"
CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INLINE = 128


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Artifact:
    def __init__(self, host: str, repository: str) -> None:
        self.connection = http.client.HTTPConnection(host, timeout=20)
        self.base = f"/v2/{repository}"
        self.layers: list[dict[str, Any]] = []

    def request(self, method: str, path: str, body: bytes, kind: str, expected: int) -> str:
        self.connection.request(method, path, body, {"Content-Type": kind})
        response = self.connection.getresponse()
        answer = response.read()
        if response.status != expected:
            raise SystemExit(f"{method} {path}: {response.status} {answer!r}")
        return response.headers.get("Location", "")

    def blob(self, data: bytes, kind: str) -> dict[str, Any]:
        location = self.request("POST", f"{self.base}/blobs/uploads/", b"", "text/plain", 202)
        target = "/" + location.split("/", 3)[3] if "://" in location else location
        octets = "application/octet-stream"
        self.request("PUT", f"{target}&digest={digest(data)}", data, octets, 201)
        return {"mediaType": kind, "digest": digest(data), "size": len(data)}

    def layer(self, data: bytes, kind: str) -> str:
        self.layers.append(self.blob(data, kind))
        return digest(data)

    def manifest(self, config: dict[str, Any], tag: str) -> str:
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": self.layers,
            "annotations": {"org.opencontainers.image.title": "independent"},
        }
        data = json.dumps(document, indent=2).encode()
        self.request("PUT", f"{self.base}/manifests/{tag}", data, MANIFEST, 201)
        return digest(data)


def main(host: str, repository: str, tag: str, wasm: str, *files: str, old: bool = False) -> str:
    artifact = Artifact(host, repository)
    source = artifact.layer(Path(wasm).read_bytes(), WASM)
    mounts = []
    for guest_path, _, path in (file.partition("=") for file in files):
        data = Path(path).read_bytes()
        if len(data) <= INLINE:
            mounts.append({"path": guest_path, "inline": base64.b64encode(data).decode()})
        else:
            mounts.append({"path": guest_path, "digest": artifact.layer(data, DATA)})
    locked = json.dumps(
        {
            "spin_lock_version": 1,
            "must_understand": [],
            "metadata": {
                "name": "independent",
                "version": "1.0.0",
                "description": "made by a script",
                "trigger": {"type": "http"},
                "origin": "file:///somewhere/spin.toml",
            },
            "triggers": [
                {
                    "id": "trigger--app",
                    "trigger_type": "http",
                    "trigger_config": {"component": "app", "executor": None, "route": "/..."},
                }
            ],
            "components": [
                {
                    "id": "app",
                    "metadata": {"allowed_outbound_hosts": []},
                    "source": {"content_type": "application/wasm", "digest": source},
                    "env": {"MADE_BY": "script"},
                    "files": mounts,
                }
            ],
        }
    ).encode()
    if old:
        return artifact.manifest(artifact.blob(locked, APPLICATION), tag)
    label = {"com.fermyon.spin.lockedAppDigest": artifact.layer(locked, APPLICATION)}
    config = {
        "architecture": "wasm",
        "os": "Wasip1",
        "config": {"Labels": label},
        "rootfs": {"type": "layers", "diff_ids": []},
    }
    return artifact.manifest(artifact.blob(json.dumps(config).encode(), CONFIG), tag)


if __name__ == "__main__":
    given = [argument for argument in sys.argv[1:] if argument != "--old"]
    print(main(*given, old="--old" in sys.argv))
