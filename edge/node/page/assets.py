"""The files of the page, and what a browser may do with them: nothing that is not in them."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

__all__ = ["FOLDER", "page", "protected", "routes"]

FOLDER = Path(__file__).parent / "static"

# Nothing from elsewhere, nothing written into the document, and no text that becomes code.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "manifest-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    # With "no-referrer" the login's own form would come from the origin "null".
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Server": "edge",  # and not which version of which library
}


async def protected(_: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        response.headers[name] = value
    # A new version of the node has new files; what it tells is of the moment.
    response.headers.setdefault("Cache-Control", "no-cache")


def page(name: str, status: int = 200) -> web.FileResponse:
    return web.FileResponse(FOLDER / name, status=status)


def routes() -> list[web.RouteDef]:
    """Scripts, styles and pictures. They are no secret: whoever logs in needs some of them."""
    names = {path.name for path in FOLDER.iterdir() if path.suffix != ".html"}

    async def asset(request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in names:
            raise web.HTTPNotFound
        return page(name)

    return [web.get("/assets/{name}", asset)]
