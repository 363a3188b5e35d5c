"""From errors by blame to what a caller reads (contract README.md, sections 2.2 and 2.3).

Runs in: control.
Owns: the status code of each kind of error and the shape of every reply body.
"""

from typing import Any

import falcon
import msgspec

from app.logs import log
from shm.errors import CallerError, PeerError, ResourceError

_encode = msgspec.json.Encoder().encode


def status_and_text(error: Exception) -> tuple[int, str]:
    """HTTP status and the sentence; an error without blame is a fault of ours: 500, logged, no detail told."""
    if isinstance(error, CallerError):
        return error.status, str(error)
    if isinstance(error, ResourceError):
        return 503, str(error)
    if isinstance(error, PeerError):
        return 502, str(error)
    if isinstance(error, falcon.HTTPNotFound):
        return 404, "not found"
    # Falcon answers 400 to a method it does not know; nothing else of ours raises its HTTPBadRequest.
    if isinstance(error, falcon.HTTPMethodNotAllowed | falcon.HTTPBadRequest):
        return 405, "method not allowed"
    if isinstance(error, falcon.HTTPError):
        return error.status_code, error.title
    log.error("request_failed", exc_info=error)
    return 500, "internal error"


class Replies:
    """Encodes reply bodies: compact JSON and a newline, `instance_id` first in every object."""

    def __init__(self, instance_id: str) -> None:
        self._head = b'{"instance_id":' + _encode(instance_id)

    def encode(self, reply: dict[str, Any] | list[Any]) -> bytes:
        body = _encode(reply)
        if isinstance(reply, list):
            return body + b"\n"
        return self._head + (b"," + body[1:] if reply else b"}") + b"\n"

    def encode_error(self, text: str) -> bytes:
        return self.encode({"error": text})
