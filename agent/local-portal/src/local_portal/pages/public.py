"""What may be seen without logging in: the health probe and the CA certificate."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from local_portal.web import portal_of, static_files


async def healthz(request: Request) -> Response:
    """`ok` when the portal can serve pages, its own database included."""
    portal_of(request).store.claimed()
    return PlainTextResponse("ok")


async def authority(request: Request) -> Response:
    """The CA certificate, for the browsers and management tools that shall trust it."""
    try:
        pem = portal_of(request).certificates.ca.read_bytes()
    except OSError:
        return PlainTextResponse("There is no CA certificate.\n", 404)
    return Response(pem, media_type="application/x-x509-ca-cert",
                    headers={"Content-Disposition": 'attachment; filename="appliance-ca.crt"'})


_KINDS = {
    "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml",
    "woff2": "font/woff2", "txt": "text/plain; charset=utf-8",
}


async def static(request: Request) -> Response:
    """A file of the pages' own."""
    name: str = request.path_params["name"]
    content = static_files().get(name)
    if content is None:
        return PlainTextResponse("There is no such file.\n", 404)
    return Response(content, media_type=_KINDS[name.rsplit(".", 1)[1]])


ROUTES = [Route("/healthz", healthz), Route("/ca.crt", authority), Route("/static/{name}", static)]
