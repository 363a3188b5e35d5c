"""What gunicorn's WebSocket lacks, as a subclass put in its place.

Runs in: control.
Owns: the difference to `gunicorn.asgi.websocket.WebSocketProtocol`; `tests/app/api/test_websocket.py` guards what it leans on.

Rules
1. Unmasking is done in C. (gunicorn does it byte by byte in Python: 64 KiB would take 6 ms of the loop.)
2. A refused handshake is answered with a status and a JSON body. (gunicorn knows 403 without a body.)
3. `heard_ns` is the time of the last frame of any kind, so that a WebSocket-level ping or pong counts as a sign of life.
4. `abort` closes without waiting for what the peer does not read.

The connection is in the ASGI scope under SCOPE_KEY; under another server there is none, and no WebSocket is served.
"""

import socket
import struct
from typing import Any

from gunicorn.asgi import websocket
from websockets.speedups import apply_mask

from shm.clock import monotonic_ns

SCOPE_KEY = "roomtone.websocket"
REASONS = {400: "Bad Request", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed", 409: "Conflict"}
REASONS |= {426: "Upgrade Required", 500: "Internal Server Error", 501: "Not Implemented", 503: "Service Unavailable"}


class Connection(websocket.WebSocketProtocol):  # type: ignore[misc]
    _denied: bool
    accepted: bool

    def __init__(self, transport: Any, scope: dict[str, Any], *arguments: Any, **options: Any) -> None:
        super().__init__(transport, scope, *arguments, **options)
        self.heard_ns = monotonic_ns()
        scope[SCOPE_KEY] = self

    def _unmask(self, payload: bytes, masking_key: bytes) -> bytes:
        self.heard_ns = monotonic_ns()
        return apply_mask(payload, masking_key) if payload else payload

    async def receive_text(self) -> str | None:
        """The next text frame, None at the end. Binary frames are ignored. Unlike Falcon's it goes on after a failed send, to
        the last frame that the peer had sent before it left."""
        while (message := await self._receive())["type"] == "websocket.receive":
            if message.get("text") is not None:
                return str(message["text"])
        return None

    def deny(self, status: int, headers: dict[str, str], body: bytes) -> None:
        """Refuse the handshake; nothing may be sent after it."""
        if self._denied or self.accepted:
            return
        self._denied = True
        self.closed = True
        self._close_event.set()
        lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Refused')}", "Content-Type: application/json"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
        self.transport.write("\r\n".join(lines).encode("latin-1") + body)
        self.transport.close()

    def abort(self) -> None:
        """Reset the connection now: the kernel forgets what it still held for a peer that does not read."""
        self.closed = True
        self._close_event.set()
        endpoint = self.transport.get_extra_info("socket")
        if endpoint is not None:
            endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


def install() -> None:
    """Make gunicorn use `Connection`; it looks the name up at each upgrade."""
    websocket.WebSocketProtocol = Connection
