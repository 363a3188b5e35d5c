"""What gunicorn's WebSocket and HTTP lack, as subclasses put in their place.

Runs in: control.
Owns: the difference to gunicorn's `WebSocketProtocol` and `ASGIProtocol`; `tests/app/api/test_websocket.py` guards what it
leans on.

Rules
1. Unmasking is done in C. (gunicorn does it byte by byte in Python: 64 KiB would take 6 ms of the loop.)
2. A refused handshake is answered with a status and JSON, what is none by RFC 6455 as a plain GET. (gunicorn knows 403 alone.)
3. `heard_ns` is the time of the last frame of any kind, so that a WebSocket-level ping or pong counts as a sign of life.
4. What came right behind the request is kept (gunicorn loses it) and not read before the handshake is accepted, so that a
   connection can be given to another process whole: `upgrade_request` and `descriptor`, then `let_go`.
5. A peer that has vanished is written to no more. (gunicorn would raise RuntimeError, also for the close frame.)
6. What is not HTTP at all is answered with JSON, too. (gunicorn answers it itself, with plain text.)

The connection is in the ASGI scope under SCOPE_KEY; under another server there is none, and no WebSocket is served.
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Any

from gunicorn.asgi import protocol, websocket
from gunicorn.workers import gasgi
from websockets.speedups import apply_mask

from shm.clock import monotonic_ns

SCOPE_KEY = "roomtone.websocket"
BEHIND_KEY = "roomtone.behind_request"
VERSION = "13"  # of the protocol, RFC 6455 section 4.1
REASONS = {400: "Bad Request", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed", 409: "Conflict"}
REASONS |= {
    413: "Content Too Large",
    414: "URI Too Long",
    426: "Upgrade Required",
    431: "Request Header Fields Too Large",
}
REASONS |= {500: "Internal Server Error", 501: "Not Implemented", 503: "Service Unavailable"}


def last_reply(status: int, headers: dict[str, str], body: bytes) -> bytes:
    """Beyond Falcon: a whole HTTP reply with JSON, behind which the connection is closed."""
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Refused')}", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


class Connection(websocket.WebSocketProtocol):  # type: ignore[misc]  # gunicorn has no types
    _denied: bool
    accepted: bool

    def __init__(self, transport: Any, scope: dict[str, Any], *arguments: Any, **options: Any) -> None:
        super().__init__(transport, scope, *arguments, **options)
        self.heard_ns = monotonic_ns()
        self._opened = asyncio.Event()
        self.feed_data(scope.get(BEHIND_KEY, b""))
        self._pause_reading()
        scope[SCOPE_KEY] = self

    async def _read_frames(self) -> None:
        await self._opened.wait()
        await super()._read_frames()

    async def _send_accept(self, message: dict[str, Any]) -> None:
        await super()._send_accept(message)
        self._opened.set()

    async def _send_frame(self, opcode: int, payload: bytes | str) -> None:
        if self.transport.is_closing():
            self.closed = True
            self._close_event.set()
        else:
            await super()._send_frame(opcode, payload)

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
        self.transport.write(last_reply(status, headers, body))
        self.transport.close()

    def abort(self) -> None:
        """Reset the connection now: the kernel forgets what it still held for a peer that does not read."""
        self.closed = True
        self._close_event.set()
        endpoint = self.transport.get_extra_info("socket")
        if endpoint is not None:
            endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    # ------------------------------------------------------------------------------------------ given away

    def upgrade_request(self) -> bytes:
        """What the next owner needs of the request, and all bytes that came behind it."""
        key = next(value for name, value in self.scope["headers"] if name == b"sec-websocket-key")
        lines = [b"GET %b HTTP/1.1" % self.scope["raw_path"], b"Upgrade: websocket", b"Connection: Upgrade"]
        lines += [b"Sec-WebSocket-Version: " + VERSION.encode(), b"Sec-WebSocket-Key: " + key, b"", b""]
        return b"\r\n".join(lines) + bytes(self._buffer)

    @property
    def descriptor(self) -> int:
        return int(self.transport.get_extra_info("socket").fileno())

    def let_go(self) -> None:
        """Forget the connection: this process writes nothing more, and closes its copy without ending the connection itself."""
        self._denied = self.closed = True
        self._close_event.set()
        self.transport.get_protocol().let_go()
        self.transport.abort()


class Protocol(protocol.ASGIProtocol):  # type: ignore[misc]  # gunicorn has no types
    """One HTTP connection."""

    encode_error: Callable[[str], bytes]  # set by `install`
    headers: dict[str, str]
    _behind_request = b""
    _closed: bool

    def connection_made(self, transport: Any) -> None:
        """Who has not sent a whole head within `keepalive` is cut off. (gunicorn waits for ever for the first one.)"""
        super().connection_made(transport)
        self._arm_keepalive_timer()

    def _is_websocket_upgrade(self, request: Any) -> bool:
        if not super()._is_websocket_upgrade(request):
            return False
        given = {name: value.strip() for name, value in request.headers}
        has_key = protocol._valid_websocket_key(given.get("SEC-WEBSOCKET-KEY"))  # noqa: SLF001 - its own judgement
        return bool(has_key and given.get("SEC-WEBSOCKET-VERSION") == VERSION)

    async def _handle_websocket(self, request: Any, sockname: Any, peername: Any) -> None:
        self._behind_request = self._callback_parser.remaining()  # the parser is thrown away next
        await super()._handle_websocket(request, sockname, peername)

    def _build_websocket_scope(self, request: Any, sockname: Any, peername: Any) -> dict[str, Any]:
        scope: dict[str, Any] = super()._build_websocket_scope(request, sockname, peername)
        scope[BEHIND_KEY] = self._behind_request
        return scope

    def _send_error_response(self, status: int, message: str, extra_headers: Iterable[tuple[str, str]] = ()) -> None:
        self._safe_write(last_reply(status, {**self.headers, **dict(extra_headers)}, self.encode_error(message)))

    def let_go(self) -> None:
        """Its own way of closing would shut the connection down for whoever has it now."""
        self._closed = True


def install(encode_error: Callable[[str], bytes], headers: dict[str, str]) -> None:
    """Make gunicorn use these; it looks the names up at each connection and each upgrade. `headers` come with every reply."""
    Protocol.encode_error = staticmethod(encode_error)
    Protocol.headers = headers
    websocket.WebSocketProtocol = Connection
    gasgi.ASGIProtocol = Protocol
