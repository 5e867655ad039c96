"""An application of Spin's Python SDK; the path chooses what it asks of the platform."""

from urllib.parse import urlsplit

from spin_sdk import http, key_value, variables
from spin_sdk.http import IncomingHandler as Base
from spin_sdk.http import Request, Response


class IncomingHandler(Base):
    def handle_request(self, request: Request) -> Response:
        path = urlsplit(request.uri).path
        if path == "/key-value":
            with key_value.open_default() as store:
                store.set("name", b"value")
                return text(store.get("name").decode())
        if path == "/variable":
            return text(variables.get("greeting"))
        if path == "/outbound":
            answer = http.send(Request("GET", request.headers["x-url"], {}, None))
            return Response(answer.status, {"x-from": "outbound"}, answer.body)
        if path == "/headers":
            return text("\n".join(f"{k}: {v}" for k, v in sorted(request.headers.items())))
        if path == "/echo":
            return Response(200, {"content-type": "application/octet-stream"}, request.body)
        if path == "/raise":
            raise ValueError("raised in the guest")
        return text(f"hello {request.uri}")


def text(content: str) -> Response:
    return Response(200, {"content-type": "text/plain"}, content.encode())
