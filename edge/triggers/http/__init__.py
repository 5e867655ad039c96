"""The HTTP trigger: HTTP/1.1 and 1.0 from sockets to a Handler, and its reply back."""

from edge.triggers.http.server import HttpServer
from edge.triggers.http.settings import HttpSettings

__all__ = ["HttpServer", "HttpSettings"]
