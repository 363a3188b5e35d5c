"""Guards what `app/api/websocket.py` leans on in gunicorn's WebSocket: a change there must be seen here first."""

import asyncio
import inspect

import pytest
from gunicorn.asgi import protocol
from gunicorn.asgi import websocket as gunicorn_websocket
from gunicorn.workers import gasgi

from app.api import websocket


def original():
    return websocket.Connection.__mro__[1]


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 65536])
def test_unmasking_gives_what_gunicorn_gives(size):
    payload, mask = bytes(index % 251 for index in range(size)), b"\x01\x80\xff\x33"
    theirs = original()._unmask(None, payload, mask)
    ours = websocket.Connection._unmask(type("Fake", (), {})(), payload, mask)
    assert ours == theirs
    assert type(ours) is bytes


def test_each_frame_with_payload_or_without_passes_unmask():
    source = inspect.getsource(original()._read_frame)
    assert source.count("self._unmask(payload, masking_key)") == 1


def test_names_it_leans_on():
    assert list(inspect.signature(original()._unmask).parameters) == ["self", "payload", "masking_key"]
    made = original()(None, {}, None, None)
    assert (made._denied, made.accepted, made.closed) == (False, False, False)
    made._close_event.set()
    assert "if not self.accepted and not self._denied" in inspect.getsource(original().run)


def test_the_class_is_looked_up_at_each_upgrade():
    assert "from gunicorn.asgi.websocket import WebSocketProtocol" in inspect.getsource(
        protocol.ASGIProtocol._handle_websocket
    )
    websocket.install(str.encode, {})
    assert gunicorn_websocket.WebSocketProtocol is websocket.Connection


def test_names_the_connection_leans_on():
    source = inspect.getsource(protocol.ASGIProtocol._handle_websocket)
    assert source.index("self._callback_parser = None") < source.index("self._build_websocket_scope(")
    assert "_valid_websocket_key(key)" in source
    assert "not self._closed" in inspect.getsource(protocol.ASGIProtocol._close_transport)
    assert "ASGIProtocol(self)" in inspect.getsource(gasgi.ASGIWorker._serve)
    assert "create_task(self._read_frames())" in inspect.getsource(original().run)
    assert "await self._send_accept(message)" in inspect.getsource(original()._send)
    assert "if self._denied:" in inspect.getsource(original()._deny)
    arguments = inspect.signature(protocol.ASGIProtocol._send_error_response).parameters
    assert list(arguments) == ["self", "status", "message", "extra_headers"]
    websocket.install(str.encode, {})
    assert gasgi.ASGIProtocol is websocket.Protocol


class Transport:
    def __init__(self):
        self.written, self.is_lost = [], False
        self.write = self.written.append

    def is_closing(self):
        return self.is_lost

    def close(self):
        self.is_lost = True


async def test_nothing_is_written_to_a_peer_that_has_vanished():
    transport = Transport()
    connection = websocket.Connection(transport, {}, None, None)
    connection.accepted = True
    await connection._send({"type": "websocket.send", "text": "hi"})
    transport.is_lost = True
    async with asyncio.timeout(1):
        await connection._send({"type": "websocket.close"})
    assert transport.written == [b"\x81\x02hi"]
    assert connection.closed


def test_a_request_and_what_came_behind_it():
    scope = {"raw_path": b"/v1/rooms/r/ws", "headers": [(b"sec-websocket-key", b"AAAA")], websocket.BEHIND_KEY: b"\x81"}
    made = websocket.Connection(None, scope, None, None)
    made.feed_data(b"\x80")
    head, _, behind = made.upgrade_request().partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"GET /v1/rooms/r/ws HTTP/1.1",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: AAAA",
    ]
    assert behind == b"\x81\x80"
