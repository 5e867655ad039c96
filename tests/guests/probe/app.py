"""Asks WASI for everything, by Python's standard library; answers JSON.

The path chooses; arguments are query parameters. What raises an exception is answered with 500
and {"error": its type, "message": its text, "errno": its number}.
"""

import encodings.idna  # noqa: F401  # host names; what is not imported at build time is not there
import json
import os
import random
import socket
import sys
import time
from urllib.parse import parse_qs, unquote, urlsplit

from componentize_py_types import Ok
from wit_world import exports
from wit_world.imports import outgoing_handler
from wit_world.imports.types import (
    Fields,
    IncomingRequest,
    OutgoingBody,
    OutgoingRequest,
    OutgoingResponse,
    ResponseOutparam,
    Scheme_Http,
    Scheme_Https,
)


def environment(_):
    return {"environ": dict(os.environ), "arguments": sys.argv, "directory": os.getcwd()}


def read(query):
    with open(query["path"], "rb") as file:
        file.seek(int(query.get("from", 0)))
        return {"text": file.read(int(query.get("size", -1))).decode("latin-1")}


def write(query):
    with open(query["path"], query.get("mode", "wb")) as file:
        file.write(query.get("text", "").encode() * int(query.get("times", 1)))
    return {"size": os.stat(query["path"]).st_size}


def tree(query):
    top = query.get("path", "/")
    return {base: [sorted(folders), sorted(files)] for base, folders, files in os.walk(top)}


def stat(query):
    found = os.lstat(query["path"])
    return {"size": found.st_size, "mode": found.st_mode, "modified": found.st_mtime_ns}


def change(query):
    """Calls one function of `os` with one or two paths."""
    paths = [query[name] for name in ("path", "to") if name in query]
    calls = {"mkdir", "rmdir", "unlink", "rename", "link", "symlink", "readlink", "listdir"}
    assert query["call"] in calls
    return {"result": getattr(os, query["call"])(*paths)}


def clocks(query):
    before = time.monotonic_ns()
    time.sleep(float(query.get("sleep", 0)))
    return {"wall": time.time(), "slept": (time.monotonic_ns() - before) / 1e9}


def noise(_):
    return {"bytes": os.urandom(16).hex(), "random": random.random(), "hash": hash("text")}


def connect(query):
    with socket.create_connection((query["host"], int(query["port"])), timeout=5) as connection:
        connection.sendall(query.get("text", "").encode())
        connection.shutdown(socket.SHUT_WR)
        parts = []
        while part := connection.recv(4096):
            parts.append(part)
    return {"received": b"".join(parts).decode("latin-1")}


def resolve(query):
    found = socket.getaddrinfo(query["host"], 80, type=socket.SOCK_STREAM)
    return {"addresses": sorted({entry[4][0] for entry in found})}


def listen(query):
    with socket.create_server(("127.0.0.1", int(query.get("port", 0)))) as server:
        return {"port": server.getsockname()[1]}


def fetch(query):
    url = urlsplit(query["url"])
    request = OutgoingRequest(Fields())
    request.set_scheme(Scheme_Https() if url.scheme == "https" else Scheme_Http())
    request.set_authority(url.netloc)
    request.set_path_with_query((url.path or "/") + (f"?{url.query}" if url.query else ""))
    future = outgoing_handler.handle(request, None)
    with future.subscribe() as ready:
        ready.block()
    outcome = future.get()
    response = outcome.value.value
    return {"status": response.status()}


def speak(query):
    print(query.get("out", "said to standard output"))
    print(query.get("err", "said to standard error"), file=sys.stderr)
    return {"input": sys.stdin.read()}


def leave(query):
    sys.exit(int(query.get("code", 0)))


def grow(query):
    """Holds that many MiB of Python objects."""
    return {"bytes": len(bytearray(int(query["mib"]) << 20))}


WHAT = {
    f"/{call.__name__}": call
    for call in (
        environment,
        read,
        write,
        tree,
        stat,
        change,
        clocks,
        noise,
        connect,
        resolve,
        listen,
        fetch,
        speak,
        leave,
        grow,
    )
}


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        target = urlsplit(request.path_with_query() or "/")
        query = {name: values[0] for name, values in parse_qs(target.query).items()}
        try:
            status, content = 200, WHAT[unquote(target.path)](query)
        except Exception as error:
            status, content = 500, {"error": type(error).__name__, "message": str(error)}
            if isinstance(error, OSError):
                content["errno"] = error.errno
        answer(response_out, status, json.dumps(content).encode())


def answer(response_out: ResponseOutparam, status: int, content: bytes) -> None:
    response = OutgoingResponse(Fields.from_list([("content-type", b"application/json")]))
    response.set_status_code(status)
    body = response.body()
    ResponseOutparam.set(response_out, Ok(response))
    with body.write() as stream:
        for at in range(0, len(content), 4096):
            stream.blocking_write_and_flush(content[at : at + 4096])
    OutgoingBody.finish(body, None)
