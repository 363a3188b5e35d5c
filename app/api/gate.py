"""What comes before any route: who may ask, CORS, OPTIONS, and what the path really says.

Runs in: control.
Owns: the address list (contract README.md section 4), the CORS headers, the reading of raw paths (section 2).

Rules
1. The raw path is split at `/` first, then each segment is percent-decoded once. For the router the segments are encoded
   again in one canonical way, so that literals match however they were spelled; `decode_parameter` takes that back.
2. An address that cannot be told (malformed X-Forwarded-For, a socket without peer) is not on any list.
"""

import re
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any
from urllib.parse import quote, unquote, unquote_to_bytes

from falcon.asgi import Request, Response, WebSocket

from shm.errors import CallerError

Networks = tuple[IPv4Network | IPv6Network, ...]

CORS_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Headers": "Content-Type, Authorization",
    "Access-Control-Allow-Methods": "GET, POST, PUT, PATCH, DELETE, OPTIONS",
}
_MALFORMED_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ABSOLUTE_FORM = re.compile(rb"^[A-Za-z][A-Za-z0-9+.-]*://[^/]*")  # RFC 9112 section 3.2.2


class Gate:
    """Falcon middleware. `networks` empty: everyone may ask."""

    def __init__(self, networks: Networks, *, trusts_proxy: bool) -> None:
        self._networks = networks
        self._trusts_proxy = trusts_proxy

    async def process_request(self, req: Request, resp: Response) -> None:
        resp.set_headers(CORS_HEADERS)
        self._check_address(req.scope)
        if req.method == "OPTIONS":
            resp.status = 204
            resp.complete = True
            return
        req.path = canonical_path(req.scope["raw_path"])

    async def process_request_ws(self, req: Request, _ws: WebSocket) -> None:
        self._check_address(req.scope)
        req.path = canonical_path(req.scope["raw_path"])

    def _check_address(self, scope: Any) -> None:
        if self._networks and not self.admits(scope):
            raise CallerError("forbidden", 403)

    def admits(self, scope: Any) -> bool:
        """Whether the client of this ASGI scope is on the list."""
        client = scope.get("client")
        text = next(iter(client)) if client else ""
        if self._trusts_proxy:
            for name, value in scope["headers"]:
                if name == b"x-forwarded-for":
                    text = value.decode("latin-1").partition(",")[0].strip()
                    break
        try:
            address = ip_address(text.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._networks)


def canonical_path(raw_path: bytes) -> str:
    """The path as the router shall see it. Raises CallerError: 400 for a malformed escape, 404 for an empty segment."""
    if not raw_path.startswith(b"/"):
        raw_path = _ABSOLUTE_FORM.sub(b"", raw_path) or b"/"
    if _MALFORMED_ESCAPE.search(raw_path):
        raise CallerError("malformed escape in path")
    if b"//" in raw_path or raw_path.endswith(b"/"):
        raise CallerError("not found", 404)  # Falcon's router takes // for / and a last / for an empty id
    try:
        return "/".join(quote(unquote_to_bytes(segment).decode(), safe="") for segment in raw_path.split(b"/"))
    except UnicodeDecodeError:
        raise CallerError("malformed escape in path") from None  # no id that JSON could have named


def decode_parameter(segment: str) -> str:
    """A path parameter as the caller meant it."""
    return unquote(segment)
