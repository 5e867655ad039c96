"""The HTTP trigger: HTTP/1.1 and 1.0 from sockets to a Handler, and its reply back."""

from edge.config import HttpSettings
from edge.triggers.http.server import HttpServer

__all__ = ["HttpServer", "HttpSettings"]
